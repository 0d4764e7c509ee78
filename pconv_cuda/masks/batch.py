"""Masks of the same kinds for a whole batch, drawn on any device.

The few numbers that describe scenes and strokes are drawn on the CPU; all work on pixels is torch's, on the device.
Shares and border keep to the same rules. The masks are not those of :func:`draw_mask` for the same seed.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda.errors import PConvError
from pconv_cuda.masks.drawing import KINDS, sides
from pconv_cuda.masks.occlusion import Shape, random_scene
from pconv_cuda.masks.shares import Limits, border_band
from pconv_cuda.masks.strokes import random_dabs
from pconv_cuda.rng import Stream, generator

__all__ = ["draw_masks_batch"]

_ROUNDS = 4  # dilations between two looks at the counts: a look waits for the device


def draw_masks_batch(
    n: int,
    size: int | tuple[int, int],
    seed: int,
    kind: str = "mixed",
    hole_share: tuple[float, float] = (0.0, 0.6),
    border: bool | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """``n`` masks. Not measured on a GPU.

    Args:
        seed: >= 0; the same one gives the same batch on the same device.
        size, kind, hole_share, border: as for :func:`draw_mask`.

    Returns:
        (n, 1, height, width) bool on ``device``, True where valid.

    Raises:
        PConvError: as :func:`draw_mask`, or n < 1.
    """
    if n < 1:
        raise PConvError(f"n: expected at least 1, got {n}")
    if kind not in KINDS:
        raise PConvError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    limits = Limits.of(*sides(size), hole_share, border)
    pieces, wanted, waves, seeds = [], [], [], []
    for number in range(n):
        rng = generator(seed, Stream.MASK, number)
        count = int(rng.integers(limits.fewest, limits.most + 1))
        aim = max(1, int(count * rng.uniform(0.6, 1.0)))
        pieces.append(_piece(limits, aim, kind, rng, device))
        wanted.append(count)
        waves.append(rng.uniform(0, 1, 8))
        seeds.append(_seed(limits, rng))
    hole = _exactly(
        torch.stack(pieces),
        torch.tensor(wanted, device=device),
        _order(np.stack(waves), limits, device),
        torch.tensor(seeds, device=device),
        limits,
    )
    return ~hole[:, None]


def _seed(limits: Limits, rng: np.random.Generator) -> int:
    """A pixel from which a mask can grow whatever else happens: within the border band or off it, as asked for."""
    allowed = limits.within(np.ones((limits.height, limits.width), dtype=bool))
    if limits.border:
        allowed = border_band(limits.height, limits.width)
    places = np.flatnonzero(allowed)
    return int(places[rng.integers(places.size)])


def _piece(limits: Limits, aim: int, kind: str, rng: np.random.Generator, device: torch.device | str) -> Tensor:
    if kind == "mixed":
        kind = "occlusion" if rng.random() < 0.7 else "strokes"
    if kind == "occlusion":
        return _inconsistent(random_scene(limits, aim, rng), limits, device)
    y, x, radius = (torch.as_tensor(one, device=device) for one in random_dabs(limits, aim, rng))
    return _discs(y, x, radius, limits)


def _polygons(vertices: Tensor, limits: Limits) -> Tensor:
    """Polygons (K, n, 2) as pixels (K, height, width): the winding rule of :mod:`raster`, all columns at a time."""
    height, width = limits.height, limits.width
    y, x = (vertices - 0.5).unbind(-1)
    next_y, next_x = y.roll(-1, 1), x.roll(-1, 1)
    columns = torch.arange(width, device=y.device, dtype=y.dtype)
    run = (next_x - x)[..., None]
    crosses = (columns >= torch.minimum(x, next_x)[..., None]) & (columns < torch.maximum(x, next_x)[..., None])
    slope = (next_y - y)[..., None] / torch.where(run == 0, torch.ones_like(run), run)
    rows = (y[..., None] + (columns - x[..., None]) * slope).ceil().clamp(0, height).long()
    winding = torch.zeros(y.shape[0], height + 1, width, dtype=torch.int32, device=y.device)
    winding.scatter_add_(1, rows, torch.where(crosses, run.sign(), torch.zeros_like(run)).int())
    return winding.cumsum(1)[:, :-1] != 0


def _inconsistent(scene: list[Shape], limits: Limits, device: torch.device | str) -> Tensor:
    """As :func:`occlusion.inconsistent`: both directions, each pixel carried along by its own layer's motion."""
    labels = []
    for frame in ([one.vertices for one in scene], [one.moved() for one in scene]):
        inside = _polygons(torch.as_tensor(np.stack(frame), device=device), limits)
        number = torch.arange(1, len(scene) + 1, device=device)[:, None, None]
        labels.append((inside * number).amax(0))  # the nearest of the layers that a pixel lies in
    forth = [np.eye(2, 3), *(np.c_[one.linear, one.centre + one.shift - one.linear @ one.centre] for one in scene)]
    back = [np.linalg.inv(np.r_[way, [[0, 0, 1]]])[:2] for way in forth]
    found = (labels[0] == 0) != (labels[1] == 0)
    y = torch.arange(limits.height, device=device, dtype=torch.float64)[:, None] + 0.5
    x = torch.arange(limits.width, device=device, dtype=torch.float64) + 0.5
    for here, other, ways in ((labels[0], labels[1], forth), (labels[1], labels[0], back)):
        own = torch.as_tensor(np.stack(ways), device=device)[here]  # (height, width, 2, 3)
        to_y, to_x = (own[..., a, 0] * y + own[..., a, 1] * x + own[..., a, 2] for a in (0, 1))
        inside = (to_y >= 0) & (to_y < limits.height) & (to_x >= 0) & (to_x < limits.width)
        place = to_y.clamp(0, limits.height - 1).long() * limits.width + to_x.clamp(0, limits.width - 1).long()
        found |= inside & (here > 0) & (other.reshape(-1)[place] > here)
    return found


