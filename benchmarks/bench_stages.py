"""Decoder stages against doubling, joining and convolving: the paper's stages.

    pytest benchmarks/bench_stages.py --benchmark-json=stages.json

``plain`` (upsample, cat, F.conv2d) is what a network of ordinary convolutions does; ``composed`` the partial
convolution of the joined tensor with one mask a source; ``stock`` the same by stock operators; ``unfused_full`` the
published layer on the joined tensor.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases_upcat import Stage

from benchmarks import floors, measure, rivals
from benchmarks.settings import Settings, record
from pconv_cuda import reference
from pconv_cuda.functional import partial_conv2d_sources, partial_conv2d_upcat


def plain(low, low_mask, skip, skip_mask, weight, bias):
    joined = torch.cat((F.interpolate(low, scale_factor=2, mode="nearest"), skip), dim=1)
    return F.conv2d(joined, weight, bias, padding=1)


def ours(low, low_mask, skip, skip_mask, weight, bias):
    return partial_conv2d_upcat(low, low_mask, skip, skip_mask, weight, bias)[0]


def composed(low, low_mask, skip, skip_mask, weight, bias):
    up, masks = F.interpolate(low, scale_factor=2, mode="nearest"), (reference.doubled(low_mask), skip_mask)
    return partial_conv2d_sources((up, skip), masks, weight, bias, padding=1)[0]


def unfused_full(low, low_mask, skip, skip_mask, weight, bias):
    joined, spread = reference.join(low, low_mask, skip, skip_mask, upsample=True)
    return rivals.unfused_full(joined, spread, weight, bias, 1, 1)


RIVALS = {
    "plain": plain,
    "ours": ours,
    "composed": composed,
    "stock": rivals.stock_stage,
    "unfused_full": unfused_full,
}


def calls(stage: Stage, backward: bool, settings: Settings) -> measure.Rivals:
    """One call a rival, on the same channels_last tensors."""
    generator = torch.Generator().manual_seed(0)
    n, h, w = stage.n, stage.h, stage.w

    def leaf(*shape: int) -> torch.Tensor:
        return settings.tensor(generator, *shape).requires_grad_(backward)

    low, skip = leaf(n, stage.low, h, w), leaf(n, stage.skip, 2 * h, 2 * w)
    weight = leaf(stage.k, stage.low + stage.skip, 3, 3)
    bias = leaf(stage.k) if stage.bias else None
    skip_mask, low_mask = settings.mask(generator, n, 2 * h, 2 * w), settings.mask(generator, n, h, w)
    leaves = [leaf for leaf in (low, skip, weight, bias) if leaf is not None]
    grad = settings.tensor(generator, n, stage.k, 2 * h, 2 * w)

    def call(rival):
        with torch.set_grad_enabled(backward):
            output = rival(low, low_mask, skip, skip_mask, weight, bias)
            return torch.autograd.grad(output, leaves, grad) if backward else output

    chosen = settings.with_compiled(RIVALS, "plain", "stock", "unfused_full")
    return {name: (lambda rival=rival: call(rival)) for name, rival in chosen.items()}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_stage(benchmark, stage: Stage, backward: bool, settings: Settings, ceilings: dict[str, float]) -> None:
    work = floors.stage(stage, settings.dtype.itemsize, backward)
    record(benchmark, settings, calls(stage, backward, settings), "stage", stage.name, backward, work, ceilings)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_smoke_stage(benchmark, backward: bool) -> None:
    """That the benchmark runs, and that every rival but the plain one computes the same; no claim about time."""
    contestants = calls(Stage("smoke", low=8, skip=3, k=5, h=8, w=9), backward, Settings())
    results = {name: call() for name, call in contestants.items() if name != "plain"}
    for name, result in results.items():
        torch.testing.assert_close(result, results["ours"], rtol=1e-3, atol=1e-3, msg=name)
    record(benchmark, Settings(rounds=2), contestants, "stage", "smoke", backward)
    assert set(benchmark.extra_info["rivals"]) == set(RIVALS)
