"""What test_glue.py runs: families of kernels that are checked before their first use (see glue_checks.py)."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from cases import Case, make_tensors
from cases_upcat import WINDOW, Stage
from cases_upcat import make_tensors as make_stage

from pconv_cuda import selftest

LIBRARY = os.environ["PCONV_EMULATED_LIBRARY"]
torch.ops.load_library(LIBRARY)
library = ctypes.CDLL(LIBRARY)
emulated = torch.ops.pconv_emulated
READER_TYPE = ctypes.CFUNCTYPE(ctypes.c_int)
READER = READER_TYPE(lambda: 1)  # tf32 is allowed: first and last layers want tensor cores
library.pconv_emulated_tf32_reader(READER)
CHECKER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_int, ctypes.c_int)
GEMM, WGMMA, FIRST, LAST, STAGE, STAGE_WGMMA, LAST_STAGE, TALL = (1 << bit for bit in range(8))
# Small enough for the emulator, on a device of one multiprocessor, which large tiles fill.
SMALL = {
    "gemm": (selftest.Case(8, 16, 9),),
    "wgmma": (selftest.Case(64, 136, 8, tile=5), selftest.Case(64, 72, 8, tile=6), selftest.Case(64, 40, 8, tile=7)),
    "first layer": (selftest.Case(3, 16, 12),),
    "last layer": (selftest.Case(16, 3, 12),),
    "decoder stage": (selftest.Case(8, 16, 8, skip=8),),
    "decoder stage on wgmma": (selftest.Case(8, 136, 8, skip=64, tile=5), selftest.Case(8, 40, 8, skip=64, tile=7)),
    "last decoder stage": (selftest.Case(16, 3, 12, skip=3),),
    "tall tiles on wgmma": (
        selftest.Case(136, 136, 6, tile=8), selftest.Case(72, 72, 6, tile=9), selftest.Case(64, 40, 8, tile=10),
        selftest.Case(64, 72, 8, tile=11), selftest.Case(136, 136, 4, skip=64, tile=8),
        selftest.Case(64, 40, 8, skip=64, tile=10),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    library.pconv_emulated_device(90, 1, 1, ctypes.c_int64(2**31 - 1))
    library.pconv_emulated_flops_per_byte(ctypes.c_int64(0))
    yield
    library.pconv_emulated_force_path(-1)
    library.pconv_emulated_family_checker(None)


def families() -> int:
    return library.pconv_emulated_last_families()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Answers for the operators, which forget those of another checker."""

    def answer(wrong: int) -> list[int]:
        seen: list[int] = []

        def check(family: int, dtype: int, device: int) -> int:
            seen.append(family)
            return int(not family & wrong)

        answer.kept = CHECKER(check)  # ctypes does not keep it
        library.pconv_emulated_family_checker(answer.kept)
        return seen

    return answer


@pytest.mark.parametrize("family", SMALL)
def test_each_case_runs_its_family_and_is_right(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "FAMILIES", SMALL)
    used: list[int] = []

    def watched(operator):
        def call(*given):
            found = operator(*given)
            used.append(families())
            return found

        return staticmethod(call)

    class Watched:
        partial_conv2d = watched(emulated.partial_conv2d)
        partial_conv2d_backward = watched(emulated.partial_conv2d_backward)

    own = 1 << list(SMALL).index(family)
    paths = selftest.Paths(torch.device("cpu"), Watched, library.pconv_emulated_force_path)
    for dtype in (torch.bfloat16,) if "wgmma" in family else (torch.float32, torch.float16):
        found = selftest.run(family, dtype, paths)
        assert {each.result for each in found} == set(selftest.NAMES) - (
            set() if any(case.skip for case in SMALL[family]) else {"grad_skip"}
        )
        assert all(each.right for each in found), found
        assert selftest.judge(family, dtype, paths) == (True, "")
    forward, backward = used[0::2], used[1::2]
    slim = {WGMMA} if family == "tall tiles on wgmma" else set()  # of weight gradients alone
    assert set(forward) == {0, own} | slim  # the library's and the family's
    if family in ("wgmma", "tall tiles on wgmma"):  # the library's is 0; run() and judge() have each case once
        ours = [each for each in backward if each]
        assert all(each & own for each in ours) and len(ours) == 2 * len(SMALL[family])


def layer(dtype: torch.dtype, k: int = 16):
    t = make_tensors(Case("layer", n=1, c=64, h=16, w=16, k=k), dtype).to(dtype, torch.channels_last)
    window = ([1, 1], [1, 1], [1, 1], 1)
    return (t.input, t.mask, None, None, t.weight, t.bias, *window), t.grad


