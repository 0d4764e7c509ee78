"""The whole network against the same network of plain convolutions: 7 levels, 256 x 256, batch 2, channels_last.

pytest benchmarks/bench_networks.py --benchmark-json=networks.json
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import blob_mask

from benchmarks import measure, memory, rivals
from pconv_cuda import PConvUNet

HOLE_SHARE = 0.25
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"conv": "plain"}, "ours": {}, "ours_fused": {}, "composed": {"fused": False}, "published": {},
}  # fmt: skip


def calls(backward: bool, size: int, batch: int, **network: int) -> measure.Rivals:
    """One call a network, all of them with the same parameters. ``ours_fused`` (after fuse()) infers only."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last
    image = torch.randn(batch, 3, size, size, generator=generator).contiguous(memory_format=layout)
    mask = blob_mask(batch, size, size, HOLE_SHARE, generator)
    grad = torch.randn(batch, 3, size, size, generator=generator)
    contestants: measure.Rivals = {}
    for name, options in NETWORKS.items():
        if backward and name == "ours_fused":
            continue
        torch.manual_seed(0)
        model = PConvUNet(**network, **options).to(memory_format=layout).train(backward)
        if name == "ours_fused":
            model.fuse()

        def run(model: PConvUNet, published: bool = name == "published") -> torch.Tensor:
            return rivals.published_network(model, image, mask) if published else model(image, mask)[0]

        def call(model: PConvUNet = model, run: Callable[[PConvUNet], torch.Tensor] = run) -> torch.Tensor:
            with torch.set_grad_enabled(backward):
                output = run(model)
                if backward:
                    model.zero_grad(set_to_none=True)
                    output.backward(grad)
            return output

        contestants[name] = call
    return contestants


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_network(benchmark, backward: bool, rounds: int) -> None:
    contestants = calls(backward, 256, 2, levels=7)
    times = measure.alternate(contestants, max(rounds // 2, 5))
    benchmark.group = f"7 levels, 256x256, batch 2, {'forward + backward' if backward else 'forward'}"
    benchmark.extra_info.update(
        rivals=measure.summary(times, "plain"), machine=measure.machine(), hole_share=HOLE_SHARE
    )
    benchmark.pedantic(contestants["ours"], rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_smoke_network(benchmark, backward: bool) -> None:
    """That it runs, and that every partial network computes the same; no claim about time or memory."""
    contestants = calls(backward, 32, 1, levels=3, width=4)
    results = {name: call() for name, call in contestants.items() if name != "plain"}
    for name, result in results.items():
        torch.testing.assert_close(result, results["ours"], rtol=1e-3, atol=1e-3, msg=name)
    kept = {name: memory.one(name, "training", 32, 1, 2)["kept_for_backward_mb"] for name in ("ours", "composed")}
    assert 0 < kept["ours"] < kept["composed"]  # bytes, not time: they do not depend on the machine
    benchmark.pedantic(contestants["ours"], rounds=2)
