"""The published implementations, recognised by their key names, with the differences of their arithmetic.

Facts about each were read in its source: names and order of layers, biases, norms, the range of pictures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from pconv_cuda.convert.layers import NORM_PARTS, ForeignLayer, ForeignNetwork
from pconv_cuda.convert.plain import read_plain
from pconv_cuda.errors import PConvError

__all__ = ["FORMATS", "recognise"]

T = TypeVar("T")

_ASSUMED = "assumed, since no key tells it: ReLU in the encoder, LeakyReLU 0.2 in the decoder, nearest doubling"
_IMAGENET = "pictures are normalised with ImageNet's mean and std, as its scripts do"
_NO_SUM = "its layers divide by sum(M) without sum(1): every weight is divided by C R S, which is exact"


@dataclass(frozen=True)
class _Names:
    """Patterns with the groups ``side``, ``number`` and ``part``; ``ones`` are the mask's constant filters."""

    conv: str
    norm: str
    ones: str = r"(?!)"  # never matches
    prefix: str = ""  # keys that do not begin with it belong to other networks
    as_run: bool = False  # both sides are numbered from 0 in the order in which they run, the decoder deepest first


_NAMES = {
    "naoto0804": _Names(
        conv=r"(?P<side>enc|dec)_(?P<number>\d+)\.conv\.input_conv\.(?P<part>weight|bias)",
        norm=r"(?P<side>enc|dec)_(?P<number>\d+)\.bn\.(?P<part>\w+)",
        ones=r"(enc|dec)_\d+\.conv\.mask_conv\.weight",
    ),
    "bobqywei": _Names(
        conv=r"(?P<side>enc|dec)oder_(?P<number>\d+)\.input_conv\.(?P<part>weight|bias)",
        norm=r"(?P<side>enc|dec)oder_(?P<number>\d+)\.batch_normalization\.(?P<part>\w+)",
        ones=r"(enc|dec)oder_\d+\.mask_conv\.weight",
    ),
    "mmagic": _Names(
        conv=r"(?:enc|dec)oder\.(?P<side>enc|dec)(?P<number>\d+)\.conv\.(?P<part>weight|bias)",
        norm=r"(?:enc|dec)oder\.(?P<side>enc|dec)(?P<number>\d+)\.bn\.(?P<part>\w+)",
        ones=r"(?:enc|dec)oder\.(enc|dec)\d+\.conv\.weight_mask_updater",
        prefix="generator.",
    ),
    "climatereconstructionai": _Names(
        conv=r"(?P<side>enc|dec)oder\.(?P<number>\d+)\.partial_conv\.input_conv\.(?P<part>weight|bias)",
        norm=r"(?P<side>enc|dec)oder\.(?P<number>\d+)\.partial_conv\.bn\.(?P<part>\w+)",
        ones=r"(enc|dec)oder\.\d+\.partial_conv\.mask_conv\.weight",
        as_run=True,
    ),
    "tanimutomo": _Names(
        conv=r"(?P<side>enc|dec)_(?P<number>\d+)\.conv\.(?P<part>weight|bias)",
        norm=r"(?!)",
    ),
}
# The order matters: NVIDIA's layer has nn.Conv2d's keys, so that any name fits it.
FORMATS = (*_NAMES, "keras", "nvidia")
"""Names of the implementations whose checkpoints are recognised."""


