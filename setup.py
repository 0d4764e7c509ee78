"""Builds the extensions with torch's own build helpers and ninja. Everything else is in pyproject.toml.

_C holds schemas and CPU kernels and links nothing of CUDA, so that it loads on a CPU-only torch too; _C_cuda holds the
CUDA kernels and is built where torch was made for CUDA and an nvcc is found (PCONV_CUDA=auto|0|1). No GPU is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
# sm_80 kernels run on everything from Ampere on (8.6 and 8.9 through 8.0's binary, later ones through its PTX).
ARCHITECTURES = ["8.0+PTX", "9.0a", "10.0", "12.0"]


def stop(message: str) -> None:
    sys.exit(f"pconv_cuda: {message}")


def find_torch():
    try:
        import torch
    except ImportError as error:
        stop(
            f"building needs torch 2.11 or later in this environment ({error}); install torch first, "
            "then run: pip install --no-build-isolation ."
        )
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < (2, 11):
        stop(f"building needs torch 2.11 or later, found {torch.__version__}; upgrade torch first")
    return torch


# CUDA -----------------------------------------------------------------------------------------------------------


def nvcc_candidates() -> list[Path]:
    """CUDA_HOME, an nvcc on PATH, the usual places, and the wheel nvidia-cuda-nvcc."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    found = [Path(home) / "bin" / "nvcc" for home in homes if home]
    on_path = shutil.which("nvcc")
    found += [Path(on_path)] if on_path else []
    found += [Path("/usr/local/cuda/bin/nvcc"), Path("/opt/cuda/bin/nvcc")]
    found += [path for entry in sys.path for path in Path(entry or ".").glob("nvidia/c*/bin/nvcc")]
    return [path for path in found if path.is_file()]


def cuda_home(nvcc: Path) -> Path | None:
    """Where this nvcc's toolkit lies. It is asked: an nvcc on PATH may be a script that stands somewhere else."""
    answer = subprocess.run([nvcc, "--dryrun", "any.cu"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", answer.stderr + answer.stdout, re.MULTILINE)
    home = Path(top.group(1)).resolve() if top else nvcc.resolve().parents[1]
    return home if (home / "include" / "cuda_runtime_api.h").is_file() else None


def find_cuda(torch) -> tuple[Path | None, str]:
    """The toolkit's folder, or None and the reason."""
    if torch.version.cuda is None:
        return None, "this torch was built without CUDA"
    seen = []
    for nvcc in nvcc_candidates():
        home = cuda_home(nvcc)
        version = re.search(
            r"release (\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        )
        if home is None or version is None:
            seen.append(f"{nvcc} has no toolkit around it")
        elif version.group(1) != torch.version.cuda.split(".")[0]:
            seen.append(f"{nvcc} is CUDA {version.group(1)}, torch was built for {torch.version.cuda}")
        else:
            return home, ""
    return None, "; ".join(seen) or f"no nvcc was found; install the CUDA {torch.version.cuda} toolkit or set CUDA_HOME"


def known_architectures(home: Path) -> list[str]:
    """Of ARCHITECTURES those that this nvcc can compile for."""
    codes = subprocess.run([home / "bin" / "nvcc", "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    return [arch for arch in ARCHITECTURES if "sm_" + re.sub(r"\D", "", arch.split("+")[0]) in codes]


def choose_cuda(torch) -> tuple[Path | None, str]:
    wish = os.environ.get("PCONV_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        stop(f"PCONV_CUDA: expected auto, 0 or 1, got {wish!r}")
    if wish == "0":
        return None, "PCONV_CUDA=0"
    home, reason = find_cuda(torch)
    if home is None and wish == "1":
        stop(f"PCONV_CUDA=1 asks for CUDA kernels, but {reason}")
    if home is not None:
        # torch reads both while it is imported or asked; without a list and without a GPU it would stop with an error.
        os.environ["CUDA_HOME"] = str(home)
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(known_architectures(home)))
    return home, reason


# Extensions -----------------------------------------------------------------------------------------------------


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / "csrc").glob(pattern))


def macros(torch) -> list[tuple[str, str | None]]:
    result: list[tuple[str, str | None]] = [("PCONV_BUILT_WITH_TORCH", f'"{torch.__version__}"')]
    isa = os.environ.get("PCONV_ISA", "auto")
    if isa not in ("auto", "baseline", "avx2", "avx512"):
        stop(f"PCONV_ISA: expected auto, baseline, avx2 or avx512, got {isa!r}")
    if isa != "auto":
        result.append((f"PCONV_ISA_{isa.upper()}", None))
    return result


def extensions(torch, cpp_extension, with_cuda: bool):
    headers = sources("**/*.h", "**/*.cuh")
    # Error messages carry file names; they need not carry the folder of whoever built this.
    cxx = ["-O3", "-std=c++17", "-fvisibility=hidden", "-Wall", f"-ffile-prefix-map={ROOT.resolve()}/="]
    cpu = cpp_extension.CppExtension(
        "pconv_cuda._C",
        sources("cpu/*.cpp", "torch/ops_cpu*.cpp", "torch/module.cpp", "kernels/plan.cpp"),
        depends=headers,
        define_macros=macros(torch),
        extra_compile_args=cxx,
    )
    if not with_cuda:
        return [cpu]
    archs = os.environ["TORCH_CUDA_ARCH_LIST"]
    cuda = cpp_extension.CUDAExtension(
        "pconv_cuda._C_cuda",
        sources("kernels/*.cu", "kernels/*.cpp", "torch/ops_cuda*.cpp", "torch/unfused.cpp", "torch/module_cuda.cpp"),
        depends=headers,
        define_macros=[*macros(torch), ("USE_CUDA", None), ("PCONV_ARCHITECTURES", f'"{archs}"')],
        extra_compile_args={"cxx": cxx, "nvcc": ["-O3", "-std=c++17", "--diag-suppress=177"]},
    )
    return [cpu, cuda]


def main() -> None:
    torch = find_torch()
    home, reason = choose_cuda(torch)
    from torch.utils import cpp_extension

    if home is not None:
        cpp_extension.CUDA_HOME = str(home)  # it may have been imported, and have guessed, before us

    class Build(cpp_extension.BuildExtension):
        def run(self):
            super().run()
            cuda = f"for {os.environ['TORCH_CUDA_ARCH_LIST']}" if home is not None else f"none ({reason})"
            print(f"pconv_cuda: built the CPU operators against torch {torch.__version__}; CUDA kernels: {cuda}")

    # The headers travel in the wheel too, for whoever builds on the kernels.
    setup(
        headers=sources("**/*.h", "**/*.cuh"),
        ext_modules=extensions(torch, cpp_extension, home is not None),
        cmdclass={"build_ext": Build.with_options(use_ninja=True)},
    )


main()
