"""The check of an exported file: its outputs against those of its network, on ten sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pconv_cuda.errors import PConvError
from pconv_cuda.functional import smooth_fill
from pconv_cuda.models import InpaintingNetwork
from pconv_cuda.models.options import column

__all__ = ["Difference", "compare", "check_sizes", "scene", "tolerance_of"]

Run = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_EXACT, _FILL, _HALF = 1e-4, 3e-4, 5e-2  # of the range 0 to 1, or of the network's largest value where that is more
# The operator of the smooth fill and the exported one stop at a thousandth of their first error, at different points.
# Against a more exact fill the difference is the exported one's alone.
_SOLVED = 1e-5


@dataclass(frozen=True)
class Difference:
    """What :func:`compare` found.

    ``largest`` and ``tolerance`` are parts of the range 0 to 1, or of the network's largest value before it is cut to
    that range, where that is more; ``sizes`` are (N, H, W), ``worst`` is the one of ``largest``.
    """

    largest: float
    tolerance: float
    worst: tuple[int, int, int]
    sizes: tuple[tuple[int, int, int], ...]


def tolerance_of(model: InpaintingNetwork | None, half: bool) -> float:
    """The largest difference that is allowed; None is the smooth fill alone."""
    return _HALF if half else _EXACT if model is not None and model.prefill is None else _FILL


def check_sizes(grid: int) -> tuple[tuple[int, int, int], ...]:
    """Ten (N, H, W): a pixel, lines, ragged ones, one cell of the network's grid and its neighbours, and one whose side
    is beyond the first padding of the smooth fill's coarse levels, 1024 px."""
    return (
        (1, 1, 1), (2, 1, 17), (1, 3, 1030), (3, 5, 9), (1, grid, grid), (2, grid + 1, max(1, grid - 1)), (1, 33, 47),
        (1, 64, 96), (2, 101, 75), (1, 130, 2 * min(grid, 64) + 1),
    )  # fmt: skip


def compare(run: Run, model: InpaintingNetwork | None, channels: int, half: bool) -> Difference:
    """``run`` against the network.

    Args:
        run: float32 image (N, C, H, W) and mask (N, 1, H, W) to output and new mask, as the exported file.
        model: in eval mode; None for the smooth fill.
        channels: C.
        half: whether float16's tolerance holds.

    Raises:
        PConvError: a difference above :func:`tolerance_of`, other shapes or another new mask.
    """
    sizes = check_sizes(32 if model is None else model.grid)
    largest, worst, tolerance = 0.0, sizes[0], tolerance_of(model, half)
    for number, size in enumerate(sizes):
        image, mask = scene(size, channels, number)
        wanted, wanted_mask, scale = _answer(model, image, mask)
        # what lies in holes must not be read
        output, new_mask = run(torch.where(mask > 0, image, torch.nan).numpy(), mask.numpy())
        where = f"at {size[0]} x {channels} x {size[1]} x {size[2]}"
        if output.shape != wanted.shape or new_mask.shape != wanted_mask.shape:
            raise PConvError(
                f"export: expected an output of shape {wanted.shape} and a mask of {wanted_mask.shape}, "
                f"got {output.shape} and {new_mask.shape} {where}"
            )
        other = int((new_mask != wanted_mask).sum())
        if other:
            raise PConvError(f"export: expected the network's new mask, got another in {other} pixels {where}")
        difference = float(np.abs(output - wanted).max()) / scale
        if not difference <= tolerance:  # true for NaN
            of = "the range 0 to 1" if scale == 1 else f"its largest value, {scale:.3g} before it is cut to 0 to 1"
            raise PConvError(
                f"export: expected the network's output within {tolerance:g} of {of}, got a difference of "
                f"{difference:.3g} {where}; no file was written"
            )
        if difference >= largest:
            largest, worst = difference, size
    return Difference(largest, tolerance, worst, sizes)


def _answer(
    model: InpaintingNetwork | None, image: torch.Tensor, mask: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, float]:
    """The expected output from the network, its new mask, and its largest value before clamping, at least 1."""
    with torch.inference_mode():
        scale = 1.0
        if model is None:
            filled, new_mask = smooth_fill(image, mask, tolerance=_SOLVED).clamp(0, 1), torch.ones_like(mask)
        else:
            normal = model.normalize(image)
            fill = None
            if model.prefill is not None:  # within the range of pictures, as pconv_cuda.inpaint gives it
                fill = model.normalize(model.denormalize(smooth_fill(normal, mask, tolerance=_SOLVED)))
            answer, closed = model(normal, mask, fill)
            filled, new_mask = torch.where(closed, model.denormalize(answer), 0.0), closed.float()
            # rounding is a matter of the largest values; those of an untrained network may be far beyond 1
            scale = max(1.0, float((answer * column(model.std, answer) + column(model.mean, answer)).abs().max()))
        return torch.where(mask > 0, image, filled).numpy(), new_mask.numpy(), scale


def scene(size: tuple[int, int, int], channels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture with structure, and a mask with small and wide holes; always the same."""
    n, height, width = size
    draw = torch.Generator().manual_seed(seed)
    noise = torch.rand((n, channels, height + 8, width + 8), generator=draw)
    soft = F.avg_pool2d(noise, 9, 1)
    image = (0.5 + 3 * (soft - 0.5) + 0.3 * (noise[..., 4:-4, 4:-4] - 0.5)).clamp(0, 1)
    blocks = torch.rand((n, 1, height // 7 + 1, width // 7 + 1), generator=draw) > 0.35
    mask = blocks.float().repeat_interleave(7, 2).repeat_interleave(7, 3)[..., :height, :width].contiguous()
    mask[..., height // 3 : 2 * height // 3, width // 4 : 2 * width // 3] = 0
    mask[..., 0, 0] = 1
    return image, mask
