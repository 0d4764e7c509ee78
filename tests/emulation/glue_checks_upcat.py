"""What test_glue.py runs: the decoder stage's CUDA operators, with kernels emulated on the CPU (see glue_checks.py)."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch
from cases_upcat import BY_NAME, STAGES, WINDOW, Stage, assert_no_worse, errors, make_tensors
from torch import Tensor

from pconv_cuda import reference
from pconv_cuda.ops import convolution, fallback

LIBRARY = os.environ["PCONV_EMULATED_LIBRARY"]
torch.ops.load_library(LIBRARY)
library = ctypes.CDLL(LIBRARY)
emulated = torch.ops.pconv_emulated
torch.library.register_fake("pconv_emulated::partial_conv2d", convolution._forward_fake)
torch.library.register_fake("pconv_emulated::partial_conv2d_backward", convolution._backward_fake)
torch.library.register_fake("pconv_emulated::upcat_phases", convolution._phases_fake)

LAYOUTS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# One of every way through the glue.
SHORT = ["joined", "phases_no_bias", "phases_one_mask_of_batch_1", "last", "empty_batch_of_phases"]
MORE = pytest.mark.full("the operators' glue in more cases")
EACH_STAGE = [pytest.param(stage, id=stage.name, marks=() if stage.name in SHORT else MORE) for stage in STAGES]
# FLOPs per byte: small pictures go through phases only where those cost nothing, and large ones if they do.
WAYS = {"phases": 0, "direct": 1 << 40}


@pytest.fixture(autouse=True)
def _device() -> None:
    library.pconv_emulated_device(80, 40, 0, ctypes.c_int64(2**31 - 1))


def take(way: str) -> None:
    library.pconv_emulated_flops_per_byte(ctypes.c_int64(WAYS[way]))


def forward(t, phases: Tensor | None = None, negative_slope: float = 1.0):
    return emulated.partial_conv2d(
        t.low, t.low_mask, t.skip, t.skip_mask, t.weight, t.bias, *WINDOW, phases, 0, negative_slope
    )


def ours_of(t) -> list[Tensor]:
    """Output and gradients by the emulated operators."""
    y, _, ratio = forward(t)
    needed = (True, True, True, t.bias is not None)
    gradients = emulated.partial_conv2d_backward(
        t.grad, t.low, t.low_mask, t.skip, t.skip_mask, t.weight, ratio, *WINDOW, *needed, 0
    )
    return [y, *gradients[: len(t.leaves)]]


# The kernels' driver has every combination; here the glue's: doubles, which go one way, and both layouts once.
COMBINATIONS = [
    (torch.float64, "phases", torch.channels_last),
    *((torch.float32, way, torch.channels_last) for way in WAYS),
    *((torch.bfloat16, way, torch.contiguous_format) for way in WAYS),
    (torch.float16, "phases", torch.channels_last),
]
MORE_COMBINATIONS = [
    (torch.float64, "phases", torch.contiguous_format),
    *((torch.bfloat16, way, torch.channels_last) for way in WAYS),
    (torch.float16, "direct", torch.channels_last),
]


@pytest.mark.parametrize(
    ("dtype", "way", "layout"),
    [*COMBINATIONS, *(pytest.param(*each, marks=MORE) for each in MORE_COMBINATIONS)],
    ids=str,
)
@pytest.mark.parametrize("stage", EACH_STAGE)
def test_as_good_as_torch(stage: Stage, dtype: torch.dtype, way: str, layout: torch.memory_format) -> None:
    take(way)
    ours, theirs = [], []
    # Errors of few numbers vary more; doubles have room.
    for seed in range(1 if dtype == torch.float64 else 20 if stage.h * stage.w == 1 else 3):
        exact = make_tensors(stage, dtype, seed=seed)
        truth, true_mask, true_gradients = exact.call(reference.partial_conv2d_upcat)
        t = exact.to(dtype, layout)
        composed, _, composed_gradients = t.call(reference.partial_conv2d_upcat)
        assert torch.equal(forward(t)[1].expand_as(true_mask), true_mask)
        ours.append(errors(ours_of(t), [truth, *true_gradients]))
        theirs.append(errors([composed, *composed_gradients], [truth, *true_gradients]))
    assert_no_worse(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
def test_phases_are_the_references(dtype: torch.dtype, layout: torch.memory_format) -> None:
    stage = BY_NAME["phases_wide"]
    t = make_tensors(stage, dtype).to(dtype, layout)
    phases = emulated.upcat_phases(t.weight, stage.low)
    torch.testing.assert_close(phases, reference.upcat_phases(t.weight, stage.low), rtol=torch.finfo(dtype).eps, atol=0)
    assert phases.is_contiguous(memory_format=torch.channels_last)
    take("phases")
    assert torch.equal(forward(t)[0], forward(t, phases)[0])


def test_phases_that_are_given_are_used() -> None:
    """Where they can be read as they lie: low's channels are a multiple of 16 bytes."""
    t = make_tensors(Stage("given", low=8, skip=8, k=8, h=4, w=4), torch.bfloat16).to(torch.bfloat16)
    take("phases")
    phases = emulated.upcat_phases(t.weight, 8)
    assert not torch.equal(forward(t)[0], forward(t, 2 * phases)[0])
    assert torch.equal(forward(t)[0], forward(t, phases.contiguous())[0])


