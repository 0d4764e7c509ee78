"""Masks in the forms that other layers and gridded data have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pconv_cuda import InpaintingLoss, PartialConv2d, PConvUNet
from pconv_cuda.functional import partial_conv2d, partial_conv2d_upcat, smooth_fill
from pconv_cuda.models import FillRefiner
from pconv_cuda.nn import PartialConv1d


def drawn(*shape: int, channels: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand((channels, *shape[2:]), generator=generator) > 0.4
    return torch.randn(shape, generator=generator), mask


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_mask_of_three_dimensions_is_for_all_pictures(channels: int, dtype: torch.dtype, groups: int) -> None:
    x, mask = drawn(3, 4, 7, 9, channels=channels)
    weight = torch.randn(6, 4 // groups, 3, 3)
    found = partial_conv2d(x, mask.to(dtype), weight, padding=1, groups=groups)
    expected = partial_conv2d(
        x, mask.to(dtype)[None].expand(3, -1, -1, -1).contiguous(), weight, padding=1, groups=groups
    )
    assert found[1].shape == expected[1].shape and torch.equal(found[1], expected[1])
    assert torch.allclose(found[0], expected[0], atol=1e-5) and found[1].dtype == dtype


def test_stages_fills_networks_and_losses_take_it_too() -> None:
    low, low_mask = drawn(2, 3, 4, 5)
    skip, skip_mask = drawn(2, 2, 8, 10, seed=1)
    weight = torch.randn(4, 5, 3, 3)
    given = low, low_mask, skip, skip_mask, weight
    whole = low, low_mask[None], skip, skip_mask[None], weight
    assert torch.equal(partial_conv2d_upcat(*given)[0], partial_conv2d_upcat(*whole)[0])
    image, mask = drawn(2, 3, 24, 20, seed=2)
    assert torch.equal(smooth_fill(image, mask), smooth_fill(image, mask[None]))
    for model in (PConvUNet(levels=2, width=4).eval(), FillRefiner(width=8, levels=1).eval()):
        with torch.no_grad():
            assert torch.equal(model(image, mask)[0], model(image, mask[None])[0])
    loss = InpaintingLoss(vgg="none")
    assert loss(image, mask, image + 1, image) == loss(image, mask[None], image + 1, image)


def test_another_count_of_channels_is_refused() -> None:
    x, mask = drawn(3, 4, 7, 9, channels=3)
    with pytest.raises(ValueError, match=r"mask: expected \(3\|1, 1\|4, 7, 9\) to fit the input, got \(3, 7, 9\)"):
        partial_conv2d(x, mask, torch.randn(2, 4, 3, 3))


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_mask_in_is_an_alias_of_mask(mode: Any) -> None:
    x, mask = drawn(2, 3, 8, 8)
    layer = PartialConv2d(3, 5, 3, padding=1, padding_mode=mode, return_mask=True)
    for found, expected in zip(layer(x, mask_in=mask[None]), layer(x, mask[None]), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(TypeError, match="mask_in: expected nothing beside mask, which is the same, got both"):
        layer(x, mask[None], mask_in=mask[None])


@pytest.mark.parametrize("name", ["last_size", "update_mask", "mask_ratio", "slide_winsize"])
def test_attributes_of_nvidias_layer_are_refused_with_advice(name: str) -> None:
    layer = PartialConv2d(3, 5, 3)
    with pytest.raises(AttributeError, match=f"{name}: this layer keeps nothing of a call; .* return_mask=True"):
        getattr(layer, name)
    assert not hasattr(layer, name) and layer.weight.shape == (5, 3, 3, 3)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = layer.nothing


@pytest.mark.parametrize("fused", [False, True])
def test_masks_that_differ_by_channel_work_under_autocast(fused: bool) -> None:
    torch.manual_seed(0)
    model: Any = PConvUNet(levels=2, width=4).eval()
    model = model.fuse() if fused else model
    image, mask = drawn(1, 3, 16, 16, channels=3)
    with torch.no_grad():
        exact, new_mask = model(image, mask)
        with torch.autocast("cpu", torch.bfloat16):
            found, found_mask = model(image, mask)
    assert torch.equal(found_mask, new_mask) and (found.float() - exact).abs().max() < 0.05 * exact.abs().max() + 0.02


def test_a_mask_without_its_channel_is_named_by_its_own_shape() -> None:
    """(N, H, W) is the commonest mistake: three dimensions are (1|C, H, W)."""
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"got \(2, 8, 8\); of 3 dimensions it is .* mask.unsqueeze\(1\) is one each"):
        partial_conv2d(x, torch.ones(2, 8, 8), torch.rand(4, 3, 3, 3))
    with pytest.raises(
        ValueError, match=r"got \(5, 8, 8\); of 3 dimensions it is \(1\|3, 8, 8\), one for the whole batch$"
    ):
        partial_conv2d(x, torch.ones(5, 8, 8), torch.rand(4, 3, 3, 3))
    with pytest.raises(ValueError, match=r"got \(2, 8\); of 2 dimensions it is .* mask.unsqueeze\(1\) is one each"):
        PartialConv1d(3, 4, 3)(torch.rand(2, 3, 8), torch.ones(2, 8))
    with pytest.raises(ValueError, match=r"to fit the input, got \(2, 2, 8, 8\)$"):
        partial_conv2d(x, torch.ones(2, 2, 8, 8), torch.rand(4, 3, 3, 3))
