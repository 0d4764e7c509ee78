"""Decoder stages against doubling, joining and convolving: the paper's stages at 256 x 256.

    pytest benchmarks/bench_stages.py --benchmark-json=stages.json

``plain`` (upsample, cat, F.conv2d) is what a network of ordinary convolutions does; ``composed`` the partial
convolution of the joined tensor with one mask a source; ``unfused_full`` the published layer on the joined tensor.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import blob_mask
from cases_upcat import PAPER_STAGES, Stage

from benchmarks import measure, rivals
from pconv_cuda import reference
from pconv_cuda.functional import partial_conv2d_sources, partial_conv2d_upcat

HOLE_SHARE = 0.25


def plain(low, low_mask, skip, skip_mask, weight, bias):
    joined = torch.cat((F.interpolate(low, scale_factor=2, mode="nearest"), skip), dim=1)
    return F.conv2d(joined, weight, bias, padding=1)


def ours(low, low_mask, skip, skip_mask, weight, bias):
    return partial_conv2d_upcat(low, low_mask, skip, skip_mask, weight, bias)[0]


def composed(low, low_mask, skip, skip_mask, weight, bias):
    up, masks = F.interpolate(low, scale_factor=2, mode="nearest"), (reference.doubled(low_mask), skip_mask)
    return partial_conv2d_sources((up, skip), masks, weight, bias, padding=1)[0]


def unfused_full(low, low_mask, skip, skip_mask, weight, bias):
    joined, mask = reference.join(low, low_mask, skip, skip_mask)
    spread = reference.spread_mask(mask, [low.shape[1], skip.shape[1]], joined)
    return rivals.unfused_full(joined, spread, weight, bias, 1, 1)


RIVALS = {"plain": plain, "ours": ours, "composed": composed, "unfused_full": unfused_full}


def calls(stage: Stage, backward: bool) -> measure.Rivals:
    """One call a rival, on the same channels_last tensors."""
    generator = torch.Generator().manual_seed(0)

    def channels_last(*shape: int) -> torch.Tensor:
        drawn = torch.randn(*shape, generator=generator).contiguous(memory_format=torch.channels_last)
        return drawn.requires_grad_(backward)

    n, h, w = stage.n, stage.h, stage.w
    low, skip = channels_last(n, stage.low, h, w), channels_last(n, stage.skip, 2 * h, 2 * w)
    weight = channels_last(stage.k, stage.low + stage.skip, 3, 3)
    bias = torch.randn(stage.k, generator=generator).requires_grad_(backward) if stage.bias else None
    skip_mask = blob_mask(n, 2 * h, 2 * w, HOLE_SHARE, generator)
    low_mask = blob_mask(n, h, w, HOLE_SHARE, generator)
    leaves = [leaf for leaf in (low, skip, weight, bias) if leaf is not None]
    grad = torch.randn(n, stage.k, 2 * h, 2 * w, generator=generator).contiguous(memory_format=torch.channels_last)

    def call(rival):
        with torch.set_grad_enabled(backward):
            output = rival(low, low_mask, skip, skip_mask, weight, bias)
            return torch.autograd.grad(output, leaves, grad) if backward else output

    return {name: (lambda rival=rival: call(rival)) for name, rival in RIVALS.items()}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
@pytest.mark.parametrize("stage", PAPER_STAGES, ids=lambda stage: stage.name)
def test_stage(benchmark, stage: Stage, backward: bool, rounds: int) -> None:
    contestants = calls(stage, backward)
    times = measure.alternate(contestants, rounds)
    benchmark.group = f"{stage.name}, {'forward + backward' if backward else 'forward'}"
    benchmark.extra_info.update(
        rivals=measure.summary(times, "plain"), machine=measure.machine(), hole_share=HOLE_SHARE
    )
    benchmark.pedantic(contestants["ours"], rounds=rounds, warmup_rounds=1)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_smoke_stage(benchmark, backward: bool) -> None:
    """That the benchmark runs, and that every rival but the plain one computes the same; no claim about time."""
    contestants = calls(Stage("smoke", low=8, skip=3, k=5, h=8, w=9), backward)
    results = {name: call() for name, call in contestants.items() if name != "plain"}
    for name, result in results.items():
        torch.testing.assert_close(result, results["ours"], rtol=1e-3, atol=1e-3, msg=name)
    summary = measure.summary(measure.alternate(contestants, rounds=2), "plain")
    assert set(summary) == set(RIVALS) and summary["plain"]["ratio"] == 1
    benchmark.pedantic(contestants["ours"], rounds=2)
