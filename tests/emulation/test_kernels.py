"""Every kernel that ships, run on the CPU against loops in double: under five schedules, under AddressSanitizer and
UndefinedBehaviorSanitizer, and under ThreadSanitizer; and every planted mistake, which must be caught.

The short tier has every kernel under one schedule, and one mistake of each source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from emulation import build, coverage, rewrites

HERE = Path(__file__).resolve().parent
pytestmark = [
    pytest.mark.skipif(shutil.which(build.COMPILER) is None, reason=f"no {build.COMPILER}"),
    pytest.mark.timeout(1200),
]

# Which driver a table of planted mistakes is for; the others are for operators.
DRIVER_OF = {
    "plain": "test_plain",
    "smooth": "test_smooth",
    "upcat": "test_upcat",
    "upcat_last": "test_upcat",
    "upcat_wgmma": "test_upcat",
    "upcat_gradient": "test_upcat_backward",
}
PLANT_TEST = "test_a_planted_mistake_is_caught"

# What the short tier leaves out.
MORE_CASES = pytest.mark.full("kernels in more cases")
SCHEDULES = pytest.mark.full("kernels under other schedules")
SANITIZERS = pytest.mark.full("kernels under sanitizers")
MORE_MISTAKES = pytest.mark.full("more planted mistakes")

# ThreadSanitizer takes half a millisecond a CUDA thread, and a race does not depend on the numbers: one tiny case for
# each way through the kernels.
FOR_RACES = {"80": "no_mask,holes_on_top,last,two_blocks_of_odd_size,groups", "90": "wgmma_dilated"}
# Under other schedules and under AddressSanitizer what matters is where tiles, chunks and channels end.
FOR_BOUNDS = {
    "80": "plain3x3,one_pixel,one_row,one_column,pointwise,enc1,enc2,last,uneven,dilated,far_padding,groups,"
    "channel_mask,"
    "no_mask,mask_of_batch_1,empty_batch,first_of_two_channels,tiles_of_256,last_layer,two_blocks,two_blocks_of_odd_size,"
    "blocks_beyond_the_taps,deep,stride_beyond_the_image,channel_masks_of_many,holes_on_top,"
    "first_of_odd_sizes,last_in_tiles,last_of_odd_blocks,last_of_8_filters",
    "90": "wgmma_64,wgmma_256,wgmma_dilated,wgmma_two_blocks,wgmma_split,wgmma_past_the_image",
}
# Ragged ends, every kind of mask and way, small: for both layouts, other schedules and AddressSanitizer.
STAGES = "smallest,ragged,odd_channels,width_4,row,masks_of_batch_1,empty_batch,last,last_of_four"
# And what else reaches a kernel of its own.
FOR_TILES = {"80": f"{STAGES},last_grey,patches", "90": f"{STAGES},tiles_of_128,many_filters"}
# Doubles take slow kernels, one thread a value: the smaller ones of the cases above.
FOR_DOUBLES = ",".join(
    name for name in FOR_BOUNDS["80"].split(",") if name not in ("tiles_of_256", "two_blocks", "deep")
)


def assert_passed(done: subprocess.CompletedProcess[str]) -> None:
    said = f"{done.args}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert done.returncode == 0, said
    assert re.search(r"^([1-9]\d* comparisons, 0 failures|PASSED)$", done.stdout, re.MULTILINE), said


def assert_all_pass(run_kernels, calls: list[tuple[tuple[str, ...], dict]]) -> None:
    """Several runs at a time: the emulator uses one core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(lambda call: run_kernels(*call[0], **call[1]), calls):
            assert_passed(done)


def calls_of(
    driver: str, *options: str, dtypes: tuple[str, ...], **variables: str
) -> list[tuple[tuple[str, ...], dict]]:
    return [(("rel", driver, "--quick", *options, "--dtypes", names), variables) for names in dtypes]


