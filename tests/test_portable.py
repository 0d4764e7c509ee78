"""The CPU part compiles for macOS and for Windows, where nothing of it has run: clang with the headers of both."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from torch.utils import cpp_extension

pytest.importorskip("ziglang", reason="ziglang is not installed")
ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
# Python's own headers are those of this system, which Windows has none of.
PATTERNS = {
    "aarch64-macos": (
        "cpu/*.cpp",
        "torch/ops_cpu*.cpp",
        "torch/module.cpp",
        "torch/module_plan.cpp",
        "cuda/plan/*.cpp",
    ),
    "x86_64-windows-gnu": ("cpu/*.cpp", "torch/ops_cpu*.cpp", "cuda/plan/*.cpp"),
}


def compiled(source: Path, target: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "pconv_build.h").write_text('#define PCONV_NO_CUDA_REASON "none"\n')
    places = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
    return subprocess.run(
        [sys.executable, "-m", "ziglang", "c++", "-target", target, "-std=c++17", "-O0", "-Wall", f"-I{folder}",
         *(f"-isystem{place}" for place in places), '-DPCONV_BUILT_WITH_TORCH="none"', "-DTORCH_EXTENSION_NAME=_C",
         "-c", str(source), "-o", str(folder / f"{source.stem}.o")],
        capture_output=True, text=True, env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(folder / "cache")},
    )  # fmt: skip


@pytest.mark.full("the CPU part compiled for other systems")
@pytest.mark.parametrize("target", PATTERNS)
def test_every_file_compiles(target: str, tmp_path: Path) -> None:
    sources = sorted(path for pattern in PATTERNS[target] for path in CSRC.glob(pattern))
    assert len(sources) > 20
    for source in sources:
        result = compiled(source, target, tmp_path)
        assert result.returncode == 0, f"{source.name}: {result.stderr}"


@pytest.mark.full("the CPU part compiled for other systems")
@pytest.mark.parametrize("target", PATTERNS)
def test_a_file_of_one_system_is_caught(target: str, tmp_path: Path) -> None:
    source = tmp_path / "linux.cpp"
    source.write_text("#include <sys/epoll.h>\n")
    assert "sys/epoll.h" in compiled(source, target, tmp_path).stderr
