"""``fill_file``: one file in, one file out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.devices import pick_device
from pconv_cuda.errors import PConvError
from pconv_cuda.files import system_error_text
from pconv_cuda.grids.api import fill_with, grid_filler, is_index, listed, load_filler
from pconv_cuda.grids.files import GridVariable, kind_of, open_grid
from pconv_cuda.grids.planes import Planes
from pconv_cuda.models.wrap import Wraps

__all__ = ["WRAPS", "Filled", "fill_file"]

WRAPS: dict[str, Wraps] = {
    "none": (False, False), "columns": (False, True), "rows": (True, False), "both": (True, True),
}  # fmt: skip


@dataclass(frozen=True)
class Filled:
    """What was done to a variable: numbers of values, and whether rows and columns went round."""

    name: str
    total: int
    missing: int
    left: int
    wraps: Wraps


def fill_file(
    input: str | Path,
    output: str | Path,
    *,
    model: str | Path = "smooth",
    variables: Sequence[str] = (),
    dims: Sequence[Any] | None = None,
    wrap: str = "auto",
    tension: float | None = None,
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Filled]:
    """Fill the gaps of a NetCDF, Zarr, GeoTIFF or npy file; everything else in it stays, to the bit.

    Args:
        input: the file: .nc, .nc4, .cdf, .zarr, .tif, .tiff, .npy. Missing is NaN, and what ``_FillValue``,
            ``missing_value``, nodata or a mask band say.
        output: the copy to write, of the same kind; whole or not at all.
        model: ``"smooth"``, or the file, folder or repository of a network of grids; those for pictures are refused.
        variables: names, or numbers of bands; default: the only one that is a grid, all bands.
        dims: names of the axes (numbers in npy files) of rows and columns, or of channels, rows and columns. Default:
            the last ones; where coordinates say that latitude and longitude are others, that is an error.
        wrap: ``"none"``, ``"columns"``, ``"rows"``, ``"both"``, or ``"auto"``: as a network's padding says; else those
            whose coordinates are longitudes that span 360 degrees.
        tension: of ``"smooth"``.
        device: as ``pconv inpaint``.
        progress: told of the variable, and how many of its planes of how many are done.

    Returns:
        What was done, variable by variable.

    Raises:
        PConvError: files, variables, axes or weights that do not fit.
        MissingExtra: a library is not installed (extra ``[grid]``).
    """
    input, output = Path(input), Path(output)
    if not isinstance(wrap, str) or wrap not in ("auto", *WRAPS):
        raise PConvError(f"wrap: expected auto, {', '.join(WRAPS)}, got {wrap!r}")
    if output.suffix.lower() != kind_of(input):
        raise PConvError(f"output: expected a name ending in {input.suffix}, as the input's, got {output}")
    if output.exists() and input.exists() and output.samefile(input):
        raise PConvError(f"output: expected another name than the input's, got {output}")
    one, other = input.resolve(), output.resolve()
    if one in other.parents or other in one.parents:  # stores are folders
        inside = "within" if one in other.parents else "around"
        raise PConvError(f"output: expected a name outside of the input, {input}, got {output}, which lies {inside} it")
    with contextlib.closing(open_grid(input)) as file:
        names = file.chosen(variables)
        file.check(names)
        found = load_filler(model, pick_device(device))
        filled, done = {}, []
        for name in names:
            grid = file.read(name)
            axes = _axes(dims, grid.dims)
            if axes is None:
                grid.refuse_other_order("dims", input, "to fill them, give `dims={rows},{columns}`")
            wraps = WRAPS.get(wrap)
            if wraps is None and (found == "smooth" or not any(_own(found))):
                wraps = grid.wraps(axes)
            filler = grid_filler(found, wraps, tension)
            values = (
                grid.values
                if axes is None
                else np.moveaxis(grid.values, [grid.dims.index(dim) for dim in axes], list(range(-len(axes), 0)))
            )
            try:
                told = None if progress is None else partial(progress, name)
                result = fill_with(filler, np.ascontiguousarray(values), None, told, _planes(grid, axes))
            except PConvError as error:
                raise PConvError(f"variables: {name}: {str(error).removeprefix('array: ')}") from error
            if axes is not None:
                result = np.moveaxis(result, list(range(-len(axes), 0)), [grid.dims.index(dim) for dim in axes])
            filled[name] = result
            missing = int(np.isnan(grid.values).sum())
            done.append(Filled(name, result.size, missing, int(np.isnan(result).sum()), filler.wraps))
        with file.copied(output) as temporary:
            try:
                file.rewrite(temporary, filled)
                file.verify(temporary, filled)
            except (OSError, RuntimeError) as error:  # how netCDF4 and zarr report a full disk
                why = system_error_text(error) or str(error)
                raise PConvError(f"output: {output} cannot be written: {why}") from error
    return done


def _planes(grid: GridVariable, axes: list[Any] | None) -> Planes:
    """How the planes are called after the chosen axes were made the last ones."""
    chosen = list(grid.dims[-2:]) if axes is None else axes
    before = [dim for dim in grid.dims if dim not in chosen] + chosen[:-2]
    return Planes(grid.name, tuple(before), grid.numbers if before[:1] == list(grid.dims[:1]) else ())


def _own(network: Any) -> Wraps:
    return network.wraps if hasattr(network, "wraps") else (False, False)


def _axes(dims: Sequence[Any] | None, own: tuple[Any, ...]) -> list[Any] | None:
    if dims is None:
        return None
    numbered = all(isinstance(dim, int) for dim in own)
    dims = listed(dims)
    given = dims
    if numbered:  # 1.0 and True equal 1, and are none
        given = [int(dim) if is_index(dim) or str(dim).isdecimal() else str(dim) for dim in dims]
    if len(given) not in (2, 3) or len(set(given)) != len(given) or not set(given) <= set(own):
        raise PConvError(f"dims: expected two or three of {', '.join(map(str, own))}, got {', '.join(map(str, dims))}")
    return given
