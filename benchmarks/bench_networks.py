"""The whole network against the same network of plain convolutions, channels_last.

pytest benchmarks/bench_networks.py --benchmark-json=networks.json      7 levels at 256 x 256; --size 512: 8 levels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import floors, measure, memory, rivals
from benchmarks.settings import Settings, record
from pconv_cuda import PConvUNet

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"conv": "plain"}, "ours": {}, "ours_fused": {}, "composed": {"composed": True}, "published": {},
}  # fmt: skip


def calls(backward: bool, settings: Settings, **network: int) -> measure.Rivals:
    """One call a network, all of them with the same parameters. ``ours_fused`` (after fuse()) infers only."""
    generator = torch.Generator().manual_seed(0)
    shape = (settings.batch, 3, settings.size, settings.size)
    image = settings.tensor(generator, *shape)
    mask = settings.mask(generator, settings.batch, settings.size, settings.size)
    grad = settings.tensor(generator, *shape)
    contestants: measure.Rivals = {}
    for name, options in NETWORKS.items():
        if backward and name == "ours_fused":
            continue
        torch.manual_seed(0)
        model = PConvUNet(**network, **options).to(settings.device, settings.dtype, memory_format=torch.channels_last)
        model.train(backward)
        if name == "ours_fused":
            model = model.fuse()

        def run(model: PConvUNet = model, published: bool = name == "published") -> torch.Tensor:
            return rivals.published_network(model, image, mask) if published else model(image, mask)[0]

        for label, function in settings.with_compiled({name: run}, name).items():

            def call(model: PConvUNet = model, run: Callable[[], torch.Tensor] = function) -> torch.Tensor:
                with torch.set_grad_enabled(backward):
                    output = run()
                    if backward:
                        model.zero_grad(set_to_none=True)
                        output.backward(grad)
                return output

            contestants[label] = call
    return contestants


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_network(benchmark, backward: bool, settings: Settings, ceilings: dict[str, float]) -> None:
    contestants = calls(backward, settings, levels=settings.levels)
    work = floors.network(settings.size, settings.batch, settings.levels, settings.dtype.itemsize, backward)
    rounds = max(settings.rounds // 2, 5)
    name = f"network of {settings.levels} levels"
    record(benchmark, settings, contestants, "network", name, backward, work, ceilings, warmup=1, rounds=rounds)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def test_smoke_network(benchmark, backward: bool) -> None:
    """That it runs, and that every partial network computes the same; no claim about time or memory."""
    contestants = calls(backward, Settings(size=32, batch=1), levels=3, width=4)
    results = {name: call() for name, call in contestants.items() if name != "plain"}
    for name, result in results.items():
        torch.testing.assert_close(result, results["ours"], rtol=1e-3, atol=1e-3, msg=name)
    kept = {name: memory.one(name, "training", 32, 1, 2)["kept_for_backward_mb"] for name in ("ours", "composed")}
    assert 0 < kept["ours"] < kept["composed"]  # bytes, not time: they do not depend on the machine
    benchmark.pedantic(contestants["ours"], rounds=2)
