"""The CUDA extension as it was built: it loads without a GPU, spills nothing, and multiplies on tensor cores."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import cuda_objects
import pytest
import torch
from cuda_objects import ARCHITECTURES

ROOT = Path(__file__).parents[1]
built = importlib.util.find_spec("pconv_cuda._C_cuda") if torch.version.cuda else None
MORE = pytest.mark.full("machine code of more kernels")
needs_build = pytest.mark.skipif(built is None, reason="built without CUDA kernels")


def by_tier(names: Sequence[str], short: str) -> list:
    """All of them, of which one is in the short tier."""
    assert short in names
    return [pytest.param(name, marks=() if name == short else MORE) for name in names]


@needs_build
def test_the_extension_loads_without_a_gpu() -> None:
    module = importlib.import_module("pconv_cuda._C_cuda")
    assert module.architectures.split(";")[0].startswith("8.0")
    assert module.cuda.split(".")[0] == (torch.version.cuda or "").split(".")[0]
    # Registered: the dispatcher has a CUDA kernel of its own for each operator, beside the fallback.
    for name in ("partial_conv2d", "partial_conv2d_backward", "upcat_phases"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pconv_cuda::{name}", "CUDA")


@needs_build
@pytest.mark.parametrize(
    ("arch", "of_each_rule"), [("sm_90a", 2), *(pytest.param(arch, None, marks=MORE) for arch in ARCHITECTURES)]
)
def test_no_kernel_spills_and_tensor_cores_are_used(arch: str, of_each_rule: int | None) -> None:
    if cuda_objects.cuobjdump() is None:
        pytest.skip("no cuobjdump")
    errors, kernels = cuda_objects.inspect(Path(built.origin), [arch], of_each_rule)
    assert not errors, "\n".join(errors)
    assert kernels >= 4 * 80


USAGE = """
arch = sm_80
 Function gemm_kernelINS_4Bf16EE:
  REG:225 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:984
 Function _GLOBAL__N__1914e5c0_9_plain_cu_4ecc_plain_kernel:
  REG:44 STACK:0 SHARED:1024 LOCAL:0
"""
EVERYWHERE = "".join(USAGE.replace("sm_80", arch) for arch in cuda_objects.ARCHITECTURES)
SASS = {"sm_80": "\t\tFunction : gemm_kernelINS_4Bf16EE\n HMMA.16816.F32 R0 ;\n LDSM.16.M88.4 R4 ;\n LDGSTS.E [R1] ;\n"}


def test_the_inspection_finds_planted_mistakes() -> None:
    def found(usage: str = EVERYWHERE, sass: dict[str, str] = SASS) -> str:
        return "\n".join(cuda_objects.problems(usage, sass)[0])

    assert found() == ""
    assert "spills" in found(EVERYWHERE.replace("STACK:0", "STACK:16", 1))
    assert "nothing was compiled for sm_120" in found(EVERYWHERE.replace("sm_120", "sm_89"))
    assert "is missing" in found(EVERYWHERE.replace("plain_kernel", "other_kernel", 1))
    for word in ("HMMA", "LDSM", "LDGSTS"):
        assert f"has no {word}" in found(sass={"sm_80": SASS["sm_80"].replace(word, "NOP")})
    assert "no tensor-core kernel" in found(sass={"sm_80": "\t\tFunction : plain_kernel\n NOP\n"})


WGMMA = sorted(path.name for path in (ROOT / "csrc" / "cuda" / "sm90").glob("*.cu"))


@needs_build
@pytest.mark.parametrize("source", by_tier(WGMMA, "sm90_fprop.cu"))
def test_ptxas_does_not_serialise_wgmma(source: str, tmp_path: Path) -> None:
    """C75xx is how ptxas says that it puts a wait after every wgmma: correct, and several times slower."""
    said = subprocess.run(
        ["nvcc", "-std=c++17", "-O3", "-arch=sm_90a", f"-I{ROOT / 'csrc'}", "-Xptxas", "-v", "-cubin"]
        + [str(ROOT / "csrc" / "cuda" / "sm90" / source), "-o", str(tmp_path / "object.cubin")],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert "registers" in said.stderr, "ptxas said nothing"
    assert not re.search(r"C75\d\d", said.stderr), said.stderr


def test_no_torch_header_on_the_kernels_side_of_the_border() -> None:
    sources = [path for path in (ROOT / "csrc" / "cuda").rglob("*") if path.suffix in (".h", ".cuh", ".cu", ".cpp")]
    assert len(sources) > 20
    for path in [*sources, ROOT / "csrc" / "geometry.h", ROOT / "csrc" / "cpu" / "kernels.h"]:
        assert not re.search(r'#include *[<"](torch|ATen|c10)/', path.read_text()), path


def sources_of(path: Path, found: set[Path] | None = None) -> set[Path]:
    """A source and all that it includes from csrc."""
    found = {path} if found is None else found | {path}
    for name in re.findall(r'#include "(.+)"', path.read_text()):
        included = (path.parent / name).resolve()
        if included.is_file() and included not in found:
            found |= sources_of(included, found)
    return found


def test_only_files_named_sm90_tell_architectures_apart() -> None:
    """The others are compiled to PTX once for several architectures (setup_cuda.with_shared_ptx)."""
    kernels = sorted((ROOT / "csrc" / "cuda").rglob("*.cu"))
    telling = [path.name for path in kernels if any("__CUDA_ARCH" in one.read_text() for one in sources_of(path))]
    assert telling == WGMMA