@pytest.mark.parametrize("negative_slope", [0.0, 0.2])
@pytest.mark.parametrize("way", WAYS)
def test_the_activation_of_a_stage(negative_slope: float, way: str) -> None:
    take(way)
    for dtype in DTYPES:
        t = make_tensors(BY_NAME["phases"], dtype).to(dtype)
        plain, activated = forward(t)[0], forward(t, negative_slope=negative_slope)[0]
        close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 0}
        torch.testing.assert_close(activated, reference.activation(plain, negative_slope), **close)


# Of the short ones, those that differ in what is allocated.
CHECKED = ("joined", "phases_one_mask_of_batch_1", "last")


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, id=stage.name, marks=() if stage.name in CHECKED else MORE) for stage in STAGES]
)
def test_fake_kernels_tell_shapes_and_strides(stage: Stage) -> None:
    for layout in LAYOUTS:
        t = make_tensors(stage, torch.bfloat16).to(torch.bfloat16, layout)
        arguments = (t.low, t.low_mask, t.skip, t.skip_mask, t.weight)
        tests = {"test_utils": ["test_schema", "test_faketensor"]}
        torch.library.opcheck(emulated.partial_conv2d.default, (*arguments, t.bias, *WINDOW), **tests)
        torch.library.opcheck(emulated.upcat_phases.default, (t.weight, stage.low), **tests)
        ratio = forward(t)[2]
        for needed in [(True, True, True, True), (False, True, False, False)]:
            torch.library.opcheck(
                emulated.partial_conv2d_backward.default, (t.grad, *arguments, ratio, *WINDOW, *needed, -1), **tests
            )


def test_masks_of_every_dtype_and_stride_are_read_alike() -> None:
    t = make_tensors(BY_NAME["phases"], torch.float32).to(torch.float32)
    expected = forward(t)[0]
    low_mask, skip_mask = t.low_mask, t.skip_mask
    for dtype in (torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16):
        t.low_mask, t.skip_mask = low_mask.to(dtype), skip_mask.to(dtype) * 3
        assert torch.equal(forward(t)[0], expected)
    t.low_mask, t.skip_mask = (mask.transpose(2, 3).contiguous().transpose(2, 3) for mask in (low_mask, skip_mask))
    assert torch.equal(forward(t)[0], expected)


def test_a_mask_that_is_not_binary_is_an_error_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCONV_CHECK", "1")
    t = make_tensors(BY_NAME["phases"], torch.float32).to(torch.float32)
    forward(t)
    t.skip_mask = t.skip_mask * 0.5
    with pytest.raises(RuntimeError, match="skip_mask: expected zeros and ones"):
        forward(t)


def test_errors_name_the_argument() -> None:
    t = make_tensors(BY_NAME["phases"], torch.float32).to(torch.float32)
    names = ("input", "mask", "skip", "skip_mask", "weight", "bias")
    arguments = dict(zip(names, (t.low, t.low_mask, t.skip, t.skip_mask, t.weight, t.bias), strict=True))
    window = dict(zip(("stride", "padding", "dilation", "groups", "upsample"), WINDOW, strict=True))
    phases = emulated.upcat_phases(t.weight, t.low.shape[1])
    wrong = {
        "mask": t.low_mask[:, :, 1:],
        "skip": t.skip[:, :, 1:],
        "skip_mask": t.low_mask,
        "weight": t.weight[:, 1:],
        "bias": t.bias[1:],
        "prepared": phases[1:],
    }
    for name, value in wrong.items():
        with pytest.raises(RuntimeError, match=f"{name}: expected"):
            emulated.partial_conv2d(**{**arguments, **window, name: value})
    with pytest.raises(RuntimeError, match="low_channels: expected"):
        emulated.upcat_phases(t.weight, 99)


def test_a_device_before_sm_80_runs_the_unfused_reference() -> None:
    t = make_tensors(BY_NAME["phases"], torch.float32).to(torch.float32)
    library.pconv_emulated_device(75, 40, 0, ctypes.c_int64(2**31 - 1))
    fallback._warned.clear()
    with pytest.warns(UserWarning, match="unfused reference"):
        unfused = ours_of(t)
    truth, _, gradients = t.call(reference.partial_conv2d_upcat)
    for ours, theirs in zip(unfused, [truth, *gradients], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    phases = emulated.upcat_phases(t.weight, t.low.shape[1])
    assert torch.equal(phases, reference.upcat_phases(t.weight, t.low.shape[1]))
