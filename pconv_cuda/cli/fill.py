"""``pconv fill``: fill the gaps of gridded data in files."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from pconv_cuda.devices import DEVICE_HELP
from pconv_cuda.text import between_commas, printable

ARGUMENTS = {"model": "--weights", "output": "-o", "variables": "--var"}

_EPILOG = """\
Missing is NaN, and what _FillValue, missing_value, nodata or a mask band say. The output is a copy of the input in
which only missing values change: coordinates, attributes, packing, compression, projection and tags stay.

examples:
  pconv fill tas.nc --var tas -o filled.nc
  pconv fill tas.nc --var tas -o filled.nc --weights RUN        a network that pconv train --data has trained
  pconv fill elevation.tif -o filled.tif --tension 0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; nothing heavy is imported."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("input", metavar="INPUT", type=Path, help="NetCDF (.nc), Zarr (.zarr), GeoTIFF (.tif) or .npy")
    add("-o", "--out", metavar="OUT", dest="out", type=Path, required=True, help="the file to write, of the same kind")
    add(
        "--var",
        metavar="NAME",
        action="append",
        default=[],
        help="a variable, or the number of a band; repeatable, or several with commas (default: the only one that is a "
        "grid; all bands)",
    )
    add(
        "--weights",
        metavar="smooth|PATH",
        default="smooth",
        help="smooth, which needs no weights and takes any unit, or a network of grids: a .safetensors file, a folder "
        "with config.json, user/repo on the Hugging Face hub (default: %(default)s); pictures: pconv inpaint",
    )
    add(
        "--dims",
        metavar="ROWS,COLUMNS",
        help="names of the axes, of three with CHANNELS, first; numbers in .npy (default: the last ones)",
    )
    add(
        "--wrap",
        metavar="auto|none|columns|rows|both",
        default="auto",
        help="what goes round, as longitudes do; auto: as the network says, else columns or rows whose coordinates are "
        "longitudes that span 360 degrees (default: %(default)s)",
    )
    add(
        "--tension",
        metavar="T",
        type=float,
        help="of smooth, 0 to 1: 0 for smooth fields without noise, 1 makes no new extrema (default: 0.3)",
    )
    add("--device", default="auto", help=DEVICE_HELP)


def run(args: argparse.Namespace) -> int:
    """Write the file; one line for each variable."""
    from pconv_cuda.files import remove_leftovers
    from pconv_cuda.grids.work import WRAPS, fill_file

    last = time.monotonic()

    def progress(name: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 10 and done < total:
            print(printable(f"{name}: {done:,} of {total:,} planes"), file=sys.stderr, flush=True)
            last = time.monotonic()

    remove_leftovers(args.out.parent)
    done = fill_file(
        args.input,
        args.out,
        model=args.weights,
        variables=[name for part in args.var for name in between_commas(part) if name],
        dims=None if args.dims is None else between_commas(args.dims),
        wrap=args.wrap,
        tension=args.tension,
        device=args.device,
        progress=progress,
    )
    ways = {wraps: name for name, wraps in WRAPS.items()}
    for one in done:
        share = 100 * (one.missing - one.left) / max(1, one.total)
        text = f"{args.out}: {one.name}: {one.missing - one.left:,} of {one.total:,} values filled ({share:.1f} %)"
        if any(one.wraps):
            text += {"columns": ", columns go round", "rows": ", rows go round"}.get(
                ways[one.wraps], ", both axes go round"
            )
        if one.left:
            text += f"; {one.left:,} stay empty"
        print(printable(text))
    return 0
