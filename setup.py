"""Builds the extension with torch's own build helpers and ninja. Everything else is in pyproject.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def torch_or_one_sentence():
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        sys.exit(
            f"pconv_cuda: building needs torch 2.11 or later in this environment ({error}); install torch first, "
            "then run: pip install --no-build-isolation ."
        )
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < (2, 11):
        sys.exit(f"pconv_cuda: building needs torch 2.11 or later, found {torch.__version__}; upgrade torch first")
    return torch, cpp_extension


def extensions(torch, cpp_extension):
    """_C: schemas and CPU kernels. It links nothing of CUDA, so that it loads on a CPU-only torch too."""
    sources = sorted(
        str(path.relative_to(ROOT)) for folder in ("cpu", "torch") for path in (ROOT / "csrc" / folder).glob("*.cpp")
    )
    macros = [("PCONV_BUILT_WITH_TORCH", f'"{torch.__version__}"')]
    isa = os.environ.get("PCONV_ISA", "auto")
    if isa not in ("auto", "baseline", "avx2", "avx512"):
        sys.exit(f"pconv_cuda: PCONV_ISA: expected auto, baseline, avx2 or avx512, got {isa!r}")
    if isa != "auto":
        macros.append((f"PCONV_ISA_{isa.upper()}", None))
    return [
        cpp_extension.CppExtension(
            "pconv_cuda._C",
            sources,
            depends=[str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h")],
            define_macros=macros,
            # Error messages carry file names; they need not carry the folder of whoever built this.
            extra_compile_args=["-O3", "-fvisibility=hidden", "-Wall", f"-ffile-prefix-map={ROOT.resolve()}/="],
        )
    ]


def check_cuda_wish() -> None:
    wish = os.environ.get("PCONV_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        sys.exit(f"pconv_cuda: PCONV_CUDA: expected auto, 0 or 1, got {wish!r}")
    if wish == "1":
        sys.exit(
            "pconv_cuda: PCONV_CUDA=1 asks for CUDA kernels, but this version has none yet; leave it at auto: "
            "CUDA tensors are then served by the unfused reference"
        )


def main() -> None:
    check_cuda_wish()
    torch, cpp_extension = torch_or_one_sentence()

    class Build(cpp_extension.BuildExtension):
        def run(self):
            super().run()
            built = f"the CPU operators against torch {torch.__version__}"
            print(f"pconv_cuda: built {built}; CUDA kernels: none in this version")

    # The headers travel in the wheel too, for whoever builds on the kernels.
    headers = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h"))
    setup(
        headers=headers,
        ext_modules=extensions(torch, cpp_extension),
        cmdclass={"build_ext": Build.with_options(use_ninja=True)},
    )


main()
