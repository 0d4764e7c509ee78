"""Autocast of the operators: what torch's own convolutions do."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cast", "is_on", "lowered", "without_autocast"]


def cast(tensor: Tensor | None, device: str) -> Tensor | None:
    """A tensor in autocast's dtype of ``device``; doubles and integers are left alone."""
    if tensor is None or not tensor.dtype.is_floating_point or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


def is_on(device: str) -> bool:
    """Whether the operators cast on ``device``; elsewhere they have no kernel for autocast."""
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def lowered(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What the operators' autocast makes of the tensors; themselves where it is off."""
    device = next(tensor.device.type for tensor in tensors if tensor is not None)
    return tuple(cast(tensor, device) for tensor in tensors) if is_on(device) else tensors


def without_autocast(device: str) -> torch._C._ExcludeDispatchKeyGuard:
    """A context in which operators run their own kernels instead of those that cast."""
    key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device.upper()}"))
    return torch._C._ExcludeDispatchKeyGuard(key)