def _discs(y: Tensor, x: Tensor, radius: Tensor, limits: Limits) -> Tensor:
    """As :func:`raster.fill_discs`."""
    height, width = limits.height, limits.width
    reach = int(radius.max().ceil())
    columns = x.floor().long()[:, None] + torch.arange(-reach, reach + 1, device=x.device)
    square = radius[:, None] ** 2 - (columns + 0.5 - x[:, None]) ** 2
    half = square.clamp(min=0).sqrt()
    enter = (y[:, None] - half - 0.5).ceil().clamp(0, height).long()
    leave = ((y[:, None] + half - 0.5).floor() + 1).clamp(0, height).long()
    there = ((square >= 0) & (columns >= 0) & (columns < width) & (enter < leave)).int()
    columns = columns.clamp(0, width - 1)
    steps = torch.zeros((height + 1) * width, dtype=torch.int32, device=x.device)
    steps.scatter_add_(0, (enter * width + columns).reshape(-1), there.reshape(-1))
    steps.scatter_add_(0, (leave * width + columns).reshape(-1), -there.reshape(-1))
    return steps.reshape(height + 1, width).cumsum(0)[:-1] > 0


def _order(waves: np.ndarray, limits: Limits, device: torch.device | str) -> Tensor:
    """A smooth field for each mask, (n, height, width) float32 from 0 to below 1: which pixels of a step come first."""
    w = torch.as_tensor(waves, dtype=torch.float32, device=device)[..., None, None]
    longer = max(limits.height, limits.width)
    y = torch.arange(limits.height, device=device)[:, None] / longer
    x = torch.arange(limits.width, device=device) / longer
    wave = [torch.sin((3 + 6 * w[:, k]) * (y if k % 2 else x) + 6.3 * w[:, k + 4]) for k in range(4)]
    return (wave[0] + wave[1] + wave[2] * wave[3] + 3) / 6.1


def _exactly(pieces: Tensor, wanted: Tensor, order: Tensor, seeds: Tensor, limits: Limits) -> Tensor:
    """``wanted`` (n,) pixels each: the first by the number of dilations that reach them, then by ``order``."""
    n = pieces.shape[0]
    allowed = torch.from_numpy(limits.within(np.ones((limits.height, limits.width), dtype=bool))).to(pieces.device)
    hole = pieces & allowed
    flat = hole.view(n, -1)
    missing = ~flat.any(1)
    if limits.border:
        band = torch.from_numpy(border_band(limits.height, limits.width)).to(pieces.device)
        missing = ~(hole & band).flatten(1).any(1)
    flat[torch.arange(n, device=seeds.device), seeds] |= missing
    level = torch.where(hole, 0.0, torch.inf)
    step = 0
    while bool((torch.isfinite(level).flatten(1).sum(1) < wanted).any()):
        for _ in range(_ROUNDS):
            step += 1
            shape = (3, 3) if step % 2 else (3, 1)  # a square, then a cross made of two bars
            grown = _pool(hole, shape) | (hole if step % 2 else _pool(hole, (1, 3)))
            grown &= allowed
            level = torch.where(grown & ~hole, float(step), level)
            hole = grown
    key = (level + order).flatten(1)
    if limits.border:
        # the first of all is the band's pixel that would come first anyway
        banded = torch.where(band.flatten(), key, torch.inf)
        key[torch.arange(n, device=key.device), banded.argmin(1)] = -1.0
    rank = torch.empty_like(key, dtype=torch.int64)
    places = torch.arange(key.shape[1], device=key.device).expand(n, -1)
    rank.scatter_(1, key.argsort(dim=1, stable=True), places)
    return (rank < wanted[:, None]).view_as(pieces)


def _pool(pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    padding = (shape[0] // 2, shape[1] // 2)
    return F.max_pool2d(pixels[:, None].float(), shape, stride=1, padding=padding)[:, 0] > 0
