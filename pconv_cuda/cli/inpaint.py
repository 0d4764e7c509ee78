"""``pconv inpaint``: fill the holes of a picture or of a folder of pictures."""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pconv_cuda.devices import DEVICE_HELP
from pconv_cuda.named import DEFAULT, NAMED
from pconv_cuda.text import printable, rename_arguments

if TYPE_CHECKING:
    from pconv_cuda.inpainting.batch import Job
    from pconv_cuda.inpainting.masks import MaskRule
    from pconv_cuda.named import Filler

ARGUMENTS = {"output": "-o", "colour": "--mask-color", "invert": "--invert-mask", "resize": "--resize-mask"}
ARGUMENTS |= {"alpha": "--mask alpha"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; nothing heavy is imported."""
    parser.epilog = (
        "White is the hole in every mask. Pixels outside the hole stay the same to the byte in png, tiff, bmp and "
        "webp. In a jpg only the blocks that the hole touches are compressed again, with the file's own quantisation "
        "(without the package jpeglib, and in CMYK, the whole picture). "
        "Avif and heic are read, and written as png. Size, format, orientation, metadata and colour "
        "profile of the input are kept. The exit code is 1 if any picture failed."
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="a picture or a folder of pictures")
    parser.add_argument(
        "--mask",
        metavar="MASK",
        help="a mask picture (for a folder: one for all), a folder of masks named as the pictures (a.png, a_mask.png, "
        "a-mask.png or a.mask.png for a.jpg; it may be the pictures' folder), or the word alpha: transparent pixels "
        "are the hole, and become opaque",
    )
    parser.add_argument(
        "-o", "--out", metavar="OUT", required=True, help="the picture to write, or a folder: one that exists, or OUT/"
    )
    parser.add_argument(
        "--weights",
        metavar=f"{'|'.join(NAMED)}|PATH",
        default=DEFAULT,
        help="a .safetensors file, a folder with config.json, user/repo on the Hugging Face hub, or a name: "
        + ", ".join(f"{name} ({one.about})" for name, one in NAMED.items())
        + " (default: %(default)s)",
    )
    parser.add_argument("--invert-mask", action="store_true", help="black is the hole")
    parser.add_argument(
        "--threshold",
        metavar="T",
        type=int,
        help="a mask pixel from this brightness on is hole, 1 to 255 (default: 128, and a mask that looks like a "
        "picture is refused)",
    )
    parser.add_argument(
        "--dilate",
        metavar="N",
        type=int,
        help="let the hole grow by N px on each side (default: 2 where the mask has soft edges, else 0)",
    )
    parser.add_argument(
        "--resize-mask", action="store_true", help="resize masks of another size to the picture's, to the nearest pixel"
    )
    parser.add_argument(
        "--mask-color",
        metavar="COLOR",
        help="pixels of exactly this colour, such as '#ff00ff', are the hole: in the mask, or without --mask "
        "in the picture itself",
    )
    parser.add_argument(
        "--tile",
        metavar="PX",
        type=int,
        help="largest side that a network sees at once (less memory); the smooth fill needs none",
    )
    parser.add_argument(
        "--max-pixels",
        metavar="N",
        type=int,
        default=500_000_000,  # pconv_cuda.inpainting.pictures.MAX_PIXELS, which would import Pillow
        help="refuse pictures with more pixels (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--skip-existing", action="store_true", help="leave outputs that are there already")
    parser.add_argument("--recursive", action="store_true", help="search subfolders too")


def run(args: argparse.Namespace) -> int:
    """Do the work; 0 when every picture was written (or skipped), 1 when one failed."""
    from pconv_cuda.errors import PConvError
    from pconv_cuda.files import remove_leftovers
    from pconv_cuda.inpainting.batch import plan_jobs
    from pconv_cuda.inpainting.masks import MaskRule, parse_colour
    from pconv_cuda.locks import folder_lock

    if args.mask is None and args.mask_color is None:
        raise PConvError("--mask: expected a mask file, a folder or the word alpha (or --mask-color), got none")
    from_alpha = args.mask == "alpha"
    if from_alpha and args.mask_color:
        raise PConvError("--mask-color: cannot be combined with --mask alpha")
    rule = MaskRule(
        alpha=from_alpha,
        colour=parse_colour(args.mask_color) if args.mask_color else None,
        threshold=args.threshold,
        invert=args.invert_mask,
        dilate=args.dilate,
        resize=args.resize_mask,
        max_pixels=args.max_pixels,
    )
    mask = Path(args.mask) if args.mask and not from_alpha else None
    if args.max_pixels < 1:
        raise PConvError(f"--max-pixels: expected at least 1, but got {args.max_pixels}")
    plan = plan_jobs(args.image, mask, args.out, recursive=args.recursive)
    jobs = plan.jobs
    for note in plan.notes:
        print(printable(f"warning: {args.image}: {rename_arguments(note, args.options)}"), file=sys.stderr)
    skipped = [job for job in jobs if args.skip_existing and job.output.exists()]
    if skipped:
        print(f"{len(skipped)} of {len(jobs)} skipped: their outputs exist (--skip-existing)")
        jobs = [job for job in jobs if job not in skipped]
    if not jobs:
        return 0
    with contextlib.ExitStack() as stack:
        if args.image.is_dir():  # single pictures may go into one folder from many processes
            stack.enter_context(folder_lock(Path(args.out)))
        for folder in {job.output.parent for job in jobs}:
            remove_leftovers(folder)
        return _restore_all(jobs, rule, args)


def _restore_all(jobs: list[Job], rule: MaskRule, args: argparse.Namespace) -> int:
    from pconv_cuda.inpainting.batch import Reporter, load_filler, run_job
    from pconv_cuda.inpainting.smooth_holes import NO_TILES, SmoothFiller
    from pconv_cuda.progress import Progress

    filler = load_filler(args.weights, args.device)
    display = Progress("", 0, every=1, seconds=10)
    count = ""

    def say(text: str) -> None:
        display.clear()
        print(printable(count + text), flush=True)

    def complain(kind: str, text: str) -> None:
        display.clear()
        display.say(f"{kind}: {rename_arguments(text, args.options)}")

    report = Reporter(
        say=say,
        warn=partial(complain, "warning"),
        progress=display.show,
        peak_memory=lambda: _peak_memory(filler),
    )
    tiled = not isinstance(filler, SmoothFiller)
    if args.tile is not None and not tiled:
        report.warn(NO_TILES)
    failures = 0
    for number, job in enumerate(jobs, 1):
        count = f"[{number}/{len(jobs)}] " if len(jobs) > 1 else ""
        display.label = count + job.image.name
        try:
            run_job(job, filler, rule, report, args.tile, args.max_pixels)
        except Exception as error:  # the other pictures of a folder are still worth doing
            complain("pconv inpaint: error", _describe(error, job.image, tiled))
            failures += 1
    if failures and len(jobs) > 1:
        complain("pconv inpaint", f"{failures} of {len(jobs)} pictures failed")
    return 1 if failures else 0


def _describe(error: Exception, image: Path, tiled: bool) -> str:
    """One sentence that names the picture; ``tiled``: whether --tile would help."""
    from pconv_cuda.errors import PConvError
    from pconv_cuda.files import is_out_of_memory, system_error_text

    text = str(error) if isinstance(error, PConvError) else system_error_text(error)
    if is_out_of_memory(error):
        text = "out of memory; give more" + (", or let the network see less at once (--tile)" if tiled else "")
    if text is None:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if str(image) in text else f"{image}: {text}"


def _peak_memory(filler: Filler) -> str:
    """The most memory that was in use until now: the GPU's where the work is done there, and the process's."""
    import torch

    texts = []
    if filler.device.type == "cuda":
        texts.append(f"{torch.cuda.max_memory_allocated(filler.device) / 2**20:.0f} MiB on the GPU")
    try:
        import resource
    except ImportError:  # not on Windows
        return ", ".join(texts) or "unknown"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    texts.append(f"{used / (2**20 if sys.platform == 'darwin' else 2**10):.0f} MiB")
    return ", ".join(texts)