def recognise(state: Mapping[str, Tensor], wanted: str = "auto", levels: int | None = None) -> ForeignNetwork:
    """The network whose key names ``state`` has.

    Args:
        state: of :func:`~pconv_cuda.convert.reading.read_tensors`.
        wanted: one of :data:`FORMATS`, or auto.
        levels: how many of tanimutomo's eight levels were in use.

    Raises:
        PConvError: no format fits, or the one that was asked for does not; the keys are named.
    """
    if any(re.fullmatch(r"encoder\.0\.conv\.weight", key) for key in state):
        raise PConvError(
            "file: these are weights of this package, which need no conversion: load the run's folder as it is"
        )
    for name, names in _NAMES.items():
        own = {key.removeprefix(names.prefix): value for key, value in state.items() if key.startswith(names.prefix)}
        if names.prefix and not own:
            own = dict(state)  # the bare generator
        fits = sum(bool(re.fullmatch(names.conv, key)) for key in own) >= 2
        if wanted == name and not fits:
            raise PConvError(f"format: {name}: no key such as {_example(names.conv)}; found {_some(state)}")
        strangers = [
            key for key in own if not any(re.fullmatch(one, key) for one in (names.conv, names.norm, names.ones))
        ]
        # Keys as those of climatereconstructionAI belong to no other network.
        if wanted == name or (wanted == "auto" and fits and (not strangers or names.as_run)):
            if strangers:
                raise PConvError(f"format: {name}: keys that it does not have: {_some(strangers)}{_why(strangers)}")
            network = _SPECIAL[name](_layers(name, own, names, levels))
            dropped = len(state) - len(own)
            if dropped:
                network.notes.append(f"{dropped} tensors of other networks (losses, discriminators) were left out")
            return network
    return read_plain(state)


def _example(pattern: str) -> str:
    return re.sub(r"\(\?P?<?\w*>?|\(\?:|\||\\d\+|\)", lambda m: "N" if m[0] == r"\d+" else "", pattern).replace(
        "\\", ""
    )


def _some(keys: Mapping[str, Tensor] | list[str]) -> str:
    names = list(keys)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _why(strangers: list[str]) -> str:
    extra = [part for part in ("recurrent_conv", "attention_module") if any(part in key for key in strangers)]
    return f"; {' and '.join(extra)}: layers between time steps and of attention have no counterpart" if extra else ""


def _in_the_usual_order(parts: Mapping[tuple[str, int], T]) -> dict[tuple[str, int], T]:
    """Numbered from 1, the layer beside the picture, on both sides."""
    stages = max([number for side, number in parts if side == "dec"], default=0) + 1
    return {(side, number + 1 if side == "enc" else stages - number): layer for (side, number), layer in parts.items()}


