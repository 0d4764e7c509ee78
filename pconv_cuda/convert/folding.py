"""Another implementation's arithmetic folded into weights of PConvUNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pconv_cuda.convert.formats import identity_norm
from pconv_cuda.convert.layers import ForeignLayer, ForeignNetwork
from pconv_cuda.errors import PConvError
from pconv_cuda.models import PConvUNet

__all__ = ["fold"]

_OUR_EPS = nn.BatchNorm2d(1).eps


def fold(network: ForeignNetwork) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``(config, state)`` of the PConvUNet that computes what ``network`` does; the state is float64.

    With y the paper's partial convolution without its bias, a foreign layer computes y' + b, where y' = y with its
    weights divided by ``network.divisor``. Before a batch norm b goes into the running mean:
    (y + b - mean) = (y - (mean - b)).

    Raises:
        PConvError: a topology that PConvUNet does not have; the layer and what was expected are named.
    """
    encoder, decoder = network.encoder, network.decoder
    first = encoder[0].weight
    config: dict[str, Any] = {"in_channels": first.shape[1], "levels": len(encoder), "width": first.shape[0]}
    config |= {"mean": network.mean, "std": network.std, "windows": tuple(layer.weight.shape[-1] for layer in encoder)}
    config |= {"first_bias": encoder[0].bias is not None, "head": "sigmoid" if network.head is not None else None}
    out_channels = decoder[-1].weight.shape[0]
    config |= {"out_channels": out_channels, "padding_mode": network.padding_mode, "values": network.values}
    config |= {"negative_slope": network.negative_slope}
    try:
        with torch.device("meta"):  # for its shapes alone
            model = PConvUNet(**config)
    except (ValueError, RuntimeError) as error:  # of sizes beyond 64 bits
        raise PConvError(f"file: a network that PConvUNet cannot be: {error}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for side, layers in (("encoder", encoder), ("decoder", decoder)):
        for number, layer in enumerate(layers):
            prefix = f"{side}.{number}"
            has_norm = f"{prefix}.norm.weight" in shapes
            state |= {f"{prefix}.{name}": tensor for name, tensor in _folded(layer, network, has_norm).items()}
    if f"decoder.{len(decoder) - 1}.conv.bias" not in state:  # ours always has one there
        state[f"decoder.{len(decoder) - 1}.conv.bias"] = torch.zeros(out_channels, dtype=torch.float64)
    if network.head is not None:
        state["head_conv.weight"], state["head_conv.bias"] = (tensor.double() for tensor in network.head)
    named = {f"encoder.{number}": layer.name for number, layer in enumerate(encoder)}
    named |= {f"decoder.{number}": layer.name for number, layer in enumerate(decoder)}
    for name, shape in shapes.items():
        if name not in state or tuple(state[name].shape) != shape:
            found = tuple(state[name].shape) if name in state else "none"
            layer_name = named.get(".".join(name.split(".")[:2]), "the head")
            raise PConvError(f"file: {layer_name}: expected {name.split('.', 2)[-1]} of shape {shape}, got {found}")
    if superfluous := sorted(set(state) - set(shapes)):
        raise PConvError(f"file: {named[superfluous[0].rsplit('.', 2)[0]]}: {superfluous[0]} has no place in PConvUNet")
    if network.reversed_channels:
        _reverse(state, len(decoder), first.shape[1])
    return model.config, state


def _folded(layer: ForeignLayer, network: ForeignNetwork, has_norm: bool) -> dict[str, Tensor]:
    weight = layer.weight.double() / network.divisor(layer.weight)
    bias = None if layer.bias is None else layer.bias.double()
    state = {"conv.weight": weight}
    if layer.norm is not None and not has_norm:
        raise PConvError(f"file: {layer.name} has a batch norm, which the first and the last layer of PConvUNet lack")
    if not has_norm:
        return state if bias is None else {**state, "conv.bias": bias}
    norm = {part: tensor.double() for part, tensor in (layer.norm or {}).items()}
    if not norm:
        norm = identity_norm(weight.shape[0], weight, _OUR_EPS)
    else:
        norm["running_var"] = norm["running_var"] + (network.eps - _OUR_EPS)
    if bias is not None:
        norm["running_mean"] = norm["running_mean"] - bias
    tracked = torch.zeros((), dtype=torch.int64)
    return {**state, **{f"norm.{part}": tensor for part, tensor in norm.items()}, "norm.num_batches_tracked": tracked}


def _reverse(state: dict[str, Tensor], levels: int, channels: int) -> None:
    """RGB instead of BGR: where the picture enters, joins, and leaves."""
    first, last = "encoder.0.conv.weight", f"decoder.{levels - 1}.conv"
    state[first] = state[first].flip(1)
    weight = state[f"{last}.weight"]
    joined = torch.cat((weight[:, :-channels], weight[:, -channels:].flip(1)), dim=1)
    state[f"{last}.weight"], state[f"{last}.bias"] = joined.flip(0), state[f"{last}.bias"].flip(0)
