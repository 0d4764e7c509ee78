"""fp32 layers and decoder stages by Winograd's products on a CPU, forced at small ragged sizes: against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import Case, make_tensors
from cases_upcat import Stage
from hypothesis import given, settings
from hypothesis import strategies as st
from test_operation import absolute_sums, run
from test_upcat import check_against_float64

from pconv_cuda import PartialConv2d, ops, reference
from pconv_cuda.functional import partial_conv2d
from pconv_cuda.ops import winograd

pytestmark = pytest.mark.skipif(not winograd._HERE, reason="this build or CPU has neither AVX-512 nor AVX2")

# Every window that is served, at odd and even sizes; channels and filters behind the last whole vector; all masks.
LAYERS = [
    Case("one_source", c=37, k=23, h=13, w=18),
    Case("one_tile", n=1, c=16, k=5, h=2, w=2),
    Case("one_pixel", n=1, c=3, k=2, h=1, w=1),
    Case("one_row", c=20, k=17, h=1, w=9),
    Case("no_mask", n=1, c=64, k=65, h=9, w=8, mask="none", bias=False),
    Case("mask_of_batch_1", n=3, c=48, k=16, h=11, w=7, mask="batch1"),
    Case("all_holes", c=32, k=32, h=8, w=8, mask="empty"),
    Case("all_valid", c=32, k=32, h=8, w=8, mask="full"),
    Case("window_2x2", c=33, k=34, h=9, w=12, window=(2, 2), padding=(1, 0)),
    Case("window_2x3", c=32, k=16, h=8, w=7, window=(2, 3), padding=(0, 1)),
    Case("strided_5x5", c=32, k=40, h=15, w=12, window=(5, 5), stride=(2, 2), padding=(2, 2)),
    Case("strided_3x3", c=48, k=24, h=12, w=15, stride=(2, 2)),
    Case("strided_3x3_no_padding", c=16, k=24, h=12, w=15, stride=(2, 2), padding=(0, 0)),
    Case("strided_4x4", c=32, k=16, h=13, w=14, window=(4, 4), stride=(2, 2), mask="batch1"),
    Case("strided_6x3", c=16, k=32, h=14, w=13, window=(6, 3), stride=(2, 2), padding=(2, 0), mask="none"),
    Case("strided_3x5", c=16, k=19, h=10, w=9, window=(3, 5), stride=(2, 2), padding=(1, 1), bias=False),
    Case("strided_one_pixel", n=1, c=16, k=3, h=1, w=1, stride=(2, 2)),
    Case("several_slices", n=1, c=1040, k=70, h=4, w=4),  # of filters, which are transformed 64 at a time
]
STAGES = [
    Stage("stage", low=32, skip=19, k=37, h=7, w=6),
    Stage("small", n=1, low=16, skip=1, k=1, h=1, w=1),
    Stage("no_bias", n=1, low=48, skip=32, k=64, h=5, w=9, bias=False),
    Stage("masks_of_batch_1", n=3, low=64, skip=3, k=64, h=4, w=5, low_mask="batch1", skip_mask="batch1"),
    Stage("no_masks", low=32, skip=64, k=70, h=4, w=3, low_mask="none", skip_mask="none"),
    Stage("all_of_low", low=80, skip=16, k=24, h=4, w=4, low_mask="empty"),
    Stage("everything", low=16, skip=16, k=16, h=4, w=4, low_mask="empty", skip_mask="empty"),
    Stage("several_slices", n=1, low=640, skip=400, k=70, h=2, w=2),
]


@pytest.fixture(autouse=True)
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCONV_WINOGRAD", "1")


def check_layer(case: Case, seeds: range, weight_format: torch.memory_format = torch.channels_last) -> None:
    """As test_operation's, averaged over problems: at these sizes the library's sums are exact by luck now and then."""
    errors: dict[str, list[float]] = {}
    for seed in seeds:
        exact = make_tensors(case, torch.float32, seed=seed)
        truth, true_mask, true_gradients = run(reference.partial_conv2d, exact, case)
        low = exact.to(torch.float32, torch.channels_last)
        low = replace(low, weight=low.weight.contiguous(memory_format=weight_format))
        ours, new_mask, gradients = run(partial_conv2d, low, case)
        torchs, _, torch_gradients = run(reference.partial_conv2d, low, case)
        assert torch.equal(new_mask, true_mask) and not ours[~true_mask.expand_as(ours)].any()
        results = zip("yxWb", [ours, *gradients], [torchs, *torch_gradients], [truth, *true_gradients],
                      absolute_sums(exact, case), strict=False)  # fmt: skip
        for name, our, their, true, sums in results:
            assert our.shape == true.shape and our.isfinite().all(), name
            found = errors.setdefault(name, [0.0, 0.0])
            found[0] += (our.double() - true).abs().max().item()
            found[1] += max(2 * (their.double() - true).abs().max().item(), 2 * 2**-23 * sums.max().item())
    for name, (error, allowed) in errors.items():
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_layers_against_float64(case: Case) -> None:
    check_layer(case, range(4))


def test_contiguous_weights() -> None:
    check_layer(LAYERS[0], range(2), torch.contiguous_format)
    check_layer(LAYERS[10], range(2), torch.contiguous_format)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_stages_against_float64(stage: Stage) -> None:
    check_against_float64(stage, torch.float32, "channels_last", "cpu", range(10))


# From 64 channels on, where it is used whatever the stride: with fewer a direct sum has less to round, and where
# a window sees few valid pixels its large ratio shows what its tile's other pixels left in the sums.
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 2), c=st.sampled_from([64, 80]), k=st.integers(1, 40), h=st.integers(1, 17),
    w=st.integers(1, 17), mask=st.sampled_from(["single", "batch1", "none", "full", "empty"]), bias=st.booleans(),
    axes=st.sampled_from([(1, [(2, 0), (2, 1), (3, 1)]), (2, [(3, 0), (3, 1), (4, 1), (5, 1), (5, 2), (6, 2)])]),
    rows=st.integers(0, 5), columns=st.integers(0, 5), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_layer(axes, rows: int, columns: int, seed: int, h: int, w: int, **sizes) -> None:
    stride, kinds = axes
    (r, pad_h), (s, pad_w) = kinds[rows % len(kinds)], kinds[columns % len(kinds)]
    h, w = max(h, r - 2 * pad_h), max(w, s - 2 * pad_w)
    case = Case("any", h=h, w=w, window=(r, s), stride=(stride, stride), padding=(pad_h, pad_w), **sizes)
    check_layer(case, range(seed, seed + 4))


# Just above the limit of what is chosen (the first three), and below it.
LIMITS = [(48, 48, 3, 1), (64, 64, 5, 2), (64, 32, 4, 2), (32, 64, 3, 1), (48, 48, 5, 2)]


@pytest.mark.parametrize("holes", [0.7, 0.9, 0.97])
@pytest.mark.parametrize(("c", "k", "window", "stride"), LIMITS)
def test_scattered_valid_pixels(
    c: int, k: int, window: int, stride: int, holes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows with few valid pixels multiply errors by a large ratio: at most twice torch's all the same."""
    ours = torchs = 0.0
    chosen = True
    for seed in range(6):
        torch.manual_seed(seed)
        x = torch.randn(2, c, 64, 64).relu().contiguous(memory_format=torch.channels_last)
        weight = torch.randn(k, c, window, window).contiguous(memory_format=torch.channels_last)
        mask, where = torch.rand(2, 1, 64, 64) > holes, {"stride": stride, "padding": window // 2}
        true = reference.partial_conv2d(x.double(), mask, weight.double(), None, **where)[0]
        monkeypatch.delenv("PCONV_WINOGRAD")
        found = partial_conv2d(x, mask, weight, None, **where)[0]
        monkeypatch.setenv("PCONV_WINOGRAD", "0")
        direct = partial_conv2d(x, mask, weight, None, **where)[0]
        chosen &= not torch.equal(found, direct)
        ours += (found.double() - true).abs().max().item()
        torchs += (direct.double() - true).abs().max().item()
    assert chosen == ((c, k, window, stride) in LIMITS[:3])
    assert ours <= 2 * torchs, f"{ours / torchs:.2f} times torch's error"


def test_the_check_sees_weights_that_are_a_little_off_or_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    right = partial_conv2d
    for spoil in (lambda w: w * (1 + 1e-5), lambda w: w.flip(3)):
        with monkeypatch.context() as patched, pytest.raises(AssertionError, match="y: error"):
            patched.setitem(
                globals(), "partial_conv2d", lambda x, m, w, *rest, spoil=spoil, **o: right(x, m, spoil(w), *rest, **o)
            )
            check_layer(LAYERS[10], range(2))


def layer(c: int = 64, k: int = 64) -> tuple[PartialConv2d, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    conv = PartialConv2d(c, k, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(2, c, 33, 30).contiguous(memory_format=torch.channels_last)
    return conv, x, torch.rand(2, 1, 33, 30) > 0.4


def test_the_switch_takes_and_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x, mask = layer()
    results = {}
    for value in ("0", "1", None):
        monkeypatch.delenv("PCONV_WINOGRAD", raising=False)
        if value is not None:
            monkeypatch.setenv("PCONV_WINOGRAD", value)
        results[value] = conv(x, mask)[0]
    assert not torch.equal(results["0"], results["1"])
    assert torch.equal(results["1"], results[None])  # 544 tiles of 64 channels: it pays
    torch.testing.assert_close(results["0"], results["1"], rtol=1e-4, atol=1e-5)
    monkeypatch.delenv("PCONV_WINOGRAD", raising=False)
    few = conv(x[:, :, :6, :6].contiguous(memory_format=torch.channels_last), mask[:, :, :6, :6])[0]
    monkeypatch.setenv("PCONV_WINOGRAD", "0")
    again = conv(x[:, :, :6, :6].contiguous(memory_format=torch.channels_last), mask[:, :, :6, :6])[0]
    assert torch.equal(few, again)  # 18 tiles: it does not


def test_other_layers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts, precisions, groups, dilation, masks by channel, far paddings: the same bits either way."""
    options = [
        Case("groups", c=32, k=32, groups=2), Case("dilated", c=32, k=32, dilation=(2, 2), padding=(2, 2)),
        Case("channels", c=32, k=32, mask="channels"), Case("far", c=32, k=32, padding=(2, 2)),
        Case("uneven_stride", c=32, k=32, stride=(1, 2)), Case("pointwise", c=32, k=32, window=(1, 1), padding=(0, 0)),
        Case("stride_3", c=32, k=32, stride=(3, 3)), Case("ragged_stride_2", c=30, k=32, stride=(2, 2)),
        Case("empty_batch", n=0, c=32, k=32),
    ]  # fmt: skip
    runs = [(case, torch.float32, torch.channels_last) for case in options]
    plain = Case("plain", c=32, k=32)
    runs += [(plain, torch.float32, torch.contiguous_format), (plain, torch.bfloat16, torch.channels_last)]
    for case, dtype, layout in runs:
        tensors = make_tensors(case, dtype).to(dtype, layout)
        results = []
        for value in ("0", "1"):
            monkeypatch.setenv("PCONV_WINOGRAD", value)
            output, _, gradients = run(partial_conv2d, tensors, case)
            results.append([output, *gradients])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), case.name


def test_same_bits_whatever_the_threads() -> None:
    conv, x, mask = layer(96, 80)
    x.requires_grad_()
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = conv(x, mask)[0]
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, conv.weight, conv.bias])])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_what_lies_in_holes_does_not_matter_and_gets_no_gradient() -> None:
    conv, x, mask = layer()
    clean, spoiled = torch.where(mask, x, 0.0), torch.where(mask, x, torch.nan)
    spoiled[~mask.expand_as(x)] = torch.tensor([torch.nan, torch.inf]).repeat((~mask).sum() * 32)
    results = []
    for given_ in (clean, spoiled):
        leaf = given_.contiguous(memory_format=torch.channels_last).requires_grad_()
        y = conv(leaf, mask)[0]
        results.append([y, *torch.autograd.grad(y.sum(), [leaf, conv.weight])])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not results[0][1][~mask.expand_as(x)].any()


def test_second_derivatives() -> None:
    """The gradient of a gradient's norm, against float64."""
    conv, x, mask = layer(32, 32)
    found = []
    for dtype in (torch.float32, torch.float64):
        module, leaf = (
            conv.to(dtype),
            x[:, :32].to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_(),
        )
        y = module(leaf, mask)[0]
        dx, dw = torch.autograd.grad(y.square().sum(), [leaf, module.weight], create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum() + dw.square().sum(), [leaf, module.weight]))
    for ours, true in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=0, atol=2e-6 * true.abs().max().item())


def test_activation_and_one_gradient_alone() -> None:
    case = LAYERS[0]
    t = make_tensors(case, torch.float32).to(torch.float32, torch.channels_last)
    window = ([1, 1], [1, 1], [1, 1], 1)
    linear, _, ratio = ops.partial_conv2d(t.input, t.mask, None, None, t.weight, t.bias, *window)
    for slope in (0.0, 0.2):
        y = ops.partial_conv2d(t.input, t.mask, None, None, t.weight, t.bias, *window, False, None, -1, slope)[0]
        assert torch.equal(y, torch.where(linear < 0, linear * slope, linear))
    given_ = (t.grad, t.input, t.mask, None, None, t.weight, ratio, *window, False)
    both = ops.partial_conv2d_backward(*given_, True, False, True, True)
    for needed in ((True, False, False, False), (False, False, True, False)):
        alone = ops.partial_conv2d_backward(*given_, *needed)
        for one, of_both, wanted in zip(alone, both, needed, strict=True):
            assert torch.equal(one, of_both) if wanted else one.numel() == 0
