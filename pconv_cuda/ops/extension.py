"""Loads the compiled operators, or raises with the remedy."""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from types import ModuleType

import torch

from pconv_cuda.ops import tf32

__all__ = ["cuda_module", "cuda_remedy", "load", "no_cuda_reason"]

_module: ModuleType | None = None
_cuda_module: ModuleType | None = None
_cuda_error = ""  # what the loader said of a _C_cuda that is there


def load() -> ModuleType:
    """Import ``pconv_cuda._C``, which registers schemas and CPU kernels. Raises ImportError with the remedy."""
    global _module
    if _module is None:
        try:
            _module = importlib.import_module("pconv_cuda._C")
        except ModuleNotFoundError as error:
            raise ImportError(
                "pconv_cuda: the compiled extension pconv_cuda._C was not found; build it with "
                "'pip install --no-build-isolation .' in the source folder (a source folder on sys.path hides an "
                "installed package: there, 'pip install --no-build-isolation -e .')"
            ) from error
        except ImportError as error:  # a symbol or a library is missing: another torch, another Python
            raise ImportError(
                f"pconv_cuda: the compiled extension does not fit torch {torch.__version__} ({error}); it needs torch "
                "2.11 or later: rebuild it with 'pip install --no-build-isolation --force-reinstall --no-deps .'"
            ) from error
        _load_cuda()
    return _module


def cuda_module() -> ModuleType | None:
    """``pconv_cuda._C_cuda``, or None where this build has no CUDA kernels or torch no CUDA."""
    return _cuda_module


def no_cuda_reason() -> str:
    """Why :func:`cuda_module` is None; empty where it is not."""
    if _cuda_module is not None:
        return ""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if _cuda_error:
        version = _other_cuda()
        if version:
            return (
                f"the CUDA kernels were built for CUDA {version}, torch {torch.__version__} for CUDA "
                f"{torch.version.cuda} ({_cuda_error})"
            )
        return f"the CUDA kernels do not fit torch {torch.__version__}: {_cuda_error}"
    # Empty where the build had kernels and their file is missing now.
    return load().build_info()["no_cuda"] or "the file pconv_cuda/_C_cuda*.so of this build is missing"


def cuda_remedy() -> str:
    """What gives this torch, which has CUDA, kernels."""
    release = (torch.version.cuda or "").split(".")[0]
    build = (
        f"with the toolkit of CUDA {release} (nvcc), in the source folder: "
        "PCONV_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps ."
    )
    version = _other_cuda()
    if not version:
        return build
    return f"install the wheel +cu{release} instead of +cu{version}, or a torch for CUDA {version}; or build {build}"


def _other_cuda() -> str:
    """The major version of the CUDA runtime that the kernels need and did not find, where torch has another one."""
    needed = re.search(r"libcudart\.so\.(\d+)", _cuda_error)
    return needed[1] if needed and needed[1] != (torch.version.cuda or "").split(".")[0] else ""


def _load_cuda() -> None:
    """Registers the CUDA kernels. Where they do not load, everything else still works: a warning, then the fallback."""
    global _cuda_module, _cuda_error
    if torch.version.cuda is None or importlib.util.find_spec("pconv_cuda._C_cuda") is None:
        return
    try:
        _cuda_module = importlib.import_module("pconv_cuda._C_cuda")
    except ImportError as error:
        _cuda_error = str(error)
        warnings.warn(
            f"pconv_cuda: {no_cuda_reason()}; CUDA tensors are served by the unfused reference. "
            f"Remedy: {cuda_remedy()}",
            stacklevel=2,
        )
        return
    _cuda_module.set_tf32_reader(tf32.tf32_allowed)
    _cuda_module.set_family_checker(_is_right)


def _is_right(family: int, dtype: int, device: int) -> bool:
    from pconv_cuda import selftest

    return selftest.is_right(family, dtype, device)
