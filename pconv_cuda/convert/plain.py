"""Networks of NVIDIA's layer, whose keys are nn.Conv2d's: the U-Net is found by shapes and order alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from pconv_cuda.convert.layers import NORM_PARTS, ForeignLayer, ForeignNetwork
from pconv_cuda.errors import PConvError
from pconv_cuda.layer_parts import MASK_FILTERS

__all__ = ["read_plain"]


def read_plain(state: Mapping[str, Tensor]) -> ForeignNetwork:
    """A U-Net of layers with the keys ``weight`` and ``bias``, each followed by its batch norm.

    NVIDIA published the layer, not the inpainting network, so that its users' networks have names of their own. The
    order of the file is taken for the encoder, and for the decoder the numbers in its names or its order.

    Raises:
        PConvError: a classification network of theirs, or no U-Net.
    """
    if any(key in ("fc.weight", "classifier.0.weight", "classifier.6.weight") for key in state):
        raise PConvError(
            "file: this is a classification network; NVIDIA's with partial convolution padding need no conversion: "
            "pconv_cuda.nn.use_partial_padding(torchvision's model) has the same keys"
        )
    layers: list[ForeignLayer] = []
    for key, tensor in state.items():
        parent, _, part = key.rpartition(".")
        if part in MASK_FILTERS or part == "num_batches_tracked":
            continue
        if part == "weight" and tensor.dim() == 4:
            layers.append(ForeignLayer(parent, tensor))
        elif layers and parent == layers[-1].name and part == "bias":
            layers[-1].bias = tensor
        elif layers and part in NORM_PARTS and tensor.shape == layers[-1].weight.shape[:1]:
            layers[-1].norm = {**(layers[-1].norm or {}), part: tensor}
        else:
            raise PConvError(f"file: no known network: {key} {tuple(tensor.shape)} fits no convolution before it")
    if len(layers) < 2 or len(layers) % 2:
        raise PConvError(
            f"file: no known network: expected as many convolutions up as down, found {len(layers)} in all"
        )
    for layer in layers:
        if layer.norm is not None and len(layer.norm) != len(NORM_PARTS):
            raise PConvError(f"file: the batch norm after {layer.name} is expected to have {', '.join(NORM_PARTS)}")
    levels = len(layers) // 2
    encoder, decoder = layers[:levels], _deepest_first(layers[levels:], layers[0].weight.shape[1])
    notes = [
        "taken for a U-Net of NVIDIA's layer, whose keys are those of nn.Conv2d: a network of plain convolutions would "
        "look the same. The layer's arithmetic agrees with the paper, so weights stay as they are",
        "assumed, since no key tells it: ReLU in the encoder, LeakyReLU 0.2 in the decoder, nearest doubling, "
        "[doubled | skip] in this order, pictures normalised with ImageNet's mean and std",
    ]
    return ForeignNetwork("nvidia", encoder, decoder, notes=notes)


def _deepest_first(decoder: list[ForeignLayer], channels: int) -> list[ForeignLayer]:
    """By the numbers in the names where each has one of its own; the stage that gives the picture comes last."""
    found = [re.findall(r"\d+", layer.name) for layer in decoder]
    # the first number that differs counts: 'dec8.conv', 'up.3.0'
    columns = [column for column in zip(*found, strict=False) if len(set(column)) == len(decoder)]
    if columns and all(len(one) == len(found[0]) for one in found):
        decoder = [
            layer for _, layer in sorted(zip(map(int, columns[0]), decoder, strict=True), key=lambda pair: pair[0])
        ]
    last_is_first = decoder[0].weight.shape[0] == channels and decoder[-1].weight.shape[0] != channels
    return decoder[::-1] if last_is_first else decoder
