"""PartialConv2d, its functional form, and partial padding for whole models."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from pconv_cuda import InpaintingLoss, PartialConv2d, PConvUNet, reference
from pconv_cuda.functional import partial_conv2d, partial_conv2d_sources
from pconv_cuda.nn import use_partial_padding


def image_and_mask(*shape: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(*shape, generator=generator, dtype=dtype)
    return image, torch.rand(*shape[:-3], 1, *shape[-2:], generator=generator) > 0.5


def test_state_dict_is_conv2ds() -> None:
    plain, partial = nn.Conv2d(3, 4, 3, padding=1), PartialConv2d(3, 4, 3, padding=1)
    assert list(partial.state_dict()) == list(plain.state_dict()) == ["weight", "bias"]
    partial.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(partial.state_dict(), strict=True)
    assert isinstance(partial, nn.Conv2d)


def test_without_holes_and_padding_it_is_the_convolution() -> None:
    layer = PartialConv2d(3, 4, 3, dtype=torch.float64)
    image, _ = image_and_mask(2, 3, 8, 7)
    torch.testing.assert_close(layer(image), F.conv2d(image, layer.weight, layer.bias))


def test_a_window_agrees_with_the_formula() -> None:
    # One valid pixel of value 5 under a 3x3 window of ones: 9 / 1 * 5 + bias.
    layer = PartialConv2d(1, 1, 3, padding=1, return_mask=True, dtype=torch.float64)
    nn.init.ones_(layer.weight)
    nn.init.constant_(layer.bias, 0.25)
    image, mask = torch.full((1, 1, 5, 5), torch.nan, dtype=torch.float64), torch.zeros(1, 1, 5, 5)
    image[..., 2, 2], mask[..., 2, 2] = 5.0, 1
    output, new_mask = layer(image, mask)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[1:4, 1:4] = 45.25
    assert torch.equal(output[0, 0], expected)
    assert torch.equal(new_mask[0, 0], (expected > 0).float())


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("multi_channel", [False, True])
def test_shapes_and_dtypes_of_the_new_mask(mask_dtype: torch.dtype, multi_channel: bool) -> None:
    layer = PartialConv2d(3, 4, 3, stride=2, return_mask=True, multi_channel=multi_channel)
    image, mask = image_and_mask(2, 3, 9, 9, dtype=torch.float32)
    for given in (mask.to(mask_dtype), mask.to(mask_dtype).expand(2, 3, 9, 9)):
        _, new_mask = layer(image, given)
        assert new_mask.shape == (2, 4 if multi_channel else 1, 4, 4) and new_mask.dtype == mask_dtype
        assert new_mask.untyped_storage().nbytes() == 2 * 16 * mask_dtype.itemsize  # expanded, not copied
    assert layer(image)[1].dtype == torch.bool
    assert layer(image)[1].shape == new_mask.shape


def test_multi_channel_does_not_change_the_arithmetic() -> None:
    one, many = PartialConv2d(2, 3, 3, padding=1), PartialConv2d(2, 3, 3, padding=1, multi_channel=True)
    many.load_state_dict(one.state_dict())
    image, mask = image_and_mask(1, 2, 6, 6, dtype=torch.float32)
    assert torch.equal(one(image, mask), many(image, mask))
    full = torch.rand(1, 2, 6, 6) > 0.5
    assert torch.equal(one(image, full), many(image, full))


def test_unbatched() -> None:
    layer = PartialConv2d(3, 4, 3, padding=1, return_mask=True, dtype=torch.float64)
    image, mask = image_and_mask(3, 6, 5)
    for given in (mask, mask.expand(3, 6, 5), None):
        output, new_mask = layer(image, given)
        batched, batched_mask = layer(image[None], None if given is None else given[None])
        assert torch.equal(output, batched[0]) and torch.equal(new_mask, batched_mask[0])
        assert output.shape == (4, 6, 5) and new_mask.shape == (1, 6, 5)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")  # torch pads even windows by a copy, and says so
@pytest.mark.parametrize("window", [(3, 3), (2, 4), (4, 1)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_padding_same_and_valid(window: tuple[int, int], dilation: int) -> None:
    image, mask = image_and_mask(2, 3, 11, 12)
    for padding in ("same", "valid"):
        layer = PartialConv2d(3, 4, window, padding=padding, dilation=dilation, return_mask=True, dtype=torch.float64)
        for given in (mask, None):
            output, new_mask = layer(image, given)
            expected, expected_mask = reference.partial_conv2d(
                image, given, layer.weight, layer.bias, padding=padding, dilation=dilation
            )
            torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
            assert torch.equal(new_mask, expected_mask)
            assert padding == "valid" or output.shape[2:] == image.shape[2:]


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_modes_pad_the_mask_too(mode: str) -> None:
    layer = PartialConv2d(2, 3, 3, padding=(1, 2), padding_mode=mode, return_mask=True, dtype=torch.float64)
    image, mask = image_and_mask(2, 2, 7, 6)
    sides = (2, 2, 1, 1)
    padded_mask = F.pad(mask.double(), sides, mode=mode) > 0
    expected, expected_mask = reference.partial_conv2d(
        F.pad(image, sides, mode=mode), padded_mask, layer.weight, layer.bias
    )
    output, new_mask = layer(image, mask)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(new_mask, expected_mask)
    # Real data on every side: with no mask nothing is renormalised, as in nn.Conv2d.
    plain = nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode=mode, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(image)[0], plain(image))
    torch.testing.assert_close(layer(image[0])[0], plain(image[0]))


def test_copies_pickles_and_moves() -> None:
    layer = PartialConv2d(2, 3, 3, padding=1, return_mask=True)
    image, mask = image_and_mask(1, 2, 6, 6)
    layer(image.float(), mask)  # an earlier call must have no influence
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(image.float(), mask)[0], layer(image.float(), mask)[0])
    double = copy.deepcopy(layer).double()
    assert double(image, mask)[0].dtype == torch.float64
    assert copy.deepcopy(layer).to(torch.bfloat16)(image.bfloat16(), mask)[0].dtype == torch.bfloat16
    meta = layer.to("meta")
    output, new_mask = meta(image.float().to("meta"), mask.to("meta"))
    assert output.shape == (1, 3, 6, 6) and new_mask.shape == (1, 1, 6, 6)


ERRORS = {
    "input: expected (N, C, H, W) or (C, H, W)": lambda x, m, w: partial_conv2d(x[0, 0], None, w),
    "input: expected 3 channels": lambda x, m, w: partial_conv2d(x[:, :2], m, w),
    "weight: expected (K, C / groups, R, S)": lambda x, m, w: partial_conv2d(x, m, w[0]),
    "weight: expected output channels divisible": lambda x, m, w: partial_conv2d(x, m, w[:, :1], groups=3),
    "bias: expected shape (4,)": lambda x, m, w: partial_conv2d(x, m, w, torch.zeros(3)),
    "groups: expected a positive": lambda x, m, w: partial_conv2d(x, m, w, groups=0),
    "mask: expected (2|1, 1|3, 6, 5)": lambda x, m, w: partial_conv2d(x, m[..., :4], w),
    "mask: expected (1|C, H, W)": lambda x, m, w: partial_conv2d(x[0], m, w),
    "mask: expected bool, uint8 or a floating": lambda x, m, w: partial_conv2d(x, m.int(), w),
    "stride: expected": lambda x, m, w: partial_conv2d(x, m, w, stride=0),
    "padding: expected one or two": lambda x, m, w: partial_conv2d(x, m, w, padding=(1, 2, 3)),
    "padding: expected integers, 'same' or": lambda x, m, w: partial_conv2d(x, m, w, padding="full"),
    "padding: 'same' needs stride 1": lambda x, m, w: partial_conv2d(x, m, w, padding="same", stride=2),
    "a window of width 3 (with dilation 1) does not fit": lambda x, m, w: partial_conv2d(x[..., :2], m[..., :2], w),
    "weight: expected the input's dtype torch.float32, got torch.float64": lambda x, m, w: partial_conv2d(
        x, m, w.double()
    ),
    "bias: expected the input's dtype": lambda x, m, w: partial_conv2d(x, m, w, torch.zeros(4).double()),
    "input: expected float64, float32, bfloat16 or float16, got torch.int32": lambda x, m, w: partial_conv2d(
        x.int(), m, w
    ),
    "input: expected at least one channel": lambda x, m, w: partial_conv2d(x[:, :0], None, w[:, :0]),
    "none of them 0": lambda x, m, w: partial_conv2d(x, m, w[:0]),
    "input: expected a torch.Tensor, got ndarray": lambda x, m, w: partial_conv2d(x.numpy(), m, w),
    "mask: expected a torch.Tensor, got ndarray": lambda x, m, w: partial_conv2d(x, m.numpy(), w),
    "weight: expected the input's device cpu, got meta": lambda x, m, w: partial_conv2d(x, m, w.to("meta")),
    "mask: expected the input's device cpu, got meta": lambda x, m, w: partial_conv2d(x, m.to("meta"), w),
    "stride: expected one or two integers of at least 1, got 1.5": lambda x, m, w: partial_conv2d(x, m, w, stride=1.5),
    "inputs: expected (N, C_i, H, W) of one batch and size": lambda x, m, w: partial_conv2d_sources(
        [x, x[..., :2]], [m, None], w
    ),
    "mask: expected (1|C, H, W) as the input is unbatched": lambda x, m, w: PartialConv2d(
        3, 4, 3, padding=1, padding_mode="reflect"
    )(x[0], m),
    "masks: expected one for each": lambda x, m, w: partial_conv2d_sources([x, x], [m], w),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_the_argument(message: str) -> None:
    image, mask = image_and_mask(2, 3, 6, 5, dtype=torch.float32)
    with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        ERRORS[message](image, mask, torch.zeros(4, 3, 3, 3))
    assert message in str(caught.value)


def test_raw_operators_refuse_what_would_crash() -> None:
    image = torch.randn(2, 3, 6, 5).to(memory_format=torch.channels_last)
    window = [[1, 1], [1, 1], [1, 1], 1]
    operator, mask, weight = torch.ops.pconv_cuda.partial_conv2d, torch.ones(2, 1, 6, 5), torch.zeros(4, 3, 3, 3)
    for bad in (torch.ones(2, 2, 6, 5, dtype=torch.bool), torch.ones(2, 0, 6, 5), torch.ones(3, 1, 6, 5)):
        with pytest.raises(RuntimeError, match="^mask: expected"):
            operator(image, bad, None, None, weight, None, *window)
    with pytest.raises(RuntimeError, match="^skip_mask: expected none without a skip"):
        operator(image, mask, None, mask, weight, None, *window)
    for bad, upsample in ((image[:, :, 1:], False), (image, True), (image[:1], False), (image[:, :0], False)):
        with pytest.raises(RuntimeError, match="^skip: expected"):
            operator(image, mask, bad, None, weight, None, *window, upsample)
    with pytest.raises(RuntimeError, match="^skip: expected a tensor, as upsample is set"):
        operator(image, mask, None, None, weight, None, *window, True)
    with pytest.raises(RuntimeError, match="^mask: expected .2.1, 1, 6, 5., got .2, 3, 6, 5."):
        operator(image, mask.repeat(1, 3, 1, 1), image, None, torch.zeros(4, 6, 3, 3), None, *window)
    with pytest.raises(RuntimeError, match="^groups: expected 1 with a skip, got 3"):
        operator(image, mask, image, None, torch.zeros(6, 2, 3, 3), None, *window[:3], 3)
    large = torch.randn(2, 3, 12, 10)
    for strange in ([2, 2], [1, 1], [1, 1]), ([1, 1], [0, 0], [1, 1]), ([1, 1], [1, 1], [2, 2]):
        with pytest.raises(RuntimeError, match="^upsample: expected a weight"):
            operator(image, mask, large, None, torch.zeros(4, 6, 3, 3), None, *strange, 1, True)
    with pytest.raises(RuntimeError, match="^prepared: expected none without upsample"):
        operator(image, mask, None, None, weight, None, *window, False, weight)


def test_a_bool_mask_of_foreign_bytes_reads_as_its_truth_values() -> None:
    image, mask = image_and_mask(2, 3, 9, 8, dtype=torch.float32)
    weight = torch.randn(4, 3, 3, 3)
    foreign = (mask.to(torch.uint8) * 255).view(torch.bool)
    for layout in (torch.contiguous_format, torch.channels_last):
        poisoned = torch.where(mask, image, torch.nan).contiguous(memory_format=layout)
        expected = partial_conv2d(poisoned, mask, weight, padding=1)
        for ours, true in zip(partial_conv2d(poisoned, foreign, weight, padding=1), expected, strict=True):
            assert torch.equal(ours, true)


def test_the_new_masks_shape_does_not_depend_on_strides() -> None:
    image, mask = image_and_mask(2, 4, 6, 5, dtype=torch.float32)
    for mode in ("zeros", "reflect"):
        layer = PartialConv2d(4, 4, 3, padding=1, groups=2, padding_mode=mode, return_mask=True)
        expanded = mask.expand(2, 4, 6, 5)
        for ours, true in zip(layer(image, expanded), layer(image, expanded.contiguous()), strict=True):
            assert ours.shape == true.shape == (2, 4, 6, 5)
            torch.testing.assert_close(ours, true)


def test_an_empty_batch_can_be_edited_in_place() -> None:
    layers = nn.Sequential(PartialConv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
    for layout in (torch.contiguous_format, torch.channels_last):
        output = layers(torch.zeros(0, 3, 8, 8).to(memory_format=layout))
        assert output.shape == (0, 4, 8, 8)
        output.sum().backward()


SOFT_READERS = {
    "function": lambda x, m: partial_conv2d(x, m, torch.zeros(4, 3, 3, 3)),
    "reference": lambda x, m: reference.partial_conv2d(x, m, torch.zeros(4, 3, 3, 3)),
    "sources": lambda x, m: partial_conv2d_sources([x], [m], torch.zeros(4, 3, 3, 3)),
    "same": lambda x, m: PartialConv2d(3, 4, 2, padding="same")(x, m),
    "reflect": lambda x, m: PartialConv2d(3, 4, 3, padding=1, padding_mode="reflect")(x, m),
    "network": lambda x, m: PConvUNet(levels=1, width=2)(x, m),
    "loss": lambda x, m: InpaintingLoss(vgg="none")(x, m, x, x),
    "operator": lambda x, m: torch.ops.pconv_cuda.partial_conv2d(
        x, m, None, None, torch.zeros(4, 3, 3, 3), None, [1, 1], [1, 1], [1, 1], 1
    ),
}


@pytest.mark.parametrize("reader", SOFT_READERS)
@pytest.mark.parametrize("value", [0.5, 2.0, float("nan")])
def test_pconv_check_refuses_soft_masks(reader: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = image_and_mask(1, 3, 6, 5, dtype=torch.float32)
    soft = mask.float()
    monkeypatch.setenv("PCONV_CHECK", "1")
    SOFT_READERS[reader](image, soft)
    soft[0, 0, 3, 3] = value
    with pytest.raises(RuntimeError, match="mask: expected zeros and ones"):
        SOFT_READERS[reader](image, soft)
    monkeypatch.delenv("PCONV_CHECK")
    SOFT_READERS[reader](image, soft)


FALLBACK = """
import sys, torch, warnings
warnings.simplefilter("error")
sys.path.insert(0, sys.argv[1])
from cases import CASES, make_tensors
from test_operation import run
from pconv_cuda import reference
from pconv_cuda.functional import partial_conv2d
for case in CASES:
    tensors = make_tensors(case)
    ours, theirs = run(partial_conv2d, tensors, case), run(reference.partial_conv2d, tensors, case)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
