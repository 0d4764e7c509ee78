"""Networks for gridded data: axes that go round, fewer channels out than in, values of any range."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda import FillRefiner, InpaintingLoss, PConvUNet, export_onnx, inpaint, reference
from pconv_cuda.errors import PConvError
from pconv_cuda.functional import smooth_fill
from pconv_cuda.models import load_network

GLOBE = ("zeros", "circular")


def network(seed: int = 0, **options: Any) -> PConvUNet:
    torch.manual_seed(seed)
    model = PConvUNet(**{"in_channels": 1, "levels": 2, "width": 4, **options})
    for name, value in model.state_dict().items():  # batch norms that do something
        if name.endswith(("running_mean", "norm.bias")):
            value.normal_(0, 0.3)
    return model.eval()


def scene(channels: int = 1, height: int = 12, width: int = 16, batch: int = 2, by_channel: bool = False) -> Any:
    torch.manual_seed(3)
    mask = torch.rand(batch, channels if by_channel else 1, height, width) > 0.5
    mask[..., :, :3] = mask[..., :, -2:] = False  # a hole across the seam
    return torch.randn(batch, channels, height, width), mask


def by_hand(model: PConvUNet, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """In float64 by torch's own padding, level by level; sides halve evenly."""
    modes = (model.padding_mode,) * 2 if isinstance(model.padding_mode, str) else model.padding_mode

    def padded(x: Tensor, size: int) -> Tensor:
        x = x.double()
        for mode, sides in ((modes[1], (size, size, 0, 0)), (modes[0], (0, 0, size, size))):
            x = F.pad(x, sides, mode="constant" if mode == "zeros" else "circular")
        return x

    def convolved(stage: Any, x: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        conv, size = stage.conv, stage.conv.weight.shape[-1] // 2
        bias = None if conv.bias is None else conv.bias.double()
        if model.conv == "plain":
            y, new = F.conv2d(padded(x, size), conv.weight.double(), bias, stride), mask
        else:
            y, new = reference.partial_conv2d(
                padded(x, size), padded(mask, size) > 0, conv.weight.double(), bias, stride
            )
        return stage.activation.double()(stage.norm.double()(y)), new

    image, mask = image.double(), mask.expand_as(image)
    if model.conv == "plain":
        image = torch.where(mask, image, 0.0)
    features = [(image, mask)]
    for stage in model.encoder:
        features.append(convolved(stage, *features[-1], 2))
    x, valid = features.pop()
    for stage in model.decoder:
        skip, skip_valid = features.pop()
        doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if model.conv == "plain":
            x, _ = convolved(stage, torch.cat((doubled, skip), 1), valid, 1)
            continue
        low = valid[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, x.shape[1], -1, -1)
        x, valid = convolved(stage, torch.cat((doubled, skip), 1), torch.cat((low, skip_valid.expand_as(skip)), 1), 1)
    return x, torch.ones_like(x[:, :1], dtype=torch.bool) if model.conv == "plain" else valid[:, :1]


@pytest.mark.parametrize("mode", [GLOBE, ("circular", "zeros"), "circular"], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conv": "plain"},
        {"composed": True},
        {"in_channels": 3, "out_channels": 1},
        {"levels": 3, "first_bias": True},
        {"windows": (7, 7)},
    ],
    ids=str,
)
@pytest.mark.parametrize("by_channel", [False, True])
def test_axes_go_round(mode: Any, options: dict[str, Any], by_channel: bool) -> None:
    model = network(padding_mode=mode, **options)
    image, mask = scene(model.in_channels, 8, 16, by_channel=by_channel)
    expected, expected_mask = by_hand(network(padding_mode=mode, **options).double(), image, mask)
    with torch.no_grad():
        found, found_mask = model(image, mask)
        assert found.shape == (2, model.out_channels, 8, 16)
        assert torch.equal(found_mask, expected_mask)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
        if model.conv == "partial":
            fused, fused_mask = model.fuse()(image, mask)
            assert torch.equal(fused_mask, expected_mask)
            assert (fused - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1)