# Between them these run every instantiation; fp16 differs from bf16 in an instruction and two conversions, and takes
# fewer cases. 99 KiB a block, as on sm_86, sm_89 and sm_120: there is a tile for those.
LITTLE = ("--shared", "101376")
FOR_F16_ON_90 = f"{FOR_BOUNDS['90']},wgmma_two_tiles_across,wgmma_pointwise,wgmma_256_strided,wgmma_64_strided"
HALVES, SHORT_TYPES = ("bf16", "f16"), ("bf16", "f16", "tf32")
SHORT = {
    "operators": [
        *calls_of("operators", dtypes=("bf16", "tf32", "f32")),
        *calls_of("operators", "--only", f"{FOR_BOUNDS['80']},tiles_of_128", dtypes=("f16",)),
    ],
    "operators in double": calls_of("operators", "--only", FOR_DOUBLES, dtypes=("f64",)),
    "operators on sm_90": [
        *calls_of("operators", "--arch", "90", dtypes=("bf16",)),
        *calls_of("operators", "--arch", "90", "--only", FOR_F16_ON_90, dtypes=("f16",)),
    ],
    "stage": [
        *calls_of("test_upcat", "--only", FOR_TILES["80"], dtypes=("bf16", "tf32", "f32,f64")),
        *calls_of("test_upcat", "--only", "ragged,odd_channels,last,last_of_four,last_grey,patches", dtypes=("f16",)),
    ],
    "stage on sm_90": [
        *calls_of("test_upcat", "--arch", "90", "--only", FOR_TILES["90"], dtypes=("bf16",)),
        *calls_of("test_upcat", "--arch", "90", "--only", "ragged,tiles_of_128,many_filters", dtypes=("f16",)),
    ],
    "stage backward": calls_of("test_upcat_backward", "--only", STAGES, dtypes=("bf16", "f32", "f16,f64", "tf32")),
    "little shared memory": [
        *calls_of("operators", *LITTLE, "--only", "tiles_of_128,deep", dtypes=SHORT_TYPES, EMU_SHARED_LIMIT=LITTLE[1]),
        *calls_of("test_upcat", *LITTLE, "--only", "patches", dtypes=SHORT_TYPES, EMU_SHARED_LIMIT=LITTLE[1]),
    ],
    "plain": [(("rel", "test_plain"), {})],
    "smooth": [(("rel", "test_smooth"), {})],
}


@pytest.mark.parametrize("what", SHORT)
def test_every_kernel(run_kernels, what: str) -> None:
    assert_all_pass(run_kernels, SHORT[what])


@MORE_CASES
@pytest.mark.parametrize(("arch", "dtype"), [("80", "f64"), ("80", "f16"), ("90", "f16")])
def test_operators_in_every_case(run_kernels, arch: str, dtype: str) -> None:
    assert_passed(run_kernels("rel", "operators", "--arch", arch, "--quick", "--dtypes", dtype))


@SCHEDULES
@pytest.mark.parametrize("arch", ["80", "90"])
def test_operators_under_every_schedule(run_kernels, arch: str) -> None:
    base = ("rel", "operators", "--arch", arch, "--quick", "--only", FOR_BOUNDS[arch])
    base = (*base, "--dtypes", "bf16,f16,f32,tf32,f64" if arch == "80" else "bf16,f16")
    assert_all_pass(run_kernels, [(base, {"policy": policy}) for policy in (0, 1, 3, 4)])


@MORE_CASES
def test_operators_on_devices_with_little_shared_memory(run_kernels) -> None:
    """99 KiB a block, as on sm_86, sm_89 and sm_120: the plan leaves out the tiles that do not fit."""
    base = (
        "rel",
        "operators",
        "--quick",
        "--only",
        FOR_BOUNDS["80"] + ",tiles_of_128",
        "--shared",
        "101376",
        "--dtypes",
    )
    assert_all_pass(
        run_kernels, [((*base, names), {"EMU_SHARED_LIMIT": "101376"}) for names in ("bf16,f16", "f32,tf32")]
    )


@MORE_CASES
def test_operators_in_both_layouts_and_in_parts(run_kernels) -> None:
    base = ("rel", "operators", "--only", FOR_BOUNDS["80"], "--dtypes")
    assert_all_pass(run_kernels, [((*base, names), {}) for names in ("bf16,f64", "f32,tf32")])


@SANITIZERS
@pytest.mark.parametrize(("variant", "only"), [("asan", FOR_BOUNDS), ("tsan", FOR_RACES)])
def test_operators_under_sanitizers(run_kernels, variant: str, only: dict[str, str]) -> None:
    base = (variant, "operators", "--quick", "--only")
    calls = [((*base, only["80"], "--dtypes", names), {"policy": 1}) for names in ("bf16", "tf32", "f32,f64")]
    assert_all_pass(run_kernels, [*calls, ((*base, only["90"], "--dtypes", "bf16", "--arch", "90"), {"policy": 1})])


