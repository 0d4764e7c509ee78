"""Other implementations' arithmetic on top of F.conv2d, and checkpoints under their key names.

Independent of the package: each layer is written down from its formula alone. S is the mask's sum over a window and all
channels, in float32 as they run it (there an epsilon of 1e-8 is lost beside a count).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Layer = Callable[[Tensor, Tensor, Tensor, "Tensor | None", int], "tuple[Tensor, Tensor]"]


def _sums(mask: Tensor, weight: Tensor, stride: int) -> Tensor:
    ones = torch.ones(1, *weight.shape[1:])
    return F.conv2d(mask.float(), ones, stride=stride, padding=weight.shape[-1] // 2)


def _raw(x: Tensor, mask: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x * mask, weight, stride=stride, padding=weight.shape[-1] // 2)


def _grown(s: Tensor, output: Tensor) -> Tensor:
    return (s > 0).to(output).expand_as(output)


def nvidia(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    """((Y + b - b) r + b) u, r = full / (S + 1e-8) u; mmagic's is the same."""
    s = _sums(mask, weight, stride)
    u = s.clamp(0, 1).double()
    ratio = weight[0].numel() / (s + 1e-8).double() * u
    y = _raw(x, mask, weight, stride) * ratio
    if bias is not None:
        y = (y + bias.view(1, -1, 1, 1)) * u
    return y, _grown(s, y)


