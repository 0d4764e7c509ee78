"""``pconv export``: a network as a file that other programs run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pconv_cuda.named import DEFAULT, NAMED, load
from pconv_cuda.text import printable

_FORMATS = ("onnx", "pt2", "aoti")
ARGUMENTS = {"model": "--weights", "path": "-o"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; nothing heavy is imported."""
    parser.epilog = (
        "The file takes pictures of any number, height and width: image, float32 (N, C, H, W) in [0, 1], and mask, "
        "float32 (N, 1, H, W), 1 = valid, 0 = hole; it gives output, the filled picture, and new_mask, 0 where a hole "
        "was too wide. The smooth fill, to which the packaged networks add, is in the file. What pconv inpaint does "
        "around a network is not: tiles, and the smooth fill in holes that are too wide for one. Masks have one "
        "channel. Before a file gets its name its answers are compared with the network's on ten sizes. Networks "
        "with a smooth fill take a minute or two, compiled ones (aoti) three or more."
    )
    add = parser.add_argument
    add(
        "--weights",
        metavar=f"{'|'.join(NAMED)}|PATH",
        default=DEFAULT,
        help="a .safetensors file, a folder with config.json, user/repo on the Hugging Face hub, or a name "
        "(default: %(default)s)",
    )
    add("-o", "--out", metavar="OUT", type=Path, required=True, help="the file to write, .onnx or .pt2")
    add(
        "--format",
        choices=_FORMATS,
        help="onnx; pt2: a package of torch.export, which torch runs without this package; aoti: compiled for this "
        "machine's CPU by AOTInductor, which needs a C++ compiler (default: onnx or pt2, by the ending of OUT)",
    )
    add("--fp16", action="store_true", help="weights and features in float16: half the size; inputs stay float32")


def run(args: argparse.Namespace) -> int:
    """Write the file; the largest difference is printed."""
    from pconv_cuda.errors import PConvError

    ending = ".onnx" if args.format == "onnx" else ".pt2" if args.format else args.out.suffix.lower()
    if ending not in (".onnx", ".pt2") or args.out.suffix.lower() != ending:
        expected = "a name ending in .onnx or .pt2" if args.format is None else f"a name ending in {ending}"
        raise PConvError(f"-o: expected {expected}, got {args.out}")
    import torch

    from pconv_cuda.export import export_onnx, export_program

    if getattr(load(args.weights, torch.device("cpu"), "model"), "prefill", "smooth"):
        begun = f"{args.weights}: writing {args.out}; with a smooth fill this takes minutes"
        print(printable(begun), file=sys.stderr, flush=True)
    if ending == ".onnx":
        found = export_onnx(args.weights, args.out, fp16=args.fp16)
    else:
        found = export_program(args.weights, args.out, fp16=args.fp16, compiled=args.format == "aoti")
    n, height, width = found.worst
    size = args.out.stat().st_size
    shown = f"{size / 2**20:.1f} MiB" if size >= 2**20 / 10 else f"{size / 2**10:.1f} KiB"
    print(
        printable(
            f"{args.out}: {shown}; largest difference from the network "
            f"{found.largest:.2g} of the range 0 to 1 (at {n} x {height} x {width}; {found.tolerance:g} is allowed) on "
            f"{len(found.sizes)} sizes"
        )
    )
    return 0
