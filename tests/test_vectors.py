"""The CPU's loops are vectors for AVX2 wherever they are for AVX-512: as g++ says of the shipped flags."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[1]
CPU = ROOT / "csrc" / "cpu"
FILES = ("renormalise", "planes", "upcat", "masked_copy")

pytestmark = [
    pytest.mark.full("loops that are vectors"),
    pytest.mark.skipif(shutil.which("g++") is None or platform.machine() != "x86_64", reason="no g++ for x86_64 here"),
]


def flags() -> list[str]:
    """What setup.py compiles with; its last line, which builds, is left out."""
    path = ROOT / "setup.py"
    names: dict[str, Any] = {"__file__": str(path), "__name__": "setup"}
    exec(compile(path.read_text().removesuffix("main()\n"), str(path), "exec"), names)
    return names["compiler_flags"]()


def vectorised(source: Path, isa: str, options: list[str]) -> set[str]:
    """Places of the loops that the compiler made vectors of, without the columns."""
    includes = [f"-I{place}" for place in cpp_extension.include_paths()]
    command = ["g++", *options, f"-DPCONV_ISA_{isa}", *includes, "-fopt-info-vec-optimized", "-c", str(source)]
    result = subprocess.run([*command, "-o", "/dev/null"], capture_output=True, text=True, check=True)
    return set(re.findall(rf"{CPU}/([\w.]+:\d+):\d+: optimized: loop vectorized", result.stderr))


def narrow_loops(options: list[str]) -> dict[str, set[str]]:
    """Loops that are vectors for AVX-512 alone, by file."""
    sources = {name: CPU / f"{name}.cpp" for name in FILES}
    return {
        name: vectorised(path, "AVX512", options) - vectorised(path, "AVX2", options) for name, path in sources.items()
    }


def test_loops_are_vectors_for_avx2_too() -> None:
    found = {name: loops for name, loops in narrow_loops(flags()).items() if loops}
    assert not found
    assert len(vectorised(CPU / "renormalise.cpp", "AVX2", flags())) >= 8


def test_the_check_catches_a_loop_of_scalars() -> None:
    """Without the flag, conditions on a product stay branches: a renormalisation took nine times as long."""
    without = [flag for flag in flags() if flag != "-fno-trapping-math"]
    assert without != flags()
    found = narrow_loops(without)
    assert found["renormalise"] and found["planes"] and found["upcat"]
