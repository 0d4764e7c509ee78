"""The operator against float64: every case, precision and layout, forward and backward."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import BY_NAME, CASES, Case, Tensors, make_tensors
from conftest import assert_as_good_as_torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import partial_conv2d as naive_partial_conv2d

from pconv_cuda import reference
from pconv_cuda.functional import partial_conv2d, partial_conv2d_sources

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def run(function, tensors: Tensors, case: Case, device: str = "cpu"):
    """(output, new mask, gradients of input, weight and bias)."""
    leaves = [tensors.input, tensors.weight, *([] if tensors.bias is None else [tensors.bias])]
    leaves = [leaf.to(device).detach().requires_grad_() for leaf in leaves]
    mask = None if tensors.mask is None else tensors.mask.to(device)
    output, new_mask = function(leaves[0], mask, leaves[1], leaves[2] if len(leaves) > 2 else None, **case.parameters)
    gradients = torch.autograd.grad(output, leaves, tensors.grad.to(device))
    return output.detach().cpu(), new_mask.cpu(), [gradient.cpu() for gradient in gradients]


def absolute_sums(exact: Tensors, case: Case) -> list[torch.Tensor]:
    """Of output and gradients: the sums of the absolute values of what is added up for each."""
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool) if exact.mask is None else exact.mask
    input, bias = torch.where(mask, exact.input, 0.0).abs(), None if exact.bias is None else exact.bias.abs()
    absolute = replace(exact, input=input, weight=exact.weight.abs(), bias=bias, grad=exact.grad.abs())
    output, _, gradients = run(reference.partial_conv2d, absolute, case)
    return [output, *gradients]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_against_float64(case: Case, dtype: torch.dtype, layout: str, device: str) -> None:
    exact = make_tensors(case, dtype)
    truth, true_mask, true_gradients = run(reference.partial_conv2d, exact, case)
    low = exact.to(dtype, LAYOUTS[layout])
    ours, new_mask, gradients = run(partial_conv2d, low, case, device)

    assert ours.dtype == dtype
    assert torch.equal(new_mask, true_mask)
    assert (ours[~true_mask.expand_as(ours)] == 0).all()
    torchs, _, torch_gradients = run(reference.partial_conv2d, low, case, device)
    sums = absolute_sums(exact, case) if dtype == torch.float32 else [None] * 4
    assert_as_good_as_torch(ours, torchs, truth, "output", sums[0])
    for name, gradient, theirs, true, most in zip(
        "xWb", gradients, torch_gradients, true_gradients, sums[1:], strict=False
    ):
        assert_as_good_as_torch(gradient, theirs, true, f"gradient of {name}", most)
    if 0 not in ours.shape:
        assert ours.is_contiguous(memory_format=LAYOUTS[layout])
    assert not gradients[0].isnan().any()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operands_rounded_to_tf32_are_not_as_good(case: Case) -> None:
    exact = make_tensors(case, torch.float32)
    truth, _, true_gradients = run(reference.partial_conv2d, exact, case)
    low = exact.to(torch.float32, torch.contiguous_format)
    theirs, _, torch_gradients = run(reference.partial_conv2d, low, case)

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.view(torch.int32) & ~0x1FFF).view(torch.float32)

    coarse = replace(low, input=rounded(low.input), weight=rounded(low.weight), grad=rounded(low.grad))
    ours, _, gradients = run(reference.partial_conv2d, coarse, case)
    sums = absolute_sums(exact, case)
    for found, other, true, most in zip(
        [ours, *gradients], [theirs, *torch_gradients], [truth, *true_gradients], sums, strict=True
    ):
        if true.count_nonzero() and not torch.equal(found, other):
            with pytest.raises(AssertionError, match="allowed"):
                assert_as_good_as_torch(found, other, true, "", most)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tf32_within_the_bound_of_its_rounding(case: Case, layout: str, device: str) -> None:
    """On a CPU the setting changes nothing. On a GPU cuDNN may take fp32 for tiny shapes, so it is no yardstick."""
    exact = make_tensors(case, torch.float32)
    truth, _, true_gradients = run(reference.partial_conv2d, exact, case)
    # Each operand of a product is rounded once, by 2^-11 at most; sums are of the products' absolute values.
    sums = absolute_sums(exact, case)
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    try:
        ours, _, gradients = run(partial_conv2d, exact.to(torch.float32, LAYOUTS[layout]), case, device)
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    for found, true, size in zip([ours, *gradients], [truth, *true_gradients], sums, strict=True):
        terms = max(case.c * case.window[0] * case.window[1], case.n * case.h * case.w)
        bound = (2 * 2**-11 * 1.01 + (terms + 3) * torch.finfo(torch.float32).eps) * size
        assert ((found.double() - true).abs() <= bound + 1e-30).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "many_pixels"], ids=lambda case: case.name)
def test_reference_against_loops(case: Case) -> None:
    tensors = make_tensors(case)
    mask = torch.ones(1, 1, 1, 1) if tensors.mask is None else tensors.mask
    bias = None if tensors.bias is None else tensors.bias.numpy()
    full_mask = np.broadcast_to(mask.numpy() != 0, tensors.input.shape)
    expected, true_mask = naive_partial_conv2d(
        tensors.input.numpy(), full_mask, tensors.weight.numpy(), bias, **case.parameters
    )
    output, new_mask = reference.partial_conv2d(
        tensors.input, tensors.mask, tensors.weight, tensors.bias, **case.parameters
    )
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(np.broadcast_to(new_mask.numpy() != 0, true_mask.shape), true_mask)


# Each of these wrong operations has to be caught.
def _no_ratio(x, m, w, b, **where):
    masked = torch.where(m, x, 0)
    return torch.nn.functional.conv2d(masked, w, b, **where) * reference.partial_conv2d(x, m, w, b, **where)[1]


def _bias_in_holes(x, m, w, b, **where):
    return reference.partial_conv2d(x, m, w, None, **where)[0] + b.view(-1, 1, 1)


def _product_instead_of_select(x, m, w, b, **where):
    return reference.partial_conv2d(x * m, torch.ones_like(m), w, b, **where)[0]


def _border_counts_as_valid(x, m, w, b, padding, **where):
    pads = (padding[1], padding[1], padding[0], padding[0])
    padded = torch.nn.functional.pad(torch.where(m, x, 0), pads)
    return reference.partial_conv2d(
        padded, torch.nn.functional.pad(m, pads, value=True), w, b, padding=(0, 0), **where
    )[0]


def _ratio_applied_to_bias(x, m, w, b, **where):
    ratio = reference.window_ratio(
        m, w, where["groups"], torch.float64, **{k: where[k] for k in where if k != "groups"}
    )
    return reference.partial_conv2d(x, m, w, None, **where)[0] + ratio * b.view(-1, 1, 1)


@pytest.mark.parametrize(
    "wrong",
    [_no_ratio, _bias_in_holes, _product_instead_of_select, _border_counts_as_valid, _ratio_applied_to_bias],
    ids=lambda function: function.__name__.strip("_"),
)
def test_the_check_catches(wrong) -> None:
    case = BY_NAME["plain3x3"]
    exact = make_tensors(case, torch.float32)
    truth, _, _ = run(reference.partial_conv2d, exact, case)
    low = exact.to(torch.float32)
    torchs, _, _ = run(reference.partial_conv2d, low, case)
    output = wrong(low.input, low.mask, low.weight, low.bias, **case.parameters)
    with pytest.raises(AssertionError):
        assert_as_good_as_torch(output, torchs, truth)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16]
)
def test_mask_dtypes(dtype: torch.dtype, device: str) -> None:
    case = BY_NAME["plain3x3"]
    tensors = make_tensors(case)
    arguments = (tensors.weight.to(device), tensors.bias.to(device))
    expected, true_mask = partial_conv2d(tensors.input.to(device), tensors.mask.to(device), *arguments, padding=1)
    # Anything but zero is valid, 255 and 0.5 too.
    value = 255 if dtype == torch.uint8 else 0.5 if dtype.is_floating_point else True
    mask = (tensors.mask.to(dtype) * value).to(dtype).to(device)
    output, new_mask = partial_conv2d(tensors.input.to(device), mask, *arguments, padding=1)
    assert new_mask.dtype == dtype
    assert torch.equal(output, expected)
    assert torch.equal(new_mask, true_mask.to(dtype))


@pytest.mark.parametrize("mask_of", ["transposed", "sliced", "expanded"])
def test_masks_and_images_of_any_strides(mask_of: str, device: str) -> None:
    case = BY_NAME["plain3x3"]
    tensors = make_tensors(case)
    mask, image = tensors.mask, tensors.input
    if mask_of == "transposed":
        mask = mask.transpose(2, 3).contiguous().transpose(2, 3)
        image = image.transpose(2, 3).contiguous().transpose(2, 3)
    elif mask_of == "sliced":
        mask = torch.cat([mask, ~mask], dim=3)[..., : case.w]
        image = torch.cat([image, image], dim=1)[:, : case.c]
    else:
        mask = mask.expand(-1, case.c, -1, -1)
    weight, bias = tensors.weight.to(device), tensors.bias.to(device)
    expected = partial_conv2d(tensors.input.to(device), tensors.mask.to(device), weight, bias, padding=1)
    output, new_mask = partial_conv2d(image.to(device), mask.to(device), weight, bias, padding=1)
    assert torch.equal(output, expected[0])
    assert torch.equal(new_mask, expected[1])
    assert new_mask.shape[1] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_number_is_read_and_written_as_torch_does(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[~every.isnan()]
    if dtype == torch.bfloat16:  # the convolution behind our pass flushes what is subnormal as a float
        every = every[(every == 0) | (every.abs() > 2.0**-110)]
    # As gradients of a 1x1 convolution of weight 1, so that only our pass rounds.
    grad = every.view(1, 1, 1, -1).repeat(1, 1, 4, 1)
    ratio = torch.tensor([3.0, 1 / 3, 1.0, 2.0**-10]).view(1, 1, 4, 1).expand(1, 1, 4, every.numel()).contiguous()
    one = torch.ones(1, 1, 1, 1, dtype=dtype)
    scaled, *_ = torch.ops.pconv_cuda.partial_conv2d_backward(
        grad,
        torch.ones_like(grad),
        None,
        None,
        None,
        one,
        ratio,
        [1, 1],
        [0, 0],
        [1, 1],
        1,
        False,
        True,
        False,
        False,
        False,
    )
    assert torch.equal(scaled, (grad.float() * ratio).to(dtype))


def test_sources_are_their_concatenation(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    sources = [torch.randn(2, channels, 7, 5, generator=generator, dtype=torch.float64) for channels in (3, 1, 4)]
    masks = [torch.rand(2, 1, 7, 5, generator=generator) > 0.5, None, torch.rand(1, 4, 7, 5, generator=generator) > 0.5]
    weight = torch.randn(6, 8, 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(6, generator=generator, dtype=torch.float64)
    full = torch.cat(
        [
            torch.ones(2, s.shape[1], 7, 5, dtype=torch.bool) if m is None else m.expand(2, s.shape[1], 7, 5)
            for s, m in zip(sources, masks, strict=True)
        ],
        dim=1,
    )
    expected, expected_mask = reference.partial_conv2d(torch.cat(sources, 1), full, weight, bias, padding=1)
    poisoned = [s if m is None else torch.where(m, s, torch.nan) for s, m in zip(sources, masks, strict=True)]
    output, new_mask = partial_conv2d_sources(
        [s.to(device) for s in poisoned],
        [None if m is None else m.to(device) for m in masks],
        weight.to(device),
        bias.to(device),
        padding=1,
    )
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(new_mask.cpu(), expected_mask)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bits_for_any_number_of_threads(layout: str) -> None:
    case = Case("threads", n=2, c=5, h=64, w=60, k=7)
    tensors = make_tensors(case).to(torch.float32, LAYOUTS[layout])
    ratio = partial_conv2d(tensors.input, tensors.mask, tensors.weight, **case.parameters)[0].abs()[:, :1].contiguous()
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(
                torch.ops.pconv_cuda.partial_conv2d_backward(
                    tensors.grad, tensors.input, tensors.mask, None, None, tensors.weight, ratio,
                    [1, 1], [1, 1], [1, 1], 1, False, False, False, False, True,
                )[3]
            )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@st.composite
def problems(draw) -> Case:
    groups = draw(st.integers(1, 3))
    window = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    least = [max(1, d * (size - 1) + 1 - 2 * pad) for d, size, pad in zip(dilation, window, padding, strict=True)]
    return Case(
        "drawn",
        n=draw(st.integers(1, 3)),
        c=groups * draw(st.integers(1, 3)),
        h=draw(st.integers(least[0], least[0] + 8)),
        w=draw(st.integers(least[1], least[1] + 8)),
        k=groups * draw(st.integers(1, 3)),
        window=window,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=padding,
        dilation=dilation,
        groups=groups,
        mask=draw(st.sampled_from(["none", "single", "channels", "batch1"])),
        bias=draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None)
@given(case=problems(), seed=st.integers(0, 2**16), channels_last=st.booleans())
def test_any_shape_and_parameters(case: Case, seed: int, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tensors = make_tensors(case, seed=seed).to(torch.float64, layout)
    truth, true_mask, true_gradients = run(reference.partial_conv2d, tensors, case)
    output, new_mask, gradients = run(partial_conv2d, tensors, case)
    assert torch.equal(new_mask, true_mask)
    torch.testing.assert_close(output, truth, rtol=1e-11, atol=1e-11)
    for ours, true in zip(gradients, true_gradients, strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-11, atol=1e-11)


@st.composite
def first_layers(draw) -> Case:
    """Problems for the kernel of few input channels: tails of pixels and channels, windows that miss the image."""
    window = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    least = [max(1, d * (size - 1) + 1 - 2 * pad) for d, size, pad in zip(dilation, window, padding, strict=True)]
    return Case(
        "drawn",
        n=draw(st.integers(1, 3)),
        c=draw(st.integers(1, 4)),
        h=draw(st.integers(least[0], least[0] + 8)),
        w=draw(st.integers(max(least[1], 2), least[1] + 20)),  # 1 x 1 x 1 counts as contiguous
        k=draw(st.sampled_from([16, 32, 48, 64, 80, 128, 144])),
        window=window,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=padding,
        dilation=dilation,
        mask=draw(st.sampled_from(["none", "single", "batch1", "full", "empty"])),
        bias=draw(st.booleans()),
    )


@settings(max_examples=200, deadline=None)
@given(case=first_layers(), seed=st.integers(0, 2**16), weight_last=st.booleans())
def test_any_first_layer_within_the_bound_of_its_rounding(case: Case, seed: int, weight_last: bool) -> None:
    exact = make_tensors(case, torch.float32, seed=seed)
    truth, true_mask = reference.partial_conv2d(exact.input, exact.mask, exact.weight, exact.bias, **case.parameters)
    # A sum of n products, scaled and shifted, is off by at most n + 3 roundings of the sum of its absolute values.
    mask = torch.ones(1, 1, case.h, case.w, dtype=torch.bool) if exact.mask is None else exact.mask
    absolute_bias = None if exact.bias is None else exact.bias.abs()
    largest, _ = reference.partial_conv2d(exact.input.abs(), mask, exact.weight.abs(), absolute_bias, **case.parameters)
    bound = (exact.weight[0].numel() + 3) * torch.finfo(torch.float32).eps * largest

    low = exact.to(torch.float32)
    # Not contiguous(): it leaves a tensor of one channel as it is, in both layouts at once.
    image = torch.empty(low.input.shape, memory_format=torch.channels_last).copy_(low.input)
    weight = low.weight.contiguous(memory_format=LAYOUTS["channels_last" if weight_last else "contiguous"])
    output, new_mask = partial_conv2d(image, low.mask, weight, low.bias, **case.parameters)
    assert torch.equal(new_mask, true_mask)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert ((output.double() - truth).abs() <= bound).all()


def test_first_layer_has_the_same_bits_for_any_number_of_threads() -> None:
    case = Case("threads", n=2, c=3, h=75, w=61, k=80, window=(7, 7), stride=(2, 2), padding=(3, 3))
    low = make_tensors(case).to(torch.float32, torch.channels_last)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(partial_conv2d(low.input, low.mask, low.weight, low.bias, **case.parameters)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_infinite_weights_leave_empty_windows_of_a_first_layer_zero() -> None:
    case = Case("infinite", c=3, h=9, w=19, k=32)
    low = make_tensors(case).to(torch.float32, torch.channels_last)
    mask = torch.zeros_like(low.mask)
    mask[:, :, 4, 3] = True  # so that one tile has windows with and without a valid pixel
    weight = torch.full_like(low.weight, torch.inf)
    output, true_mask = partial_conv2d(low.input, mask, weight, low.bias, **case.parameters)
    assert true_mask.any() and (output[~true_mask.bool().expand_as(output)] == 0).all()
