"""A smooth fill of holes without weights: a thin plate under tension, in plain torch.

This is the reference of ``torch.ops.pconv_cuda.smooth_fill`` and runs where a device has no kernel of ours. The
equation is in :func:`pconv_cuda.functional.smooth_fill`. It is solved by conjugate gradients with one V-cycle of a
multigrid as preconditioner; csrc/cpu/smooth_*.h does the same on the holes' surroundings alone.

* Start: a pyramid of partial convolutions with a fixed 2x2 window, stride 2, of the known pixels beside the holes,
  then bilinear interpolation back into the holes.
* A coarse pixel is unknown where all of its pixels are: the correction is 0 everywhere else. With the rule "where any
  is", the coarse problems are no approximation near the holes' edges, and the iteration stalls.
* Smoother: a Chebyshev polynomial of the residual, which is symmetric and needs no order of the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MAX_ITERATIONS", "REACH", "TENSION", "TOLERANCE", "laplacian", "plate", "smooth_fill"]

TENSION = 0.3
TOLERANCE = 1e-3
MAX_ITERATIONS = 30  # about 5 are needed, 12 without tension; CUDA launches all of them, most of them empty
_LOST = 1 / 16  # p A p is about r z; far below that the direction is rounding error
_GROWN = 16  # growth of r z over its least value that means rounding errors dominate
REACH = 2  # of the plate, in pixels: a hole pixel's equation holds no pixel that is farther away in rows or columns
# The smoother's polynomial is small on [largest / RANGE, largest], where `largest` bounds the plate's eigenvalues: what
# a coarse level cannot represent lies above a sixteenth of it. Degree 2 needs 6 iterations to 1e-3, 3 and 4 need 5.
DEGREE = 3
RANGE = 20.0


def laplacian(u: Tensor) -> Tensor:
    """Sum of the four neighbours minus 4 u; the picture goes on by reflection (its border pixels are repeated)."""
    p = F.pad(u, (1, 1, 1, 1), mode="replicate")
    return p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + p[..., 1:-1, :-2] + p[..., 1:-1, 2:] - 4 * u


def plate(u: Tensor, stiffness: float, tension: float) -> Tensor:
    """stiffness * laplacian(laplacian(u)) - tension * laplacian(u): what is 0 in the holes of a filled picture."""
    bent = laplacian(u)
    return stiffness * laplacian(bent) - tension * bent


def smooth_fill(
    input: Tensor, valid: Tensor, tension: float, tolerance: float = TOLERANCE, max_iterations: int = MAX_ITERATIONS
) -> Tensor:
    """Fill ``input`` (N, C, H, W), floating, where ``valid`` (N|1, 1|C, H, W), bool, is False."""
    hole = ~valid
    if input.numel() == 0 or not bool(hole.any()):
        return input.clone()
    u = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
    u = _start(torch.where(valid, u, 0.0), valid)
    u = u + _solve(u, _levels(hole, tension), tolerance, max_iterations)
    return torch.where(valid, input, u.to(input.dtype))


# Conjugate gradients ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Level:
    hole: Tensor  # (N|1, 1|C, H, W) bool: unknown
    stiffness: float
    tension: float

    def plate(self, u: Tensor) -> Tensor:
        return torch.where(self.hole, plate(u, self.stiffness, self.tension), 0.0)


def _levels(hole: Tensor, tension: float) -> list[_Level]:
    """Pixels of twice the side at each level. In units of pixels the energy of bending falls by 4, that of tension
    does not change; where the picture is one pixel wide it only halves along its length: by 8 and 2."""
    levels, stiffness = [], 1 - tension
    while bool(hole.any()):
        levels.append(_Level(hole, stiffness, tension))
        window = _window(hole)
        if window == (1, 1):
            break
        line = 1 in window
        stiffness, tension = stiffness / (8 if line else 4), tension / (2 if line else 1)
        hole = F.max_pool2d(_even((~hole).to(torch.float32)), window) == 0
    return levels


def _solve(u: Tensor, levels: list[_Level], tolerance: float, max_iterations: int) -> Tensor:
    """The correction of u: plate(u + correction) = 0 in the holes."""
    # In double: the plate's terms are large beside their sum, and this difference is formed once.
    r = -levels[0].plate(u.double()).to(u.dtype)
    z = _v_cycle(levels, 0, r)
    p, correction, rz = z, torch.zeros_like(r), _dot(r, z)
    goal, least, lost = tolerance**2 * rz, rz, torch.zeros_like(rz, dtype=torch.bool)
    for _ in range(max_iterations):
        going = ~(lost | (rz <= goal))  # by picture and channel: each stops by itself
        if not bool(going.any()):
            break
        q = levels[0].plate(p)
        pq = _dot(p, q)
        lost = lost | (pq < _LOST * rz)
        going = going & ~lost
        step = torch.where(going, rz / pq, 0.0).to(r.dtype)
        correction = correction + step * p
        previous, r = r, r - step * q
        z = _v_cycle(levels, 0, r)
        # Polak and Ribiere's form: rounding leaves the V-cycle not quite symmetric.
        turn = torch.where(going, _dot(r - previous, z) / rz, 0.0).to(r.dtype)
        rz = torch.where(going, _dot(r, z), rz)
        lost = lost | (rz > _GROWN * least)
        least = torch.minimum(least, rz)
        p = z + turn * p
        if bool(rz[going].isnan().all()):  # a valid pixel beside a hole is, and now the hole is too
            break
    return correction


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).sum((-2, -1), keepdim=True)


def _v_cycle(levels: list[_Level], number: int, r: Tensor) -> Tensor:
    """About the correction whose plate is r."""
    level = levels[number]
    x, r = _smooth(level, r)
    if number + 1 < len(levels):
        coarse = levels[number + 1]
        below = torch.where(coarse.hole, _restrict(_restrict(r, -2), -1), 0.0)
        correction = torch.where(level.hole, _double(_v_cycle(levels, number + 1, below), r.shape[-2:]), 0.0)
        x, r = x + correction, r - level.plate(correction)
    return x + _smooth(level, r)[0]


def _smooth(level: _Level, r: Tensor) -> tuple[Tensor, Tensor]:
    """(x, r - plate(x)) for x a Chebyshev polynomial of r. The Laplacian's eigenvalues lie in [-8, 0]."""
    largest = 64 * level.stiffness + 8 * level.tension
    centre, radius = largest * (1 + 1 / RANGE) / 2, largest * (1 - 1 / RANGE) / 2
    d = r / centre
    x, r, rho = d, r - level.plate(d), radius / centre
    for _ in range(DEGREE - 1):
        following = 1 / (2 * centre / radius - rho)
        d = following * rho * d + 2 * following / radius * r
        x, r, rho = x + d, r - level.plate(d), following
    return x, r


