"""``pconv masks``: mask files made from a seed or from a video, and the statistics of a folder."""

from __future__ import annotations

import argparse
import json
import warnings

from pconv_cuda.text import printable

# repeated here so that `pconv --help` imports nothing heavy; a test compares them with the library's
_KINDS = ("mixed", "occlusion", "strokes")
_POLARITIES = ("auto", "white-hole", "black-hole")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "In every file white is the hole."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    make = actions.add_parser(
        "make",
        help="the paper's test set: six hole shares, with and without holes near the border",
        description="Write the paper's test set as 1-bit PNGs, with manifest.json and a contact sheet, sheet.png. "
        "Killed at any moment, the same command goes on.",
    )
    make.add_argument("--out", metavar="DIR", required=True, help="folder of the masks")
    make.add_argument("--size", metavar="PX", type=int, default=512, help="side of the masks (default: %(default)s)")
    make.add_argument(
        "--count", metavar="N", type=int, default=1000, help="masks of each share and border (default: %(default)s)"
    )
    make.add_argument("--seed", metavar="S", type=int, default=0, help="default: %(default)s")
    make.add_argument("--kind", choices=_KINDS, default="mixed", help="default: %(default)s")

    stats = actions.add_parser(
        "stats",
        help="hole shares, border, grey pixels and sizes of a folder of masks",
        description="Print what a folder of masks holds. It is searched at any depth. The exit code is 1 if files "
        "cannot be read, or are missing that the folder's manifest names.",
    )
    stats.add_argument("folder", metavar="DIR", help="any folder of mask pictures")
    stats.add_argument(
        "--polarity", choices=_POLARITIES, default="auto", help="which colour is the hole (default: found out)"
    )
    stats.add_argument("--json", action="store_true", help="print JSON instead of a table")

    video = actions.add_parser(
        "from-video",
        help="what is covered or uncovered between consecutive frames of a video",
        description="Write a mask for each pair of consecutive frames: optical flow both ways, and a hole where the "
        "two do not agree. Needs the extra [video].",
    )
    video.add_argument("video", metavar="VIDEO", help="any file that OpenCV decodes")
    video.add_argument("--out", metavar="DIR", required=True, help="folder of the masks")
    video.add_argument("--every", metavar="N", type=int, default=1, help="a pair every N frames (default: %(default)s)")
    video.add_argument("--size", metavar="S", type=int, help="side of the middle square (default: the whole frames)")


def run(args: argparse.Namespace) -> int:
    return {"make": _make, "stats": _stats, "from-video": _from_video}[args.action](args)


def _make(args: argparse.Namespace) -> int:
    from pconv_cuda.masks.files import make_masks

    made = make_masks(args.out, size=args.size, count=args.count, seed=args.seed, kind=args.kind)
    there = f", {made['kept']} of them were there" if made["kept"] else ""
    print(printable(f"{args.out}: {len(made['files'])} masks{there}; manifest.json, sheet.png"))
    return 0


def _stats(args: argparse.Namespace) -> int:
    from pconv_cuda.masks.stats import mask_stats, table

    stats = mask_stats(args.folder, args.polarity)
    if stats.unsure:
        warnings.warn(
            f"the polarity {stats.polarity} is a guess: the signs are weak or differ; --polarity says it for sure",
            stacklevel=1,
        )
    print(json.dumps(stats.as_dict(), indent=1) if args.json else printable(table(stats)))
    return 1 if stats.unreadable or stats.missing else 0


def _from_video(args: argparse.Namespace) -> int:
    from pconv_cuda.masks.video import masks_from_video

    made = masks_from_video(args.video, args.out, every=args.every, size=args.size)
    text = (
        f"{args.out}: {len(made['files'])} masks from {made['pairs']} pairs of frames "
        f"({len(made['empty'])} without a hole, {len(made['cuts'])} cuts); manifest.json"
    )
    print(printable(text))
    return 0