def test_a_family_is_asked_for_once_and_what_is_wrong_is_not_used(asked) -> None:
    library.pconv_emulated_device(80, 1, 0, ctypes.c_int64(2**31 - 1))
    given, grad = layer(torch.bfloat16)
    seen = asked(GEMM)
    output, _, ratio = emulated.partial_conv2d(*given)
    assert seen == [GEMM] and families() == 0
    library.pconv_emulated_force_path(0)
    assert torch.equal(output, emulated.partial_conv2d(*given)[0])
    library.pconv_emulated_force_path(-1)
    gradients = emulated.partial_conv2d_backward(grad, *given[:5], ratio, *given[6:], False, True, False, True, True)
    assert seen == [GEMM] and families() == 0 and all(each.isfinite().all() for each in gradients)
    library.pconv_emulated_force_path(2)
    fused = emulated.partial_conv2d(*given)[0]
    assert families() == GEMM and not torch.equal(output, fused)
    torch.testing.assert_close(output, fused, rtol=2e-2, atol=2e-2)


def test_where_wgmma_is_wrong_the_other_kernels_serve(asked) -> None:
    given, _ = layer(torch.float16, k=72)
    seen = asked(WGMMA)
    emulated.partial_conv2d(*given)
    assert seen == [WGMMA, GEMM] and families() == GEMM


def test_a_wrong_stage_is_joined_for_the_library(asked) -> None:
    t = make_stage(Stage("stage", low=8, skip=8, k=16, h=4, w=4), torch.float16).to(torch.float16)
    given = (t.low, t.low_mask, t.skip, t.skip_mask, t.weight, t.bias, *WINDOW)
    seen = asked(STAGE)
    output, _, ratio = emulated.partial_conv2d(*given)
    assert seen == [STAGE] and families() == 0
    gradients = emulated.partial_conv2d_backward(t.grad, *given[:5], ratio, *WINDOW, True, True, True, True)
    assert families() == 0
    library.pconv_emulated_force_path(2)
    close = {"rtol": 1e-2, "atol": 0.1}  # of sums of up to 60
    torch.testing.assert_close(output, emulated.partial_conv2d(*given)[0], **close)
    fused = emulated.partial_conv2d_backward(t.grad, *given[:5], ratio, *WINDOW, True, True, True, True)
    for ours, theirs in zip(gradients, fused, strict=True):
        torch.testing.assert_close(ours, theirs, **close)


CLOCK = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int)


@pytest.fixture
def timed() -> Iterator[Callable[..., list[int]]]:
    """Benchmark mode with a pretended time for each path: 0 the library, 1 mma.sync, 2 wgmma; ``tiles``: for choices of
    a path and a tile, which else take as long as the path does."""
    kept: list[object] = []

    def start(*times: float, wanted: int = 1, tiles: dict[int, float] | None = None) -> list[int]:
        measured: list[int] = []

        def clock(choice: int) -> float:
            measured.append(choice)
            return (tiles or {}).get(choice, times[choice % 16])

        kept[:] = READER_TYPE(lambda: wanted), CLOCK(clock)
        library.pconv_emulated_benchmark(*kept)
        return measured

    library.pconv_emulated_choices(True)
    yield start
    library.pconv_emulated_benchmark(None, None)
    library.pconv_emulated_choices(True)


def measured_path(used: int) -> int:
    return {0: 0, GEMM: 1, WGMMA: 2}[used]


@pytest.mark.parametrize(
    ("times", "used"), [((3, 2, 1), WGMMA), ((3, 1, 2), GEMM), ((1, 2, 3), 0), ((1, 1, 1), 0)], ids=str
)
def test_the_fastest_way_is_taken(timed, times: tuple[int, ...], used: int) -> None:
    given, grad = layer(torch.bfloat16, k=72)
    library.pconv_emulated_family_checker(None)
    measured = timed(*times)
    for _ in range(2):
        output, _, ratio = emulated.partial_conv2d(*given)
        assert families() == used and measured[:3] == [0, 1, 2]
        assert len(set(measured)) == len(measured) and {each % 16 for each in measured[3:]} <= {measured_path(used)}
    library.pconv_emulated_force_path(measured_path(used))
    assert torch.equal(output, emulated.partial_conv2d(*given)[0])
    library.pconv_emulated_force_path(-1)
    emulated.partial_conv2d_backward(grad, *given[:5], ratio, *given[6:], False, True, False, True, True)
    assert measured.count(0) == 2 and library.pconv_emulated_choices(False) == 2
    smaller = (given[0][:, :, 1:], given[1][:, :, 1:], *given[2:])
    emulated.partial_conv2d(*smaller)
    assert measured.count(0) == 3  # another geometry


FPROP, DGRAD, WGRAD = 4, 8, 12  # where a choice has a pass' tile
LARGE, WIDE, SMALL_TILE, LEAN, WGMMA_64, WGMMA_TILES = 1, 2, 3, 5, 8, (6, 7, 8, 9, 10, 11)  # a tile's number and one


