"""One kernel's machine code: resources, loops and what they hold, and a warp's cycles through every straight piece."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.static_model.cycles import once, steady
from benchmarks.static_model.devices import GPUS, Gpu
from benchmarks.static_model.flow import Flow, Loop, Trips, path
from benchmarks.static_model.sass import Binary, Instruction, Kernel, built_extension, demangle, parse
from pconv_cuda.errors import PConvError

SHOWN = ("HMMA", "HGMMA", "LDSM", "LDGSTS", "UTMALDG", "LDG", "VOTE", "LDS", "STS", "STG", "BAR", "SYNCS", "F2FP")


def holds(code: list[Instruction]) -> dict[str, int]:
    counted = {opcode: sum(i.opcode == opcode for i in code) for opcode in SHOWN}
    return {opcode: number for opcode, number in counted.items() if number}


def straight(flow: Flow) -> Iterator[list[Instruction]]:
    """Code between the outermost loops, in the order of addresses, subroutines at the end with it."""
    inside = {index for loop in flow.loops for index in loop.blocks}
    piece: list[Instruction] = []
    for block in flow.blocks:
        if block.index in inside:
            if piece:
                yield piece
            piece = []
        else:
            piece += block.code
    if piece:
        yield piece


def row(kind: str, code: list[Instruction], gpu: Gpu, depth: int = 0, cycles: float | None = None) -> dict[str, Any]:
    return {
        "kind": kind, "depth": depth, "from": f"{min(i.address for i in code):05x}",
        "to": f"{max(i.address for i in code) + 16:05x}", "instructions": len(code),
        "cycles": round(once(code, gpu) if cycles is None else cycles), "holds": holds(code),
    }  # fmt: skip


def loop_rows(flow: Flow, loops: list[Loop], gpu: Gpu, depth: int) -> Iterator[dict[str, Any]]:
    for loop in loops:
        code = flow.code(loop.blocks)
        way = path(flow, Trips(), {"LDG.E.U8": 64, "VOTE": 64}, loop)
        yield row("loop", code, gpu, depth, steady(way, gpu) if way else 0.0) | {"path": len(way)}
        yield from loop_rows(flow, loop.inner, gpu, depth + 1)


def described(kernel: Kernel, gpu: Gpu) -> list[dict[str, Any]]:
    """Loops: the cycles of a round on the path that a warp takes, inner loops left out. Straight pieces: all of them,
    every branch walked over."""
    flow = Flow(kernel)
    rows = [*loop_rows(flow, flow.loops, gpu, 0), *(row("straight", piece, gpu) for piece in straight(flow))]
    return sorted(rows, key=lambda one: (one["from"], one["depth"]))


def from_file(file: Path, arch: str, pattern: str) -> Iterator[tuple[str, Kernel, dict[str, Any]]]:
    """Kernels of an extension, a cubin or a listing of SASS."""
    if file.suffix in (".sass", ".txt"):
        kernels = parse(file.read_text(encoding="utf-8"))
        names = demangle(kernel.name for kernel in kernels)
        for kernel in kernels:
            if re.search(pattern, names[kernel.name]):
                yield names[kernel.name], kernel, {}
        return
    binary = Binary(file)
    found = binary.find(arch, pattern)
    for name, kernel in zip(found, binary.kernels(arch, found), strict=True):
        of = binary.resources[arch, name]
        yield binary.readable[name], kernel, {**vars(of), "spills": of.spills}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern", help="a regular expression, searched in readable names (c++filt, namespaces left out)"
    )
    parser.add_argument("file", type=Path, nargs="?", help=".so, .cubin, or .sass (default: the package's extension)")
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h100", help="whose latencies, and whose code in a .so")


def run(args: argparse.Namespace) -> tuple[str, Any]:
    gpu, file = GPUS[args.gpu], args.file or built_extension()
    listing = file.suffix in (".sass", ".txt")
    found = [""] if listing else Binary(file).architectures()
    archs = found if listing else [arch for arch in found if arch in gpu.code]
    if not archs:
        raise PConvError(f"static model: {file} has no code for a {gpu.title}, only for {', '.join(found)}; see --gpu")
    said, rows = [], []
    for name, kernel, of in from_file(file, archs[0], args.pattern):
        parts = described(kernel, gpu)
        said.append(f"{name}: {len(kernel.instructions)} instructions" + "".join(f", {k} {v}" for k, v in of.items()))
        for one in parts:
            held = ", ".join(f"{opcode} {number}" for opcode, number in one["holds"].items())
            more = f" ({one['path']} on the path)" if "path" in one else ""
            said.append(
                f"  {'  ' * one['depth']}{one['kind']:8} {one['from']}-{one['to']} {one['instructions']:5}{more}, "
                f"{one['cycles']} cycles: {held or '-'}"
            )
        rows.append({"kernel": name, **of, "parts": parts})
    if not rows:
        raise PConvError(f"static model: no kernel of {file} fits {args.pattern!r}")
    return "\n".join(said), {"gpu": args.gpu, "kernels": rows}
