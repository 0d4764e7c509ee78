"""Gaps in gridded data: any range, any number of leading axes, NaN where a value is missing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pconv_cuda.errors import PConvError
from pconv_cuda.functional import smooth_fill
from pconv_cuda.smooth import TENSION

__all__ = ["fill"]

_PLANES = 64  # filled together
_TOLERANCE = (
    1e-5  # a hundredth of a picture's: measurements have more digits than grey levels, and it costs twice the time
)


def fill(
    model: str,
    array: Any,
    *,
    wrap: tuple[bool, bool] = (False, False),
    tension: float = TENSION,
    dims: Sequence[str] | None = None,
) -> Any:
    """Fill the missing values of a grid, or of many; every value that is there is returned to the bit.

    Each plane of the last two axes (latitude and longitude, rows and columns) is filled by itself, whatever its range
    and unit: by :func:`pconv_cuda.functional.smooth_fill`, a thin plate under tension, which needs no weights, solved a
    hundred times more finely than for pictures.

    Args:
        model: ``"smooth"``.
        array: numpy ``(..., H, W)``, masked arrays too, a torch tensor, or an ``xarray.DataArray``; float16, bfloat16,
            float32 or float64. NaN is missing, and so is what a masked array masks. Infinity is refused.
        wrap: whether rows and columns go round: ``(False, True)`` for a grid of latitudes and all longitudes, where
            the last column is the first one's neighbour.
        tension: 0 to 1, as in ``smooth_fill``: 0 for smooth fields without noise, whose slopes it continues into gaps;
            1 makes no new extrema.
        dims: of a DataArray, the names of rows and columns, wherever they lie; default: its last two.

    Returns:
        A new array of the same type, shape and dtype, on the same device; of a DataArray with its coordinates, names
        and attributes. A plane without any value stays as it is, and one warning says how many there are.

    Raises:
        PConvError: another model, a type, shape or dtype that does not fit, infinite values, names that the array does
            not have.
    """
    if not 0 <= tension <= 1:
        raise PConvError(f"tension: expected 0 to 1, got {tension!r}")
    if model != "smooth":
        raise PConvError(f"model: expected 'smooth', which needs no weights, got {model!r}")
    if hasattr(array, "dims") and hasattr(array, "transpose") and hasattr(array, "copy"):
        return _fill_labelled(array, wrap, tension, dims)
    if dims is not None:
        raise PConvError(f"dims: expected None beside an array without names, got {dims!r}")
    if isinstance(array, Tensor):
        return _fill_tensor(array, wrap, tension)
    if isinstance(array, np.ma.MaskedArray):
        missing = np.ma.getmaskarray(array)
        filled = _fill_numpy(np.where(missing, np.nan, array.data), wrap, tension)
        filled[~missing] = array.data[~missing]
        return np.ma.masked_invalid(filled) if np.isnan(filled).any() else np.ma.masked_array(filled)
    if isinstance(array, np.ndarray):
        return _fill_numpy(array, wrap, tension)
    raise PConvError(
        f"array: expected a numpy array, a torch tensor or an xarray.DataArray, got {type(array).__name__}"
    )


def _fill_labelled(array: Any, wrap: tuple[bool, bool], tension: float, dims: Sequence[str] | None) -> Any:
    names = tuple(array.dims)[-2:] if dims is None else tuple(dims)
    if len(names) != 2 or names[0] == names[1] or not set(names) <= set(array.dims):
        raise PConvError(f"dims: expected two of the array's {tuple(array.dims)}, got {names}")
    rest = [name for name in array.dims if name not in names]
    ordered = array.transpose(*rest, *names)
    filled = ordered.copy(data=_fill_numpy(np.asarray(ordered.values), wrap, tension))
    return filled.transpose(*array.dims)


def _fill_numpy(array: np.ndarray, wrap: tuple[bool, bool], tension: float) -> np.ndarray:
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise PConvError(f"array: expected float16, float32 or float64, got {array.dtype}")
    whole = np.ascontiguousarray(array)
    return _fill_tensor(torch.from_numpy(whole.copy() if not whole.flags.writeable else whole), wrap, tension).numpy()


def _fill_tensor(array: Tensor, wrap: tuple[bool, bool], tension: float) -> Tensor:
    if not array.is_floating_point():
        raise PConvError(f"array: expected float16, bfloat16, float32 or float64, got {array.dtype}")
    if array.dim() < 2 or 0 in array.shape[-2:]:
        raise PConvError(f"array: expected (..., H, W) with at least one value, got shape {tuple(array.shape)}")
    if len(wrap) != 2:
        raise PConvError(f"wrap: expected two answers, for rows and columns, got {wrap!r}")
    with torch.no_grad():
        planes = array.detach().reshape(-1, 1, *array.shape[-2:])
        if bool(torch.isinf(planes).any()):
            raise PConvError("array: expected finite values, NaN where they are missing, got infinity")
        filled, empty = planes.clone(), 0
        for first in range(0, len(planes), _PLANES):
            part = planes[first : first + _PLANES]
            known = ~torch.isnan(part)
            some = known.flatten(1).any(1)
            empty += int((~some).sum())
            gaps = some & ~known.flatten(1).all(1)
            if bool(gaps.any()):
                filled[first : first + _PLANES][gaps] = _filled(part[gaps], known[gaps], wrap, tension)
    if empty:
        warnings.warn(f"array: {empty} of {len(planes)} planes have no value and stay empty", UserWarning, stacklevel=4)
    return filled.reshape(array.shape)


def _filled(planes: Tensor, known: Tensor, wrap: tuple[bool, bool], tension: float) -> Tensor:
    """The planes with their gaps filled. Their means are taken off first: a plate knows no level, but rounding does."""
    values = torch.where(known, planes, 0).double()
    mean = values.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)
    working = torch.float64 if planes.dtype == torch.float64 else torch.float32
    centred = torch.where(known, values - mean, 0.0).to(working)
    # What goes round is continued by half its length at either side, so that a gap across the seam is one gap.
    margins = [(size + 1) // 2 if goes_round else 0 for size, goes_round in zip(planes.shape[2:], wrap, strict=True)]
    index = [
        torch.arange(-margin, size + margin, device=planes.device) % size
        for size, margin in zip(planes.shape[2:], margins, strict=True)
    ]
    centred, valid = (each[:, :, index[0]][:, :, :, index[1]] for each in (centred, known))
    filled = smooth_fill(centred, valid, tension=tension, tolerance=_TOLERANCE)
    rows, columns = (slice(margin, margin + size) for margin, size in zip(margins, planes.shape[2:], strict=True))
    return torch.where(known, planes, (filled[:, :, rows, columns].double() + mean).to(planes.dtype))
