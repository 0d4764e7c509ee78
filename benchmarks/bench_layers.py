"""Single layers against the plain convolution and the unfused layers.

    pytest benchmarks/ --benchmark-json=layers.json

Each test times one rival set in turns; pytest-benchmark's own columns show our layer, ``extra_info`` all of them.
"""

from __future__ import annotations

import pytest
import torch
from cases import LAYERS, Case, blob_mask

from benchmarks import measure, rivals
from pconv_cuda.functional import partial_conv2d

HOLE_SHARE = 0.25


def ours(x, mask, weight, bias, stride, padding):
    return partial_conv2d(x, mask, weight, bias, stride, padding)[0]


RIVALS = {
    "plain": rivals.plain,
    "ours": ours,
    "floor": rivals.floor,
    "unfused_single": rivals.unfused_single,
    "unfused_full": rivals.unfused_full,
}


def calls(case: Case, backward: bool) -> measure.Rivals:
    """One call a rival, on the same channels_last tensors."""
    generator = torch.Generator().manual_seed(0)

    def channels_last(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).contiguous(memory_format=torch.channels_last)

    x = channels_last(case.n, case.c, case.h, case.w).requires_grad_(backward)
    weight = channels_last(case.k, case.c, *case.window).requires_grad_(backward)
    bias = torch.randn(case.k, generator=generator).requires_grad_(backward) if case.bias else None
    mask = blob_mask(case.n, case.h, case.w, HOLE_SHARE, generator)
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    grad = torch.randn_like(rivals.plain(x, mask, weight, bias, case.stride, case.padding))

    def call(rival):
        output = rival(x, mask, weight, bias, case.stride, case.padding)
        return torch.autograd.grad(output, leaves, grad) if backward else output

    chosen = {name: rival for name, rival in RIVALS.items() if not (backward and name == "floor")}
    return {name: (lambda rival=rival: call(rival)) for name, rival in chosen.items()}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_layer(benchmark, case: Case, backward: bool, rounds: int) -> None:
    contestants = calls(case, backward)
    times = measure.alternate(contestants, rounds)
    benchmark.group = f"{case.name}, {'forward + backward' if backward else 'forward'}"
    benchmark.extra_info.update(
        rivals=measure.summary(times, "plain"), machine=measure.machine(), hole_share=HOLE_SHARE
    )
    benchmark.pedantic(contestants["ours"], rounds=rounds, warmup_rounds=1)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_smoke(benchmark, backward: bool) -> None:
    """That the benchmark runs, and that every rival computes the same; no claim about time."""
    case = Case("smoke", 1, 3, 32, 32, 8, (7, 7), (2, 2), (3, 3))
    contestants = calls(case, backward)
    results = {name: call() for name, call in contestants.items() if name not in ("plain", "floor")}
    for name, result in results.items():
        torch.testing.assert_close(result, results["ours"], rtol=1e-4, atol=1e-4, msg=name)
    summary = measure.summary(measure.alternate(contestants, rounds=2), "plain")
    assert set(summary) == set(contestants) and summary["plain"]["ratio"] == 1
    benchmark.pedantic(contestants["ours"], rounds=2)
