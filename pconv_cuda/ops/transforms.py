"""Whether torch's transforms are at work, which need every step to be an operator of torch's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["is_transformed"]


def is_transformed(*tensors: Tensor | None) -> bool:
    """Inside torch.func's grad, jvp, vmap, or forward-mode AD, which torch.library's autograd does not serve.

    (It raises for the former and, worse, gives zero tangents for the latter.)
    """
    if torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():
        return True
    if forward_ad._current_level < 0:
        return False
    return any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
