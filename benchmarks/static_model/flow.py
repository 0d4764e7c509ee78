"""Blocks and loops of a kernel, and the path that a warp takes through them.

The path is the shortest one that does the work: instructions that a piece is there for (products, copies, stores of 16
bytes) are worth more than what they cost, everything else is avoided where a branch can avoid it. So slow paths, ragged
ends and outlined waits stay out of the count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from benchmarks.static_model.sass import Instruction, Kernel

# What an instruction on a path is worth, by the beginning of its name; the first that fits counts.
WORTH: tuple[tuple[str, float], ...] = (
    ("HMMA", 10), ("HGMMA", 10), ("LDSM", 10), ("LDGSTS", 10), ("UTMALDG", 10), ("STG.E.128", 10), ("STG.E.64", 5),
    ("STG", -1), ("STS", 2), ("CALL", -100), ("BAR", 1),
)  # fmt: skip
EACH = -0.01


def is_jump(i: Instruction) -> bool:
    """sm_80 leaves a loop by a call that never returns; unguarded calls are subroutines of divisions."""
    return i.opcode in ("BRA", "JMP") or (i.opcode == "CALL" and i.guard != "" and i.target is not None)


def worth(instruction: Instruction) -> float:
    if is_jump(instruction):
        return EACH
    return EACH + next((value for start, value in WORTH if instruction.name.startswith(start)), 0.0)


@dataclass
class Block:
    index: int
    code: list[Instruction]
    following: list[int] = field(default_factory=list)

    @cached_property
    def value(self) -> float:
        return sum(map(worth, self.code))


@dataclass(eq=False)
class Loop:
    """``blocks`` of a natural loop; ``inner``: the loops directly inside."""

    header: int
    blocks: frozenset[int]
    inner: list[Loop] = field(default_factory=list)


def count(code: Iterable[Instruction], start: str) -> int:
    return sum(i.name.startswith(start) for i in code)


class Flow:
    """A kernel's blocks in the order of their addresses, and its outermost loops."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.blocks = _blocks(kernel.instructions)
        self.loops = _nested(_natural_loops(self.blocks))

    def all_loops(self, within: list[Loop] | None = None) -> list[Loop]:
        """Outer ones before those inside."""
        found = []
        for loop in self.loops if within is None else within:
            found += [loop, *self.all_loops(loop.inner)]
        return found

    def code(self, blocks: Iterable[int]) -> list[Instruction]:
        return [i for index in sorted(blocks) for i in self.blocks[index].code]

    def span(self, loop: Loop) -> tuple[int, int]:
        """Addresses of its first instruction and of the end."""
        code = self.code(loop.blocks)
        return min(i.address for i in code), max(i.address for i in code) + 16


def _blocks(code: tuple[Instruction, ...]) -> list[Block]:
    starts = {code[0].address} if code else set()
    meeting: dict[str, list[tuple[int, int]]] = {}  # barrier -> (address of BSSY, where its threads meet)
    ends = ("BRA", "EXIT", "BSYNC", "RET", "JMP", "CALL", "BRX")
    for i in code:
        if (is_jump(i) or i.opcode == "BSSY") and i.target is not None:
            starts.add(i.target)
        if i.opcode == "BSSY" and i.target is not None:
            meeting.setdefault(i.operands.split(",")[0], []).append((i.address, i.target))
        if i.opcode in ends:
            starts.add(i.address + 16)
    blocks: list[Block] = []
    for i in code:
        if i.address in starts:
            blocks.append(Block(len(blocks), []))
        blocks[-1].code.append(i)
    at = {block.code[0].address: block.index for block in blocks}
    for block in blocks:
        last = block.code[-1]
        following = [at[last.address + 16]] if last.address + 16 in at else []
        if is_jump(last) and not re.search(r"\.(DIV|ANY)", last.name):
            taken = [at[last.target]] if last.target in at else []
            sure = not last.guard and re.fullmatch(r"0x[0-9a-f]+", last.operands)
            following = taken if sure else following + taken
        elif last.opcode == "BSYNC" and not last.guard:
            places = meeting.get(last.operands.strip(), [])
            if last.address + 16 not in [target for _, target in places]:
                before = [target for address, target in places if address < last.address]
                following = [at[before[-1]]] if before and before[-1] in at else following
        elif last.opcode in ("EXIT", "RET") and not last.guard:
            following = []
        block.following = list(dict.fromkeys(following))
    return blocks


def _order(blocks: list[Block]) -> list[int]:
    """Reachable blocks, each after those that lead to it, loops aside."""
    seen, done = set(), []
    stack = [(0, iter(blocks[0].following))] if blocks else []
    seen.add(0)
    while stack:
        index, rest = stack[-1]
        for other in rest:
            if other not in seen:
                seen.add(other)
                stack.append((other, iter(blocks[other].following)))
                break
        else:
            done.append(index)
            stack.pop()
    return done[::-1]


