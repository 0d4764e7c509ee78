"""Partial convolution (Liu et al., ECCV 2018) as fused kernels, and inpainting built on it.

Names are imported at first use (PEP 562), and torch with them. The operators ``torch.ops.pconv_cuda.*`` are
registered with the first of them, or by ``import pconv_cuda.ops``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pconv_cuda.errors import PConvError as PConvError
    from pconv_cuda.export import export_onnx as export_onnx
    from pconv_cuda.export import export_program as export_program
    from pconv_cuda.grids import fill as fill
    from pconv_cuda.inpainting import inpaint as inpaint
    from pconv_cuda.losses import InpaintingLoss as InpaintingLoss
    from pconv_cuda.models import FillRefiner as FillRefiner
    from pconv_cuda.models import PConvUNet as PConvUNet
    from pconv_cuda.nn import PartialConv1d as PartialConv1d
    from pconv_cuda.nn import PartialConv2d as PartialConv2d
    from pconv_cuda.nn import PartialConv3d as PartialConv3d
    from pconv_cuda.nn import PartialConvTranspose1d as PartialConvTranspose1d
    from pconv_cuda.nn import PartialConvTranspose2d as PartialConvTranspose2d
    from pconv_cuda.nn import PartialConvTranspose3d as PartialConvTranspose3d
    from pconv_cuda.nn import PartialConvUpCat2d as PartialConvUpCat2d

# public name -> the module that defines it
_LAZY = {
    "PartialConv1d": "pconv_cuda.nn",
    "PartialConv2d": "pconv_cuda.nn",
    "PartialConv3d": "pconv_cuda.nn",
    "PartialConvTranspose1d": "pconv_cuda.nn",
    "PartialConvTranspose2d": "pconv_cuda.nn",
    "PartialConvTranspose3d": "pconv_cuda.nn",
    "PartialConvUpCat2d": "pconv_cuda.nn",
    "FillRefiner": "pconv_cuda.models",
    "PConvError": "pconv_cuda.errors",
    "PConvUNet": "pconv_cuda.models",
    "InpaintingLoss": "pconv_cuda.losses",
    "export_onnx": "pconv_cuda.export",
    "export_program": "pconv_cuda.export",
    "fill": "pconv_cuda.grids",
    "inpaint": "pconv_cuda.inpainting",
}
_SUBMODULES = (
    "backends",
    "data",
    "documents",
    "errors",
    "flops",
    "functional",
    "inpainting",
    "losses",
    "masks",
    "models",
    "nn",
    "ops",
    "reference",
    "training",
)

__all__ = [
    "InpaintingLoss",
    "FillRefiner",
    "PConvError",
    "PConvUNet",
    "PartialConv1d",
    "PartialConv2d",
    "PartialConv3d",
    "PartialConvTranspose1d",
    "PartialConvTranspose2d",
    "PartialConvTranspose3d",
    "PartialConvUpCat2d",
    "__version__",
    "export_onnx",
    "export_program",
    "fill",
    "inpaint",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY and name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_LAZY.get(name, f"{__name__}.{name}"))
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        raise ImportError(
            f"pconv_cuda needs torch 2.11 or later, which could not be imported ({missing}); install it with: "
            "pip install 'torch>=2.11' torchvision"
        ) from missing
    if name in _LAZY:
        globals()[name] = getattr(module, name)
        return globals()[name]
    return module


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_SUBMODULES})