def test_the_check_catches_a_seam() -> None:
    image, mask = scene(1, 8, 16)
    expected, _ = by_hand(network(padding_mode=GLOBE).double(), image, mask)
    assert (network()(image, mask)[0] - expected).abs().max() > 1e-2


def test_statistics_of_batch_norm_see_each_pixel_once() -> None:
    model, image, mask = network(padding_mode=GLOBE).train(), *scene(1, 8, 16)
    other = network(padding_mode=GLOBE).double().train()
    model(image, mask)
    by_hand(other, image, mask)
    for (name, found), expected in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(found.double(), expected.double(), atol=1e-5), name


def test_gradients_go_round() -> None:
    model, image, mask = network(padding_mode=GLOBE), *scene(1, 8, 16)
    weights = torch.randn(2, 1, 8, 16)
    (model(image, mask)[0] * weights).sum().backward()
    other = network(padding_mode=GLOBE).double()
    (by_hand(other, image, mask)[0] * weights).sum().backward()
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad.double(), two.grad, atol=1e-4 * float(two.grad.abs().max())), name


@pytest.mark.parametrize("width", [21, 22, 23])
def test_a_width_that_does_not_halve_is_continued(width: int) -> None:
    """As a long strip of copies, of which the middle is taken at the same place of the grid of 2^levels pixels."""
    model, strip = network(levels=1, windows=(3,), padding_mode=GLOBE), network(levels=1, windows=(3,))
    assert model.context <= width // 2
    image, mask = scene(1, 6, width)
    copies = torch.cat([image] * 6, -1), torch.cat([mask] * 6, -1)
    before = min(model.context, (width + 1) // 2) if width % 2 else 0  # where what is kept begins
    skipped = (2 * width - before) % 2
    expected, expected_mask = strip(*(each[..., skipped:] for each in copies))
    at = 2 * width - skipped
    found, found_mask = model(image, mask)
    assert torch.equal(found_mask, expected_mask[..., at : at + width])
    assert torch.allclose(found, expected[..., at : at + width], atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 1), (3, 2), (7, 13)])
@pytest.mark.parametrize("mode", [GLOBE, "circular"], ids=str)
def test_small_and_ragged_sizes(size: tuple[int, int], mode: Any) -> None:
    model = network(levels=1, padding_mode=mode)
    image, mask = torch.randn(1, 1, *size), torch.ones(1, 1, *size)
    for one in (
        model,
        model.fuse(),
        network(levels=3, padding_mode=mode),
        network(prefill="smooth", padding_mode=mode),
    ):
        output, new_mask = one(image, mask)
        assert output.shape == image.shape and bool(new_mask.all()) and bool(torch.isfinite(output).all())


def test_the_refiner_and_the_prefill_go_round() -> None:
    torch.manual_seed(0)
    model = FillRefiner(1, levels=2, width=4, layers=1, blur=2, padding_mode=GLOBE).eval()
    torch.nn.init.normal_(model.last.weight, 0, 0.1)
    flat = FillRefiner(1, levels=2, width=4, layers=1, blur=2).eval()
    flat.load_state_dict(model.state_dict())
    image, mask = scene(1, 10, 40)
    half = 20
    long, long_mask = (torch.cat((each[..., half:], each, each[..., :half]), -1) for each in (image, mask))
    fill = smooth_fill(long, long_mask)
    with torch.no_grad():
        found, _ = model(image, mask)
        # the strip begins where the network's own continuation does, so that pixels halve alike
        begin = half - min(model.context, half)
        expected, _ = flat(long[..., begin:], long_mask[..., begin:], fill[..., begin:])
    assert torch.allclose(found, expected[..., half - begin :][..., :40], atol=1e-5)
    assert not torch.allclose(found, flat(image, mask)[0], atol=1e-3)


