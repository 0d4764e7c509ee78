"""Partial convolution (Liu et al., ECCV 2018) as fused kernels, and inpainting built on it.

Importing the package registers the operators ``torch.ops.pconv_cuda.*``; everything else is
imported when it is first used (PEP 562), so that ``import pconv_cuda`` costs little more than
``import torch``.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pconv_cuda.export import export_onnx as export_onnx
    from pconv_cuda.export import export_program as export_program
    from pconv_cuda.inpainting import inpaint as inpaint
    from pconv_cuda.losses import InpaintingLoss as InpaintingLoss
    from pconv_cuda.models import FillRefiner as FillRefiner
    from pconv_cuda.models import PConvUNet as PConvUNet
    from pconv_cuda.nn import PartialConv2d as PartialConv2d
    from pconv_cuda.nn import PartialConvUpCat2d as PartialConvUpCat2d

# public name -> the module that defines it
_LAZY = {
    "PartialConv2d": "pconv_cuda.nn",
    "PartialConvUpCat2d": "pconv_cuda.nn",
    "FillRefiner": "pconv_cuda.models",
    "PConvUNet": "pconv_cuda.models",
    "InpaintingLoss": "pconv_cuda.losses",
    "export_onnx": "pconv_cuda.export",
    "export_program": "pconv_cuda.export",
    "inpaint": "pconv_cuda.inpainting",
}
_SUBMODULES = ("backends", "data", "functional", "inpainting", "losses", "models", "nn", "ops", "reference", "training")

__all__ = [
    "InpaintingLoss",
    "FillRefiner",
    "PConvUNet",
    "PartialConv2d",
    "PartialConvUpCat2d",
    "__version__",
    "export_onnx",
    "export_program",
    "inpaint",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_SUBMODULES})


def _is_command() -> bool:
    """True while the command line starts: ``pconv --help`` must not wait for torch.

    Verbs import what they need, which registers the operators then.
    """
    if os.path.basename(sys.argv[0] if sys.argv else "") in ("pconv", "pconv.exe"):
        return True
    arguments = iter(sys.orig_argv[1:])
    for argument in arguments:  # the interpreter's own options end at the program: -m, -c or a file
        if argument == "-m":
            return next(arguments, "").partition(".")[0] == __name__
        if argument in ("-W", "-X"):
            next(arguments, None)
        elif argument == "-c" or not argument.startswith("-"):
            break
    return False


if not _is_command():
    importlib.import_module("pconv_cuda._extension")  # first: it says in a sentence what is missing
    importlib.import_module("pconv_cuda.ops")
    importlib.import_module("pconv_cuda.ops_smooth")
