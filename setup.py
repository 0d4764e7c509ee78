"""Builds the extensions with torch's own build helpers and ninja. Everything else is in pyproject.toml.

_C holds schemas and CPU kernels and links nothing of CUDA, so that it loads on a CPU-only torch too; _C_cuda holds the
CUDA kernels and is built where torch was made for CUDA and an nvcc of its major version compiles (PCONV_CUDA=auto|0|1;
setup_cuda.py decides). No GPU is needed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.resolve()))  # pip runs this file without its folder on the path

import setup_cuda  # noqa: E402
from setup_cuda import stop  # noqa: E402


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


# Extensions -----------------------------------------------------------------------------------------------------


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / "csrc").glob(pattern))


def macros(torch) -> list[tuple[str, str | None]]:
    result: list[tuple[str, str | None]] = [("PCONV_BUILT_WITH_TORCH", f'"{torch.__version__}"')]
    isa = os.environ.get("PCONV_ISA", "auto")
    if isa not in ("auto", "baseline", "avx2", "avx512"):
        stop(f"PCONV_ISA: expected auto, baseline, avx2 or avx512, got {isa!r}")
    if isa != "auto" and sys.platform == "win32":
        stop(f"PCONV_ISA: expected auto with this compiler, got {isa!r}")
    if isa != "auto":
        result.append((f"PCONV_ISA_{isa.upper()}", None))
    return result


def compiler_flags() -> list[str]:
    if sys.platform == "win32":  # 4068: pragmas of other compilers
        return ["/O2", "/std:c++17", "/utf-8", "/W3", "/wd4068"]
    # Error messages carry file names; they need not carry the folder of whoever built this. Python's own flags ask for
    # debug information, which takes a quarter of the time and most of the extension's size.
    flags = ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-Wall", f"-ffile-prefix-map={ROOT.resolve()}/="]
    # g++ assumes that floating point may trap, and then makes vectors of `valid ? x * ratio : 0` for AVX-512 alone.
    # Values are the same without.
    return [*flags, "-fno-trapping-math"]


def extensions(torch, cpp_extension, cuda: setup_cuda.Cuda | None):
    headers = sources("**/*.h", "**/*.cuh")
    cxx = compiler_flags()
    cpu = cpp_extension.CppExtension(
        "pconv_cuda._C",
        sources("cpu/*.cpp", "torch/ops_cpu*.cpp", "torch/module.cpp", "torch/module_plan.cpp", "cuda/plan/*.cpp"),
        depends=headers,
        define_macros=macros(torch),
        extra_compile_args=cxx,
    )
    if cuda is None:
        return [cpu]
    built_for: list[tuple[str, str | None]] = [("PCONV_ARCHITECTURES", f'"{";".join(cuda.architectures)}"')]
    if any(entry.startswith("9.0a") for entry in cuda.architectures):
        built_for.append(("PCONV_BUILT_FOR_SM90A", None))
    nvcc = ["-O3", "-std=c++17", "--diag-suppress=177", *setup_cuda.gencode(cuda.architectures)]
    kernels = cpp_extension.CUDAExtension(
        "pconv_cuda._C_cuda",
        sources("cuda/**/*.cu", "cuda/**/*.cpp", "torch/ops_cuda*.cpp", "torch/module_cuda.cpp"),
        depends=headers,
        define_macros=[*macros(torch), ("USE_CUDA", None), *built_for],
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
    )
    return [cpu, kernels]


def write_if_changed(path: Path, text: str) -> None:
    """An unchanged header keeps its time, and nothing is compiled again for it."""
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main() -> None:
    torch = find_torch()
    cuda, reason = setup_cuda.choose(torch)
    if cuda is not None:
        os.environ["CUDA_HOME"] = str(cuda.home)  # read when cpp_extension is imported
        # A trial compile has accepted this compiler; torch's table of versions knows no nvcc flags of the user's.
        os.environ.setdefault("TORCH_DONT_CHECK_COMPILER_ABI", "1")
        os.environ.setdefault("PYTORCH_NVCC", setup_cuda.nvcc_command(cuda.home))  # unless the user has ccache there
    from torch.utils import cpp_extension

    if cuda is not None:
        cpp_extension.CUDA_HOME = str(cuda.home)  # it may have been imported, and have guessed, before us

    class Build(cpp_extension.BuildExtension):
        def run(self):
            # pip hides what a build prints, so the reason is compiled in, for `pconv info`. It stands in a header
            # because setuptools rebuilds for a newer header, and not for a changed macro.
            header = Path(self.build_temp).resolve() / "generated" / "pconv_build.h"
            plain = "".join(letter for letter in " ".join(reason.split()) if letter.isascii() and letter.isprintable())
            write_if_changed(header, f"#define PCONV_NO_CUDA_REASON {json.dumps(plain)}\n")
            module = next(one for one in self.extensions if one.name == "pconv_cuda._C")
            module.include_dirs.append(str(header.parent))
            module.depends = [*module.depends, str(header)]
            super().run()
            built = f"none ({reason})"
            if cuda is not None:
                changes = f" ({cuda.changes})" if cuda.changes else ""
                built = f"for {';'.join(cuda.architectures)}{changes}"
            print(f"pconv_cuda: built the CPU operators against torch {torch.__version__}; CUDA kernels: {built}")

    setup(
        ext_modules=extensions(torch, cpp_extension, cuda),
        cmdclass={"build_ext": Build.with_options(use_ninja=True)},
    )


main()