def _layers(source: str, state: Mapping[str, Tensor], names: _Names, levels: int | None) -> ForeignNetwork:
    """Sorts tensors into layers; the mask's filters must be ones, or the masks would mean something else."""
    parts: dict[tuple[str, int], dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if re.fullmatch(names.ones, key):
            if not bool((tensor == 1).all()):
                raise PConvError(f"file: {key} is expected to hold ones alone: its masks are not counts")
            continue
        for kind, pattern in (("", names.conv), ("norm.", names.norm)):
            if match := re.fullmatch(pattern, key):
                layer = parts.setdefault((match["side"], int(match["number"])), {})
                layer[kind + match["part"]] = tensor
                break
    if names.as_run:
        parts = _in_the_usual_order(parts)
    depth = max(number for _, number in parts)
    if levels is not None and not 1 <= levels <= depth:
        raise PConvError(f"levels: expected 1 to {depth}, the levels in the file, got {levels}")
    used = range(1, (levels or depth) + 1)
    missing = [f"{side} {number}" for side in ("enc", "dec") for number in used if (side, number) not in parts]
    if missing:
        raise PConvError(f"file: layers are missing: {', '.join(missing)}")
    encoder = [_layer(f"enc {number}", parts["enc", number]) for number in used]
    decoder = [_layer(f"dec {number}", parts["dec", number]) for number in reversed(used)]
    return ForeignNetwork(source, encoder, decoder, details={"depth": depth, "asked": levels})


def _layer(name: str, parts: Mapping[str, Tensor]) -> ForeignLayer:
    if "weight" not in parts:
        raise PConvError(f"file: layer {name} has no weight")
    norm = {part: parts[f"norm.{part}"] for part in NORM_PARTS if f"norm.{part}" in parts}
    if norm and len(norm) != len(NORM_PARTS):
        raise PConvError(f"file: the batch norm of layer {name} is expected to have {', '.join(NORM_PARTS)}")
    return ForeignLayer(name, parts["weight"], parts.get("bias"), norm or None)


def _window(weight: Tensor) -> int:
    return weight[0].numel()


def _naoto(network: ForeignNetwork) -> ForeignNetwork:
    network.divisor = _window
    network.notes += [_NO_SUM, _IMAGENET, _ASSUMED]
    return network


def _climate(network: ForeignNetwork) -> ForeignNetwork:
    """Y / S + b too. LeakyReLU() has torch's slope of 0.01; data in any unit; a norm may follow the first layer."""
    network.divisor, network.negative_slope, network.values = _window, 0.01, "data"
    network.mean, network.std = ((value,) * network.encoder[0].weight.shape[1] for value in (0.0, 1.0))
    first = network.encoder[0]
    if first.norm is not None:
        # ours has none there: at valid pixels a scale of the weights and a bias, and holes are not looked at again
        norm = {part: tensor.double() for part, tensor in first.norm.items()}
        scale = norm["weight"] / torch.sqrt(norm["running_var"] + network.eps)
        first.weight = first.weight.double() * scale.view(-1, 1, 1, 1)
        before = 0.0 if first.bias is None else first.bias.double()
        first.bias, first.norm = norm["bias"] + (before - norm["running_mean"]) * scale, None
    network.notes += [
        _NO_SUM,
        "its decoder's LeakyReLU has the slope 0.01, its encoder ReLU",
        "no key tells whether longitudes went round in training (its option global_padding): then give padding_mode",
        "no key tells bounds of the output (its options min_bounds, max_bounds): such networks give other values",
        "NOT EXACT near the last row and column where these are no multiples of 2^levels: it doubles to the encoder's "
        "odd sizes, ours continues the field to a multiple",
    ]
    return network


def _mmagic(network: ForeignNetwork) -> ForeignNetwork:
    network.mean = network.std = (0.5, 0.5, 0.5)
    network.reversed_channels = True
    network.notes += [
        "its layers agree with the paper (an epsilon of 1e-8 beside counts of at least 1 is lost in fp32)",
        "its pipeline feeds BGR in [-1, 1]: channels are put into RGB, mean and std are 0.5",
        _ASSUMED,
    ]
    return network


def _tanimutomo(network: ForeignNetwork) -> ForeignNetwork:
    depth, asked = network.details["depth"], network.details["asked"]
    levels = asked or min(7, depth)  # what its predict.py builds; the file has all eight either way
    network.encoder, network.decoder = network.encoder[:levels], network.decoder[-levels:]
    network.mean, network.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if asked is None and depth > levels:
        network.notes.append(
            f"the file has {depth} levels of which its predict.py uses {levels}: so does this; `levels`"
        )
    network.notes += [
        "its batch norms were never registered, so it has none: ours become the identity",
        "pictures stay in [0, 1], as its scripts have them",
        "NOT EXACT: its layers multiply twice by the ratio where they have a bias, which only the last one has; there "
        "the outputs differ wherever the ratio is not 1: along the image border and around holes",
        _ASSUMED,
    ]
    return network


_SPECIAL: dict[str, Callable[[ForeignNetwork], ForeignNetwork]] = {
    "naoto0804": _naoto,
    "bobqywei": _naoto,
    "climatereconstructionai": _climate,
    "mmagic": _mmagic,
    "tanimutomo": _tanimutomo,
}


def identity_norm(channels: int, like: Tensor, eps: float) -> dict[str, Tensor]:
    """A batch norm that changes nothing: (x - 0) / sqrt((1 - eps) + eps)."""
    ones = torch.ones(channels, dtype=like.dtype)
    return {"weight": ones, "bias": ones * 0, "running_mean": ones * 0, "running_var": ones - eps}
