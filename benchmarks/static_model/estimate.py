"""Microseconds of a launch, from cycles that were counted in its kernel's machine code."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.static_model import pieces
from benchmarks.static_model.devices import BLOCK_START, SWEEP_SHARE, Gpu
from benchmarks.static_model.launches import Launch, Waves, resident, stages_of
from benchmarks.static_model.pieces import Counted, Pieces
from benchmarks.static_model.sass import Binary
from pconv_cuda.errors import PConvError


@dataclass(frozen=True)
class Estimate:
    """``product_us``: the product itself; ``sweeps_us``: the passes around it; ``least_us``: the roofline's floor.

    ``bound``: what the product waits for: cycles, DRAM or L2. Kernels for a network's ends are not counted: theirs is
    the floor, and ``bound`` says so.
    """

    launch: Launch
    kernel: str
    registers: int
    resident: int
    waves: Waves
    cycles: Counted | None
    round_cycles: float
    product_us: float
    sweeps_us: float
    least_us: float
    bound: str

    @property
    def total_us(self) -> float:
        return self.product_us + self.sweeps_us

    def as_json(self) -> dict[str, Any]:
        launch = self.launch
        return {
            "layer": launch.layer, "pass": launch.name, "plan": launch.kernel, "kernel": self.kernel,
            "tile": launch.tile, "rows": launch.rows, "columns": launch.columns, "grid": list(launch.grid),
            "blocks": self.waves.blocks, "splits": launch.splits, "patch": list(launch.patch),
            "taps_per_step": launch.taps_per_step, "shared_bytes": launch.shared, "registers": self.registers,
            "resident": self.resident, "steps": round(launch.steps, 2), "waves": round(self.waves.exact, 3),
            "efficiency": round(self.waves.efficiency, 3), "last_wave": round(self.waves.last, 3),
            "cycles": pieces.as_json(self.cycles) if self.cycles else None, "round_cycles": round(self.round_cycles),
            "product_us": round(self.product_us, 2), "sweeps_us": round(self.sweeps_us, 2),
            "sweeps": [asdict(one) for one in launch.sweeps], "floor_us": round(self.least_us, 2), "bound": self.bound,
        }  # fmt: skip


@dataclass
class Model:
    """Estimates for one GPU from one extension; pieces that were found are kept."""

    binary: Binary
    gpu: Gpu
    arch: str = ""
    _pieces: dict[tuple[Any, ...], Pieces] = field(default_factory=dict)
    _counted: dict[tuple[Any, ...], Counted] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = self.binary.architectures()
        self.arch = next((one for one in self.gpu.code if one in found), "")
        if not self.arch:
            wanted, there = " or ".join(self.gpu.code), ", ".join(found)
            raise PConvError(f"static model: {self.binary.path} has no code for {wanted}, only for {there}")

    def symbol(self, launch: Launch) -> str:
        """The mangled name of the kernel that a launch takes."""
        found = self.binary.find(self.arch, launch.symbol())
        if not found:
            raise PConvError(f"static model: no kernel of {self.arch} fits {launch.symbol()}, for {launch.kernel}")
        return max(found, key=lambda name: stages_of(self.binary.readable[name]))

    def pieces(self, launch: Launch, name: str) -> Pieces:
        key = (name, launch.taps, launch.mask_blocks, launch.splits > 1)
        if key not in self._pieces:
            kernel = self.binary.kernels(self.arch, [name])[0]
            readable = self.binary.readable[name]
            self._pieces[key] = pieces.of_kernel(kernel, readable, *key[1:])
        return self._pieces[key]

    def counted(self, launch: Launch, name: str, blocks: int) -> Counted:
        key = (name, launch.taps, launch.mask_blocks, launch.splits > 1, blocks)
        if key not in self._counted:
            self._counted[key] = pieces.counted(self.pieces(launch, name), self.gpu, blocks)
        return self._counted[key]

    def sweeps(self, launch: Launch) -> float:
        moved = sum(one.bytes for one in launch.sweeps)
        return moved / (SWEEP_SHARE * self.gpu.dram) * 1e6 + self.gpu.launch * len(launch.sweeps)

    def estimate(self, launch: Launch) -> Estimate:
        gpu, name = self.gpu, self.symbol(launch)
        registers, readable = self.binary.resources[self.arch, name].registers, self.binary.readable[name]
        slower = 2 if launch.math == "tf32" else 1  # than half types
        floor = max(launch.flops * slower / gpu.flops, launch.bytes / gpu.dram) * 1e6
        if launch.special:
            at_once = 2  # both kernels' launch bounds
            waves = Waves(launch.blocks, at_once * gpu.multiprocessors)
            return Estimate(
                launch, readable, registers, at_once, waves, None, 0.0, floor, self.sweeps(launch), floor, "not counted"
            )
        threads = pieces.Shape.of(readable).threads
        at_once = resident(gpu, launch.shared, threads, registers)
        waves = Waves(launch.blocks, at_once * gpu.multiprocessors)
        # A wave that does not fill the device is spread over it; later ones go where blocks have ended, and these end
        # together, so that the last wave takes as long as a full one.
        together = min(at_once, math.ceil(launch.blocks / gpu.multiprocessors))
        counted = self.counted(launch, name, together)
        first = gpu.dram_latency  # of the copies that fill the pipeline
        once = BLOCK_START + counted.prologue + first + launch.steps * counted.step + counted.epilogue
        limits = {
            "cycles": once * waves.rounds / gpu.clock / 1e3, "DRAM": launch.bytes / gpu.dram * 1e6,
            "L2": self.from_l2(launch) / gpu.l2 * 1e6,
        }  # fmt: skip
        bound = max(limits, key=lambda key: limits[key])
        return Estimate(
            launch, readable, registers, at_once, waves, counted, once, limits[bound] + gpu.launch,
            self.sweeps(launch), floor, bound,
        )  # fmt: skip

    def from_l2(self, launch: Launch) -> float:
        """Bytes: the operand that lies dense at each step of every block; the gathered one meets its neighbours' taps
        in L1, and is taken to come once for every four of them."""
        dense, gathered = launch.columns, launch.rows
        if launch.pass_name == "wgrad":
            dense, gathered = gathered, dense
        return launch.blocks * launch.steps * 128 * (dense + gathered / 4)
