"""Warps of one multiprocessor walking straight code: in order, by the control codes that ptxas wrote.

What is shared: a sub-core issues one instruction a cycle and has one tensor core; the multiprocessor has one path to
shared memory and L1. A block's warps meet at BAR; cp.async's groups (LDGDEPBAR, DEPBAR) land after L2's latency.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from benchmarks.static_model.devices import QUEUED, READ_LATENCY, Gpu, latency, shared_cycles
from benchmarks.static_model.sass import Instruction

SUB_CORES = 4


@dataclass(frozen=True, slots=True)
class Costs:
    """What the walk needs to know of an instruction; ``barrier``, ``commit``, ``landed``: what it does to others."""

    stall: int
    write: int
    read: int
    waits: tuple[int, ...]
    latency: int
    shared: int
    tensor: float
    barrier: bool
    commit: bool
    copy: bool
    landed: int  # groups of copies that may be under way after it, -1: it does not wait


@cache
def costs(i: Instruction, gpu: Gpu) -> Costs:
    runs = not i.never
    landed = -1
    if i.opcode == "DEPBAR" and "SB0" in i.operands:
        landed = int(i.operands.split(",")[-1].strip() or "0", 0) if "," in i.operands else 0
    return Costs(
        stall=max(1, i.stall), write=i.write if runs else 7, read=i.read if runs else 7,
        waits=tuple(bar for bar in range(6) if runs and i.wait >> bar & 1), latency=latency(i.name, gpu),
        shared=shared_cycles(i.name) if runs else 0, tensor=gpu.hmma if i.opcode == "HMMA" else 0.0,
        barrier=i.opcode == "BAR" and "ARV" not in i.name, commit=i.opcode == "LDGDEPBAR", copy=i.opcode == "LDGSTS",
        landed=landed,
    )  # fmt: skip


@dataclass(slots=True)
class Warp:
    code: Sequence[Instruction]
    block: int
    sub_core: int
    at: int = 0
    bars: list[float] = field(default_factory=lambda: [0.0] * 6)
    groups: list[float] = field(default_factory=list)
    copying: float = 0.0
    marks: list[float] = field(default_factory=list)


def walk(
    code: Sequence[Instruction], gpu: Gpu, warps: int = 1, blocks: int = 1, marks: Sequence[int] = (),
    stagger: float = 0.0,
) -> list[float]:  # fmt: skip
    """Cycles until the first block is through ``code[:m]`` for each m of ``marks``, and all blocks through all of it.

    ``blocks`` of ``warps`` each run the same code; each begins ``stagger`` cycles after the one before.
    """
    stops = {m: n for n, m in enumerate(marks)}
    passed = [0.0] * (len(marks) + 1)
    team = [Warp(code, b, (b * warps + w) % SUB_CORES) for b in range(blocks) for w in range(warps)]
    queue = [(stagger * warp.block, n) for n, warp in enumerate(team)]
    heapq.heapify(queue)
    issue, tensor, shared = [0.0] * SUB_CORES, [0.0] * SUB_CORES, 0.0
    meeting: dict[int, list[int]] = {b: [] for b in range(blocks)}
    while queue:
        now, n = heapq.heappop(queue)
        warp = team[n]
        if warp.at == len(code):
            passed[-1] = max(passed[-1], now)
            continue
        c = costs(code[warp.at], gpu)
        time = max(now, issue[warp.sub_core])
        for bar in c.waits:
            time = max(time, warp.bars[bar])
        if c.tensor:
            time = max(time, tensor[warp.sub_core])
        if c.shared:
            time = max(time, shared - QUEUED)
        if c.landed >= 0 and len(warp.groups) > c.landed:
            time = max(time, warp.groups[len(warp.groups) - c.landed - 1])
        if queue and time > queue[0][0] and time > now:
            heapq.heappush(queue, (time, n))  # someone else may come first, and take what is shared
            continue
        issue[warp.sub_core] = time + 1
        if c.tensor:
            tensor[warp.sub_core] = time + c.tensor
        begun = time
        if c.shared:
            begun = max(time, shared)
            shared = begun + c.shared
        if c.copy:
            warp.copying = max(warp.copying, begun + gpu.l2_latency)
        if c.commit:
            warp.groups.append(max(warp.copying, warp.groups[-1] if warp.groups else 0.0))
        if c.write < 6:
            warp.bars[c.write] = max(warp.bars[c.write], begun + c.latency)
        if c.read < 6:
            warp.bars[c.read] = max(warp.bars[c.read], begun + min(c.latency, READ_LATENCY))
        if warp.block == 0 and warp.at in stops:
            passed[stops[warp.at]] = max(passed[stops[warp.at]], time)
        warp.at += 1
        then = time + c.stall
        if c.barrier and warps > 1:
            waiting = meeting[warp.block]
            waiting.append(n)
            if len(waiting) < warps:
                continue
            for other in waiting:
                heapq.heappush(queue, (then, other))
            waiting.clear()
        else:
            heapq.heappush(queue, (then, n))
    return passed


def once(code: Sequence[Instruction], gpu: Gpu, warps: int = 1, blocks: int = 1) -> float:
    """Cycles of straight code that is walked once."""
    return walk(code, gpu, warps, blocks)[-1]


def steady(code: Sequence[Instruction], gpu: Gpu, warps: int = 1, blocks: int = 1) -> float:
    """Cycles in which each of the blocks goes once round a loop that goes on: what four more rounds cost."""
    stagger = once(code, gpu, warps) / blocks if blocks > 1 else 0.0
    short, long = (walk(list(code) * rounds, gpu, warps, blocks, (), stagger)[-1] for rounds in (4, 8))
    return (long - short) / 4