def test_the_configuration_is_kept(tmp_path: Path) -> None:
    model = network(
        in_channels=3, out_channels=1, padding_mode=GLOBE, values="data", mean=(1, 2e5, 3), std=(0.1, 50, 2)
    )
    model.save_pretrained(tmp_path / "unet")
    loaded = cast(PConvUNet, load_network(tmp_path / "unet"))
    assert loaded.config == model.config and loaded.padding_mode == GLOBE and loaded.wraps == (False, True)
    image, mask = scene(3, 8, 16)
    assert torch.equal(loaded(image, mask)[0], model(image, mask)[0])
    assert "padding_mode=('zeros', 'circular')" in repr(loaded) and "out_channels=1" in repr(loaded)
    one = FillRefiner(1, levels=1, width=2, padding_mode=GLOBE, values="data")
    one.save_pretrained(tmp_path / "refiner")
    assert load_network(tmp_path / "refiner").config == one.config
    for key in ("out_channels", "padding_mode", "values", "tension"):  # files of pictures are as they were
        assert key not in network().config


def test_answers_in_the_unit_of_the_middle_channel() -> None:
    model = network(in_channels=3, out_channels=1, values="data", mean=(1, 2e5, 3), std=(0.1, 50, 2))
    assert float(model.denormalize(torch.full((1, 1, 1, 1), 2.0))) == 200100
    assert float(network(mean=(5.0,), std=(1.0,)).denormalize(torch.zeros(1, 1, 1, 1))) == 1  # pictures are cut to 1
    with pytest.raises(ValueError, match=r"out_channels: expected at most in_channels \(1\).*got 2"):
        network(out_channels=2).denormalize(torch.zeros(1, 2, 1, 1))


def test_what_is_for_pictures_refuses_them(tmp_path: Path) -> None:
    picture, hole = np.zeros((8, 8, 3), np.uint8), np.eye(8)
    for options, name in (
        ({"padding_mode": GLOBE}, r"padding_mode=\('zeros', 'circular'\)"),
        ({"out_channels": 1}, "out_channels=1"),
        ({"values": "data"}, "values='data'"),
        ({"prefill": "smooth", "tension": 0}, "tension=0"),
    ):
        model = network(in_channels=3, **cast("dict[str, Any]", options))
        with pytest.raises(PConvError, match=f"model: expected a network for RGB pictures, got {name}"):
            inpaint(model, picture, hole)
        with pytest.raises(
            PConvError, match=f"model: expected a network for pictures, in and out, got one with {name}"
        ):
            export_onnx(model, tmp_path / "network.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding_mode": "reflect"}, "padding_mode: expected 'zeros' or 'circular', or one .* got 'reflect'"),
        ({"padding_mode": ("zeros",)}, r"padding_mode: expected .* got \('zeros',\)"),
        ({"padding_mode": 1}, "padding_mode: expected .* got 1"),
        ({"out_channels": 0}, "out_channels: expected a positive integer, got 0"),
        ({"out_channels": 2, "prefill": "smooth"}, r"out_channels: expected in_channels \(1\) with a prefill, got 2"),
        ({"tension": 2}, "tension: expected 0 to 1, got 2"),
        ({"values": "grid"}, "values: expected 'picture' or 'data', got 'grid'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**options)


def test_no_features_of_other_than_three_channels() -> None:
    loss, without = InpaintingLoss(vgg="random"), InpaintingLoss(vgg="none")
    image, mask = scene(2, 12, 16)
    output = image + 0.1
    with pytest.warns(
        UserWarning, match="output: VGG16 takes 3 channels, got 2: the loss is without perceptual, style"
    ):
        found = loss(image, mask, output, image)
    assert found == without(image, mask, output, image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        loss(image, mask, output, image)


@pytest.mark.full("compiled layers")
def test_compiled_and_exported() -> None:
    model = network(padding_mode=GLOBE)
    for width in (16, 18):
        image, mask = scene(1, 8, width)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = model(image, mask)
            for one in (model, model.fuse()):
                found = torch.compile(one, fullgraph=True, backend="aot_eager")(image, mask)
                assert torch.equal(found[1], expected[1]) and torch.allclose(found[0], expected[0], atol=1e-4)
            exported = torch.export.export(model, (image, mask)).module()(image, mask)
            assert torch.equal(exported[1], expected[1]) and torch.allclose(exported[0], expected[0], atol=1e-5)
