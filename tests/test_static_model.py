"""The model that counts cycles from machine code: its arithmetic, its reader, its commands."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from cases import paper_layers
from cases_upcat import paper_stages

from benchmarks.static_model import __main__ as command
from benchmarks.static_model import cycles, flow, launches, pieces, sass, versions
from benchmarks.static_model.devices import GPUS
from benchmarks.static_model.estimate import Model
from benchmarks.static_model.sass import Resources
from pconv_cuda.errors import PConvError

H100 = GPUS["h100"]

# ---- waves


def test_waves_are_those_of_blocks_handed_out_one_by_one() -> None:
    draw = random.Random(0)
    for _ in range(100):
        blocks, slots = draw.randint(1, 2000), draw.randint(1, 500)
        free = [0] * slots  # the round in which a slot is free next
        for _ in range(blocks):
            at = free.index(min(free))
            free[at] += 1
        waves, rounds = launches.Waves(blocks, slots), max(free)
        assert waves.rounds == rounds
        assert waves.last == sum(end == rounds for end in free) / slots
        assert math.isclose(waves.efficiency, sum(free) / (rounds * slots))


def test_resident_blocks_are_as_many_as_fit_one_after_the_other() -> None:
    draw = random.Random(1)
    for _ in range(300):
        gpu = draw.choice(list(GPUS.values()))
        threads, registers = 32 * draw.randint(1, 12), draw.randint(16, 168)
        shared = draw.randint(1 << 10, gpu.block_shared)
        one = (shared + gpu.reserved, threads * -(-registers // 8) * 8, threads, 1)  # what a block takes ...
        have, fitting = (gpu.shared, gpu.registers, gpu.threads, gpu.blocks), 0  # ... of these
        while all((fitting + 1) * took <= all_of_it for took, all_of_it in zip(one, have, strict=True)):
            fitting += 1
        assert launches.resident(gpu, shared, threads, registers) == max(1, fitting)


# ---- machine code


def code(*lines: tuple[str, int] | tuple[str, int, dict[str, int]], name: str = "snippet") -> str:
    """A listing as cuobjdump prints it, of (instruction, stall, barriers): write, read, and wait as a mask."""
    said = [f"\t\tFunction : {name}"]
    for number, (text, stall, *more) in enumerate(lines):
        bars = {"write": 7, "read": 7, "wait": 0, **(more[0] if more else {})}
        control = stall | bars["write"] << 5 | bars["read"] << 8 | bars["wait"] << 11
        said.append(f"        /*{16 * number:04x}*/    {text} ;    /* 0x{0:016x} */")
        said.append(f"                                   /* 0x{control << 41:016x} */")
    return "\n".join(said) + "\n"


# 0x20 to 0x60 is a loop; the branch at 0x30 leaves out 0x40 where there is nothing to copy.
LOOP = [
    ("MOV R1, c[0x0][0x28]", 2), ("MOV R2, R1", 3),
    ("LDS R4, [R2]", 4, {"write": 0}), ("@P1 BRA 0x50", 5),
    ("LDGSTS.E.128 [R2], [R6.64]", 2), ("IADD3 R2, R4, R4, RZ", 6, {"wait": 1}),
    ("@!P0 BRA 0x20", 5), ("STG.E.128 [R8.64], R4", 1), ("EXIT", 5), ("BRA 0x90", 0),
]  # fmt: skip


def only(text: str) -> sass.Kernel:
    (kernel,) = sass.parse(text)
    return kernel


def test_control_codes_are_read() -> None:
    bars = {"write": 3, "read": 5, "wait": 41}
    first, last = only(code(("MOV R1, R2", 2), ("@!P3 LDG.E R4, [R2.64]", 11, bars))).instructions
    assert (first.guard, first.name, first.operands, first.stall) == ("", "MOV", "R1, R2", 2)
    assert (first.write, first.read, first.wait) == (7, 7, 0)
    assert (last.guard, last.name, last.opcode, last.address) == ("!P3", "LDG.E", "LDG", 16)
    assert (last.stall, last.write, last.read, last.wait) == (11, 3, 5, 41)


def test_a_warps_cycles_are_its_stalls_and_its_waits() -> None:
    straight = only(code(("MOV R1, R2", 2), ("IADD3 R1, R1, R1, RZ", 5), ("MOV R2, R3", 0)))
    assert cycles.once(straight.instructions, H100) == 2 + 5 + 1
    # A shared load takes 30 cycles; who waits for it comes after that, however short the stalls are.
    waiting = only(code(("LDS R1, [R2]", 1, {"write": 2}), ("MOV R3, R1", 4, {"wait": 1 << 2})))
    assert cycles.once(waiting.instructions, H100) == 30 + 4
    # A mistake on purpose: no wait.
    hasty = only(code(("LDS R1, [R2]", 1, {"write": 2}), ("MOV R3, R1", 4)))
    assert cycles.once(hasty.instructions, H100) == 1 + 4


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_stall_more_is_a_cycle_more(at: int) -> None:
    lines = [("MOV R1, R2", 2), ("IADD3 R1, R1, R1, RZ", 5), ("MOV R2, R3", 3)]
    more = [(text, stall + (number == at)) for number, (text, stall) in enumerate(lines)]
    before, after = (cycles.once(only(code(*of)).instructions, H100) for of in (lines, more))
    assert after == before + 1


def test_loops_and_the_path_through_them() -> None:
    kernel = only(code(*LOOP))
    graph = flow.Flow(kernel)
    (loop,) = graph.loops
    assert graph.span(loop) == (0x20, 0x70) and not loop.inner
    assert [i.opcode for i in flow.path(graph, flow.Trips(), {}, loop)] == ["LDS", "BRA", "LDGSTS", "IADD3", "BRA"]

    class Thrice(flow.Trips):
        def __call__(self, one: flow.Loop) -> int:
            return 3

    whole = flow.path(graph, Thrice(), {})
    assert sum(i.opcode == "LDGSTS" for i in whole) == 3 and whole[-1].opcode == "EXIT"
    # A round: the sum begins 30 cycles after the load, and takes 6, the branch 5.
    assert cycles.steady(flow.path(graph, flow.Trips(), {}, loop), H100) == 30 + 6 + 5


def test_warps_share_a_sub_cores_tensor_core() -> None:
    products = only(code(*[("HMMA.16816.F32.BF16 R0, R4, R8, R0", 1)] * 64)).instructions
    alone, four, eight = (cycles.walk(products, H100, warps)[-1] for warps in (1, 4, 8))
    assert alone == four == 63 * H100.hmma + 1
    assert eight == 127 * H100.hmma + 1


def test_a_branch_that_never_meets_its_block_is_no_loop() -> None:
    # Out of line and back to where the other way leads too: a jump backwards, but no loop.
    lines = [
        ("ISETP P0, PT", 2),
        ("@P0 BRA 0x40", 5),
        ("MOV R1, R2", 2),
        ("EXIT", 5),
        ("MOV R3, R4", 2),
        ("BRA 0x20", 5),
    ]
    assert flow.Flow(only(code(*lines))).loops == []


def test_names_are_told_apart_without_the_compilations_hash() -> None:
    mangled = "_ZN5pconv4cuda{}18first_layer_kernelINS0_4Tf32ELb1EEEvNS0_16FirstLayerParamsE"
    first, second = (f"47_GLOBAL__N__{h}_14_first_layer_cu_7fc6a3f0" for h in ("57ad58ed", "00000000"))
    assert sass.stable(mangled.format(first)) == sass.stable(mangled.format(second))
    assert sass.short("void pconv::cuda::gemm_kernel<(pconv::cuda::Pass)0, pconv::cuda::Bf16>(A<(int)0>::B)") == (
        "gemm_kernel<0, Bf16>"
    )


# ---- commands


def test_kernel_reads_a_listing_and_writes_json(tmp_path: Path, capsys) -> None:
    listing, out = tmp_path / "k.sass", tmp_path / "k.json"
    listing.write_text(code(*LOOP))
    assert command.main(["kernel", "snip", str(listing), "--json", str(out)]) == 0
    assert "loop     00020-00070     5 (5 on the path), 41 cycles: LDGSTS 1, LDS 1" in capsys.readouterr().out
    (kernel,) = json.loads(out.read_text())["kernels"]
    assert [part["kind"] for part in kernel["parts"]] == ["straight", "loop", "straight"]
    assert command.main(["kernel", "other", str(listing)]) == 1
    assert "no kernel of" in capsys.readouterr().err


class Fake(sass.Binary):
    """A build without a file."""

    def __init__(self, kernels: dict[str, tuple[Resources, str]]) -> None:
        self.resources = {("sm_90a", name): of for name, (of, _) in kernels.items()}  # type: ignore[misc]
        self.readable = {name: name for name in kernels}  # type: ignore[misc]
        self.texts = {name: text for name, (_, text) in kernels.items()}

    def listings(self, arch: str, names) -> dict[str, str]:
        return {name: self.texts[name] for name in names}


def test_compare_tells_what_differs_and_nothing_else() -> None:
    of = Resources(80, 0, 1024, 0)
    old = Fake({"same": (of, code(*LOOP)), "grown": (of, code(*LOOP)), "gone": (of, code(*LOOP))})
    spilling = Resources(96, 8, 1024, 0)
    new = Fake({"same": (of, code(*LOOP)), "grown": (spilling, code(*LOOP[:5], *LOOP[4:6], ("@!P0 BRA 0x20", 5)))})
    rows, counts = versions.compare(old, new, ["sm_90a"], loops=True)
    assert counts == {"in both": 2, "differ": 1, "only old": 1, "only new": 0}
    assert rows == [{"arch": "sm_90a", "kernel": "grown", "registers": (80, 96), "stack": (0, 8), "main loop": (5, 6)}]
    assert versions.compare(old, old, ["sm_90a"], loops=True)[0] == []


def test_a_missing_tool_is_named(monkeypatch) -> None:
    monkeypatch.setattr(sass.shutil, "which", lambda name: None)
    monkeypatch.setattr(sass.sys, "path", [])
    with pytest.raises(PConvError, match="cuobjdump is neither on PATH nor in the package triton"):
        sass.tool("cuobjdump")


# ---- the built extension


@pytest.fixture(scope="module")
def binary() -> sass.Binary:
    try:
        sass.tool("cuobjdump")
        return sass.Binary(sass.built_extension())
    except PConvError as error:
        pytest.skip(str(error))


def launches_of(name: str, model: Model) -> list[launches.Launch]:
    """All of an encoder's layer, or a decoder stage's forward."""
    if name.startswith("enc"):
        case = {one.name: one for one in paper_layers()}[name]
        return launches.of_layer(case, "bfloat16", model.gpu, model.gpu.wgmma)
    stage = {one.name: one for one in paper_stages(512, 6, 8)}[name]
    return launches.of_stage(stage, "bfloat16", model.gpu, model.gpu.wgmma)[:1]


@pytest.mark.parametrize(
    ("gpu", "name"), [("h100", "enc2"), ("h100", "enc6"), ("h100", "dec3"), ("h100", "dec2"), ("a100", "enc3")]
)
def test_layers_from_the_built_kernels(binary: sass.Binary, gpu: str, name: str) -> None:
    model = Model(binary, GPUS[gpu])
    for launch in launches_of(name, model):
        found, symbol = model.estimate(launch), model.symbol(launch)
        parts = model.pieces(launch, symbol)
        loads = sum(i.name.startswith("LDG.E.U8") for i in parts.prologue)
        votes = sum(i.opcode == "VOTE" for i in parts.prologue)
        words = math.ceil(launch.rows / 32 / (parts.shape.threads / 32))
        assert binary.readable[symbol].endswith(", 1>") == (launch.pass_name == "dgrad" and not launch.transposed)
        # A row looks at ten taps at once (gemm/prologue.cuh), in the decoder's stage at all of its 13 or 18.
        taps = launch.taps if launch.pass_name == "upcat" else math.ceil(launch.taps / 10) * 10
        if launch.pass_name in ("fprop", "upcat"):
            assert loads == taps * launch.mask_blocks * words
        if launch.pass_name != "wgrad":
            listed = 2 if launch.pass_name == "upcat" else 1  # lists of live taps, a vote each
            assert 0 <= votes - taps * launch.mask_blocks * words <= listed
        if not parts.shape.wgmma:
            products = sum(i.opcode == "HMMA" for i in parts.step) * 2048 * parts.shape.threads // 32
            assert products == parts.shape.products
        assert found.cycles is not None and found.cycles.step >= found.cycles.tensor > 0
        assert min(found.cycles.prologue, found.cycles.epilogue) > 100
        assert found.product_us >= found.least_us > 0 and found.registers > 0
        assert found.waves.blocks == math.prod(launch.grid)


def test_code_in_another_order_is_refused(binary: sass.Binary) -> None:
    arch = binary.architectures()[0]
    name = binary.find(arch, r"^gemm_kernel<0, Bf16, Tile<64, 64")[0]
    kernel = binary.kernels(arch, [name])[0]
    without = tuple(i for i in kernel.instructions if i.opcode != "HMMA")
    with pytest.raises(PConvError, match="no main loop"):
        pieces.of_kernel(sass.Kernel(name, without), binary.readable[name])
