"""climatereconstructionAI's network, from the formulas of its layers alone, and checkpoints under its key names.

A layer: data and full-channel mask padded (rows by zeros, columns by zeros or by what is at the other side), Y = the
convolution of their product, S = that of the mask with ones; Y / S + b where S > 0, else 0; then batch norm and
activation, and the new mask S > 0 in all channels. Going down ReLU, going up LeakyReLU of slope 0.01 behind doubling by
nearest neighbours to the skip's size and [doubled | skip], but for the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass
class Climate:
    """Layers as (weight, bias or None, norm or None), the decoder deepest first; ``wrap``: columns go round."""

    down: list[tuple]
    up: list[tuple]
    wrap: bool = False
    slope: float = 0.01
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen = [(x.nan_to_num(), mask.to(x.dtype).expand_as(x))]
        for layer in self.down:
            y, m = self._layer(layer, *seen[-1], 2)
            seen.append((torch.relu(y), m))
        y, m = seen.pop()
        for number, layer in enumerate(self.up):
            skip, skip_mask = seen.pop()
            size = skip.shape[-2:]
            wide = [torch.cat((F.interpolate(a, size), b), 1) for a, b in ((y, skip), (m, skip_mask))]
            y, m = self._layer(layer, wide[0], wide[1], 1)
            if number < len(self.up) - 1:
                y = torch.where(y < 0, self.slope * y, y)
        return y, m[:, :1] > 0

    def _layer(self, layer: tuple, x: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        weight, bias, norm = layer
        edge = weight.shape[-1] // 2

        def padded(t: Tensor) -> Tensor:
            t = torch.cat((t[..., -edge:], t, t[..., :edge]), -1) if self.wrap else F.pad(t, (edge, edge, 0, 0))
            return F.pad(t, (0, 0, edge, edge))

        total = F.conv2d(padded(mask), torch.ones_like(weight), stride=stride)
        y = F.conv2d(padded(x) * padded(mask), weight, stride=stride) / torch.where(total > 0, total, 1.0)
        if bias is not None:
            y = y + bias.view(-1, 1, 1)
        y = torch.where(total > 0, y, 0.0)
        if norm is not None:
            scale, shift, mean, variance = (part.view(-1, 1, 1) for part in norm)
            y = (y - mean) / torch.sqrt(variance + 1e-5) * scale + shift
        return y, (total > 0).to(x.dtype)

    def checkpoint(self) -> dict[str, Tensor]:
        state = {}
        for side, layers in (("encoder", self.down), ("decoder", self.up)):
            for number, (weight, bias, norm) in enumerate(layers):
                name = f"{side}.{number}.partial_conv"
                state[f"{name}.input_conv.weight"] = weight
                if bias is not None:
                    state[f"{name}.input_conv.bias"] = bias
                state[f"{name}.mask_conv.weight"] = torch.ones_like(weight)
                if norm is not None:
                    state |= {f"{name}.bn.{part}": tensor for part, tensor in zip(NORM, norm, strict=True)}
                    state[f"{name}.bn.num_batches_tracked"] = torch.tensor(5)
        return state | self.extra


def random_climate(
    levels: int, *, inputs: int = 1, outputs: int = 1, first_norm: bool = True, wrap: bool = False, width: int = 3
) -> Climate:
    """In float64, its values near 1."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    def layer(cin: int, cout: int, window: int, norm: bool, bias: bool) -> tuple:
        weight = draw(cout, cin, window, window) * (2 * cin * window**2) ** 0.5
        parts = (draw(cout) * 0.2 + 1, draw(cout) * 0.2, draw(cout) * 0.2, draw(cout).abs() + 0.5)
        return weight, draw(cout) * 0.3 if bias else None, parts if norm else None

    sizes = [inputs, *(width * min(2**level, 8) for level in range(levels))]
    windows = [7] + [5] * (levels - 2) + [3] * (levels > 1)
    down = [layer(sizes[i], sizes[i + 1], windows[i], i > 0 or first_norm, False) for i in range(levels)]
    up = [layer(sizes[i + 1] + sizes[i], sizes[i], 3, True, False) for i in range(levels - 1, 0, -1)]
    up.append(layer(sizes[1] + inputs, outputs, 3, False, True))
    return Climate(down, up, wrap)
