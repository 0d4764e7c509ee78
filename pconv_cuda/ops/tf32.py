"""Whether torch allows fp32 convolutions to round their operands to tf32. Read while an operator runs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["choice_of", "tf32_allowed"]


def tf32_allowed() -> bool:
    """torch's setting for convolutions on CUDA: by its new name, by the legacy flag only where that name is missing.

    Once a user has set the new one, reading the legacy flag raises.
    """
    try:
        return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    except AttributeError:
        return bool(torch.backends.cudnn.allow_tf32)


def choice_of(tensor: Tensor, given: int) -> int:
    """The forward's choice, for the backward: 1 tf32, 0 full fp32, -1 "read the setting when it runs".

    While a graph is traced there is nothing to read, for the setting may differ when the graph runs.
    """
    if given >= 0 or tensor.dtype != torch.float32 or tensor.device.type != "cuda":
        return given
    if type(tensor) not in (Tensor, torch.nn.Parameter) or torch.compiler.is_compiling():
        return given
    return int(tf32_allowed())
