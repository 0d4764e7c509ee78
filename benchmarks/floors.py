"""The least that a layer, a stage or a network must do: every tensor read once and written once, a byte a mask's pixel.

Arithmetic is that of the direct convolution, with four ninths of it for the doubled half of a decoder's stage (its
four phases). Backward: the gradient read once, input and weight again, both gradients written; as many products
for each of the two gradients as forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from cases import Case, paper_layers
from cases_upcat import Stage, paper_stages

PHASES = 4 / 9


@dataclass(frozen=True)
class Work:
    """``flops``: two a multiplication; ``bytes``: of memory traffic; ``parts``: what it is the sum of."""

    flops: float
    bytes: float
    parts: tuple[Work, ...] = ()


def layer(case: Case, element: int, backward: bool) -> Work:
    """One partial convolution. The first layer's picture has no gradient."""
    (r, s), (sh, sw), (ph, pw) = case.window, case.stride, case.padding
    p, q = (case.h + 2 * ph - r) // sh + 1, (case.w + 2 * pw - s) // sw + 1
    x, y, weight = case.n * case.c * case.h * case.w, case.n * case.k * p * q, case.k * case.c * r * s
    masks = case.n * (case.h * case.w + p * q)
    flops = 2.0 * y * case.c * r * s
    forward = Work(flops, element * (x + y + weight) + masks)
    if not backward:
        return forward
    needs_dx = case.name != "enc1"
    moved = element * ((2 if needs_dx else 1) * x + y + 2 * weight) + masks
    return Work(flops * (3 if needs_dx else 2), forward.bytes + moved)


def stage(stage: Stage, element: int, backward: bool) -> Work:
    """One decoder's stage, from its two sources."""
    small, pixels, channels = stage.h * stage.w, 4 * stage.h * stage.w, stage.low + stage.skip
    x = stage.n * (small * stage.low + pixels * stage.skip)
    y, weight, masks = stage.n * pixels * stage.k, stage.k * channels * 9, stage.n * (small + 2 * pixels)
    flops = 2.0 * y * 9 * (PHASES * stage.low + stage.skip)
    forward = Work(flops, element * (x + y + weight) + masks)
    return Work(3 * flops, forward.bytes + element * (2 * x + y + 2 * weight) + masks) if backward else forward


def network(size: int, batch: int, levels: int, element: int, backward: bool) -> Work:
    """The whole network: its layers one after the other, batch norm and activations folded into them."""
    parts = [layer(case, element, backward) for case in paper_layers(size, batch)[:levels]]
    parts += [stage(one, element, backward) for one in paper_stages(size, batch, levels)]
    return Work(sum(part.flops for part in parts), sum(part.bytes for part in parts), tuple(parts))


def milliseconds(work: Work, ceilings: dict[str, float]) -> dict[str, float]:
    """``least``: the slower of the two at the measured ceilings, summed over the parts."""
    arithmetic = work.flops / ceilings["product_flop_per_s"] * 1e3
    moved = work.bytes / ceilings["copy_bytes_per_s"] * 1e3
    parts = [milliseconds(part, ceilings)["least"] for part in work.parts]
    least = sum(parts) if parts else max(arithmetic, moved)
    return {"arithmetic": round(arithmetic, 4), "bytes": round(moved, 4), "least": round(least, 4)}
