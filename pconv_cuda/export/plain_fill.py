"""The smooth fill in operators that every exporter knows, for pictures of any size.

The equation and its solver are those of :mod:`pconv_cuda.smooth`: conjugate gradients with a V-cycle of a multigrid.
One graph serves every picture size:

* The number of levels is fixed: levels beyond a picture's last one hold no hole and add 0.
* Sides are padded until they halve evenly, and the padding lies outside a domain: a pixel has no neighbours there,
  which is what reflection means to the Laplacian. Sides of the picture become multiples of 32, sides of level 5 again.
* What leads from a level to the next is a convolution, also where it could be a pooling: AOTInductor writes a chain of
  poolings as one loop, whose code grows fourfold with each level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda.smooth import DEGREE, MAX_ITERATIONS, RANGE, TENSION

__all__ = ["PlainSmoothFill"]

_HALVINGS = 5  # between two paddings
LEVELS = 2 * _HALVINGS  # the coarsest pixel is 512 px wide; no side of a level is 1, which exporters treat apart
# Smaller than that of the operator, 1e-3, which forms the residual anew on its way, as this loop does not.
TOLERANCE = 5e-5
_LOST, _GROWN = 1 / 16, 16  # as in pconv_cuda.smooth
# The smoother's interval is [1 - _RADIUS, 1 + _RADIUS] once the plate is divided by its middle.
_MIDDLE, _RADIUS = (1 + 1 / RANGE) / 2, (1 - 1 / RANGE) / (1 + 1 / RANGE)
_State = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Grid:
    """Pixels of one size. All are floating; ``inside`` and ``neighbours`` are (1, 1, H, W)."""

    inside: Tensor  # 1 in the picture, 0 in the padding
    neighbours: Tensor  # of each pixel, those in the picture, negative
    share: Tensor  # of each pixel, in what the pixels of the next level give: 1 over their weights
    padding: bool  # whether the next level has padding of its own


@dataclass(frozen=True)
class _Level:
    """The plate, ``outer * around(bent) + inner * bent``, divided by the middle of the smoother's interval."""

    grid: _Grid
    hole: Tensor  # (N, 1, H, W), 1 where the pixel is unknown, else 0
    outer: Tensor  # 0 where the pixel is known, as inner
    inner: Tensor
    scale: Tensor  # a scalar: what a residual of the level above is multiplied by