@pytest.mark.parametrize("variant", ["rel", pytest.param("asan", marks=SANITIZERS)])
def test_a_valid_infinity_reaches_its_own_windows_only(run_kernels, variant: str) -> None:
    assert_passed(run_kernels(variant, "test_edge_layers", policy=1))


@SCHEDULES
def test_plain_kernels_under_every_schedule(run_kernels) -> None:
    assert_all_pass(run_kernels, [(("rel", "test_plain"), {"policy": policy}) for policy in (0, 1, 3, 4)])


@SANITIZERS
def test_plain_kernels_under_sanitizers(run_kernels) -> None:
    assert_all_pass(run_kernels, [((name, "test_plain"), {"policy": 1}) for name in ("asan", "tsan")])


@SCHEDULES
def test_smooth_fill_under_every_schedule(run_kernels) -> None:
    assert_all_pass(run_kernels, [(("rel", "test_smooth"), {"policy": policy}) for policy in (0, 1, 3, 4)])


@SANITIZERS
def test_smooth_fill_under_sanitizers(run_kernels) -> None:
    assert_all_pass(run_kernels, [((name, "test_smooth"), {"policy": 1}) for name in ("asan", "tsan")])


@MORE_CASES
def test_the_decoders_stage_in_every_case(run_kernels) -> None:
    rel, some = ("rel", "test_upcat", "--dtypes"), ("--only", STAGES)
    calls = [((*rel, "bf16"), {})]
    calls += [((*rel, names, "--quick"), {}) for names in ("f16", "f32", "tf32")]
    calls += [((*rel, names, *some), {}) for names in ("f16,f64", "f32,tf32")]
    # 99 KiB a block: the plan leaves out the tiles that do not fit.
    little = (*rel, "bf16,f16,tf32", "--quick", "--shared", "101376", "--only", "ragged,patches,tiles_of_128")
    calls.append((little, {"EMU_SHARED_LIMIT": "101376"}))
    calls += [((*rel, names, "--quick", "--arch", "90"), {}) for names in HALVES]
    assert_all_pass(run_kernels, calls)


@SCHEDULES
def test_the_decoders_stage_under_every_schedule(run_kernels) -> None:
    base = ("rel", "test_upcat", "--quick", "--dtypes")
    calls = [((*base, "bf16,tf32", "--only", STAGES), {"policy": policy}) for policy in (0, 1, 3, 4)]
    assert_all_pass(run_kernels, [*calls, ((*base, "f16", "--arch", "90"), {"policy": 1})])


@SANITIZERS
def test_the_decoders_stage_under_sanitizers(run_kernels) -> None:
    asan, tsan = (("--quick", "--only", only, "--dtypes") for only in (STAGES, "ragged"))
    calls = [(("asan", "test_upcat", *asan, names), {"policy": 1}) for names in ("bf16", "tf32,f64")]
    calls.append((("tsan", "test_upcat", *tsan, "bf16"), {"policy": 1}))
    for variant, only in (("asan", "many_filters,tiles_of_128"), ("tsan", "many_filters")):
        wgmma = ("--arch", "90", "--quick", "--dtypes", "bf16", "--only", only)
        calls.append(((variant, "test_upcat", *wgmma), {"policy": 1}))
    assert_all_pass(run_kernels, calls)


@MORE_CASES
def test_the_decoders_stage_backward_in_every_case(run_kernels) -> None:
    name = "test_upcat_backward"
    calls = [(("rel", name, "--quick", "--dtypes", names), {}) for names in ("bf16", "tf32")]
    calls.append((("rel", name, "--dtypes", "bf16", "--only", STAGES), {}))
    calls.append(
        (("rel", name, "--quick", "--arch", "90", "--dtypes", "bf16", "--only", "ragged,tiles_of_128,many_filters"), {})
    )
    assert_all_pass(run_kernels, calls)


FEW = ("test_upcat_backward", "--quick", "--dtypes", "bf16,f32", "--only", STAGES)