def test_the_fastest_tile_of_each_pass_is_taken(timed) -> None:
    given, grad = layer(torch.bfloat16, k=136)
    library.pconv_emulated_family_checker(None)
    narrow, mixed = 2 | WGMMA_64 << FPROP, 2 | LARGE << DGRAD | SMALL_TILE << WGRAD
    measured = timed(4, 3, 2, tiles={narrow: 1.5, 2 | LARGE << DGRAD: 1.5, mixed: 1, 2 | SMALL_TILE << WGRAD: 1.2})
    output, _, ratio = emulated.partial_conv2d(*given)
    # Neither path's own tile is timed twice (large is mma.sync's), and one of 8 columns is no candidate for 136.
    assert measured[:3] == [0, 1, 2] and families() == WGMMA
    tried = {each >> FPROP for each in measured[3:]}
    assert len(tried) == len(measured) - 3 == 8 and tried < {WIDE, SMALL_TILE, LEAN, *WGMMA_TILES}
    wanted = (grad, *given[:5], ratio, *given[6:], False, True, False, True, False)
    del measured[:]
    gradients = emulated.partial_conv2d_backward(*wanted)
    assert mixed in measured and families() == GEMM
    again = emulated.partial_conv2d(*given)[0]
    library.pconv_emulated_force_path(narrow)
    assert torch.equal(output, emulated.partial_conv2d(*given)[0]) and torch.equal(output, again)
    library.pconv_emulated_force_path(mixed)
    for ours, forced in zip(gradients, emulated.partial_conv2d_backward(*wanted), strict=True):
        assert torch.equal(ours, forced)


def test_one_tile_with_other_splits_is_another_way(timed) -> None:
    library.pconv_emulated_device(90, 132, 1, ctypes.c_int64(2**31 - 1))
    library.pconv_emulated_family_checker(None)
    given, _ = layer(torch.bfloat16, k=72)
    measured = timed(3, 2, 1)  # both paths take 64x64, by rules in two splits and by cycles in one
    emulated.partial_conv2d(*given)
    assert measured[:3] == [0, 1, 2] and families() == GEMM


def test_nothing_is_timed_unless_it_is_wanted(timed) -> None:
    given, _ = layer(torch.bfloat16, k=72)
    measured = timed(1, 2, 3, wanted=0)  # as under deterministic algorithms
    emulated.partial_conv2d(*given)
    assert families() == WGMMA and measured == []
    measured = timed(1, 2, 3)
    library.pconv_emulated_force_path(1)
    emulated.partial_conv2d(*given)
    assert families() == GEMM and measured == []


def test_wrong_kernels_are_not_timed(timed, asked) -> None:
    t = make_tensors(Case("first", n=1, c=3, h=12, w=12, k=16), torch.bfloat16).to(torch.bfloat16)
    window = ([1, 1], [1, 1], [1, 1], 1)
    measured, seen = timed(3, 1, 1), asked(FIRST)
    emulated.partial_conv2d(t.input, t.mask, None, None, t.weight, t.bias, *window)
    assert seen == [FIRST] and measured == [0] and families() == 0


VERBOSE = """
import ctypes, sys, torch
sys.path[:0] = sys.argv[1:]
import glue_checks_families as checks
checks.library.pconv_emulated_device(90, 1, 1, ctypes.c_int64(2**31 - 1))
given, grad = checks.layer(torch.bfloat16, k=72)
for _ in range(2):
    ratio = checks.emulated.partial_conv2d(*given)[2]
wide = [each.double() for each in (given[0], given[4], given[5])]
checks.emulated.partial_conv2d(wide[0], *given[1:4], *wide[1:], *given[6:])
"""


def test_verbose_says_once_what_runs() -> None:
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", VERBOSE, here, os.path.dirname(here)]
    for choice, expected in (("1", ["wgmma", "the library's convolution"]), ("0", [])):
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PCONV_VERBOSE": choice})
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("pconv_cuda:")]
        assert [line.rpartition(": ")[2] for line in lines] == expected, done.stderr
        assert all("forward input 1x64x16x16, weight 72x64x3x3" in line for line in lines)


PLANTED = """
import ctypes, sys, torch
from pconv_cuda import selftest
sys.path[:0] = sys.argv[1:]
import glue_checks_families as checks
checks.library.pconv_emulated_device(90, 1, 1, ctypes.c_int64(2**31 - 1))
selftest.FAMILIES = checks.SMALL
paths = selftest.Paths(torch.device("cpu"), checks.emulated, checks.library.pconv_emulated_force_path)
print([selftest.judge(family, torch.bfloat16, paths) for family in ("gemm", "first layer")])
"""


def test_a_planted_mistake_is_judged_wrong() -> None:
    if "PCONV_PLANTED_LIBRARY" not in os.environ:
        return  # the full tier's library has none; the short tier's has
    here = os.path.dirname(__file__)
    for mistake, gemm, first in (("10", False, True), ("81", True, False)):  # epilogue.cuh, first_layer.cu
        environment = {**os.environ, "PCONV_PLANTED": mistake}
        done = subprocess.run(
            [sys.executable, "-c", PLANTED, here, os.path.dirname(here)],
            capture_output=True,
            text=True,
            env=environment,
        )
        found = eval(done.stdout)
        assert [right for right, _ in found] == [gemm, first], done.stdout + done.stderr
        assert "off by" in "".join(why for _, why in found)
