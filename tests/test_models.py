"""The network: its table, any size, compact masks, the plain baseline, saving and loading."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pconv_cuda import PConvUNet, ops, reference
from pconv_cuda.errors import PConvError
from pconv_cuda.nn import PartialConv2d


def tiny(**changes) -> PConvUNet:
    torch.manual_seed(0)
    return PConvUNet(**{"levels": 3, "width": 4, **changes})


def holes(*shape: int, share: float = 0.3, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) > share


def test_the_papers_network() -> None:
    model = PConvUNet()
    assert sum(parameter.numel() for parameter in model.parameters()) == 32_859_732
    encoder = [(stage.conv.kernel_size[0], stage.conv.stride[0], stage.conv.out_channels) for stage in model.encoder]
    assert encoder == [(7, 2, 64), (5, 2, 128), (5, 2, 256), *[(3, 2, 512)] * 5]
    decoder = [(stage.conv.in_channels, stage.conv.out_channels) for stage in model.decoder]
    assert decoder == [*[(1024, 512)] * 4, (768, 256), (384, 128), (192, 64), (67, 3)]
    biased = [
        name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and module.bias is not None
    ]
    assert biased == ["decoder.7.conv"]
    without_norm = [
        name for name, module in model.named_modules() if isinstance(getattr(module, "norm", None), nn.Identity)
    ]
    assert without_norm == ["encoder.0", "decoder.7"]


def straightforward(model: PConvUNet, image: torch.Tensor, mask: torch.Tensor):
    """The table again, with full-channel masks and the reference, in eval mode and without padding."""

    def stage(block, x, m):
        x, m = reference.partial_conv2d(x, m, block.conv.weight, block.conv.bias, block.conv.stride, block.conv.padding)
        return block.activation(block.norm(x)), m.expand_as(x)

    skips = [(image, mask.expand_as(image))]
    for block in model.encoder:
        skips.append(stage(block, *skips[-1]))
    x, m = skips.pop()
    for block in model.decoder:
        skip, skip_mask = skips.pop()
        x, m = F.interpolate(x, scale_factor=2), F.interpolate(m.double(), scale_factor=2) > 0
        x, m = stage(block, torch.cat([x, skip], 1), torch.cat([m, skip_mask], 1))
    return x, m


@pytest.mark.parametrize("mask_channels", [1, 3])
def test_against_a_network_of_full_channel_masks(mask_channels: int) -> None:
    model = tiny().double().eval()
    for norm in model.modules():  # statistics that are not the neutral ones
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    image, mask = torch.randn(2, 3, 32, 24, dtype=torch.float64), holes(2, mask_channels, 32, 24)
    mask[:, :, :20] = False  # a hole too large for three levels
    expected, expected_mask = straightforward(model, image, mask)
    output, new_mask = model(torch.where(mask, image, torch.nan), mask)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(new_mask.expand_as(expected_mask), expected_mask)
    assert not new_mask.all() and (output[~new_mask.expand_as(output)] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (8, 8), (9, 17), (23, 5)])
def test_any_size_is_the_padded_and_cropped_one(size: tuple[int, int]) -> None:
    model = tiny().eval()
    image, mask = torch.randn(2, 3, *size), holes(2, 1, *size)
    mask[..., 0, 0] = True
    output, new_mask = model(image, mask)
    assert output.shape == image.shape and new_mask.shape == mask.shape
    below_right = (0, -size[1] % 8, 0, -size[0] % 8)  # three levels halve multiples of 8
    expected, expected_mask = model(F.pad(image, below_right), F.pad(mask.float(), below_right))
    torch.testing.assert_close(output, expected[..., : size[0], : size[1]])
    assert torch.equal(new_mask, expected_mask[..., : size[0], : size[1]])


def test_masks_of_every_form_agree() -> None:
    model = tiny().eval()
    image, mask = torch.randn(2, 3, 16, 16), holes(1, 1, 16, 16)
    expected, _ = model(image, mask.expand(2, 1, 16, 16).contiguous())
    for form in (mask, mask.float(), mask.to(torch.uint8) * 255, mask.repeat(2, 3, 1, 1), mask.expand(2, 3, 16, 16)):
        torch.testing.assert_close(model(image, form)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(image, None)[0], model(image, torch.ones(1, 1, 16, 16))[0])


def test_an_empty_batch_and_shapes_alone() -> None:
    model = tiny().eval()
    output, mask = model(torch.zeros(0, 3, 8, 8), None)
    assert output.shape == (0, 3, 8, 8) and mask.shape == (0, 1, 8, 8)
    output, mask = tiny().to("meta")(torch.zeros(2, 3, 9, 8, device="meta"), torch.ones(2, 3, 9, 8, device="meta"))
    assert output.shape == (2, 3, 9, 8) and mask.shape == (2, 1, 9, 8)


def test_no_full_channel_mask_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(operator):
        def watch(*arguments):
            seen.extend(
                each.shape[1] for each in arguments if isinstance(each, torch.Tensor) and each.dtype == torch.bool
            )
            return operator(*arguments)

        return watch

    monkeypatch.setattr(ops, "partial_conv2d", watched(ops.partial_conv2d))
    full = holes(1, 3, 16, 16)[:, :1].expand(1, 3, 16, 16)
    tiny()(torch.randn(1, 3, 16, 16), full)
    assert seen == [1] * 9  # one of each encoder layer, two of each decoder stage
    seen.clear()
    tiny(composed=True)(torch.randn(1, 3, 16, 16), full)
    assert seen == [1] * 9


@pytest.mark.parametrize(
    ("windows", "reach"),
    [((7,), 8), ((7, 5), 18), ((7, 5, 5), 38), ((7, 5, 5, 3), 62), ((101,), 102), ((3, 3, 3), 22), ((1, 9, 5), 40)],
)
def test_reach_is_the_largest_square_hole_that_closes_anywhere(windows: tuple[int, ...], reach: int) -> None:
    model = tiny(levels=len(windows), width=1, windows=windows).eval()
    assert model.reach == reach
    step = model.grid

    def closes(side: int, offset: int) -> bool:
        size = (side // step + 6) * step
        mask = torch.ones(1, 1, size, size)
        mask[..., step + offset :, step + offset :][..., :side, :side] = 0
        return bool(model(torch.zeros(1, 3, size, size), mask)[1].all())

    assert all(closes(reach, offset) for offset in range(step))
    assert not all(closes(reach + 1, offset) for offset in range(step))


def test_plain_network_fills_holes_with_the_mean() -> None:
    model = tiny(conv="plain").eval()
    assert not any(isinstance(module, PartialConv2d) for module in model.modules())
    assert list(model.state_dict()) == list(tiny().state_dict())
    image, mask = torch.randn(1, 3, 11, 13), holes(1, 1, 11, 13)
    output, new_mask = model(torch.where(mask, image, torch.nan), mask)
    assert torch.equal(output, model(torch.where(mask, image, 0.0), torch.ones_like(mask))[0])
    assert new_mask.shape == mask.shape and new_mask.all()


def test_normalisation_is_imagenets_and_inverts() -> None:
    model = tiny()
    image = torch.rand(2, 3, 4, 5)
    expected = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    torch.testing.assert_close(model.normalize(image), expected)
    torch.testing.assert_close(model.denormalize(model.normalize(image)), image)
    assert model.denormalize(torch.full((1, 3, 1, 1), 99.0)).max() == 1


def test_freezing_the_encoders_norms() -> None:
    model = tiny().freeze_encoder_bn().train()
    encoder = [module for module in model.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    decoder = [module for module in model.decoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert encoder and not any(norm.training or norm.weight.requires_grad for norm in encoder)
    assert decoder and all(norm.training and norm.weight.requires_grad for norm in decoder)
    model.freeze_encoder_bn(False)
    assert all(norm.training and norm.weight.requires_grad for norm in encoder)


def test_weights_are_as_readable_as_any_file(tmp_path) -> None:
    PConvUNet(levels=1, width=4).save_pretrained(tmp_path)
    (tmp_path / "other").write_text("")
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 3 and len(set(modes.values())) == 1, modes


def test_save_and_load(tmp_path) -> None:
    model = tiny(levels=2, width=3).to(memory_format=torch.channels_last).eval()
    file = model.save_pretrained(tmp_path / "saved")
    image, mask = torch.randn(1, 3, 9, 9), holes(1, 1, 9, 9)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["levels"] == 2 and config["mean"] == [0.485, 0.456, 0.406]
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(file.read_bytes())
    for source in (tmp_path / "saved", file, alone):
        loaded = PConvUNet.from_pretrained(source)
        assert not loaded.training
        assert torch.equal(loaded(image, mask)[0], model(image, mask)[0])
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["config.json", "model.safetensors"]


def test_loading_errors(tmp_path) -> None:
    import safetensors.torch

    with pytest.raises(PConvError, match="found none at"):
        PConvUNet.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(PConvError, match="not a readable safetensors"):
        PConvUNet.from_pretrained(tmp_path)
    state = {key: value.contiguous() for key, value in tiny().state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(PConvError, match="no config"):
        PConvUNet.from_pretrained(tmp_path)
    for text, message in (
        ("{", "not valid JSON"),
        ('{"depth": 3}', "does not describe a PConvUNet"),
        ('{"levels": 4, "width": 4}', "do not fit its config"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(PConvError, match=message):
            PConvUNet.from_pretrained(tmp_path)
    state["encoder.0.conv.weight"][0] = torch.nan
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"levels": 3, "width": 4}')
    with pytest.raises(PConvError, match=r"NaN or infinity in encoder.0.conv.weight"):
        PConvUNet.from_pretrained(tmp_path)


def test_errors_name_the_argument() -> None:
    for changes, message in (
        ({"levels": 0}, "levels: expected a positive"),
        ({"width": 2.5}, "width: expected a positive"),
        ({"conv": "gated"}, "conv: expected 'partial' or 'plain'"),
        ({"mean": (0.5,)}, "mean: expected 3 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(**changes)
    model = tiny()
    with pytest.raises(ValueError, match="image: expected"):
        model(torch.randn(1, 4, 8, 8), None)
    with pytest.raises(ValueError, match="mask: expected"):
        model(torch.randn(1, 3, 8, 8), torch.ones(1, 1, 8, 9))


def test_training_on_half_of_the_memory_formats_gives_one_result() -> None:
    image, mask = torch.randn(2, 3, 16, 16), holes(2, 1, 16, 16)
    model = tiny()
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    one = model(image, mask)[0].square().mean()
    two = other(image.to(memory_format=torch.channels_last), mask)[0].square().mean()
    torch.testing.assert_close(one, two)
    one.backward()
    two.backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