# Between the levels ----------------------------------------------------------------------------------------


def _window(u: Tensor) -> tuple[int, int]:
    return min(2, u.shape[-2]), min(2, u.shape[-1])


def _even(u: Tensor) -> Tensor:
    """Zeros up to even sides; a side of 1 stays."""
    height, width = u.shape[-2:]
    return F.pad(u, (0, width % 2 if width > 1 else 0, 0, height % 2 if height > 1 else 0))


def _double(coarse: Tensor, size: torch.Size) -> Tensor:
    """Bilinear, between the pixels' centres."""
    return _double_along(_double_along(coarse, -2, size[-2]), -1, size[-1])


def _double_along(coarse: Tensor, dim: int, size: int) -> Tensor:
    if size == 1:
        return coarse
    c = coarse.movedim(dim, -1)
    p = torch.cat([c[..., :1], c, c[..., -1:]], -1)
    both = torch.stack([0.75 * c + 0.25 * p[..., :-2], 0.75 * c + 0.25 * p[..., 2:]], -1)
    return both.flatten(-2)[..., :size].movedim(-1, dim)


def _restrict(fine: Tensor, dim: int) -> Tensor:
    """The transpose of :func:`_double_along`."""
    size = fine.shape[dim]
    if size == 1:
        return fine
    f = fine.movedim(dim, -1)
    nothing = torch.zeros_like(f[..., :1])
    p = torch.cat([f[..., :1], f, *([nothing, nothing] if size % 2 else [f[..., -1:]])], -1)
    coarse = 0.25 * (p[..., 0:-3:2] + p[..., 3::2]) + 0.75 * (p[..., 1:-2:2] + p[..., 2:-1:2])
    return coarse.movedim(-1, dim)


def _start(known: Tensor, valid: Tensor) -> Tensor:
    """``known``, and in the holes an interpolation of the known pixels beside them."""
    # Only those beside holes: what is further away says nothing about the hole, and a kernel need not read it.
    beside, at_first = F.max_pool2d((~valid).to(known.dtype), 3, 1, 1), valid
    weight = torch.where(valid, beside, 0.0)
    value = torch.where(weight > 0, known, 0.0)
    levels, needed = [], (~valid).any()
    while bool(needed):
        levels.append((value, weight))
        window = _window(value)
        if window == (1, 1):
            break
        cells = window[0] * window[1]
        count = F.avg_pool2d(_even(weight), window) * cells
        value = F.avg_pool2d(_even(value * weight), window) * cells / count.clamp_min(1e-6)
        valid = F.max_pool2d(_even(valid.to(torch.float32)), window) > 0
        weight, needed = count.clamp(max=1), (~valid).any()
    u = value
    for value, weight in reversed(levels):
        u = torch.where(weight > 0, value, _double(u, value.shape[-2:]))
    return torch.where(at_first, known, u)
