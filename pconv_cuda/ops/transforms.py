"""Calls of the operators: whether torch's transforms are at work, which need operators of torch's own, or autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["called", "is_transformed", "keep_derivative"]

_functions: dict[Any, Any] = {}  # of operators


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


def keep_derivative(operator: Any, setup_context: Any, backward: Any) -> None:
    """Register what ``torch.library.register_autograd`` was told of the operator for :func:`called`, which then leaves
    out the steps that it takes in Python at every call: going through the schema took half of a small layer's time."""

    def forward(ctx: Any, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            results = operator(*arguments)
        setup_context(ctx, arguments, results)
        return results

    parts = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    _functions[operator] = type(f"{operator._opname}_function", (torch.autograd.Function,), parts)


def called(operator: Any, differentiable: tuple[Tensor | None, ...], *arguments: Any) -> Any:
    """The operator's results, by the shortest way: below autograd where no gradient is asked for, else by the function
    that :func:`keep_derivative` made. The operator itself runs in compiled code and under autocast, which casts before
    autograd. All of the operator's arguments have to be given."""
    if torch.compiler.is_compiling() or operator not in _functions:
        return operator(*arguments)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in differentiable):
        by_operator = torch._C._is_any_autocast_enabled()
        return operator(*arguments) if by_operator else _functions[operator].apply(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)
