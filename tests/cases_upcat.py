"""The decoder's stages that tests and benchmarks share, and tensors made from them (as tests/cases.py for layers)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

WINDOW = ([1, 1], [1, 1], [1, 1], 1, True)  # what the operator is told of a stage, behind weight and bias


@dataclass(frozen=True)
class Stage:
    """low (n, low, h, w) and skip (n, skip, 2 h, 2 w) -> (n, k, 2 h, 2 w).

    ``low_mask``, ``skip_mask``: holes (a band on top, random ones below), batch1, none, full or empty.
    """

    name: str
    n: int = 2
    low: int = 5
    skip: int = 3
    k: int = 4
    h: int = 3
    w: int = 4
    low_mask: str = "holes"
    skip_mask: str = "holes"
    bias: bool = True


# Small and ragged. On the CPU pictures of few pixels are joined, larger ones go through phases: both are here.
STAGES = [
    Stage("joined"),
    Stage("one_small_pixel", n=1, low=1, skip=1, k=1, h=1, w=1),
    Stage("one_small_row", n=3, h=1, w=5),
    Stage("one_small_column", h=5, w=1, bias=False),
    Stage("joined_no_masks", low_mask="none", skip_mask="none"),
    Stage("joined_all_of_low", low_mask="empty"),
    Stage("joined_all_of_skip", skip_mask="empty", low_mask="batch1"),
    Stage("joined_everything", low_mask="empty", skip_mask="empty"),
    Stage("phases", h=9, w=11),
    Stage("phases_wide", low=33, skip=18, k=20, h=8, w=9),
    Stage("phases_no_bias", h=7, w=12, n=3, bias=False),
    Stage("phases_long", n=1, h=2, w=70),
    Stage("phases_no_masks", h=9, w=10, low_mask="none", skip_mask="none"),
    Stage("phases_low_mask_alone", h=9, w=10, skip_mask="none"),
    Stage("phases_skip_mask_alone", h=9, w=10, low_mask="none"),
    Stage("phases_masks_of_batch_1", h=9, w=10, n=3, low_mask="batch1", skip_mask="batch1"),
    Stage("phases_one_mask_of_batch_1", h=9, w=10, n=3, low_mask="batch1"),
    Stage("phases_all_valid", h=9, w=10, low_mask="full", skip_mask="full"),
    Stage("phases_all_of_low", h=9, w=10, low_mask="empty"),
    Stage("phases_all_of_skip", h=9, w=10, skip_mask="empty"),
    Stage("phases_everything", h=9, w=10, low_mask="empty", skip_mask="empty"),
    Stage("last", n=1, low=64, skip=3, k=3, h=12, w=10),
    Stage("empty_batch", n=0),
    Stage("empty_batch_of_phases", n=0, h=40, w=40, low_mask="batch1", skip_mask="batch1"),
]
BY_NAME = {stage.name: stage for stage in STAGES}


def paper_stages(size: int = 256, batch: int = 2, levels: int = 7) -> list[Stage]:
    """Every decoder stage of the paper's network, the deepest last: the shallow ones are where the time goes."""
    widths = [3] + [64 * min(2**level, 8) for level in range(levels)]
    return [
        Stage(
            f"dec{i + 1}", n=batch, low=widths[i + 1], skip=widths[i], k=widths[i], h=size >> (i + 1),
            w=size >> (i + 1), bias=i == 0,
        )
        for i in range(levels)
    ]  # fmt: skip


def make_mask(kind: str, n: int, h: int, w: int, generator: torch.Generator) -> Tensor | None:
    if kind == "none":
        return None
    shape = (1 if kind == "batch1" else n, 1, h, w)
    if kind in ("full", "empty"):
        return torch.full(shape, kind == "full")
    mask = torch.rand(shape, generator=generator) > 0.4
    mask[:, :, : h // 3] = False
    return mask


@dataclass
class Tensors:
    """Everything that one call needs, in float64, holes poisoned with NaN."""

    low: Tensor
    low_mask: Tensor | None
    skip: Tensor
    skip_mask: Tensor | None
    weight: Tensor
    bias: Tensor | None
    grad: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        """What has a gradient."""
        return [tensor for tensor in (self.low, self.skip, self.weight, self.bias) if tensor is not None]

    def to(self, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> Tensors:
        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(dtype).contiguous(memory_format=layout)

        parts = {name: cast(getattr(self, name)) for name in ("low", "skip", "weight", "grad")}
        return replace(self, **parts, bias=None if self.bias is None else self.bias.to(dtype))

    def call(self, function, device: str = "cpu"):
        """(output, new mask, gradients of the leaves) of a function of the stage's six arguments."""
        leaves = [leaf.to(device).detach().requires_grad_() for leaf in self.leaves]
        masks = [None if mask is None else mask.to(device) for mask in (self.low_mask, self.skip_mask)]
        bias = leaves[3] if len(leaves) > 3 else None
        output, new_mask = function(leaves[0], masks[0], leaves[1], masks[1], leaves[2], bias)
        gradients = torch.autograd.grad(output, leaves, self.grad.to(device))
        return output.detach().cpu(), new_mask.cpu(), [gradient.cpu() for gradient in gradients]


def make_tensors(stage: Stage, dtype: torch.dtype = torch.float64, *, seed: int = 0, poison: bool = True) -> Tensors:
    """Random tensors, rounded to ``dtype`` and returned in float64, so that every precision sees one problem."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).double()

    def poisoned(tensor: Tensor, mask: Tensor | None) -> Tensor:
        return tensor if mask is None or not poison else torch.where(mask, tensor, torch.nan)

    n, h, w = stage.n, stage.h, stage.w
    low_mask = make_mask(stage.low_mask, n, h, w, generator)
    skip_mask = make_mask(stage.skip_mask, n, 2 * h, 2 * w, generator)
    return Tensors(
        poisoned(randn(n, stage.low, h, w), low_mask),
        low_mask,
        poisoned(randn(n, stage.skip, 2 * h, 2 * w), skip_mask),
        skip_mask,
        randn(stage.k, stage.low + stage.skip, 3, 3),
        randn(stage.k) if stage.bias else None,
        randn(n, stage.k, 2 * h, 2 * w),
    )


def errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    """The largest error of each tensor, relative to its largest value."""
    result = []
    for ours, true in zip(found, truth, strict=True):
        assert ours.shape == true.shape and torch.isfinite(ours).all()
        largest = true.abs().max().item() if true.numel() else 0.0
        wrong = (ours.double() - true).abs().max().item() if true.numel() else 0.0
        result.append(wrong / largest if largest else wrong)
    return result


def assert_no_worse(ours: list[list[float]], theirs: list[list[float]], dtype: torch.dtype) -> None:
    """Our error is at most twice the composed path's, both averaged over a few problems.

    A sum of a few dozen terms is sometimes exact by chance; several problems average this out. Where the rival
    happens to be exact, one rounding is allowed; in float64, where the truth itself is rounded, 1e-12.
    """
    least = 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
    for i, name in enumerate(("output", "low", "skip", "weight", "bias")[: len(ours[0])]):
        error, rival = (sum(found[i] for found in each) / len(each) for each in (ours, theirs))
        assert error <= max(2 * rival, least), f"{name}: error {error:.3g}, composed {rival:.3g}"
