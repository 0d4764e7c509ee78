"""setup.py run inside the test process: an interpreter of its own would first import torch, for seconds each."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("PCONV_CUDA", "PCONV_ISA", "TORCH_CUDA_ARCH_LIST", "PYTORCH_NVCC", "TORCH_DONT_CHECK_COMPILER_ABI")

__all__ = ["run_setup"]


def run_setup(*words: str, torch_cuda: str | None = torch.version.cuda, **environment: str) -> SimpleNamespace:
    """Exit code, output and errors of ``setup.py words`` under a torch for this CUDA. What it changes is put back."""
    from torch.utils import cpp_extension

    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    root, out, err, code = logging.getLogger(), io.StringIO(), io.StringIO(), 0
    handlers, level, here = [*root.handlers], root.level, Path.cwd()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {**kept, **environment}, clear=True))
        stack.enter_context(mock.patch.object(sys, "argv", ["setup.py", *words]))
        stack.enter_context(mock.patch.object(sys, "path", [str(ROOT), *sys.path]))
        stack.enter_context(mock.patch.object(torch.version, "cuda", torch_cuda))
        stack.enter_context(mock.patch.object(cpp_extension, "CUDA_HOME", cpp_extension.CUDA_HOME))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # setuptools'
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        os.chdir(ROOT)
        try:
            runpy.run_path("setup.py")
        except SystemExit as stop:  # a message is printed, and exit code 1
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            err.write(f"{stop.code}\n")
        finally:
            os.chdir(here)
            root.handlers[:] = handlers  # setuptools sets up logging
            root.setLevel(level)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())
