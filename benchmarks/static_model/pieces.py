"""Prologue, step and epilogue of a tensor-core kernel, found in its machine code.

Loops are told apart by what they hold (csrc/cuda/gemm/kernel.cuh has their order): the prologue's row loop loads mask
bytes or reads the taps' table, and votes; the main loop multiplies; the epilogue's loop stores 16 bytes at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.static_model import cycles
from benchmarks.static_model.devices import Gpu
from benchmarks.static_model.flow import Aims, Flow, Loop, Trips, count, path
from benchmarks.static_model.sass import Instruction, Kernel
from pconv_cuda.errors import PConvError

EVERY = 64
WORDS = {"LDS.128": 4, "LDS.64": 2}  # 32-bit words of a shared load; others are of one


@dataclass(frozen=True)
class Shape:
    """Of a tile, as its kernel was compiled: threads that run the prologue, that copy and that store. ``width``: of a
    wgmma, 0 elsewhere."""

    rows: int
    columns: int
    threads: int
    copying: int
    storing: int
    width: int

    @classmethod
    def of(cls, name: str) -> Shape:
        """From ``Tile<rows, columns, warp rows, warp columns, ...>`` or ``WgmmaTile<rows, columns, whether columns are
        the right operand, consumers, stages, blocks a multiprocessor, producers, ...>`` in a name."""
        parts = name.split("Tile<")[1].split(">")[0].split(",")
        rows, columns = map(int, parts[:2])
        if "WgmmaTile<" in name:
            consumers, producers = int(parts[3]), int(parts[6])
            width = columns if parts[2].strip().endswith("1") else rows
            return cls(rows, columns, consumers + producers, producers, consumers, width)
        threads = 32 * (rows // int(parts[2])) * (columns // int(parts[3]))
        return cls(rows, columns, threads, threads, threads, 0)

    @property
    def wgmma(self) -> bool:
        return self.width > 0

    @property
    def products(self) -> int:
        """Multiplications of a step of 64 channels or pixels."""
        return self.rows * self.columns * 64

    @property
    def shared_cycles(self) -> int:
        """Of shared memory's path in a step of wgmma, at 128 bytes a cycle: every 64 of the left operand read their 16
        deep piece and that of all of the right one four times, and both operands are written once."""
        reads = self.rows * self.columns // (64 * self.width) * 4 * (64 + self.width) * 16 * 2
        return (reads + (self.rows + self.columns) * 128) // 128


@dataclass(frozen=True)
class Pieces:
    """Straight code of one warp: a block's prologue, ``steps`` of its main loop, its epilogue."""

    shape: Shape
    prologue: list[Instruction]
    step: list[Instruction]
    epilogue: list[Instruction]
    steps: int = 1


