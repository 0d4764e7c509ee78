"""What a run of the benchmarks was asked for, and the record that every one of them leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cases import blob_mask
from torch import Tensor

from benchmarks import floors, measure


@dataclass(frozen=True)
class Settings:
    """``size``: side of the network's pictures, a power of two. ``holes``: share of the pixels."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    size: int = 256
    batch: int = 2
    holes: float = 0.25
    rounds: int = 30
    compiled: bool = False

    @property
    def levels(self) -> int:
        """The paper's 8 at 512 px, one fewer for each halving, so that the deepest layer sees 2 px."""
        return max(1, min(8, self.size.bit_length() - 2))

    def tensor(self, generator: torch.Generator, *shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator).to(self.device, self.dtype)
        return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn

    def mask(self, generator: torch.Generator, n: int, h: int, w: int) -> Tensor:
        return blob_mask(n, h, w, self.holes, generator).to(self.device)

    def with_compiled(self, rivals: dict[str, Callable[..., Any]], *names: str) -> dict[str, Callable[..., Any]]:
        """The rivals, and where asked for those of ``names`` under torch.compile."""
        if not self.compiled:
            return rivals
        torch._dynamo.reset()
        compiled = {f"{name}_compiled": torch.compile(rivals[name], dynamic=False) for name in names}
        return {**rivals, **compiled}


def record(
    benchmark: Any, settings: Settings, contestants: measure.Rivals, kind: str, name: str, backward: bool,
    work: floors.Work | None = None, ceilings: dict[str, float] | None = None, warmup: int = 2, rounds: int = 0,
) -> None:  # fmt: skip
    """Let the rivals take turns, and leave times, floor and machine in pytest-benchmark's ``extra_info``."""
    times = measure.alternate(contestants, rounds or settings.rounds, warmup, settings.device)
    which = "forward + backward" if backward else "forward"
    dtype = str(settings.dtype).removeprefix("torch.")
    benchmark.group = f"{name}, {which}"
    benchmark.extra_info.update(
        kind=kind, name=name, which=which, size=settings.size, batch=settings.batch, hole_share=settings.holes,
        dtype=dtype, device=settings.device, rivals=measure.summary(times, "plain"), machine=measure.machine(),
    )  # fmt: skip
    if work is not None and ceilings is not None:
        benchmark.extra_info.update(floor=floors.milliseconds(work, ceilings), ceilings=ceilings)
    # pytest-benchmark's own columns show our call; two rounds of it, for the comparison is above.
    benchmark.pedantic(contestants["ours"], rounds=2, warmup_rounds=0)
