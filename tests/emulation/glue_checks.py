"""What test_glue.py runs: torch.ops.pconv_emulated.* are the CUDA operators, with kernels emulated on the CPU."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch
from cases import BY_NAME, CASES, KERNEL_CASES, Case, make_tensors, operands, spread_mask
from conftest import assert_as_good_as_torch

from pconv_cuda import ops, reference
from pconv_cuda.ops import convolution, fallback, tf32

LIBRARY = os.environ["PCONV_EMULATED_LIBRARY"]
torch.ops.load_library(LIBRARY)
library = ctypes.CDLL(LIBRARY)
emulated = torch.ops.pconv_emulated
torch.library.register_fake("pconv_emulated::partial_conv2d", convolution._forward_fake)
torch.library.register_fake("pconv_emulated::partial_conv2d_backward", convolution._backward_fake)

asked = 0


@ctypes.CFUNCTYPE(ctypes.c_int)
def reader() -> int:
    global asked
    asked += 1
    return int(tf32.tf32_allowed())


library.pconv_emulated_tf32_reader(reader)
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# The others are large for the emulator, and run in the drivers.
SHAPES = [*CASES, *(case for case in KERNEL_CASES if case.h * case.w * case.c * case.k < 40000)]
# One of every way through the glue.
SHORT = ["plain3x3", "enc1", "last", "groups", "grouped_channel_mask", "no_mask", "mask_of_batch_1", "empty_batch"]
SHORT += ["two_blocks_of_odd_size"]
MORE = pytest.mark.full("the operators' glue in more cases")
EACH_SHAPE = [pytest.param(case, id=case.name, marks=() if case.name in SHORT else MORE) for case in SHAPES]


@pytest.fixture(autouse=True)
def _device() -> None:
    library.pconv_emulated_device(80, 40, 0, ctypes.c_int64(2**31 - 1))


def window(case: Case) -> list:
    return [list(case.stride), list(case.padding), list(case.dilation), case.groups]


def reference_of(case: Case, t, dtype: torch.dtype):
    """Output and gradients of the plain composition in this dtype: [y, dx, dw, db]."""
    spread = spread_mask(case, t.mask, t.input)
    where = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}
    leaves = [x.to(dtype).detach().requires_grad_() for x in (t.input.nan_to_num(), t.weight)]
    bias = None if t.bias is None else t.bias.to(dtype).detach().requires_grad_()
    y, _ = reference.partial_conv2d(leaves[0], spread, leaves[1], bias, groups=case.groups, **where)
    wanted = [*leaves, *([] if bias is None else [bias])]
    return [y.detach(), *torch.autograd.grad(y, wanted, t.grad.to(dtype))]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", EACH_SHAPE)
def test_as_good_as_torch(case: Case, dtype: torch.dtype, layout: torch.memory_format) -> None:
    exact = make_tensors(case, dtype)
    t = exact.to(dtype, layout)
    sources = operands(case, t.input, t.mask)
    y, new_mask, ratio = emulated.partial_conv2d(*sources, t.weight, t.bias, *window(case), allow_tf32=0)
    needed = (True, sources[2] is not None, True, case.bias)
    dx, dskip, dw, db = emulated.partial_conv2d_backward(
        t.grad, *sources, t.weight, ratio, *window(case), False, *needed, 0
    )
    gradients = [torch.cat([dx, dskip], 1) if case.mask_channels else dx, dw, db]
    _, true_new_mask, true_ratio = ops.partial_conv2d(
        *operands(case, exact.input, exact.mask), exact.weight, exact.bias, *window(case)
    )
    assert torch.equal(new_mask, true_new_mask) and torch.allclose(ratio.double(), true_ratio, rtol=1e-7, atol=0)
    truths = reference_of(case, exact, torch.float64)
    # torch sums in another order in each layout, and for so few terms its error varies: the larger counts.
    # Where torch itself gives NaN (seen in bf16, with strides beyond the image) one rounding is all that is allowed.
    rivals = [reference_of(case, exact.to(dtype, each), dtype) for each in LAYOUTS]
    for i, name in enumerate(["output", "dx", "dw", *(["db"] if case.bias else [])]):
        finite = [rival[i] for rival in rivals if rival[i].isfinite().all()] or [truths[i]]
        theirs = max(finite, key=lambda rival: (rival.double() - truths[i]).abs().sum().item())
        assert_as_good_as_torch([y, *gradients][i], theirs, truths[i], name)


@pytest.mark.parametrize("case", EACH_SHAPE)
def test_fake_kernels_tell_shapes_and_strides(case: Case) -> None:
    for layout in LAYOUTS:
        t = make_tensors(case, torch.bfloat16).to(torch.bfloat16, layout)
        arguments = (*operands(case, t.input, t.mask), t.weight, t.bias, *window(case))
        torch.library.opcheck(emulated.partial_conv2d.default, arguments, test_utils=["test_schema", "test_faketensor"])
        ratio = emulated.partial_conv2d(*arguments)[2]
        for needed in [(True, True, True, True), (False, True, True, False)]:
            backward = (t.grad, *arguments[:5], ratio, *window(case), False, *needed, -1)
            torch.library.opcheck(
                emulated.partial_conv2d_backward.default, backward, test_utils=["test_schema", "test_faketensor"]
            )


def call(mask: torch.Tensor | None, case: Case = BY_NAME["plain3x3"], allow_tf32: int = 0) -> torch.Tensor:
    t = make_tensors(case, torch.float32, poison=False).to(torch.float32)
    return emulated.partial_conv2d(t.input, mask, None, None, t.weight, t.bias, *window(case), allow_tf32=allow_tf32)[0]


def test_masks_of_every_dtype_and_stride_are_read_alike() -> None:
    mask = make_tensors(BY_NAME["plain3x3"]).mask
    expected = call(mask)
    for dtype in (torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(call(mask.to(dtype)), expected)
    assert torch.equal(call(mask.transpose(2, 3).contiguous().transpose(2, 3)), expected)
    assert torch.equal(call(mask.float() * -3), expected)


def test_a_mask_that_is_not_binary_is_an_error_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCONV_CHECK", "1")
    mask = make_tensors(BY_NAME["plain3x3"]).mask
    call(mask)
    with pytest.raises(RuntimeError, match="mask: expected zeros and ones"):
        call(mask.float() * 0.5)


@pytest.fixture
def _restored():
    before = torch.backends.cudnn.conv.fp32_precision
    yield
    torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.usefixtures("_restored")
def test_precision_is_read_while_a_compiled_graph_runs() -> None:
    case = BY_NAME["wide"]
    t = make_tensors(case, torch.float32, poison=False).to(torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(x: torch.Tensor) -> torch.Tensor:
        return emulated.partial_conv2d(x, t.mask, None, None, t.weight, t.bias, *window(case))[0] + 0

    exact, rounded = call(t.mask, case, 0), call(t.mask, case, 1)
    assert not torch.equal(exact, rounded)
    before = asked
    for setting, expected in (("tf32", rounded), ("ieee", exact), ("tf32", rounded)):
        torch.backends.cudnn.conv.fp32_precision = setting
        assert torch.equal(compiled(t.input), expected)
    assert asked == before + 3


def test_tf32_choice_only_for_fp32() -> None:
    before = asked
    t = make_tensors(BY_NAME["plain3x3"], torch.bfloat16, poison=False).to(torch.bfloat16)
    emulated.partial_conv2d(t.input, t.mask, None, None, t.weight, t.bias, *window(BY_NAME["plain3x3"]))
    assert asked == before


def test_errors_name_the_argument() -> None:
    t = make_tensors(BY_NAME["plain3x3"]).to(torch.float32)
    where = window(BY_NAME["plain3x3"])
    with pytest.raises(RuntimeError, match="mask: expected"):
        emulated.partial_conv2d(t.input, t.mask[:, :, 1:], None, None, t.weight, t.bias, *where)
    with pytest.raises(RuntimeError, match="bias: expected"):
        emulated.partial_conv2d(t.input, t.mask, None, None, t.weight, t.bias[1:], *where)
    with pytest.raises(RuntimeError, match="weight: expected"):
        emulated.partial_conv2d(t.input, t.mask, None, None, t.weight[:, 1:], t.bias, *where)


def test_a_device_before_sm_80_runs_the_unfused_reference() -> None:
    case = BY_NAME["enc2"]
    t = make_tensors(case).to(torch.float32)
    forward = (t.input, t.mask, None, None, t.weight, t.bias, *window(case))
    library.pconv_emulated_device(75, 40, 0, ctypes.c_int64(2**31 - 1))
    fallback._warned.clear()
    with pytest.warns(UserWarning, match="unfused reference"):
        unfused = emulated.partial_conv2d(*forward)
    backward = (t.grad, *forward[:5], unfused[2], *window(case), False, True, False, True, True)
    unfused_gradients = emulated.partial_conv2d_backward(*backward)
    for ours, theirs in zip(unfused, ops.partial_conv2d(*forward), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(unfused_gradients, ops.partial_conv2d_backward(*backward), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