def _natural_loops(blocks: list[Block]) -> list[tuple[int, frozenset[int]]]:
    order = _order(blocks)
    before: dict[int, list[int]] = {index: [] for index in order}
    for index in order:
        for other in blocks[index].following:
            before[other].append(index)
    everything = (1 << len(blocks)) - 1
    dominated = {index: 1 if index == 0 else everything for index in order}  # bit d: block d is passed before
    changed = True
    while changed:
        changed = False
        for index in order[1:]:
            common = everything
            for other in before[index]:
                common &= dominated[other]
            common |= 1 << index
            if common != dominated[index]:
                dominated[index], changed = common, True
    bodies: dict[int, set[int]] = {}
    for index in order:
        for header in blocks[index].following:
            if not dominated[index] >> header & 1:
                continue
            body, todo = bodies.setdefault(header, {header}), [index]
            while todo:
                one = todo.pop()
                if one not in body:
                    body.add(one)
                    todo += before[one]
    return [(header, frozenset(body)) for header, body in bodies.items()]


def _nested(loops: list[tuple[int, frozenset[int]]]) -> list[Loop]:
    outer: list[Loop] = []
    for header, body in sorted(loops, key=lambda loop: -len(loop[1])):
        place = outer
        while found := next((loop for loop in place if body < loop.blocks), None):
            place = found.inner
        place.append(Loop(header, body))
    for loop in outer:
        loop.inner.sort(key=lambda one: one.header)
    return sorted(outer, key=lambda one: one.header)


Aims = dict[str, int]


class Trips:
    """How often loops are gone round, and what their bodies aim at besides their inner loops. This one: never."""

    def __call__(self, loop: Loop) -> int:
        return 0

    def aims(self, loop: Loop) -> Aims:
        return {}


def path(
    flow: Flow, trips: Trips, aims: Aims, loop: Loop | None = None, start: int = 0, through: Iterable[Loop] = (),
    end: Loop | None = None,
) -> list[Instruction]:  # fmt: skip
    """Instructions of a warp's way through a loop's body once, or from block ``start`` to the exit or the loop ``end``.

    Loops on the way are gone round ``trips`` times; one of no trips is avoided, or else left out. ``aims``: how many
    instructions whose names begin so are wanted on this way, what is in its loops aside; the nearest number is taken.
    """
    inner = loop.inner if loop else flow.loops
    owner = {index: one for one in inner for index in one.blocks}
    here = loop.blocks if loop else frozenset(range(len(flow.blocks)))
    wanted, keys = set(map(id, through)), list(aims)
    first = loop.header if loop else start
    # State: how many of each aim so far -> (worth, the way there as a linked list).
    states: dict[int, dict[tuple[int, ...], tuple[float, tuple | None]]] = {first: {(0,) * len(keys): (0.0, None)}}
    finished: list[tuple[tuple[int, ...], float, tuple | None]] = []
    for index in _order_within(flow, here, first, owner):
        if index not in states:
            continue
        own = owner.get(index)
        if own is not None and own is end:
            finished += [(counts, value, way) for counts, (value, way) in states[index].items()]
            continue
        block = flow.blocks[index]
        exits = sorted(flow.blocks[b].following for b in own.blocks) if own else [block.following]
        nexts = {n for following in exits for n in following if not own or n not in own.blocks}
        gained = [0 if own else count(block.code, key) for key in keys]
        value = (1000.0 if id(own) in wanted else 5.0 if trips(own) else -5.0) if own else block.value
        leaves = (loop and first in nexts) or (not loop and end is None and not nexts)
        for counts, (so_far, way) in states[index].items():
            now = tuple(min(a + b, 64) for a, b in zip(counts, gained, strict=True))
            reached = (so_far + value, (own or index, way))
            if leaves:
                finished.append((now, *reached))
            for other in nexts:
                if other not in here or (loop and other == first):
                    continue
                known = states.setdefault(other, {})
                if now not in known or known[now][0] < reached[0]:
                    known[now] = reached
    if not finished:
        return []

    def rank(one: tuple[tuple[int, ...], float, tuple | None]) -> tuple[float, float]:
        return -sum(abs(have - aims[key]) for key, have in zip(keys, one[0], strict=True)), one[1]

    way, steps = max(finished, key=rank)[2], []
    while way is not None:
        steps.append(way[0])
        way = way[1]
    code: list[Instruction] = []
    for step in reversed(steps):
        if isinstance(step, Loop):
            code += path(flow, trips, trips.aims(step), step) * trips(step)
        else:
            code += flow.blocks[step].code
    return code


def _order_within(flow: Flow, here: frozenset[int], first: int, owner: dict[int, Loop]) -> list[int]:
    """Topological order of the blocks from ``first`` on, every inner loop being its header."""

    def nexts(index: int) -> list[int]:
        own = owner.get(index)
        members = own.blocks if own else {index}
        found = {n for m in members for n in flow.blocks[m].following if n in here and n != first}
        return sorted(n for n in found if not own or n not in own.blocks)

    seen, done = {first}, []
    stack = [(first, iter(nexts(first)))]
    while stack:
        index, rest = stack[-1]
        for other in rest:
            if other not in seen:
                seen.add(other)
                stack.append((other, iter(nexts(other))))
                break
        else:
            done.append(index)
            stack.pop()
    return done[::-1]
