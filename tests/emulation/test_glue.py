"""The CUDA operators' glue (csrc/torch/ops_cuda*.cpp) around emulated kernels, as operators of torch on the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from emulation import build

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
TORCH = Path(torch.__file__).parent
GLUE_TEST = "test_the_glue_on_emulated_kernels"
MORE = pytest.mark.full("the operators' glue in more cases")
WITH_MORE = ["glue_checks_upcat.py", "glue_checks.py", "glue_checks_smooth.py"]  # cases in the full tier
CHECKS = [*WITH_MORE, "glue_checks_families.py", "glue_checks_windows.py"]


pytestmark = [
    pytest.mark.skipif(shutil.which(build.COMPILER) is None, reason=f"no {build.COMPILER}"),
    pytest.mark.timeout(1200),
]


def as_shipped(config: pytest.Config) -> bool:
    return bool(config.getoption("--full") or config.getoption("--only-full"))


@pytest.fixture(scope="session")
def library(build_folder: Path, pytestconfig: pytest.Config) -> Path:
    # The short tier takes the drivers' objects, in which the planted mistakes are asleep; the full tier compiles the
    # kernels once more, as they ship.
    kernels = [*sorted((CSRC / "cuda").rglob("*.cu")), *sorted((CSRC / "cuda").rglob("*.cpp"))]
    return build.build(
        "rel",
        build_folder,
        [*sorted((CSRC / "torch").glob("ops_cuda*.cpp")), *kernels],
        planted=not as_shipped(pytestconfig),
        shared=True,
        extra=[f"-I{TORCH / 'include'}"],
        libraries=[f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10", f"-Wl,-rpath,{TORCH / 'lib'}"],
    )


@pytest.fixture(scope="session")
def glue_runs(request: pytest.FixtureRequest, library: Path) -> Iterator[dict[tuple[str, ...], Future]]:
    """The selected checks, several at a time, each in a process: the emulator ends it where a kernel is wrong."""

    def run(checks: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / checks), *options]
        environment = {**os.environ, "PCONV_EMULATED_LIBRARY": str(library)}
        if not as_shipped(request.config):
            environment["PCONV_PLANTED_LIBRARY"] = "1"
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    selected = [item.callspec.params["checks"] for item in request.session.items if item.originalname == GLUE_TEST]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {checks: pool.submit(run, *checks) for checks in selected}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "checks",
    [*((name,) for name in CHECKS), *(pytest.param((name, "--only-full"), marks=MORE) for name in WITH_MORE)],
    ids=" ".join,
)
def test_the_glue_on_emulated_kernels(glue_runs, checks: tuple[str, ...]) -> None:
    done = glue_runs[checks].result()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout


def test_a_launch_that_fails_names_kernel_and_geometry(library: Path) -> None:
    code = (
        f"import torch; torch.ops.load_library({str(library)!r})\n"
        "x, w, window = torch.zeros(1, 8, 9, 11), torch.zeros(16, 8, 3, 3), [[1, 1], [1, 1], [1, 1]]\n"
        "torch.ops.pconv_emulated.partial_conv2d(x, None, None, None, w, None, *window, 1)"
    )
    # A device whose blocks may have no more shared memory than this refuses the launch.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "EMU_SHARED_LIMIT": "20000"}
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "launching fprop 64x64 failed" in last and "invalid argument" in last, done.stderr
    assert "input 1x8x9x11, weight 16x8x3x3" in last
