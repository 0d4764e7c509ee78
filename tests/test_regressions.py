"""Bugs of other implementations, a test for each."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import Case, make_tensors

from pconv_cuda import PartialConv2d, PConvUNet, reference
from pconv_cuda.functional import partial_conv2d, partial_conv3d
from pconv_cuda.losses import gram_matrix, total_variation


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_an_all_hole_window_is_zero_in_half_precision(dtype: torch.dtype, autocast: bool, device: str) -> None:
    # full / (0 + 1e-8) is infinity in fp16, and infinity times 0 is NaN.
    x = torch.randn(1, 8, 9, 9, device=device, dtype=torch.float32 if autocast else dtype)
    layer = PartialConv2d(8, 4, 3, padding=1, device=device, dtype=x.dtype)
    mask = torch.zeros(1, 1, 9, 9, device=device)
    mask[..., 5:] = 1
    with torch.autocast(device, dtype=dtype, enabled=autocast):
        output = layer(x.requires_grad_(), mask)
    assert output.dtype == dtype and torch.isfinite(output).all()
    assert (output[..., :4] == 0).all()
    output.float().sum().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(layer.weight.grad).all()


def test_counts_are_exact_with_many_channels_in_bf16(device: str) -> None:
    # 1024 * 9 - 1 is no bf16 number: a count formed in bf16 is off by up to 0.8 %. One value of 1 in the window.
    mask = torch.ones(1, 1024, 3, 3, device=device, dtype=torch.bool)
    mask[0, 5, 1, 1] = False
    ratio = torch.ops.pconv_cuda.partial_conv2d(
        torch.ones(1, 1024, 3, 3, device=device, dtype=torch.bfloat16),
        mask, None, None, torch.ones(1, 1024, 3, 3, device=device, dtype=torch.bfloat16), None,
        [1, 1], [0, 0], [1, 1], 1,
    )[2]  # fmt: skip
    assert ratio.dtype == torch.float32
    assert ratio.item() == torch.tensor(1024 * 9).div(1024 * 9 - 1).item()


def test_no_mask_is_remembered_from_the_last_call(device: str) -> None:
    layer = PartialConv2d(2, 3, 3, padding=1, return_mask=True, device=device)
    fresh = copy.deepcopy(layer)
    x = torch.randn(1, 2, 8, 8, device=device)
    mask = (torch.rand(1, 1, 8, 8, device=device) > 0.5).float()
    layer(x, mask)
    assert torch.equal(layer(x)[0], fresh(x)[0])
    mask.zero_()  # the same tensor at the same address, edited in place
    output, new_mask = layer(x, mask)
    assert (output == 0).all() and (new_mask == 0).all()
    mask.data.fill_(1)  # behind autograd's back
    assert torch.equal(layer(x, mask)[0], fresh(x, torch.ones_like(mask))[0])


def test_editing_a_mask_before_backward_is_an_error_not_a_wrong_gradient(device: str) -> None:
    layer = PartialConv2d(2, 3, 3, padding=1, device=device)
    mask = torch.ones(1, 1, 8, 8, device=device)
    output = layer(torch.randn(1, 2, 8, 8, device=device), mask)
    mask.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_groups_with_channel_masks_are_counted_by_group(device: str) -> None:
    # Group 0 sees nothing, group 1 everything.
    x = torch.ones(1, 2, 3, 3, device=device)
    mask = torch.zeros(1, 2, 3, 3, device=device)
    mask[:, 1] = 1
    output, new_mask = partial_conv2d(x, mask, torch.ones(4, 1, 3, 3, device=device), padding=1, groups=2)
    assert (output[:, :2] == 0).all() and (output[:, 2:] == 9).all()
    assert new_mask.shape == (1, 4, 3, 3)
    assert (new_mask[:, :2] == 0).all() and (new_mask[:, 2:] == 1).all()


def test_reflected_pixels_are_data(device: str) -> None:
    layer = PartialConv2d(1, 1, 3, padding=1, padding_mode="reflect", bias=False, device=device)
    torch.nn.init.ones_(layer.weight)
    # All valid and all ones: no border may be renormalised, 9 everywhere.
    output = layer(torch.ones(1, 1, 5, 5, device=device), torch.ones(1, 1, 5, 5, device=device))
    torch.testing.assert_close(output, torch.full_like(output, 9.0))


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_values_in_holes_have_no_influence(poison: float, device: str) -> None:
    case = Case("poisoned", n=2, c=3, h=9, w=8, k=4)
    clean = make_tensors(case, poison=False).to(torch.float32)
    gradients = []
    for value in (0.0, poison):
        x = torch.where(clean.mask, clean.input, value).to(device).requires_grad_()
        w = clean.weight.to(device).requires_grad_()
        output = partial_conv2d(x, clean.mask.to(device), w, clean.bias.to(device), padding=1)[0]
        gradients.append((output, *torch.autograd.grad(output.square().sum(), (x, w))))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_poisoned_gradients_of_dead_windows_do_not_spread(device: str) -> None:
    case = Case("dead", n=1, c=2, h=9, w=8, k=3)
    tensors = make_tensors(case).to(torch.float32)
    x, w = tensors.input.to(device).requires_grad_(), tensors.weight.to(device).requires_grad_()
    bias = tensors.bias.to(device).requires_grad_()
    output, new_mask = partial_conv2d(x, tensors.mask.to(device), w, bias, padding=1)
    assert not new_mask.all()
    grad = torch.where(new_mask, tensors.grad.to(device), torch.nan)
    for gradient in torch.autograd.grad(output, (x, w, bias), grad):
        assert torch.isfinite(gradient).all()


def test_total_variation_looks_at_the_hole_alone() -> None:
    # A step far from the hole must not count; one inside it must; first and last row are no neighbours.
    hole = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    hole[..., 5:7, 5:7] = True
    image = torch.zeros(1, 3, 12, 12)
    image[..., 0, :] = 7.0
    assert total_variation(image, hole) == 0
    image[..., 5, 5] = 1.0
    assert total_variation(image, hole) == 3 * 4 / image.numel()


def test_style_does_not_overflow_in_half_precision() -> None:
    features = torch.full((1, 4, 32, 32), 100.0, dtype=torch.float16)
    assert torch.equal(gram_matrix(features), torch.full((1, 4, 4), 100.0 * 100 / 4))


def test_fine_tuning_with_a_frozen_encoder_does_not_explode() -> None:
    torch.manual_seed(0)
    model = PConvUNet(levels=3, width=4)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    image = torch.randn(4, 3, 32, 32)
    mask = torch.rand(4, 1, 32, 32) > 0.3
    losses = []
    for step in range(30):
        if step == 20:
            model.freeze_encoder_bn()
            before = copy.deepcopy(model.encoder.state_dict())
        loss = (model(image, mask)[0] - image).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        model.train()  # as trainers call it every epoch; it must not thaw what is frozen
    assert max(losses[20:]) < 1.2 * losses[19]
    after = model.encoder.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed and not any("norm" in key for key in changed)


def test_channels_last_stays_channels_last_through_the_network() -> None:
    layer = PartialConv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(1, 8, 6, 6).to(memory_format=torch.channels_last)
    output = layer(layer(x, torch.ones(1, 1, 6, 6)), torch.ones(1, 1, 6, 6))
    assert output.is_contiguous(memory_format=torch.channels_last)
    plain = layer(torch.randn(1, 8, 6, 6), torch.ones(1, 1, 6, 6))  # a channels_last weight does not decide
    assert plain.is_contiguous()


def test_the_ratio_is_applied_once_and_not_to_the_bias() -> None:
    x = torch.full((1, 1, 3, 3), 2.0)
    mask = torch.zeros(1, 1, 3, 3)
    mask[..., 1, 1] = 1
    output, _ = partial_conv2d(x, mask, torch.ones(1, 1, 3, 3), torch.tensor([1.0]))
    assert output.item() == 2.0 * 9 + 1.0
    assert reference.partial_conv2d(x, mask, torch.ones(1, 1, 3, 3), torch.tensor([1.0]))[0].item() == 19.0


def test_a_weight_with_unusual_strides_of_an_axis_of_one_value() -> None:
    # torch takes (6, 1, 2, 6) as channels_last, and reads other values for a channels_last input in groups.
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(4, 2, 3, 1).transpose(-1, 1).contiguous().transpose(-1, 1).requires_grad_()
    assert weight.stride() == (6, 1, 2, 6)
    mask = torch.rand(2, 1, 8, 8) > 0.3
    output = partial_conv2d(x, mask, weight, None, 2, 0, 1, 2)[0]
    double = weight.detach().double().contiguous().requires_grad_()
    true = reference.partial_conv2d(x.double(), mask, double, None, (2, 2), (0, 0), (1, 1), 2)[0]
    torch.testing.assert_close(output.double(), true, rtol=1e-5, atol=1e-5)
    output.sum().backward()
    true.sum().backward()
    torch.testing.assert_close(weight.grad.double(), double.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_weights_gradient_of_a_flat_volume_in_bf16(images: int, channels_last: bool) -> None:
    # oneDNN leaves values unwritten where a volume is smaller than the window along an axis.
    x, weight = torch.randn(images, 2, 2, 13, 5).bfloat16(), torch.randn(4, 2, 3, 1, 3).bfloat16()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)

    def gradient(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        leaf = weight.clone().requires_grad_()
        partial_conv3d(x, None, leaf, None, 1, (1, 0, 1))[0].sum().backward()
        return leaf.grad.double()

    true = gradient(x.double(), weight.double())
    for _ in range(3):
        spoiled = [torch.full((count,), 1e30).bfloat16() for count in (64, 72, 128, 256, 512, 1024, 2048, 4096)]
        del spoiled  # what is not written shows these
        assert (gradient(x, weight) - true).abs().max() <= 0.02 * true.abs().max()
