"""The CUDA operators' glue (csrc/torch/ops_cuda*.cpp) around emulated kernels, as operators of torch on the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from emulation import build

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
TORCH = Path(torch.__file__).parent


pytestmark = [
    pytest.mark.skipif(shutil.which(build.COMPILER) is None, reason=f"no {build.COMPILER}"),
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="session")
def library(build_folder: Path) -> Path:
    kernels = [*sorted((CSRC / "kernels").glob("*.cu")), *sorted((CSRC / "kernels").glob("*.cpp"))]
    return build.build(
        "rel",
        build_folder,
        [*sorted((CSRC / "torch").glob("ops_cuda*.cpp")), CSRC / "torch" / "unfused.cpp", *kernels],
        shared=True,
        extra=[f"-I{TORCH / 'include'}"],
        libraries=[f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10", f"-Wl,-rpath,{TORCH / 'lib'}"],
    )


@pytest.mark.parametrize(
    "tier", [None, pytest.param("--only-full", marks=pytest.mark.full("the operators' glue in more cases"))]
)
@pytest.mark.parametrize("checks", ["glue_checks.py", "glue_checks_upcat.py"])
def test_the_glue_on_emulated_kernels(library: Path, checks: str, tier: str | None) -> None:
    """In a process of its own: the emulator ends the process where a kernel is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / checks), *([tier] if tier else [])],
        capture_output=True,
        text=True,
        env={**os.environ, "PCONV_EMULATED_LIBRARY": str(library)},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout


def test_a_launch_that_fails_names_kernel_and_geometry(library: Path) -> None:
    code = (
        f"import torch; torch.ops.load_library({str(library)!r})\n"
        "x, w, window = torch.zeros(1, 8, 9, 11), torch.zeros(16, 8, 3, 3), [[1, 1], [1, 1], [1, 1]]\n"
        "torch.ops.pconv_emulated.partial_conv2d(x, None, [], w, None, *window, 1)"
    )
    # A device whose blocks may have no more shared memory than this refuses the launch.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "EMU_SHARED_LIMIT": "20000"}
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "launching fprop 64x64 fp32 failed" in last and "invalid argument" in last, done.stderr
    assert "input 1x8x9x11, weight 16x8x3x3" in last
