"""use_partial_padding on layers that are not plain nn.Conv2d any more, or not yet."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from pconv_cuda import PartialConv2d
from pconv_cuda.functional import partial_conv2d
from pconv_cuda.nn import use_partial_padding


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "old weight_norm"])
def test_partial_padding_of_parametrised_layers(kind: str) -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1)
    if kind == "old weight_norm":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = nn.utils.weight_norm(layer)
    else:
        layer = getattr(nn.utils.parametrizations, kind)(layer)
    model = use_partial_padding(nn.Sequential(layer)).eval()
    x = torch.randn(1, 3, 6, 5)
    expected, _ = partial_conv2d(x, None, layer.weight, layer.bias, padding=1)
    assert isinstance(model[0], PartialConv2d)
    torch.testing.assert_close(model(x), expected)
    if kind != "old weight_norm":  # which torch does not copy
        torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    assert model.state_dict().keys() == nn.Sequential(layer).state_dict().keys()
    model.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    if kind != "old weight_norm":
        nn.utils.parametrize.remove_parametrizations(model[0], "weight")
        assert type(model[0]) is PartialConv2d
        model.eval()(x)


def test_partial_padding_wants_layers_that_know_their_sizes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.LazyConv2d(4, 3, padding=1))
    with pytest.raises(ValueError, match="model: expected layers that know their sizes, got a LazyConv2d"):
        use_partial_padding(model)
    assert type(model[0]) is nn.Conv2d
    model(torch.randn(1, 3, 5, 5))
    assert all(isinstance(layer, PartialConv2d) for layer in use_partial_padding(model))
