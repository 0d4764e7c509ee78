"""What a tap and a store cost one warp alone, in each kernel that a network takes: the unit prices behind the table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.static_model import pieces
from benchmarks.static_model.cycles import once
from benchmarks.static_model.estimate import Estimate, Model
from benchmarks.static_model.sass import Instruction

HEAD = [
    "kernel", "code", "registers", "a multi- processor", "warps", "prologue: cycles a tap", "step, alone",
    "epilogue: cycles a store", "stores",
]  # fmt: skip
MORE_TAPS, TAPS, UPCAT_TAPS = 30, 20, 13  # 10 apart: what a row looks at together


def a_store(code: list[Instruction], model: Model) -> tuple[float, int]:
    """Cycles a 16-byte store of the epilogue (8 columns of half types), without what comes before its first loads."""
    stores = [at for at, i in enumerate(code) if i.opcode == "STG"]
    if len(stores) < 2:
        return 0.0, len(stores)
    first, last = (once(code[: at + 1], model.gpu) for at in (stores[0], stores[-1]))
    return (last - first) / (len(stores) - 1), len(stores)


def rows(model: Model, estimates: Iterable[Estimate]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for e in estimates:
        if e.cycles is None or e.kernel in found:
            continue
        kernel = model.binary.kernels(model.arch, [model.symbol(e.launch)])[0]
        whole = pieces.of_kernel(kernel, e.kernel, UPCAT_TAPS)
        if e.launch.pass_name in ("fprop", "dgrad"):
            costs = [once(pieces.of_kernel(kernel, e.kernel, taps).prologue, model.gpu) for taps in (MORE_TAPS, TAPS)]
            per_tap = (costs[0] - costs[1]) / (MORE_TAPS - TAPS)
        else:  # upcat has all taps in one piece, wgrad looks at one tap a thread
            per_tap = once(whole.prologue, model.gpu) / UPCAT_TAPS if e.launch.pass_name == "upcat" else 0.0
        store, number = a_store(whole.epilogue, model)
        shape = whole.shape
        per_tap /= -(-shape.rows // shape.threads)  # words of 32 rows that a warp has
        alone = once(whole.step, model.gpu) / whole.steps
        found[e.kernel] = {
            "kernel": e.kernel, "code": len(kernel.instructions), "registers": e.registers, "resident": e.resident,
            "warps": shape.threads // 32, "cycles_per_tap": round(per_tap), "step_alone": round(alone),
            "cycles_a_store": round(store), "stores": number,
        }  # fmt: skip
    return list(found.values())


def cells(row: dict[str, Any]) -> list[str]:
    return [str(value) if value or key == "kernel" else "-" for key, value in row.items()]