class RowTrips(Trips):
    """How often the loops of a gemm kernel's prologue and epilogue are gone round for a plan."""

    def __init__(self, flow: Flow, shape: Shape, taps: int, blocks: int, split: bool) -> None:
        self.flow, self.shape, self.taps, self.blocks = flow, shape, taps, blocks
        self.rows = [loop for loop in flow.loops if self.of(loop, "VOTE") and self.of(loop, "LDG.E.U8")]
        self.lists = [loop for loop in flow.loops if self.of(loop, "VOTE") and loop not in self.rows]
        stores = [one for one in flow.all_loops() if self.of(one, "STG.E.128")]
        stores = [one for one in stores if bool(self.of(one, "F2FP")) != split] or stores
        self.store = max(stores, key=lambda one: self.of(one, "STG.E.128"), default=None)

    def of(self, loop: Loop, start: str) -> int:
        return count(self.flow.code(loop.blocks), start)

    def taps_a_trip(self, loop: Loop) -> int:
        words = sum(WORDS.get(i.name, 1) for i in self.flow.code(loop.blocks) if i.opcode == "LDS")
        return max(1, words // 2)

    def is_padded(self, loop: Loop) -> bool:
        """Whether it reads the taps' table and votes in one body: its rounds are whole, past the last tap too."""
        return not loop.inner and self.of(loop, "VOTE") > 1 and self.of(loop, "LDS") > 0 and loop not in self.rows

    def __call__(self, loop: Loop) -> int:
        if loop is self.store:
            a_thread = self.shape.rows * self.shape.columns // (8 if self.of(loop, "F2FP") else 4) // self.shape.storing
            return max(1, a_thread // max(1, self.of(loop, "STG.E.128")))
        if loop in self.rows:
            return math.ceil(self.shape.rows / 32 / (self.shape.threads / 32))
        if loop in self.lists:
            return self.blocks
        for row in self.rows:
            if loop.blocks < row.blocks:
                if self.of(loop, "VOTE"):
                    rounds = self.taps / self.of(loop, "VOTE")
                    return self.blocks if loop.inner else math.ceil(rounds) if self.is_padded(loop) else int(rounds)
                if self.of(loop, "LDS"):
                    return self.taps // self.taps_a_trip(loop)
                return 1 // max(1, self.of(loop, "LDG.E.U8"))  # dgrad: a row's own byte, once for each block
        if any(loop.blocks < one.blocks for one in self.lists):
            return math.ceil(self.taps / 32) // max(1, self.of(loop, "VOTE"))
        return 1 if 0 < self.of(loop, "STS") <= 2 and not self.of(loop, "STG") else 0

    def all_taps(self) -> int:
        """Of a row: every mask byte is a load and a vote; dgrad's rows load but one byte, their own."""
        return self.taps * self.blocks

    def aims(self, loop: Loop) -> Aims:
        """What a loop's body does besides its inner loops: the taps that are left over."""
        if loop in self.lists:
            return {"VOTE": math.ceil(self.taps / 32) % max([1, *(self.of(one, "VOTE") for one in loop.inner)])}
        if not any(loop is row or loop.blocks < row.blocks for row in self.rows):
            return {}
        if not loop.inner:
            whole = loop in self.rows
            return dict.fromkeys(("LDG.E.U8", "VOTE"), self.all_taps() if whole else EVERY)
        if any(one.inner for one in loop.inner):  # around the loop over the mask's blocks
            return {"LDG.E.U8": 1}
        if any(map(self.is_padded, loop.inner)):
            return {"LDG.E.U8": 0, "VOTE": 0}
        voting = [one for one in loop.inner if self.of(one, "VOTE")]
        loading = [one for one in loop.inner if one not in voting and self.of(one, "LDS")]
        vote = self.taps % self.of(voting[0], "VOTE") if voting else self.taps
        load = self.taps % self.taps_a_trip(loading[0]) if loading else self.taps
        return {"LDG.E.U8": load, "VOTE": vote}

    def outside(self) -> Aims:
        """Of the prologue, loops aside: where all rows are one warp's there is no loop over them."""
        return {} if self.rows else dict.fromkeys(("LDG.E.U8", "VOTE"), self.all_taps())


def exits(flow: Flow, loop: Loop) -> list[int]:
    return sorted({n for b in loop.blocks for n in flow.blocks[b].following if n not in loop.blocks})


def holding(flow: Flow, start: str) -> list[Loop]:
    """Innermost loops with such an instruction, in the order of their addresses."""
    loops = [one for one in flow.all_loops() if count(flow.code(one.blocks), start)]
    return [one for one in loops if not any(other.blocks < one.blocks for other in loops)]


def of_kernel(kernel: Kernel, name: str, taps: int = 1, blocks: int = 1, split: bool = False) -> Pieces:
    """``name``: readable. ``taps`` of ``blocks`` of the mask; ``split``: partial sums are stored."""
    flow, shape = Flow(kernel), Shape.of(name)
    copying = holding(flow, "LDGSTS")
    main = holding(flow, "HGMMA" if shape.wgmma else "HMMA")
    if not main or not copying:
        raise PConvError(f"static model: no main loop in {name}")
    main_loop, copy_loop = main[-1], max(copying, key=lambda one: count(flow.code(one.blocks), "LDGSTS"))
    step = path(flow, Trips(), {"LDG.E.U8": EVERY}, copy_loop)
    after = exits(flow, main_loop)
    trips: StoreTrips | RowTrips
    if "wgrad_kernel" in name:
        trips = StoreTrips(flow, shape)
        prologue = path(flow, trips, {"LDG.E.U8": EVERY}, end=copy_loop)
    else:
        trips = RowTrips(flow, shape, taps, blocks, split)
        prologue = path(flow, trips, trips.outside(), end=copy_loop, through=[*trips.rows, *trips.lists])
    through = [trips.store] if trips.store else []
    epilogue = max((path(flow, trips, {}, start=start, through=through) for start in after), key=len, default=[])
    if not prologue or not step or not epilogue:
        raise PConvError(f"static model: no way through {name}; its code has another order than pieces.py knows")
    # On wgmma each step's copies end with an arrival at its stage's barrier.
    steps = max(1, sum(i.opcode == "ARRIVES" for i in step))
    return Pieces(shape, prologue, step, epilogue, steps)


class StoreTrips(Trips):
    """wgrad: one store loop, or straight stores."""

    def __init__(self, flow: Flow, shape: Shape) -> None:
        self.flow, self.shape = flow, shape
        stores = [one for one in flow.loops if count(flow.code(one.blocks), "STG.E.128")]
        self.store = max(stores, key=lambda one: count(flow.code(one.blocks), "STG.E.128"), default=None)

    def __call__(self, loop: Loop) -> int:
        if loop is not self.store:
            return 0
        a_thread = self.shape.rows * self.shape.columns // 4 // self.shape.storing
        return max(1, a_thread // count(self.flow.code(loop.blocks), "STG.E.128"))


@dataclass(frozen=True)
class Counted:
    """Cycles for all blocks that are on a multiprocessor together; ``tensor``: the least for a step's products."""

    prologue: float
    step: float
    tensor: float
    epilogue: float


def counted(pieces: Pieces, gpu: Gpu, resident: int) -> Counted:
    shape = pieces.shape
    tensor = resident * shape.products / 2048 / cycles.SUB_CORES * (gpu.hgmma if shape.wgmma else gpu.hmma)
    # wgrad's blocks walk over the pixels side by side: each step's mask bytes are new to all of them. A tile's prologue
    # looks at what its neighbours look at too.
    fresh = replace(gpu, mask_latency=gpu.dram_latency)
    step = max(cycles.steady(pieces.step, fresh, shape.copying // 32, resident) / pieces.steps, tensor)
    if shape.wgmma:
        step = max(step, resident * shape.shared_cycles)
    prologue = cycles.once(pieces.prologue, gpu, shape.threads // 32, resident)
    return Counted(prologue, step, tensor, cycles.once(pieces.epilogue, gpu, shape.storing // 32, resident))


def as_json(of: Counted) -> dict[str, Any]:
    return {key: round(value) for key, value in vars(of).items()}