class PlainSmoothFill(nn.Module):
    """``forward(image, mask)`` fills ``image`` (N, C, H, W), float32, where ``mask`` (N, 1, H, W) is 0.

    A picture without a valid pixel becomes 0. Nothing is read where the mask is 0.

    Args:
        channels: C.
        tension: as in :func:`pconv_cuda.functional.smooth_fill`.
    """

    cross: Tensor
    shares: Tensor
    cells: Tensor

    def __init__(self, channels: int, tension: float = TENSION) -> None:
        super().__init__()
        self.channels, self.tension = channels, tension
        cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        line = torch.tensor([0.25, 0.75, 0.75, 0.25])
        self.register_buffer("cross", cross.expand(channels, 1, 3, 3).clone(), persistent=False)
        self.register_buffer("shares", (line[:, None] * line).expand(channels, 1, 4, 4).clone(), persistent=False)
        self.register_buffer("cells", torch.ones(channels, 1, 2, 2), persistent=False)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        inside = _padded(torch.ones_like(image[:1, :1]))
        valid = _padded((mask > 0).float())
        known = _padded(torch.where(mask > 0, image, 0.0))
        grids = self._grids(inside)
        start = self._start(known, valid, grids)
        filled = start + self._solve(start, self._levels(valid, grids))
        return torch.where(mask > 0, image, filled[..., :height, :width])

    # Levels --------------------------------------------------------------------------------------------------

    def _grids(self, inside: Tensor) -> list[_Grid]:
        grids = []
        for number in range(LEVELS - 1):
            coarse = self._any(inside)
            # a border pixel's share: what its neighbour in the padding would have given comes from the others
            share = inside / F.conv_transpose2d(coarse, self.shares[:1], stride=2, padding=1).clamp(min=0.25)
            padding = number + 1 == _HALVINGS
            grids.append(_Grid(inside, self._neighbours(inside), share, padding))
            inside = _padded(coarse) if padding else coarse
        return [*grids, _Grid(inside, self._neighbours(inside), inside, False)]

    def _neighbours(self, inside: Tensor) -> Tensor:
        return -inside * F.conv2d(inside, self.cross[:1], padding=1)

    def _levels(self, valid: Tensor, grids: list[_Grid]) -> list[_Level]:
        stiffness = torch.full_like(valid[0, 0, 0, 0], 1 - self.tension)
        tension, above = torch.full_like(stiffness, self.tension), torch.ones_like(stiffness)
        levels = []
        for grid in grids:
            hole, middle = grid.inside - valid, _MIDDLE * (64 * stiffness + 8 * tension)
            outer = hole * (stiffness / middle)
            levels.append(
                _Level(grid, hole, outer, outer * grid.neighbours - hole * (tension / middle), above / middle)
            )
            above = middle
            # a level that is one pixel wide halves along its length only
            sides = grid.inside[..., :1].sum(), grid.inside[..., :1, :].sum()
            line = torch.where(torch.minimum(*sides) == 1, 0.5, 1.0)
            stiffness, tension = stiffness / 4 * line, tension * line
            if grid is not grids[-1]:
                valid = self._any(valid)
                valid = _padded(valid) if grid.padding else valid
        return levels

    def _any(self, cells: Tensor) -> Tensor:
        """1 where any of four pixels is, of one channel with 0 and 1."""
        return (F.conv2d(cells, self.cells[:1], stride=2) > 0.5).float()

    def _plate(self, level: _Level, u: Tensor) -> Tensor:
        """``u`` is 0 in the padding."""
        bent = level.grid.inside * self._around(u) + level.grid.neighbours * u
        return level.outer * self._around(bent) + level.inner * bent

    def _around(self, u: Tensor) -> Tensor:
        return F.conv2d(u, self.cross, padding=1, groups=self.channels)

    def _restrict(self, grid: _Grid, fine: Tensor) -> Tensor:
        """The transpose of :meth:`_double`."""
        coarse = F.conv2d(grid.share * fine, self.shares, stride=2, padding=1, groups=self.channels)
        return _padded(coarse) if grid.padding else coarse

    def _double(self, grid: _Grid, coarse: Tensor) -> Tensor:
        """Bilinear, between the pixels' centres; ``coarse`` is 0 in the padding."""
        coarse = _without(coarse, grid)
        torch._check(coarse.shape[2] > 0)  # torch 2.11 cannot tell by itself
        torch._check(coarse.shape[3] > 0)
        fine = F.conv_transpose2d(coarse, self.shares, stride=2, padding=1, groups=self.channels)
        return grid.share * fine

    # The start -----------------------------------------------------------------------------------------------

    def _start(self, known: Tensor, valid: Tensor, grids: list[_Grid]) -> Tensor:
        beside = F.max_pool2d(grids[0].inside - valid, 3, 1, 1)
        weight, value = valid * beside, known * beside
        pyramid = []
        for grid in grids[:-1]:
            pyramid.append((value, weight))
            count = F.conv2d(weight, self.cells[:1], stride=2)
            value = F.conv2d(value * weight, self.cells, stride=2, groups=self.channels) / count.clamp(min=1e-6)
            weight = count.clamp(max=1)
            if grid.padding:
                value, weight = _padded(value), _padded(weight)
        u = value
        for (value, weight), grid in reversed(list(zip(pyramid, grids[:-1], strict=True))):
            u = torch.where(weight > 0, value, self._double(grid, u))
        return torch.where(valid > 0, known, u)

    # Conjugate gradients -------------------------------------------------------------------------------------

    def _residual(self, u: Tensor, level: _Level) -> Tensor:
        """In double, by sums of slices: runtimes have no convolution of that precision."""
        inside, neighbours = level.grid.inside.double(), level.grid.neighbours.double()

        def around(u: Tensor) -> Tensor:
            p = F.pad(u, (1, 1, 1, 1))
            return p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + p[..., 1:-1, :-2] + p[..., 1:-1, 2:]

        bent = inside * around(u.double()) + neighbours * u.double()
        middle = _MIDDLE * (64 * (1 - self.tension) + 8 * self.tension)
        laplacian = around(bent) + neighbours * bent
        residual = self.tension / middle * bent - (1 - self.tension) / middle * laplacian
        return level.hole * residual.float()

    def _solve(self, start: Tensor, levels: list[_Level]) -> Tensor:
        """The correction of ``start``.

        The V-cycle, most of the graph, stands in the loop alone: every step begins with it, and the last one only finds
        that all is solved.
        """
        r = self._residual(start, levels[0])
        nothing = torch.zeros_like(r)
        zeros = _dot(nothing, nothing)
        count, endless = torch.zeros_like(zeros[0, 0, 0, 0]), torch.full_like(zeros, torch.inf)
        # all are going before the first step, which sets rz, least and goal
        state: _State = (
            count,
            nothing,
            r,
            r.clone(),
            nothing.clone(),
            zeros + 1,
            endless,
            zeros.clone(),
            zeros.clone(),
        )

        def going(rz: Tensor, goal: Tensor, lost: Tensor) -> Tensor:
            return (lost == 0) & (rz > goal)

        def wanted(
            count: Tensor, correction: Tensor, r: Tensor, previous: Tensor, p: Tensor, rz: Tensor, least: Tensor,
            goal: Tensor, lost: Tensor,
        ) -> Tensor:  # fmt: skip
            return going(rz, goal, lost).any() & (count <= MAX_ITERATIONS)

        def step(
            count: Tensor, correction: Tensor, r: Tensor, previous: Tensor, p: Tensor, rz: Tensor, least: Tensor,
            goal: Tensor, lost: Tensor,
        ) -> _State:  # fmt: skip
            active = going(rz, goal, lost)  # by picture and channel: each stops by itself
            z = self._v_cycle(levels, 0, r)
            turn = torch.where(active, _dot(r - previous, z) / rz, 0.0).float()
            p = z + turn * p
            rz = torch.where(active, _dot(r, z), rz)
            goal = torch.where(count == 0, TOLERANCE**2 * rz, goal)
            lost = torch.where(rz > _GROWN * least, 1.0, lost)
            least = torch.minimum(least, rz)
            active = going(rz, goal, lost)
            q = self._plate(levels[0], p)
            pq = _dot(p, q)
            lost = torch.where(active & (pq < _LOST * rz), 1.0, lost)
            alpha = torch.where(active & (lost == 0), rz / pq, 0.0).float()
            return count + 1, correction + alpha * p, r - alpha * q, r.clone(), p, rz, least, goal, lost

        if torch.compiler.is_exporting():
            from torch._higher_order_ops.while_loop import while_loop

            state = while_loop(wanted, step, state)
        else:
            while bool(wanted(*state)):
                state = step(*state)
        return state[1]

    def _v_cycle(self, levels: list[_Level], number: int, r: Tensor) -> Tensor:
        level = levels[number]
        x = self._smooth(level, r)
        if number + 1 < len(levels):
            below = levels[number + 1]
            left = r - self._plate(level, x)
            coarse = below.hole * (below.scale * self._restrict(level.grid, left))
            x = x + level.hole * self._double(level.grid, self._v_cycle(levels, number + 1, coarse))
        return x + self._smooth(level, r - self._plate(level, x))

    def _smooth(self, level: _Level, r: Tensor) -> Tensor:
        """A Chebyshev polynomial of r."""
        x = d = r
        rho = _RADIUS
        for _ in range(DEGREE - 1):
            r = r - self._plate(level, d)
            following = 1 / (2 / _RADIUS - rho)
            d = following * rho * d + 2 * following / _RADIUS * r
            x, rho = x + d, following
        return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).sum((-2, -1), keepdim=True)


def _padded(u: Tensor) -> Tensor:
    """Zeros below and right, up to sides that halve evenly."""
    step = 2**_HALVINGS
    height, width = u.shape[-2:]
    wide, high = (width + step - 1) // step * step, (height + step - 1) // step * step
    return F.pad(u, (0, wide - width, 0, high - height))


def _without(coarse: Tensor, grid: _Grid) -> Tensor:
    """A level without its own padding, as the level above it halves."""
    height, width = grid.inside.shape[-2:]
    return coarse[..., : height // 2, : width // 2] if grid.padding else coarse
