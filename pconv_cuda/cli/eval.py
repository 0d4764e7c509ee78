"""``pconv eval``: the paper's table for networks and baselines."""

from __future__ import annotations

import argparse
from typing import Any

from pconv_cuda.devices import DEVICE_HELP
from pconv_cuda.text import between_commas, printable

_BASELINES = "mean,telea,ns,biharmonic,smooth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Writes table.md, table.csv, results.json (every picture's numbers too), plot.png and sheet.png. Killed at any "
        "moment, the same command goes on. White is the hole. The exit code is 1 if anything was left out."
    )
    add = parser.add_argument
    add(
        "--weights",
        metavar="[NAME=]W",
        action="append",
        default=[],
        help="a network: a path, or user/repo on the Hugging Face hub; repeatable, the first is compared",
    )
    add("--images", metavar="DIR|documents", required=True, help="pictures to restore, or drawn pages")
    add("--out", metavar="R", required=True, help="folder of the results")
    add_common(parser)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options shared with ``pconv compare``."""
    add = parser.add_argument
    add(
        "--masks",
        metavar="DIR|paper",
        default="paper",
        help="mask files, or the paper's test set drawn by seed (default)",
    )
    add("--polarity", choices=("white-hole", "black-hole"), default="white-hole", help="of mask files")
    add("--count", metavar="N", type=int, help="masks in each cell (default: as many as pictures or masks, the more)")
    add("--shares", metavar="LIST", default="", help="cells such as 0.1-0.2,0.2-0.3 (default: all six)")
    add("--size", metavar="PX", type=int, default=512, help="side of the pictures (default: %(default)s)")
    add("--seed", metavar="S", type=int, default=0, help="of masks and intervals (default: %(default)s)")
    add("--baselines", metavar="LIST", default=_BASELINES, help="some of %(default)s, or none (biharmonic is slow)")
    add("--lpips", metavar="auto|none|FILE", default="auto", help="torchvision's AlexNet or VGG16 weights for LPIPS")
    add("--fid", metavar="auto|none|FILE", default="auto", help="weights of FID's Inception network")
    add("--vgg", metavar="auto|none|FILE", default="auto", help="VGG16 weights for a distance of its features")
    add("--resamples", metavar="N", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    add("--device", default="auto", help=DEVICE_HELP)


def common(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of the options of :func:`add_common`."""
    names = ("masks", "polarity", "count", "size", "seed", "lpips", "fid", "vgg", "resamples", "device")
    values = {name: getattr(args, name) for name in names}
    chosen = [] if args.baselines == "none" else [one for one in between_commas(args.baselines) if one]
    shares = tuple(one for one in between_commas(args.shares) if one)
    return {**values, "baselines": tuple(chosen), "shares": shares}


def run(args: argparse.Namespace) -> int:
    from pconv_cuda import backends
    from pconv_cuda.evaluation import Settings, evaluate

    backends.benchmark = True  # pictures of one size
    report = evaluate(Settings(images=args.images, weights=tuple(args.weights), **common(args)), args.out)
    return finish(report, args.out)


def finish(report: dict[str, Any], out: Any) -> int:
    """Prints where the table is. Returns 1 where values are missing."""
    print(printable(f"{out}/table.md: {report['measured']} of {report['wanted']} values"))
    return 0 if report["complete"] else 1
