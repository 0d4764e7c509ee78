"""MathiasGruber/PConv-Keras: its .h5 files as layers of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from pconv_cuda.convert.layers import ForeignLayer, ForeignNetwork
from pconv_cuda.errors import PConvError

__all__ = ["read_keras"]

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_HEAD = "outputs_img"


def read_keras(state: Mapping[str, Tensor]) -> ForeignNetwork:
    """From ``layer/weight`` -> tensor. Names count on where a session built several models, so only their order says
    which layer is which: convolutions from the picture down and up again, batch norms alike, none for the first
    and the last convolution.

    Raises:
        PConvError: layers of another network, missing or superfluous ones.
    """
    convs, encoder_norms, norms = (
        _numbered(state, pattern) for pattern in (r"p_?conv2d", "encbn", "batch_normalization")
    )
    norms = encoder_norms + norms
    known = {*convs, *norms, _HEAD}
    strangers = sorted({key.partition("/")[0] for key in state} - known)
    if strangers or len(convs) < 2 or len(convs) % 2:
        what = f"layers {', '.join(strangers[:4])}" if strangers else f"{len(convs)} partial convolutions"
        raise PConvError(f"file: no U-Net of PConv-Keras (p_conv2d_N, EncBNN, batch_normalization_N, {_HEAD}): {what}")
    levels = len(convs) // 2
    if len(norms) != 2 * levels - 2:
        raise PConvError(f"file: expected {2 * levels - 2} batch norms for {levels} levels, found {len(norms)}")
    layers = [_conv(state, name) for name in convs]
    for layer, name in zip(layers[1:-1], norms, strict=True):
        layer.norm = {ours: _tensor(state, f"{name}/{theirs}") for theirs, ours in _NORM.items()}
    for up, skip in zip(layers[levels:], [*reversed(layers[: levels - 1]), None], strict=True):
        # it joins [skip | doubled]
        width = skip.weight.shape[0] if skip is not None else layers[0].weight.shape[1]
        up.weight = up.weight.roll(-width, dims=1)
    head = _tensor(state, f"{_HEAD}/kernel").permute(3, 2, 0, 1), _tensor(state, f"{_HEAD}/bias")
    notes = [
        "its layers multiply by R S instead of sum(1) = C R S: every weight is divided by C, which is exact",
        "biases before a batch norm went into its running mean, its epsilon of 1e-3 into the running variance: exact",
        "NOT EXACT: it keeps the bias inside holes, which matters only where a hole reaches the output; there "
        "ours is 0 and its mask says so",
        "batch norms run on their stored statistics, as after its load(train_bn=False); with train_bn=True, its "
        "default, the encoder's run on those of the picture at hand",
        "pictures stay in [0, 1]; the last stage has LeakyReLU, a 1x1 convolution and a sigmoid",
    ]
    return ForeignNetwork(
        "keras",
        layers[:levels],
        layers[levels:],
        divisor=lambda weight: weight.shape[1],
        eps=1e-3,
        mean=(0.0,) * layers[0].weight.shape[1],
        std=(1.0,) * layers[0].weight.shape[1],
        head=head,
        notes=notes,
    )


def _numbered(state: Mapping[str, Tensor], pattern: str) -> list[str]:
    """Layers called ``pattern``, ``pattern_N`` or ``patternN``, by N; the one without a number is the first."""
    names = dict.fromkeys(key.partition("/")[0] for key in state)
    found = [
        (int(match[1] or 0), name) for name in names if (match := re.fullmatch(rf"{pattern}_?(\d*)", name.lower()))
    ]
    return [name for _, name in sorted(found)]


def _conv(state: Mapping[str, Tensor], name: str) -> ForeignLayer:
    kernel = _tensor(state, f"{name}/img_kernel")
    if kernel.dim() != 4:
        raise PConvError(f"file: {name}/img_kernel: expected (R, S, C, K), got {tuple(kernel.shape)}")
    return ForeignLayer(name, kernel.permute(3, 2, 0, 1), state.get(f"{name}/bias"))


def _tensor(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise PConvError(f"file: {key} is missing")
    return state[key]
