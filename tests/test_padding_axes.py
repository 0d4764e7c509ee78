"""A padding mode for rows and one for columns, against padding by hand."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda import PartialConv2d, PartialConvTranspose2d, reference

MODES = ["zeros", "reflect", "replicate", "circular"]


def by_hand(layer: PartialConv2d, x: Tensor, mask: Tensor, modes: tuple[str, str], rows: int, columns: int) -> Any:
    """In float64: columns first, then rows, holes where the mode is zeros."""
    x, mask = x.double(), mask.double()
    for mode, sides in ((modes[1], (columns, columns, 0, 0)), (modes[0], (0, 0, rows, rows))):
        how = "constant" if mode == "zeros" else mode
        x, mask = F.pad(x, sides, mode=how), F.pad(mask, sides, mode=how)
    weight, bias = layer.weight.double(), None if layer.bias is None else layer.bias.double()
    return reference.partial_conv2d(x, mask > 0, weight, bias, layer.stride, 0, layer.dilation, layer.groups)


@pytest.mark.parametrize("rows", MODES)
@pytest.mark.parametrize("columns", MODES)
@pytest.mark.parametrize(("window", "padding", "stride"), [(3, 1, 1), ((5, 3), (2, 1), 2), ((1, 3), (0, 1), 1)])
def test_each_axis_has_its_mode(rows: Any, columns: Any, window: Any, padding: Any, stride: int) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(3, 4, window, stride, padding, padding_mode=(rows, columns), return_mask=True)
    x, mask = torch.randn(2, 3, 7, 9), torch.rand(2, 1, 7, 9) > 0.6
    sides = padding if isinstance(padding, tuple) else (padding, padding)
    expected, expected_mask = by_hand(layer, x, mask, (rows, columns), *sides)
    found, found_mask = layer(x, mask)
    assert torch.allclose(found.double(), expected, atol=1e-5) and torch.equal(found_mask, expected_mask)
    one, one_mask = layer(x[0], mask[0])
    assert torch.allclose(one, found[0], atol=1e-5) and torch.equal(one_mask, found_mask[0])
    without, all_valid = layer(x)[0], layer(x, torch.ones_like(mask))[0]
    assert torch.allclose(without, all_valid, atol=1e-5)


def test_same_on_both_axes_is_the_mode_itself() -> None:
    layer = PartialConv2d(3, 4, 3, padding=1, padding_mode=("circular", "circular"))
    assert layer.padding_mode == "circular" and "padding_mode=circular" in repr(layer)
    assert "('zeros', 'circular')" in repr(PartialConv2d(3, 4, 3, padding=1, padding_mode=("zeros", "circular")))


@pytest.mark.parametrize("window", [3, 2, (4, 3)])
def test_padding_by_name(window: Any) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(2, 3, window, padding="same", padding_mode=("zeros", "circular"), return_mask=True)
    x, mask = torch.randn(1, 2, 6, 8), torch.rand(1, 1, 6, 8) > 0.5
    found, new_mask = layer(x, mask)
    assert found.shape == (1, 3, 6, 8) and new_mask.shape == (1, 1, 6, 8)
    # A circular axis has no first column.
    rolled, _ = layer(x.roll(3, 3), mask.roll(3, 3))
    assert torch.allclose(rolled.roll(-3, 3), found, atol=1e-5)


def test_it_learns_compiles_and_copies() -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(2, 3, 3, padding=1, padding_mode=("zeros", "circular"))
    x, mask = torch.randn(2, 2, 6, 8, requires_grad=True), torch.rand(2, 1, 6, 8) > 0.5
    layer(x, mask).square().sum().backward()
    assert x.grad is not None and not x.grad[~mask.expand_as(x)].any() and layer.weight.grad is not None
    other = copy.deepcopy(layer)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x, mask), layer(x, mask))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, mask), layer(x, mask))


@pytest.mark.parametrize("kind", [PartialConv2d, PartialConvTranspose2d])
@pytest.mark.parametrize(
    "modes", [("zeros",), ("zeros", "wrap"), ("zeros",) * 3, "wrap", None, 3, (["zeros"], "zeros")]
)
def test_other_modes_are_refused(modes: Any, kind: type) -> None:
    said = f"or two for rows and columns, got {modes!r}"
    with pytest.raises(ValueError, match=f"padding_mode: expected one of zeros, reflect, .*{re.escape(said)}"):
        kind(2, 3, 3, padding=1, padding_mode=modes)
