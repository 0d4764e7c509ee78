"""torch.fx: the layers' calls are kept whole, so that a traced network runs them."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from pconv_cuda import PartialConv2d
from pconv_cuda.nn import PartialConv1d, PartialConv3d, PartialConvTranspose2d, PartialConvUpCat2d, use_partial_padding


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (PartialConv2d(3, 4, 3, padding=1), (9, 8)), (PartialConv2d(3, 4, 3, stride=2, padding="valid"), (9, 8)),
        (PartialConv2d(3, 4, 3, padding=1, padding_mode="circular"), (9, 8)),
        (PartialConv2d(3, 4, (2, 4), padding="same", padding_mode=("zeros", "reflect")), (9, 8)),
        (PartialConv1d(3, 4, 3), (9,)), (PartialConv3d(3, 4, 3), (5, 6, 5)),
        (PartialConv3d(3, 4, 3, padding=1, padding_mode="replicate"), (5, 6, 5)),
        (PartialConvTranspose2d(3, 4, 2, 2), (5, 6)),
        (PartialConvTranspose2d(3, 4, 3, 2, padding_mode="circular"), (5, 6)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_layers_of_a_traced_network(layer: nn.Module, size: tuple[int, ...]) -> None:
    network, image = nn.Sequential(layer, nn.ReLU()), torch.randn(2, 3, *size)
    assert torch.equal(torch.fx.symbolic_trace(network)(image), network(image))


def test_a_traced_layer_takes_masks() -> None:
    layer, image = PartialConv2d(3, 4, 3, return_mask=True), torch.randn(2, 3, 9, 8)
    mask = torch.rand(2, 1, 9, 8) > 0.6
    traced = torch.fx.symbolic_trace(layer, concrete_args={"mask_in": None})
    for ours, theirs in zip(traced(image, mask), layer(image, mask), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(TypeError, match=r"mask_in: expected None while torch.fx traces .* concrete_args"):
        torch.fx.symbolic_trace(layer)


def test_features_of_a_network_with_partial_padding() -> None:
    network = use_partial_padding(torchvision.models.resnet18()).eval()
    image = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        found = create_feature_extractor(network, ["layer2", "fc"])(image)
        assert torch.equal(found["fc"], network(image)) and found["layer2"].shape == (1, 128, 5, 5)


def test_a_traced_decoder_stage() -> None:
    layer, low, skip = PartialConvUpCat2d(3, 2, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 2, 10, 8)
    masks = torch.rand(2, 1, 5, 4) > 0.4, torch.rand(2, 1, 10, 8) > 0.4
    traced = torch.fx.symbolic_trace(layer)
    assert torch.equal(traced(low, masks[0], skip, masks[1]), layer(low, masks[0], skip, masks[1]))
    with pytest.raises(ValueError, match="low: expected 3 channels"):
        traced(low[:, :2], masks[0], skip, masks[1])


def test_a_traced_layer_still_checks_its_padding() -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(PartialConv2d(3, 4, 7, padding=3, padding_mode="reflect")))
    with pytest.raises(ValueError, match="padding: expected at most 2 for padding_mode 'reflect' .* got 3"):
        traced(torch.randn(1, 3, 9, 3))


def test_no_module_has_no_convolution() -> None:
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module, got str"):
        use_partial_padding("resnet18")  # type: ignore[arg-type]