print("agrees")
"""


def test_fallback_everywhere_agrees() -> None:
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", FALLBACK, here],
        env={**os.environ, "PCONV_FALLBACK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "agrees", done.stderr


@pytest.mark.parametrize(
    "name", ["resnet50", pytest.param("vgg16", marks=pytest.mark.full("large pictures and networks"))]
)
def test_partial_padding_for_torchvisions_models(name: str) -> None:
    torch.manual_seed(0)
    plain = getattr(torchvision.models, name)(num_classes=5).eval()
    model = copy.deepcopy(plain)
    shared = {id(parameter) for parameter in model.parameters()}
    assert use_partial_padding(model) is model
    assert {id(parameter) for parameter in model.parameters()} == shared
    assert list(model.state_dict()) == list(plain.state_dict())
    swapped = [layer for layer in model.modules() if isinstance(layer, PartialConv2d)]
    padded = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d) and layer.padding != (0, 0)]
    assert len(swapped) == len(padded) > 10
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = model(image), plain(image)
        # The first padded layer, by the formula of arXiv 1811.11718: conv * full / (window inside the image) + bias.
        first = padded[0]
        raw = F.conv2d(image, first.weight, None, first.stride, first.padding)
        count = F.conv2d(
            torch.ones(1, 1, 64, 64), torch.ones(1, 1, *first.kernel_size), None, first.stride, first.padding
        )
        ratio = first.kernel_size[0] * first.kernel_size[1] / count
        expected = raw * ratio + (0 if first.bias is None else first.bias.view(-1, 1, 1))
        torch.testing.assert_close(swapped[0](image), expected, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(ours).all() and not torch.allclose(ours, theirs)
    model.train()(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(layer.weight.grad is not None for layer in swapped)


def test_partial_padding_leaves_alone_what_is_not_its_own() -> None:
    class Own(nn.Conv2d):
        pass

    twice = nn.Conv2d(1, 1, 3, padding=1)
    model = nn.Sequential(
        twice, twice, Own(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    )
    use_partial_padding(model)
    assert [type(layer) for layer in model] == [PartialConv2d, PartialConv2d, Own, nn.Conv2d, nn.Conv2d]
    assert model[0] is model[1] and model[0].weight is twice.weight
    assert isinstance(use_partial_padding(nn.Conv2d(1, 1, 3, padding="same")), PartialConv2d)
