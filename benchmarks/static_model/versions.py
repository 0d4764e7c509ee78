"""Two builds of the extension: what differs in the kernels that both have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.static_model.flow import Flow, Loop
from benchmarks.static_model.sass import Binary, Kernel, Resources, instructions, stable

PRODUCTS = ("HMMA", "HGMMA", "LDGSTS", "FFMA")  # a main loop has the most of the first of these that a kernel has


def by_stable_name(binary: Binary, arch: str) -> dict[str, str]:
    return {stable(name): name for where, name in binary.resources if where == arch}


def main_loop(flow: Flow) -> int:
    """Instructions of the innermost loop with the most products or copies; 0: there is none."""
    loops = flow.all_loops()
    for opcode in PRODUCTS:

        def number(loop: Loop, opcode: str = opcode) -> int:
            return sum(i.opcode == opcode for i in flow.code(loop.blocks))

        holding = [loop for loop in loops if number(loop)]
        if holding:
            most = max(map(number, holding))
            return min(len(flow.code(loop.blocks)) for loop in holding if number(loop) == most)
    return 0


def resources_differ(old: Resources, new: Resources) -> dict[str, tuple[int, int]]:
    pairs = {"registers": (old.registers, new.registers), "stack": (old.stack, new.stack)}
    pairs |= {"shared": (old.shared, new.shared), "spill": (old.local, new.local)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def loops_differ(old: Binary, new: Binary, arch: str, names: list[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """By the new mangled name: instructions of the main loop, where they are not as many."""
    before, after = old.listings(arch, [a for a, _ in names]), new.listings(arch, [b for _, b in names])
    found = {}
    for a, b in names:
        if before[a] != after[b]:
            sizes = [main_loop(Flow(Kernel(a, tuple(instructions(code))))) for code in (before[a], after[b])]
            if sizes[0] != sizes[1]:
                found[b] = (sizes[0], sizes[1])
    return found


def compare(old: Binary, new: Binary, archs: list[str], loops: bool) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of what differs, and counts: kernels in both, differing, in one alone."""
    rows: list[dict[str, Any]] = []
    counts = {"in both": 0, "differ": 0, "only old": 0, "only new": 0}
    for arch in archs:
        a, b = by_stable_name(old, arch), by_stable_name(new, arch)
        common = sorted(set(a) & set(b))
        counts["in both"] += len(common)
        counts["only old"] += len(set(a) - set(b))
        counts["only new"] += len(set(b) - set(a))
        sizes = loops_differ(old, new, arch, [(a[key], b[key]) for key in common]) if loops and common else {}
        for key in common:
            found: dict[str, Any] = resources_differ(old.resources[arch, a[key]], new.resources[arch, b[key]])
            if b[key] in sizes:
                found["main loop"] = sizes[b[key]]
            if found:
                rows.append({"arch": arch, "kernel": new.readable[b[key]], **found})
                counts["differ"] += 1
    return rows, counts


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--arch", action="append", help="sm_90a, ...; may be given again (default: all that both have)")
    parser.add_argument("--resources", action="store_true", help="leave the main loops, whose reading takes a minute")


def run(args: argparse.Namespace) -> tuple[str, Any]:
    old, new = Binary(args.old), Binary(args.new)
    archs = args.arch or sorted(set(old.architectures()) & set(new.architectures()))
    rows, counts = compare(old, new, archs, not args.resources)
    said = []
    for one in rows:
        pairs = ", ".join(f"{k} {v[0]} -> {v[1]}" for k, v in one.items() if k not in ("arch", "kernel"))
        said.append(f"{one['arch']} {one['kernel']}: {pairs}")
    said.append(
        f"{counts['in both']} kernels in both on {', '.join(archs) or 'no architecture'}, {counts['differ']} differ; "
        f"{counts['only old']} only in the old one, {counts['only new']} only in the new one"
    )
    return "\n".join(said), {"rows": rows, **counts}
