"""Single layers against the plain convolution and the unfused layers.

    pytest benchmarks/bench_layers.py --benchmark-json=layers.json [--size 512] [--batch 6] [--holes 0.5] [--compiled]

Each test times one rival set in turns; pytest-benchmark's own columns show our layer, ``extra_info`` all of them.
"""

from __future__ import annotations

import pytest
import torch
from cases import Case

from benchmarks import floors, measure, rivals
from benchmarks.settings import Settings, record
from pconv_cuda.functional import partial_conv2d


def ours(x, mask, weight, bias, stride, padding):
    return partial_conv2d(x, mask, weight, bias, stride, padding)[0]


RIVALS = {
    "plain": rivals.plain,
    "ours": ours,
    "passes": rivals.floor,
    "stock": rivals.stock,
    "unfused_single": rivals.unfused_single,
    "unfused_full": rivals.unfused_full,
}


def calls(case: Case, backward: bool, settings: Settings) -> measure.Rivals:
    """One call a rival, on the same channels_last tensors."""
    generator = torch.Generator().manual_seed(0)
    # The first layer's input is the picture, which needs no gradient.
    x = settings.tensor(generator, case.n, case.c, case.h, case.w).requires_grad_(backward and case.name != "enc1")
    weight = settings.tensor(generator, case.k, case.c, *case.window).requires_grad_(backward)
    bias = settings.tensor(generator, case.k).requires_grad_(backward) if case.bias else None
    mask = settings.mask(generator, case.n, case.h, case.w)
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None and leaf.requires_grad]
    grad = torch.randn_like(rivals.plain(x, mask, weight, bias, case.stride, case.padding))

    def call(rival):
        with torch.set_grad_enabled(backward):
            output = rival(x, mask, weight, bias, case.stride, case.padding)
            return torch.autograd.grad(output, leaves, grad) if backward else output

    chosen = settings.with_compiled(RIVALS, "plain", "stock", "unfused_single", "unfused_full")
    chosen = {name: rival for name, rival in chosen.items() if not (backward and name == "passes")}
    return {name: (lambda rival=rival: call(rival)) for name, rival in chosen.items()}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_layer(benchmark, layer: Case, backward: bool, settings: Settings, ceilings: dict[str, float]) -> None:
    work = floors.layer(layer, settings.dtype.itemsize, backward)
    record(benchmark, settings, calls(layer, backward, settings), "layer", layer.name, backward, work, ceilings)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_smoke(benchmark, backward: bool) -> None:
    """That the benchmark runs, and that every rival computes the same; no claim about time."""
    case = Case("smoke", 1, 3, 32, 32, 8, (7, 7), (2, 2), (3, 3))
    contestants = calls(case, backward, Settings())
    results = {name: call() for name, call in contestants.items() if name not in ("plain", "passes")}
    for name, result in results.items():
        torch.testing.assert_close(result, results["ours"], rtol=1e-4, atol=1e-4, msg=name)
    work, ceilings = floors.layer(case, 4, backward), {"copy_bytes_per_s": 1e10, "product_flop_per_s": 1e11}
    record(benchmark, Settings(rounds=2), contestants, "layer", "smoke", backward, work, ceilings)
    assert set(benchmark.extra_info["rivals"]) == set(contestants)
    assert benchmark.extra_info["rivals"]["plain"]["ratio"] == 1 and benchmark.extra_info["floor"]["least"] > 0
