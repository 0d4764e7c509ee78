"""``pconv convert``: weights of other implementations as a folder that ``--weights`` takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from pconv_cuda.text import printable

# as in pconv_cuda.convert.FORMATS, which would import torch
_FORMATS = ("naoto0804", "bobqywei", "mmagic", "climatereconstructionai", "tanimutomo", "keras", "nvidia")

_MODES: dict[str, tuple[str, str]] = {
    "none": ("zeros", "zeros"),
    "columns": ("zeros", "circular"),
    "rows": ("circular", "zeros"),
    "both": ("circular", "circular"),
}


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Networks are recognised by their key names: NVIDIA/partialconv's layer, naoto0804, mmagic, tanimutomo/"
        "partialconv, bobqywei/inpainting-partial-conv, climatereconstructionAI, MathiasGruber/PConv-Keras (.h5). "
        "Nothing but tensors is unpickled. What could not be converted exactly is said, and kept in "
        "OUT/conversion.json."
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a .pth, .pt, .ckpt, .safetensors or .h5 file")
    parser.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help="folder to write")
    parser.add_argument("--format", choices=("auto", *_FORMATS), default="auto", help="default: by the key names")
    parser.add_argument(
        "--wrap",
        choices=tuple(_MODES),
        default="none",
        help="what went round in training, of climatereconstructionAI's networks (its --global-padding: columns)",
    )
    for name, default in (("mean", 0), ("std", 1)):
        parser.add_argument(
            f"--{name}",
            metavar="NUMBERS",
            type=_numbers,
            help=f"of each channel of the data that such a network was trained with (default: {default})",
        )
    parser.add_argument("--levels", metavar="N", type=int, help="levels in use, of tanimutomo's network (default: 7)")


def run(args: argparse.Namespace) -> int:
    from pconv_cuda.convert import convert

    options = {"levels": args.levels, "mean": args.mean, "std": args.std}
    done = convert(args.file, args.out, format=args.format, padding_mode=_MODES[args.wrap], **options)
    config = ", ".join(f"{key}={value}" for key, value in done.config.items() if key not in ("mean", "std", "conv"))
    print(printable(f"{args.file}: {done.source} -> {args.out} ({config})"))
    for note in done.notes:
        print(printable(f"  {note}"))
    return 0
