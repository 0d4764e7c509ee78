"""What the partial convolution layers share: state dicts of other layers, leftovers of theirs, padding modes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["CACHES", "MASK_FILTERS", "MODES", "Mode", "drop_mask_filters", "given_mask", "refuse_cache"]

Mode = Literal["zeros", "reflect", "replicate", "circular"]
MODES = ("zeros", "reflect", "replicate", "circular")

# The mask's constant filter, which NVIDIA's layer and its descendants keep beside the weight.
MASK_FILTERS = ("weight_maskUpdater", "weight_mask_updater")
# What that layer keeps of its last call.
CACHES = ("last_size", "update_mask", "mask_ratio", "slide_winsize")


def drop_mask_filters(state: dict[str, Any], prefix: str, errors: list[str]) -> None:
    """Takes the mask filters out of a state dict; of others than ones the layer would have other masks."""
    for name in MASK_FILTERS:
        tensor = state.pop(prefix + name, None)
        if isinstance(tensor, Tensor) and not tensor.is_meta and not bool((tensor == 1).all()):
            errors.append(f"{prefix}{name}: expected ones alone, as this layer counts valid pixels")


def refuse_cache(name: str) -> None:
    """AttributeError where ``name`` is what NVIDIA's layer keeps of its last call."""
    if name in CACHES:
        raise AttributeError(
            f"{name}: this layer keeps nothing of a call; it takes the mask at each one, and returns the new mask "
            "with return_mask=True"
        )


def given_mask(mask: Tensor | None, mask_in: Tensor | None) -> Tensor | None:
    """The mask under either name."""
    if isinstance(mask_in, torch.fx.Proxy):
        raise TypeError(
            "mask_in: expected None while torch.fx traces the layer itself, got a Proxy; give "
            "concrete_args={'mask_in': None}"
        )
    if mask_in is not None and mask is not None:
        raise TypeError("mask_in: expected nothing beside mask, which is the same, got both")
    return mask if mask_in is None else mask_in