@SCHEDULES
def test_the_decoders_stage_backward_under_every_schedule(run_kernels) -> None:
    assert_all_pass(run_kernels, [(("rel", *FEW), {"policy": policy}) for policy in (0, 1, 3, 4)])


@SANITIZERS
def test_the_decoders_stage_backward_under_sanitizers(run_kernels) -> None:
    tsan = ("tsan", "test_upcat_backward", "--quick", "--dtypes", "bf16", "--only", "odd_channels")
    assert_all_pass(run_kernels, [(("asan", *FEW), {"policy": 1}), (tsan, {"policy": 1})])


def test_a_driver_that_runs_no_case_fails(run_kernels) -> None:
    assert run_kernels("rel", "operators", "--only", "no_such_case").returncode == 1
    assert run_kernels("rel", "test_upcat", "--only", "no_such_case").returncode == 1
    assert run_kernels("rel", "test_upcat_backward", "--only", "no_such_case").returncode == 1
    assert run_kernels("rel", "test_plain", "no_such_part").returncode == 1
    assert run_kernels("rel", "test_smooth", "no_such_part").returncode == 1


def test_every_instantiation_ran(run_kernels, coverage_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tests above leave the list of what ran; where they were not selected, what is missing runs here."""
    if coverage.never_ran(coverage_folder)[0] or not coverage.never_ran(coverage_folder)[1]:
        assert_all_pass(run_kernels, [call for calls in SHORT.values() for call in calls])
    missing, total = coverage.never_ran(coverage_folder)
    with capsys.disabled():
        print(f"\n{total - len(missing)} of {total} kernel instantiations ran emulated")
    assert total > 80 and not missing, "\n".join(missing)


# Planted mistakes -------------------------------------------------------------------------------------------------


MISTAKES = rewrites.read_tables()


def plants() -> list:
    """Each mistake with each build that has to catch it; the short tier has one mistake of each source."""
    found, files = [], set()
    for mistake in MISTAKES:
        driver = mistake.part if mistake.part == "test_edge_layers" else DRIVER_OF.get(mistake.table, "operators")
        arch = "90" if mistake.table.endswith("wgmma") else "80"
        for variant in mistake.builds:
            short = variant == "rel" and mistake.file not in files
            files |= {mistake.file} if short else set()
            name = f"{mistake.id}-{mistake.file}-{mistake.what}-{variant}".replace(" ", "_")
            values = (driver, arch, mistake.id, mistake.part, mistake.what, variant)
            found.append(pytest.param(*values, id=name, marks=() if short else MORE_MISTAKES))
    return found


CAUGHT: dict[tuple[int, str], list[str]] = defaultdict(list)


@pytest.fixture(scope="session")
def plant_runs(request: pytest.FixtureRequest, run_kernels) -> Iterator[dict[tuple[int, str], Future[bool]]]:
    """Whether each selected build catches its mistake; several run at a time, in the tests' order."""

    def catches(driver: str, arch: str, number: int, part: str, mistake: str, variant: str) -> bool:
        for_operators = ["--quick", "--dtypes", "bf16", "--only", part, "--arch", arch]
        own = {"operators": for_operators, "test_plain": [part], "test_smooth": [part], "test_edge_layers": []}
        others = ["--dtypes", "bf16", "--only", part, *(["--arch", "90"] if arch == "90" else [])]
        return run_kernels(variant, driver, *own.get(driver, others), plant=number).returncode != 0

    own_items = [item for item in request.session.items if item.path == Path(__file__)]
    selected = [item.callspec.params for item in own_items if item.originalname == PLANT_TEST]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {(one["number"], one["variant"]): pool.submit(catches, **one) for one in selected}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("driver", "arch", "number", "part", "mistake", "variant"), plants())
def test_a_planted_mistake_is_caught(plant_runs, driver, arch, number, part, mistake, variant) -> None:
    assert plant_runs[number, variant].result(), f"not caught by {variant}"
    CAUGHT[number, mistake].append(variant)


def test_table_of_planted_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    if not CAUGHT:
        pytest.skip("no planted mistake was run")
    with capsys.disabled():
        print(f"\n{'id':>4}  {'caught by':<18} mistake")
        for (number, mistake), caught in sorted(CAUGHT.items()):
            print(f"{number:>4}  {', '.join(caught):<18} {mistake}")
