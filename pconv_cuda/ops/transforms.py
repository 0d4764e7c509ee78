"""Calls of the operators: whether torch's transforms are at work, which need operators of torch's own, or autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["called", "is_transformed"]


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


def called(operator: Any, differentiable: tuple[Tensor | None, ...], *arguments: Any) -> Any:
    """The operator's results; where no gradient is asked for, without torch.library's autograd, which is Python."""
    if torch.compiler.is_compiling() or (
        torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in differentiable)
    ):
        return operator(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)