def without_sum(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    """naoto0804 and bobqywei: Y / S + b, 0 where S = 0."""
    s = _sums(mask, weight, stride)
    y = _raw(x, mask, weight, stride) / s.double().masked_fill(s == 0, 1)
    if bias is not None:
        y = y + bias.view(1, -1, 1, 1)
    return y.masked_fill(s == 0, 0.0), _grown(s, y)


def ratio_twice(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    """tanimutomo: (Y r + b) r with a bias, Y r without."""
    s = _sums(mask, weight, stride)
    ratio = weight[0].numel() / (s + 1e-8).double() * s.clamp(0, 1).double()
    y = _raw(x, mask, weight, stride) * ratio
    if bias is not None:
        y = (y + bias.view(1, -1, 1, 1)) * ratio
    return y, _grown(s, y)


def keras(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    """PConv-Keras: Y (R S) / S + b, the bias in holes too."""
    s = _sums(mask, weight, stride)
    ratio = weight.shape[-1] ** 2 / (s + 1e-8).double() * s.clamp(0, 1).double()
    y = _raw(x, mask, weight, stride) * ratio
    return y if bias is None else y + bias.view(1, -1, 1, 1), _grown(s, y)


@dataclass
class Unit:
    """A layer's tensors, in float64; ``norm`` is (scale, shift, mean, variance)."""

    weight: Tensor
    bias: Tensor | None
    norm: tuple[Tensor, Tensor, Tensor, Tensor] | None


@dataclass
class Network:
    """``down`` from the picture, ``up`` from the deepest; forward is a U-Net of ``layer``."""

    layer: Layer
    down: list[Unit]
    up: list[Unit]
    eps: float = 1e-5
    skip_first: bool = False
    head: tuple[Tensor, Tensor] | None = None
    slope: float = 0.2

    def __call__(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mask = mask.double().expand_as(x)
        seen = [(x, mask)]
        for unit in self.down:
            y, m = self._unit(unit, *seen[-1], 2)
            seen.append((F.relu(y), m))
        y, m = seen.pop()
        for number, unit in enumerate(self.up, 1):
            parts = [(F.interpolate(y, scale_factor=2), F.interpolate(m, scale_factor=2)), seen.pop()]
            if self.skip_first:
                parts.reverse()
            y, m = self._unit(unit, *(torch.cat(both, 1) for both in zip(*parts, strict=True)), 1)
            if number < len(self.up) or self.head is not None:
                y = F.leaky_relu(y, self.slope)
        if self.head is not None:
            y = torch.sigmoid(F.conv2d(y, *self.head))
        return y, m[:, :1] > 0

    def _unit(self, unit: Unit, x: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        y, m = self.layer(x, mask, unit.weight, unit.bias, stride)
        if unit.norm is not None:
            scale, shift, mean, variance = (part.view(1, -1, 1, 1) for part in unit.norm)
            y = (y - mean) / torch.sqrt(variance + self.eps) * scale + shift
        return y, m


def random_network(
    layer: Layer,
    levels: int,
    *,
    width: int = 2,
    windows: tuple[int, ...] = (7, 5, 5, 3, 3, 3, 3, 3),
    norms: bool = True,
    biases: str = "last",
    skip_first: bool = False,
    eps: float = 1e-5,
    head: bool = False,
    scale: Callable[[Tensor], float] = lambda weight: 1.0,
) -> Network:
    """``biases``: in the "last" layer, in the "ends" (first and last) or in "all"; ``scale`` keeps values near 1."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    def unit(cin: int, cout: int, window: int, first: bool, last: bool) -> Unit:
        weight = draw(cout, cin, window, window) * (2 / (cin * window**2)) ** 0.5
        weight = weight * scale(weight)
        with_bias = biases == "all" or last or (first and biases == "ends")
        norm = None
        if norms and not first and not last:
            norm = (draw(cout) * 0.2 + 1, draw(cout) * 0.2, draw(cout) * 0.2, draw(cout).abs() + 0.5)
        return Unit(weight, draw(cout) * 0.3 if with_bias else None, norm)

    sizes = [3] + [width * min(2**level, 8) for level in range(levels)]
    down = [unit(sizes[i], sizes[i + 1], windows[i], i == 0, False) for i in range(levels)]
    up = [unit(sizes[i + 1] + sizes[i], sizes[i], 3, False, i == 0) for i in range(levels - 1, -1, -1)]
    return Network(layer, down, up, eps, skip_first, (draw(3, 3, 1, 1), draw(3)) if head else None)


def checkpoint(
    network: Network, conv: str, norm: str = "", ones: str = "", enc: str = "enc", dec: str = "dec", channels: int = 0
) -> dict[str, Tensor]:
    """The tensors under names made by templates of ``side`` and ``number`` (1 is the layer beside the picture)."""
    state: dict[str, Tensor] = {}
    numbered = [(enc, number, unit) for number, unit in enumerate(network.down, 1)]
    numbered += [(dec, len(network.up) - number, unit) for number, unit in enumerate(network.up)]
    for side, number, unit in numbered:
        name = conv.format(side=side, number=number)
        state[f"{name}.weight"] = unit.weight.clone()
        if unit.bias is not None:
            state[f"{name}.bias"] = unit.bias.clone()
        if ones:
            shape = (channels, *unit.weight.shape[1:]) if channels else unit.weight.shape
            state[ones.format(side=side, number=number)] = torch.ones(shape)
        if unit.norm is not None:
            stem = norm.format(side=side, number=number)
            parts = ("weight", "bias", "running_mean", "running_var")
            state |= {f"{stem}.{part}": tensor.clone() for part, tensor in zip(parts, unit.norm, strict=True)}
            state[f"{stem}.num_batches_tracked"] = torch.tensor(7)
    return state


def write_keras(network: Network, path, first_number: int = 1, whole_model: bool = False) -> None:
    """As Keras 2 lays its weights out: a group a layer, in it a group of the same name; kernels as (R, S, C, K)."""
    import h5py

    units = [*network.down, *network.up]
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole_model else file
        root.attrs["backend"] = "tensorflow"
        up_norms = 0
        for number, unit in enumerate(units):
            name = f"p_conv2d_{first_number + number}"
            root[f"{name}/{name}/img_kernel:0"] = unit.weight.permute(2, 3, 1, 0).numpy()
            root[f"{name}/{name}/bias:0"] = unit.bias.numpy()
            if unit.norm is not None:
                name = f"EncBN{number}"
                if number >= len(network.down):
                    up_norms += 1
                    name = f"batch_normalization_{up_norms}"
                for part, tensor in zip(("gamma", "beta", "moving_mean", "moving_variance"), unit.norm, strict=True):
                    root[f"{name}/{name}/{part}:0"] = tensor.numpy()
        root["outputs_img/outputs_img/kernel:0"] = network.head[0].permute(2, 3, 1, 0).numpy()
        root["outputs_img/outputs_img/bias:0"] = network.head[1].numpy()
        root.create_group("inputs_img")
        if whole_model:
            file["optimizer_weights/training/Adam/iterations:0"] = 3
