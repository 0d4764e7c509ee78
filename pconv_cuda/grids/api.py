"""``pconv_cuda.fill``: the gaps of arrays of any kind, shape and range."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pconv_cuda.errors import PConvError
from pconv_cuda.grids.axes import horizontal_axes, misplaced
from pconv_cuda.grids.planes import Planes
from pconv_cuda.grids.smooth import SmoothGrid
from pconv_cuda.smooth import TENSION

if TYPE_CHECKING:
    from pconv_cuda.grids.network import NetworkGrid
    from pconv_cuda.models import InpaintingNetwork

    Grid = SmoothGrid | NetworkGrid

Progress = Callable[[int, int], None]

__all__ = ["Progress", "fill", "fill_with", "grid_filler", "is_index", "listed", "load_filler"]


def fill(
    model: InpaintingNetwork | str | Path,
    array: Any,
    *,
    wrap: tuple[bool, bool] | None = None,
    tension: float | None = None,
    dims: Sequence[Any] | None = None,
) -> Any:
    """Fill the missing values of a grid, or of many; every value that is there is returned to the bit.

    Args:
        model: ``"smooth"``, which fills each plane of rows and columns by itself, whatever its range and unit, by
            :func:`pconv_cuda.functional.smooth_fill`, a thin plate under tension, solved a hundred times more finely
            than for pictures. Or a network of :mod:`pconv_cuda.models`, or what
            ``pconv_cuda.models.load_network`` takes: values are normalised by its ``mean`` and ``std`` and
            never cut to a range. One with as many channels out as in takes a channel axis of that length; one with
            several in and one out goes along the axis and fills each step from those around it (beyond the ends there
            are none); one with a single channel takes each plane by itself. What it cannot reach the smooth fill
            continues. Networks that :func:`pconv_cuda.inpaint` takes, such as ``"photo"``, are refused.
        array: numpy ``(..., [C,] H, W)``, masked arrays too, a torch tensor, or an ``xarray.DataArray``; float16,
            bfloat16, float32 or float64. NaN is missing, and so is what a masked array masks. Infinity and integers are
            refused.
        wrap: whether rows and columns go round: ``(False, True)`` for a grid of latitudes and all longitudes, where
            the last column is the first one's neighbour. None: as the network's ``padding_mode`` says; of
            ``"smooth"``: neither.
        tension: 0 to 1, as in ``smooth_fill``, for ``"smooth"`` alone: 0 for smooth fields without noise, whose slopes
            it continues into gaps; 1 makes no new extrema. Default: 0.3.
        dims: the axes of rows and columns, or of channels (such as time steps), rows and columns: names of a
            DataArray's, else numbers. Default: the last ones; a DataArray whose coordinates say that latitude and
            longitude are others is refused.

    Returns:
        A new array of the same type, shape and dtype, on the same device; of a DataArray with its coordinates, names
        and attributes. A plane without any value, and without neighbours in time that the network takes, stays as it
        is, and one warning says which they are.

    Raises:
        PConvError: another model, a type, shape or dtype that does not fit, infinite values, axes that the array does
            not have.
    """
    filler = grid_filler(model, wrap, tension, array.device if isinstance(array, Tensor) else torch.device("cpu"))
    return fill_with(filler, array, dims)


def grid_filler(
    model: InpaintingNetwork | str | Path,
    wrap: tuple[bool, bool] | None = None,
    tension: float | None = None,
    device: torch.device | None = None,
) -> Grid:
    """The object that fills planes; arguments as of :func:`fill`, weights are loaded on ``device``."""
    if wrap is not None:
        answers = list(wrap) if isinstance(wrap, Sequence | np.ndarray) and not isinstance(wrap, str) else []
        if len(answers) != 2 or not all(isinstance(one, bool | np.bool_) or one in (0, 1) for one in answers):
            raise PConvError(f"wrap: expected two answers, for rows and columns, got {wrap!r}")
        wrap = bool(answers[0]), bool(answers[1])
    if tension is not None and (
        isinstance(tension, bool) or not isinstance(tension, numbers.Real) or not 0 <= tension <= 1
    ):
        raise PConvError(f"tension: expected 0 to 1, got {tension!r}")
    found = load_filler(model, device or torch.device("cpu")) if isinstance(model, str | Path) else model
    if isinstance(found, str) and found == "smooth":
        return SmoothGrid(wrap or (False, False), TENSION if tension is None else tension)
    from pconv_cuda.grids.network import NetworkGrid
    from pconv_cuda.models import InpaintingNetwork

    if not isinstance(found, InpaintingNetwork):
        hint = "; the model comes before the array" if hasattr(found, "shape") else ""
        raise PConvError(
            f"model: expected 'smooth', weights, or a network of pconv_cuda.models, got {type(found).__name__}{hint}"
        )
    _check_for_grids(found)
    if tension is not None:
        raise PConvError(f"tension: expected None beside a network, which has none, got {tension!r}")
    return NetworkGrid(found, wrap)


def load_filler(model: str | Path, device: torch.device) -> InpaintingNetwork | str:
    """``"smooth"`` as it is, else a network of grids by its path.

    Raises:
        PConvError: something else, or a network for pictures.
    """
    if not isinstance(model, str | Path):
        raise PConvError(f"model: expected 'smooth' or a path of weights, got {type(model).__name__}")
    if str(model) == "smooth":
        return "smooth"
    from pconv_cuda.named import NAMED, load

    if str(model) in NAMED:
        raise PConvError(f"model: expected smooth or a network of grids, got {str(model)!r}, {_FOR_PICTURES}")
    network: Any = load(str(model), device, "model", ("smooth",))
    _check_for_grids(network, f" in {model}")
    return network


_FOR_PICTURES = "a network for pictures, which `pconv inpaint` and pconv_cuda.inpaint take"


def _check_for_grids(network: InpaintingNetwork, place: str = "") -> None:
    """Of other channels, or with padding that goes round, no network is taken for pictures: those stay."""
    if network.in_channels == 3 and not network.not_for_pictures:
        raise PConvError(
            f"model: expected smooth or a network of grids (values='data'), got values={network.values!r}{place}, "
            f"{_FOR_PICTURES}"
        )


def fill_with(
    filler: Grid,
    array: Any,
    dims: Sequence[Any] | None = None,
    progress: Progress | None = None,
    planes: Planes | None = None,
) -> Any:
    """:func:`fill` by something that is loaded; ``progress`` is told how many planes of how many are done.

    ``planes``: how a warning calls those without a value.
    """
    planes = planes or Planes()
    if hasattr(array, "data_vars"):
        name = next(iter(array.data_vars), "name")
        raise PConvError(
            f"array: expected one variable of the xarray.Dataset, such as dataset[{name!r}], got all of it"
        )
    if hasattr(array, "dims") and hasattr(array, "transpose") and hasattr(array, "copy"):
        own = tuple(array.dims)
        axes = _axes_of_names(own, dims, filler.in_channels)
        if dims is None:
            _check_order(own, horizontal_axes(own, getattr(array, "coords", {}), getattr(array, "coords", ())))
        before = [dim for at, dim in enumerate(own) if at not in axes] + [own[at] for at in axes[:-2]]
        planes = Planes(planes.name, tuple(before))
        return array.copy(data=_fill_numpy(filler, np.asarray(array.values), axes, progress, planes))
    if isinstance(array, Tensor):
        return _fill_tensor(filler, array, dims, progress, planes)
    if isinstance(array, np.ma.MaskedArray):
        _check_floating(array)
        values = np.array(array.data, subok=False)
        values[np.ma.getmaskarray(array)] = np.nan
        filled = _fill_numpy(filler, values, dims, progress, planes)
        left = np.isnan(filled)
        return np.ma.masked_array(filled, left if left.any() else np.ma.nomask, fill_value=array.fill_value)
    if isinstance(array, np.ndarray):
        return _fill_numpy(filler, array, dims, progress, planes)
    raise PConvError(
        f"array: expected a numpy array, a torch tensor or an xarray.DataArray, got {type(array).__name__}"
    )


def _axes_of_names(own: tuple[Any, ...], dims: Sequence[Any] | None, channels: int) -> list[int]:
    if dims is None:
        return list(range(len(own)))[-(2 if channels == 1 else 3) :]
    names = [dims] if isinstance(dims, str) else listed(dims)
    unknown = [name for name in names if name not in own]
    if unknown or len(names) not in (2, 3) or len(set(names)) != len(names):
        raise PConvError(f"dims: expected two or three of the array's {own}, got {tuple(names)}")
    return [own.index(name) for name in names]


def _check_floating(array: np.ndarray) -> None:
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise PConvError(f"array: expected float16, float32 or float64, got {array.dtype}")


def _check_order(own: tuple[Any, ...], horizontal: tuple[Any, Any] | None) -> None:
    if misplaced(own, horizontal):
        raise PConvError(
            f"dims: expected the horizontal axes, {horizontal}, as the last two, got {own}; to fill them, give "
            f"dims={horizontal}"
        )


def _fill_numpy(
    filler: Grid, array: np.ndarray, dims: Sequence[Any] | None, progress: Progress | None, planes: Planes
) -> np.ndarray:
    _check_floating(array)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    whole = np.ascontiguousarray(native)
    tensor = torch.from_numpy(whole if whole.flags.writeable else whole.copy())
    return _fill_tensor(filler, tensor, dims, progress, planes).numpy().astype(array.dtype, copy=False)


def _fill_tensor(
    filler: Grid, array: Tensor, dims: Sequence[Any] | None, progress: Progress | None, planes: Planes
) -> Tensor:
    if not array.is_floating_point():
        raise PConvError(f"array: expected float16, bfloat16, float32 or float64, got {array.dtype}")
    axes = _axes(tuple(array.shape), dims, filler.in_channels)
    last = list(range(-len(axes), 0))
    ordered = array.detach().movedim(axes, last)
    if 0 in ordered.shape[-2:]:
        raise PConvError(f"array: expected (..., H, W) with at least one value, got shape {tuple(array.shape)}")
    several = filler.in_channels > 1
    steps = ordered.shape[-3] if several else 1
    if several and filler.out_channels > 1 and steps != filler.in_channels:
        raise PConvError(
            f"array: expected {filler.in_channels} channels along axis {axes[0]}, as the network has, got {steps}"
        )
    with torch.no_grad():
        stacks = ordered.reshape(-1, steps, *ordered.shape[-2:]).contiguous()  # one layout, one answer to the bit
        if bool(torch.isinf(stacks).any()):
            raise PConvError("array: expected finite values, NaN where they are missing, got infinity")
        filled = _filled_stacks(filler, stacks, progress or (lambda *_: None))
        empty = torch.isnan(filled).all(3).all(2).view(ordered.shape[:-2])
    if bool(empty.any()):
        warnings.warn(planes.without_value(empty.cpu().numpy()), UserWarning, stacklevel=5)
    return filled.reshape(ordered.shape).movedim(last, axes).contiguous()


def _axes(shape: tuple[int, ...], dims: Sequence[Any] | None, channels: int) -> list[int]:
    """Two axes, or three for a network of several channels; never negative."""
    wanted, names = (2, "rows and columns") if channels == 1 else (3, "channels, rows and columns")
    least = "(..., H, W)" if channels == 1 else f"(..., C, H, W) for a network of {channels} channels"
    if len(shape) < wanted:
        raise PConvError(f"array: expected {least} with at least one value, got shape {shape}")
    given = list(range(len(shape)))[-wanted:] if dims is None else listed(dims)
    if not all(is_index(axis) and -len(shape) <= axis < len(shape) for axis in given):
        raise PConvError(f"dims: expected numbers of the array's {len(shape)} axes, got {tuple(given)}")
    axes = [int(axis) % len(shape) for axis in given]
    if len(axes) not in (2, 3) or len(set(axes)) != len(axes):
        raise PConvError(f"dims: expected two or three different axes, got {tuple(given)}")
    if wanted == 2:
        return axes[-2:]
    if len(axes) == 2:
        rest = [axis for axis in range(len(shape)) if axis not in axes]
        if len(rest) != 1:
            raise PConvError(f"dims: expected the axes of {names} of shape {shape}, got {tuple(given)}")
        axes = [*rest, *axes]
    return axes


def is_index(axis: Any) -> bool:
    """Whether it is a whole number; True and False are none."""
    return isinstance(axis, int | np.integer) and not isinstance(axis, bool)


def listed(dims: Any) -> list[Any]:
    """Names or numbers of axes, in a list; a PConvError where they are none."""
    try:
        return list(dims)
    except TypeError:
        raise PConvError(f"dims: expected two or three axes, got {dims!r}") from None


def _filled_stacks(filler: Grid, stacks: Tensor, progress: Progress) -> Tensor:
    """``(N, C, H, W)``: whole stacks, or every step from those around it."""
    filled, at_once = stacks.clone(), filler.at_once
    if filler.in_channels == filler.out_channels:
        for first in range(0, len(stacks), at_once):
            filled[first : first + at_once] = filler.fill(stacks[first : first + at_once])
            progress(min(first + at_once, len(stacks)) * stacks.shape[1], len(stacks) * stacks.shape[1])
        return filled
    before, after = filler.first_answer, filler.in_channels - 1 - filler.first_answer
    for number, (stack, target) in enumerate(zip(stacks, filled, strict=True)):
        ends = [stack.new_full((count, *stack.shape[1:]), torch.nan) for count in (before, after)]
        padded = torch.cat((ends[0], stack, ends[1]))
        windows = padded.unfold(0, filler.in_channels, 1).movedim(-1, 1)  # a view (steps, in_channels, H, W)
        for first in range(0, len(stack), at_once):
            target[first : first + at_once] = filler.fill(windows[first : first + at_once])[:, 0]
            done = number * len(stack) + min(first + at_once, len(stack))
            progress(done, len(stacks) * len(stack))
    return filled
