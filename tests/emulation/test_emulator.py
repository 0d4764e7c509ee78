"""The emulator: correct kernels pass, planted mistakes are reported."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emulation import build, compare_twins, coverage

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(shutil.which(build.COMPILER) is None, reason=f"no {build.COMPILER}")
VARIANTS = ["rel", "asan", "tsan"]
SANITIZERS = pytest.mark.full("the emulator under sanitizers")
MARKED = {"rel": (), "asan": SANITIZERS, "tsan": SANITIZERS}
EACH = [pytest.param(variant, marks=MARKED[variant]) for variant in VARIANTS]

WRONG = "MISMATCH at .*plants"
POISON = "AddressSanitizer: use-after-poison"
OVERFLOW = "AddressSanitizer: heap-buffer-overflow"
RACE = "ThreadSanitizer: data race"
# What each build has to say about each plant, under the policy oldest_first. None: this build cannot know.
# Where one expression serves all, the emulator finds the mistake itself, whatever it is built with.
PLANTS = {
    "no_wait": (WRONG, POISON, RACE),
    "no_barrier": (WRONG, POISON, RACE),
    "refill_too_early": (WRONG, POISON, RACE),
    "barrier_in_branch": (r"plants.cpp:\d+ __syncthreads: divergent barrier: .* wait at .*plants.cpp:\d+",) * 3,
    "ends_before_barrier": (r"plants.cpp:\d+ .*(lanes that have ended|ends while \d+ threads of its block wait)",) * 3,
    "misaligned_copy": (r"plants.cpp:\d+ cp.async.ca.16: misaligned",) * 3,
    "never_waits": (r"plants.cpp:\d+ cp.async.ca.4: the thread ends with 1 copies that it never waited for",) * 3,
    "outside_shared": (r"plants.cpp:\d+ cp.async.ca.16: shared address 0x0 \+ 16 is outside the block's 2304",) * 3,
    "shared_read_past_end": (None, OVERFLOW, None),
    "global_read_past_end": (None, OVERFLOW, None),
    "shuffle_in_branch": (r"deadlock in block \(0,0,0\):\n.*plants.cpp:\d+ __",) * 3,
    "shuffle_with_ended_lane": (r"plants.cpp:\d+ __shfl_xor_sync: mask 0xffffffff names lanes that have ended",) * 3,
    "no_syncwarp": (None, None, RACE),
    "no_atomic": (None, None, RACE),
    "unwritten_shared": (WRONG, WRONG, WRONG),
    "misaligned_vector": (None, r"misaligned address .* for type .*float4", None),
    "waits_in_two_places": (r"deadlock in block(.|\n)*plants.cpp:\d+ __syncwarp(.|\n)*plants.cpp:\d+ __syncthreads",)
    * 3,
}
# The sm_90 pipeline, under the policy random_lane. What an asynchronous copy or a multiplication still owns may be
# found by the emulator's second look at the operands, by ASan or by TSan, whichever comes first.
TAKEN = "(changed in shared memory while|unfinished asynchronous copy|use-after-poison|data race)"
HOPPER_PLANTS = {
    "no_proxy_fence": r"hopper_ring.cuh:\d+ wgmma.bf16: row \d+, k 0 of an operand .* no fence.proxy.async since",
    "no_wgmma_fence": r"hopper_ring.cuh:\d+ wgmma.bf16: no wgmma.fence since",
    "no_wgmma_wait": r"hopper_ring.cuh:\d+ wgmma.bf16: thread \d+ ends with wgmma that it never waited for",
    "no_full_wait": TAKEN,
    "no_empty_wait": f"({TAKEN}|more arrivals than the 129 that a phase has)",
    "released_too_early": TAKEN,
    "too_few_bytes": r"deadlock in block(.|\n)*mbarrier.try_wait",
    "too_many_arrivals": f"({TAKEN}|more arrivals than)",
    "wrong_stride": "MISMATCH",
    "start_within_swizzle": "descriptor's start 0x480 is not at the beginning of eight rows",
    "uninitialised_barrier": "no mbarrier was initialised at",
    "reads_accumulators": "MISMATCH",
    "too_many_registers": "setmaxnreg: 92160 registers, an SM has 65536",
}


@pytest.fixture(scope="session")
def built(build_folder):
    """built("rel", "plants.cpp") is the path of the program; each is made once."""
    return functools.cache(lambda variant, source: build.build(variant, build_folder, [HERE / source]))


def run(variant: str, program: Path, *arguments: str, policy: int = 2, coverage_folder: Path | None = None):
    environment = build.run_environment(variant, policy)
    if coverage_folder:
        environment["EMU_COVERAGE"] = str(coverage_folder)
    command = [*build.command_prefix(variant), str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.parametrize("variant", EACH)
@pytest.mark.parametrize("program", ["selftest.cpp", "plants.cpp", "selftest_hopper.cpp", "plants_hopper.cpp"])
def test_correct_programs_pass(built, variant, program):
    done = run(variant, built(variant, program), *(["correct"] if program.startswith("plants") else []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* checks, 0 failed$", done.stdout, re.M), done.stdout


@pytest.mark.parametrize(
    "variant, plant, expected",
    [
        pytest.param(variant, plant, PLANTS[plant][i], marks=MARKED[variant], id=f"{variant}-{plant}")
        for i, variant in enumerate(VARIANTS)
        for plant in PLANTS
        if PLANTS[plant][i]
    ],
)
def test_planted_mistakes_are_caught(built, variant, plant, expected):
    done = run(variant, built(variant, "plants.cpp"), plant)
    assert done.returncode not in (0, 2), f"{plant} was not caught:\n{done.stdout}{done.stderr}"
    assert re.search(expected, done.stderr), done.stderr
    assert "plants.cpp:" in done.stderr, "the report does not name the line"


@pytest.mark.parametrize("variant", EACH)
@pytest.mark.parametrize("plant", HOPPER_PLANTS)
def test_planted_mistakes_on_hopper_are_caught(built, variant, plant):
    done = run(variant, built(variant, "plants_hopper.cpp"), plant, policy=0)
    assert done.returncode not in (0, 2), f"{plant} was not caught:\n{done.stdout}{done.stderr}"
    assert re.search(HOPPER_PLANTS[plant], done.stderr), done.stderr


@pytest.mark.parametrize("policy", range(5))
def test_every_policy_can_be_chosen(built, policy):
    assert run("rel", built("rel", "plants.cpp"), "correct", policy=policy).returncode == 0


def test_an_unknown_policy_is_an_error(built):
    done = run("rel", built("rel", "plants.cpp"), "no_atomic", policy=5)
    assert done.returncode == 97 and "policy 5: expected 0 to 4" in done.stderr


def test_coverage_names_what_never_ran_and_merges(built, tmp_path):
    plants = built("rel", "plants.cpp")
    for plant in ["correct", "no_wait", "never_waits"]:  # the last one ends in an error and still counts
        run("rel", plants, plant, coverage_folder=tmp_path)
    missing, total = coverage.never_ran(tmp_path)
    assert total == len(coverage.instantiations(plants)) == 18
    assert len(missing) == total - 4 - 0, missing
    assert not any("Mistake)0>" in name or "Mistake)1>" in name for name in missing), missing
    assert any(name.startswith("deadlock_kernel") for name in missing), missing

    for plant in PLANTS:
        run("rel", plants, plant, coverage_folder=tmp_path)
    assert coverage.never_ran(tmp_path) == ([], total)
    # A binary that never ran at all counts when it is named.
    missing, more = coverage.never_ran(tmp_path, [built("rel", "selftest.cpp")])
    assert more > total and any("lanes_kernel" in name for name in missing)


@pytest.mark.parametrize("program, header", [("ptx_twins", "sm80"), ("ptx_twins_hopper", "sm90")])
def test_the_twins_programs_use_every_wrapper(built, program, header):
    assert run("rel", built("rel", f"{program}.cu")).stdout
    wrappers = re.findall(r"^PCONV_DEV .*?(\w+)\(", (build.ROOT / f"csrc/cuda/ptx/{header}.cuh").read_text(), re.M)
    sources = [HERE / f"{program}.cu", *(HERE.glob("hopper_*.cuh") if "hopper" in program else [])]
    used = " ".join(path.read_text() for path in sources)
    assert len(wrappers) > 10 and not [name for name in wrappers if not re.search(rf"\b{name}[(<]", used)]


@SANITIZERS
@pytest.mark.parametrize("program", ["ptx_twins.cu", "ptx_twins_hopper.cu"])
def test_the_twins_programs_print_nothing_unwritten(built, program):
    """The bits under ASan are the same."""
    output = run("rel", built("rel", program)).stdout
    assert output and output == run("asan", built("asan", program)).stdout


def test_a_difference_between_twins_is_found(built, tmp_path):
    (tmp_path / "a").write_text(run("rel", built("rel", "ptx_twins.cu")).stdout)
    twins = compare_twins.read(str(tmp_path / "a"))
    assert compare_twins.differences(twins, twins) == []
    wrong = {name: list(bits) for name, bits in twins.items()}
    wrong["mma_tf32_1688"][7] = "00000000"
    assert len(compare_twins.differences(twins, wrong)) == 1
    del wrong["ldmatrix_x4"]
    assert len(compare_twins.differences(twins, wrong)) == 2


def test_a_shared_library_runs_kernels_and_keeps_its_coverage(build_folder, tmp_path):
    library = build.build("rel", build_folder, [HERE / "plants.cpp"], shared=True)
    code = f"import ctypes; main = ctypes.CDLL({str(library)!r}).main; main(2, (ctypes.c_char_p * 2)(b'', b'correct'))"
    environment = {**os.environ, "EMU_COVERAGE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "0 failed" in done.stdout, done.stdout + done.stderr
    missing, total = coverage.never_ran(tmp_path)
    assert total - len(missing) == 2


def test_compile_errors_are_passed_on(tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text('#include "cuda/ptx/sm80.cuh"\n__global__ void wrong_kernel() { __shared__ int x[4]; }\n')
    with pytest.raises(RuntimeError, match="PCONV_DYN_SMEM"):
        build.build("rel", tmp_path, [source])
    with pytest.raises(ValueError, match="variant: expected one of"):
        build.build("debug", tmp_path, [source])
