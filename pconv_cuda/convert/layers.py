"""The common form of all formats: the layers of a U-Net in order, and their arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pconv_cuda.models.wrap import Mode

__all__ = ["NORM_PARTS", "ForeignLayer", "ForeignNetwork"]

NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass
class ForeignLayer:
    """``weight`` (K, C, R, S) with a decoder's input channels as [doubled | skip]; ``norm`` by :data:`NORM_PARTS`."""

    name: str
    weight: Tensor
    bias: Tensor | None = None
    norm: dict[str, Tensor] | None = None


@dataclass
class ForeignNetwork:
    """A published network in a common form.

    Args:
        source: the format's name.
        encoder: from the picture down.
        decoder: from the deepest stage to the one that joins the picture.
        divisor: of a layer's weight (K, C, R, S): what its arithmetic multiplies by less than the paper's sum(1).
        eps: of its batch norms.
        mean, std: of its input range, where the picture is in [0, 1].
        reversed_channels: it takes and gives BGR.
        negative_slope: of the decoder's LeakyReLU.
        padding_mode: PConvUNet's, which no file tells.
        values: what it takes and gives: "picture", or "data" in any unit.
        head: weight (C, C, 1, 1) and bias (C,) of a 1x1 convolution behind the last stage, before a sigmoid.
        notes: sentences about what was assumed and what is not exact.
    """

    source: str
    encoder: list[ForeignLayer]
    decoder: list[ForeignLayer]
    divisor: Callable[[Tensor], int] = lambda weight: 1
    eps: float = 1e-5
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    reversed_channels: bool = False
    negative_slope: float = 0.2
    padding_mode: Mode = "zeros"
    values: str = "picture"
    head: tuple[Tensor, Tensor] | None = None
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
