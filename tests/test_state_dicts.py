"""NVIDIA's constant mask filter in a state dict: accepted and dropped, strict or not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pconv_cuda import PartialConv2d, PartialConvUpCat2d, PConvUNet
from pconv_cuda.nn import use_partial_padding

NAMES = ("weight_maskUpdater", "weight_mask_updater")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("multi_channel", [False, True])
@pytest.mark.parametrize("assign", [False, True])
def test_a_layer_drops_the_mask_filter(name: str, multi_channel: bool, assign: bool) -> None:
    layer = PartialConv2d(3, 4, 5)
    state = {"weight": torch.randn(4, 3, 5, 5), "bias": torch.randn(4)}
    given = {**state, name: torch.ones(4, 3, 5, 5) if multi_channel else torch.ones(1, 1, 5, 5)}
    result = layer.load_state_dict(given, strict=True, assign=assign)
    assert not result.missing_keys and not result.unexpected_keys
    assert name in given and set(layer.state_dict()) == {"weight", "bias"}
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in state.items())


def test_models_that_hold_layers() -> None:
    models = [
        PConvUNet(levels=2, width=2),
        nn.Sequential(nn.Sequential(PartialConv2d(3, 4, 3), nn.ReLU()), PartialConvUpCat2d(2, 2, 3)),
        use_partial_padding(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))),
    ]
    for model in models:
        state = {key: torch.randn_like(value) if value.dim() else value for key, value in model.state_dict().items()}
        filters = {
            f"{key}_maskUpdater": torch.ones(1, 1, *value.shape[2:]) for key, value in state.items() if value.dim() == 4
        }
        assert filters
        model.load_state_dict({**state, **filters}, strict=True)
        assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_mask_filters_other_than_ones_and_unknown_keys_are_refused() -> None:
    state = PartialConv2d(3, 4, 3).state_dict()
    with pytest.raises(RuntimeError, match="weight_maskUpdater: expected ones alone"):
        PartialConv2d(3, 4, 3).load_state_dict({**state, "weight_maskUpdater": torch.full((1, 1, 3, 3), 0.5)})
    with pytest.raises(RuntimeError, match="Unexpected key.*weight_other"):
        PartialConv2d(3, 4, 3).load_state_dict({**state, "weight_other": torch.ones(1)})
    with pytest.raises(RuntimeError, match="Unexpected key.*weight_maskUpdater"):
        nn.Sequential(PartialConv2d(3, 4, 3)).load_state_dict(
            {**{f"0.{key}": value for key, value in state.items()}, "weight_maskUpdater": torch.ones(1, 1, 3, 3)}
        )


def test_weights_on_disk_may_hold_them(tmp_path) -> None:
    import json

    import safetensors.torch

    model = PConvUNet(levels=2, width=2)
    state = {**model.state_dict(), "encoder.0.conv.weight_maskUpdater": torch.ones(1, 1, 7, 7)}
    metadata = {"config": json.dumps(model.config)}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata=metadata)
    loaded = PConvUNet.from_pretrained(tmp_path)
    assert torch.equal(loaded.encoder[0].conv.weight, model.encoder[0].conv.weight)
