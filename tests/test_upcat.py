"""The decoder's stage against float64, by way of the tensors that it never makes; counts, holes, stale weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases_upcat import BY_NAME, STAGES, WINDOW, Stage, Tensors, assert_no_worse, errors, make_tensors
from conftest import assert_as_good_as_torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import partial_conv2d as naive_partial_conv2d
from torch import nn

from pconv_cuda import PartialConv2d, PartialConvUpCat2d, ops, reference
from pconv_cuda.functional import partial_conv2d_sources, partial_conv2d_upcat

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def check_against_float64(stage: Stage, dtype: torch.dtype, layout: str, device: str, seeds: range) -> None:
    ours, theirs = [], []
    for seed in seeds:
        exact = make_tensors(stage, dtype, seed=seed)
        truth, true_mask, true_gradients = exact.call(reference.partial_conv2d_upcat)
        low = exact.to(dtype, LAYOUTS[layout])
        composed, _, composed_gradients = low.call(reference.partial_conv2d_upcat, device)
        output, new_mask, gradients = low.call(partial_conv2d_upcat, device)
        assert output.dtype == dtype and new_mask.dtype == torch.bool
        assert torch.equal(new_mask, true_mask)
        assert (output[~true_mask.expand_as(output)] == 0).all()
        if 0 not in output.shape and stage.h * stage.w > 1 and stage.low > 1:
            assert output.is_contiguous(memory_format=LAYOUTS[layout])
        ours.append(errors([output, *gradients], [truth, *true_gradients]))
        theirs.append(errors([composed, *composed_gradients], [truth, *true_gradients]))
    assert_no_worse(ours, theirs, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_against_float64(stage: Stage, dtype: torch.dtype, layout: str, device: str) -> None:
    check_against_float64(stage, dtype, layout, device, range(10))


MASKS = st.sampled_from(["holes", "batch1", "none", "full", "empty"])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3), low=st.integers(1, 20), skip=st.integers(1, 9), k=st.integers(1, 20),
    h=st.integers(1, 12), w=st.integers(1, 12), low_mask=MASKS, skip_mask=MASKS, bias=st.booleans(),
    layout=st.sampled_from(list(LAYOUTS)), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_stage_in_float64(layout: str, seed: int, **sizes) -> None:
    check_against_float64(Stage("any", **sizes), torch.float64, layout, "cpu", range(seed, seed + 1))


def test_the_reference_against_loops() -> None:
    t = make_tensors(BY_NAME["joined"])
    repeated = t.low.numpy().repeat(2, axis=2).repeat(2, axis=3)
    low_valid = np.broadcast_to(t.low_mask.numpy().repeat(2, axis=2).repeat(2, axis=3), repeated.shape)
    valid = np.concatenate([low_valid, np.broadcast_to(t.skip_mask.numpy(), t.skip.shape)], axis=1)
    joined = np.concatenate([repeated, t.skip.numpy()], axis=1)
    expected, true_mask = naive_partial_conv2d(
        joined, valid, t.weight.numpy(), t.bias.numpy(), (1, 1), (1, 1), (1, 1), 1
    )
    output, new_mask = reference.partial_conv2d_upcat(t.low, t.low_mask, t.skip, t.skip_mask, t.weight, t.bias)
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(np.broadcast_to(new_mask.numpy(), true_mask.shape), true_mask)


# Wrong stages that the check has to catch.
def _skip_first(low, low_mask, skip, skip_mask, weight, bias):
    swapped = torch.cat((weight[:, skip.shape[1] :], weight[:, : skip.shape[1]]), 1)
    return reference.partial_conv2d_upcat(low, low_mask, skip, skip_mask, swapped, bias)


def _single_pixels_counted_once(low, low_mask, skip, skip_mask, weight, bias):
    """Counts over the small picture without multiplicities: right where nothing is a hole."""
    shrunk = F.max_pool2d(low_mask.double(), 3, 1, 1) > 0
    return reference.partial_conv2d_upcat(torch.where(low_mask, low, 0.0), shrunk, skip, skip_mask, weight, bias)


def _skip_not_masked(low, low_mask, skip, skip_mask, weight, bias):
    return reference.partial_conv2d_upcat(low, low_mask, skip.nan_to_num(1.0), None, weight, bias)


def _bilinear(low, low_mask, skip, skip_mask, weight, bias):
    smooth = F.interpolate(torch.where(low_mask, low, 0.0), scale_factor=2, mode="bilinear")
    masks = [reference.doubled(low_mask), skip_mask]
    return partial_conv2d_sources((smooth, skip), masks, weight, bias, padding=1)


def _one_mask_for_both(low, low_mask, skip, skip_mask, weight, bias):
    both = reference.doubled(low_mask) & skip_mask
    return reference.partial_conv2d_upcat(torch.where(low_mask, low, 0.0), low_mask, skip, both, weight, bias)


@pytest.mark.parametrize(
    "wrong",
    [_skip_first, _single_pixels_counted_once, _skip_not_masked, _bilinear, _one_mask_for_both],
    ids=lambda function: function.__name__.strip("_"),
)
def test_the_check_catches(wrong) -> None:
    exact = make_tensors(BY_NAME["phases"], torch.float32)
    truth, true_mask, _ = exact.call(reference.partial_conv2d_upcat)
    low = exact.to(torch.float32)
    torchs, _, _ = low.call(reference.partial_conv2d_upcat)
    output, new_mask, _ = low.call(wrong)
    with pytest.raises(AssertionError):
        assert_as_good_as_torch(output, torchs, truth)
        assert torch.equal(new_mask, true_mask)


def test_phases_of_a_weight() -> None:
    """One value a tap: row (column) 0, 1, 2 of the filter goes to taps 0, 1, 1 of phase 0 and 0, 0, 1 of phase 1."""
    weight = torch.tensor([[1.0, 2, 4], [8, 16, 32], [64, 128, 256]]).view(1, 1, 3, 3).repeat(2, 5, 1, 1)
    expected = torch.tensor(
        [[[1, 6], [72, 432]], [[3, 4], [216, 288]], [[9, 54], [64, 384]], [[27, 36], [192, 256]]], dtype=torch.float32
    )
    for dtype in DTYPES:
        phases = ops.upcat_phases(weight.to(dtype), 3)
        assert phases.shape == (8, 3, 2, 2) and phases.dtype == dtype
        assert torch.equal(phases.float(), expected.repeat_interleave(2, 0)[:, None].expand(-1, 3, -1, -1))
    random = torch.randn(7, 37, 3, 3)
    for each in (random, random.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(ops.upcat_phases(each, 21), reference.upcat_phases(each, 21))


@pytest.mark.parametrize("name", ["joined", "phases"])
def test_counts_are_exact(name: str, device: str) -> None:
    """The ratio is full / count to the last bit, with counts from integer loops."""
    stage = BY_NAME[name]
    t = make_tensors(stage).to(torch.float32)
    arguments = [None if each is None else each.to(device) for each in (t.low, t.low_mask, t.skip, t.skip_mask)]
    ratio = ops.partial_conv2d(*arguments, t.weight.to(device), None, *WINDOW)[2].cpu().numpy()
    low = np.pad(t.low_mask.numpy()[:, 0].repeat(2, axis=1).repeat(2, axis=2), ((0, 0), (1, 1), (1, 1)))
    skip = np.pad(t.skip_mask.numpy()[:, 0], ((0, 0), (1, 1), (1, 1)))
    full = 9 * (stage.low + stage.skip)
    for n, y, x in np.ndindex(stage.n, 2 * stage.h, 2 * stage.w):
        window = np.s_[n, y : y + 3, x : x + 3]
        count = stage.low * int(low[window].sum()) + stage.skip * int(skip[window].sum())
        assert ratio[n, 0, y, x] == (np.float32(full) / np.float32(count) if count else 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("h", "w"), [(2, 2), (8, 9)])
def test_a_single_hole_or_valid_pixel_at_every_place(h: int, w: int, layout: str, device: str) -> None:
    """Every single pixel of either source as the only hole, and as the only valid pixel."""
    t = make_tensors(Stage("places", n=1, low=2, skip=1, k=2, h=h, w=w, low_mask="none", skip_mask="none"))
    t = t.to(torch.float64, LAYOUTS[layout])
    for hole in (True, False):
        for source in range(h * w + 4 * h * w):
            masks = [torch.full((1, 1, h, w), hole), torch.full((1, 1, 2 * h, 2 * w), hole)]
            masks[source >= h * w].view(-1)[source if source < h * w else source - h * w] = not hole
            low, skip = torch.where(masks[0], t.low, torch.nan), torch.where(masks[1], t.skip, torch.nan)
            arguments = (low, masks[0], skip, masks[1], t.weight, t.bias)
            expected, true_mask = reference.partial_conv2d_upcat(*arguments)
            output, new_mask = partial_conv2d_upcat(*(argument.to(device) for argument in arguments))
            torch.testing.assert_close(output.cpu(), expected, rtol=1e-11, atol=1e-11)
            assert torch.equal(new_mask.cpu(), true_mask)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float16])
def test_masks_of_any_form(dtype: torch.dtype, device: str) -> None:
    t = make_tensors(BY_NAME["phases"])
    arguments = [each.to(device) for each in (t.low, t.skip, t.weight, t.bias)]

    def call(low_mask, skip_mask):
        return partial_conv2d_upcat(arguments[0], low_mask, arguments[1], skip_mask, *arguments[2:])

    masks = [mask.to(device) for mask in (t.low_mask, t.skip_mask)]
    expected, true_mask = call(*masks)
    for output, new_mask in (
        call(*(mask.to(dtype) for mask in masks)),
        call(*(mask.to(dtype).repeat(1, c, 1, 1) for mask, c in zip(masks, (5, 3), strict=True))),
        call(*(mask.to(dtype).expand(-1, c, -1, -1) for mask, c in zip(masks, (5, 3), strict=True))),
    ):
        assert torch.equal(output, expected) and torch.equal(new_mask, true_mask) and new_mask.shape[1] == 1


def test_layouts_may_differ(device: str) -> None:
    """The last stage meets the picture as it was loaded, and features in channels_last."""
    t = make_tensors(BY_NAME["last"]).to(torch.float32)
    expected, _, gradients = t.call(partial_conv2d_upcat, device)
    t.low = t.low.contiguous(memory_format=torch.channels_last)
    output, _, mixed = t.call(partial_conv2d_upcat, device)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(mixed, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["joined", "phases"])
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    t = make_tensors(BY_NAME[name]).to(torch.float32, torch.channels_last)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output, _, gradients = t.call(partial_conv2d_upcat)
            found.append([output, gradients[0], gradients[3]])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for each in found[1:] for one, other in zip(found[0], each, strict=True))


ERRORS = {
    "low: expected four dimensions": lambda t: {"low": t.low[0]},
    "low: expected float64, float32, bfloat16 or float16, got torch.int64": lambda t: {"low": t.low.long()},
    "skip: expected an even height and width": lambda t: {"skip": t.skip[..., :-1]},
    r"skip: expected \(2, Cs, 6, 8\), twice the size of low": lambda t: {"skip": t.skip[..., :-2]},
    "skip: expected low's dtype": lambda t: {"skip": t.skip.float()},
    r"weight: expected \(K, 8, 3, 3\)": lambda t: {"weight": t.weight[:, 1:]},
    "weight: expected low's dtype": lambda t: {"weight": t.weight.float(), "bias": t.bias.float()},
    r"bias: expected shape \(4,\)": lambda t: {"bias": t.bias[1:]},
    r"low_mask: expected \(2\|1, 1\|5, 3, 4\)": lambda t: {"low_mask": t.skip_mask},
    r"skip_mask: expected \(2\|1, 1\|3, 6, 8\)": lambda t: {"skip_mask": t.low_mask},
    "skip_mask: expected one channel": lambda t: {"skip_mask": torch.rand(2, 3, 6, 8) > 0.5},
    "low_mask: expected bool, uint8": lambda t: {"low_mask": t.low_mask.long()},
    "low: expected a torch.Tensor, got ndarray": lambda t: {"low": t.low.numpy()},
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_the_argument(message: str) -> None:
    t = make_tensors(BY_NAME["joined"], poison=False)
    arguments = {name: getattr(t, name) for name in ("low", "low_mask", "skip", "skip_mask", "weight", "bias")}
    with pytest.raises((TypeError, ValueError), match=message):
        partial_conv2d_upcat(**(arguments | ERRORS[message](t)))


def test_the_raw_operators_check_what_they_read() -> None:
    t = make_tensors(BY_NAME["joined"], poison=False)
    good = [t.low, t.low_mask, t.skip, t.skip_mask, t.weight, t.bias]
    for place, bad, message in (
        (1, t.low_mask[..., 1:], "mask"), (2, t.skip[:, :, 1:], "skip"), (4, t.weight[..., :2], "weight"),
        (5, t.bias[1:], "bias"), (3, t.skip_mask.repeat(1, 3, 1, 1), "skip_mask"), (4, t.weight.float(), "dtype"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=message):
            ops.partial_conv2d(*good[:place], bad, *good[place + 1 :], *WINDOW)
    with pytest.raises(RuntimeError, match="prepared: expected"):
        ops.partial_conv2d(*good, *WINDOW, ops.upcat_phases(t.weight, 4))
    with pytest.raises(RuntimeError, match="low_channels: expected 1 to 8, got 9"):
        ops.upcat_phases(t.weight, 9)
    output, _, ratio = ops.partial_conv2d(*good, *WINDOW)
    with pytest.raises(RuntimeError, match="grad: expected"):
        ops.partial_conv2d_backward(output[:, 1:], *good[:5], ratio, *WINDOW, True, True, True, True)


def test_check_of_the_masks_values(monkeypatch: pytest.MonkeyPatch) -> None:
    t = make_tensors(BY_NAME["joined"])
    monkeypatch.setenv("PCONV_CHECK", "1")
    with pytest.raises(RuntimeError, match=r"skip_mask: expected zeros and ones .* got 1 other"):
        odd = t.skip_mask.double()
        odd[0, 0, 0, 0] = 0.5
        partial_conv2d_upcat(t.low, t.low_mask, t.skip, odd, t.weight)


# The module ------------------------------------------------------------------------------------------------------


def layer_and_inputs(dtype: torch.dtype = torch.float32) -> tuple[PartialConvUpCat2d, Tensors]:
    t = make_tensors(BY_NAME["phases"], poison=False).to(dtype)
    return PartialConvUpCat2d(5, 3, 4, dtype=dtype, return_mask=True), t


def test_the_module_takes_a_partial_convs_weights() -> None:
    torch.manual_seed(3)
    replaced = PartialConv2d(8, 4, 3, padding=1)
    torch.manual_seed(3)
    layer, t = layer_and_inputs()
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in replaced.state_dict().items())
    layer.load_state_dict(replaced.state_dict())
    output, new_mask = layer(t.low, t.low_mask, t.skip, t.skip_mask)
    input, mask = reference.join(t.low, t.low_mask, t.skip, t.skip_mask, True)
    expected = replaced(input, mask)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert new_mask.shape == (2, 1, 18, 22)
    alone = PartialConvUpCat2d(5, 3, 4, bias=False)(t.low, None, t.skip, None)
    assert isinstance(alone, torch.Tensor)
    with pytest.raises(ValueError, match="low: expected 5 channels"):
        layer(t.low[:, 1:], t.low_mask, t.skip, t.skip_mask)
    assert str(PartialConvUpCat2d(5, 3, 4, bias=False)) == "PartialConvUpCat2d(5 + 3, 4, bias=False)"


EDITS = {
    "in place": lambda layer: nn.init.normal_(layer.weight),
    "through .data": lambda layer: layer.weight.data.mul_(2),
    "a new .data": lambda layer: setattr(layer.weight, "data", torch.randn_like(layer.weight)),
    "load_state_dict": lambda layer: layer.load_state_dict(PartialConvUpCat2d(5, 3, 4).state_dict()),
    "to": lambda layer: layer.to(torch.float64).to(torch.float32, memory_format=torch.channels_last),
    "through numpy": lambda layer: np.copyto(layer.weight.detach().numpy(), 0.25),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_of_the_weights_takes_effect(edit: str, inference: bool) -> None:
    """Phases are made in every call: the layer never computes with what its weights were before."""
    layer, t = layer_and_inputs()
    with torch.inference_mode(inference):
        for _ in range(2):
            output, _ = layer(t.low, t.low_mask, t.skip, t.skip_mask)
            expected, _ = reference.partial_conv2d_upcat(
                t.low, t.low_mask, t.skip, t.skip_mask, layer.weight, layer.bias
            )
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
            with torch.no_grad():
                EDITS[edit](layer)


def test_the_optimiser_moves_what_the_next_call_computes_with() -> None:
    fused, t = layer_and_inputs(torch.float64)
    composed = copy.deepcopy(fused)
    for layer, function in ((fused, partial_conv2d_upcat), (composed, reference.partial_conv2d_upcat)):
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            output, _ = function(t.low, t.low_mask, t.skip, t.skip_mask, layer.weight, layer.bias)
            (output * t.grad).square().sum().backward()
            optimiser.step()
    for one, other in zip(fused.parameters(), composed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_edit_between_forward_and_backward_is_refused() -> None:
    layer, t = layer_and_inputs()
    low = t.low.requires_grad_()
    output, _ = layer(low, t.low_mask, t.skip, t.skip_mask)
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
