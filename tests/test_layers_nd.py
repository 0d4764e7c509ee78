"""Partial convolutions of one and three axes, and transposed ones: against loops, torch's layers, and each other."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from cases_nd import BY_NAME_ND, CASES_ND, LAYERS, LONG_CASES, CaseNd, loops, partial, tensors_of, volume
from conftest import assert_as_good_as_torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from pconv_cuda import functional, ops, reference_nd

EACH = pytest.mark.parametrize("case", CASES_ND, ids=lambda case: case.name)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@EACH
def test_the_reference_is_the_definition(case: CaseNd) -> None:
    x, mask, w, b, _ = tensors_of(case)
    output, live = loops(case, x, mask, w, b)
    found, new_mask, _ = reference_nd.partial_conv(x, mask, w, b, case.window)
    groups = new_mask.repeat_interleave(case.k // new_mask.shape[1], 1).expand_as(found)
    torch.testing.assert_close(found, torch.from_numpy(output), rtol=1e-10, atol=1e-10)
    assert torch.equal(groups, torch.from_numpy(live))


def test_the_check_catches_another_full_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(weight: Tensor, window: Any, size: Any, dtype: torch.dtype) -> Tensor:
        return torch.full((1,) * (2 + len(size)), float(weight[:, 0].numel() // window.groups), dtype=dtype)

    monkeypatch.setattr(reference_nd, "full_count", constant)
    with pytest.raises(AssertionError):
        test_the_reference_is_the_definition(BY_NAME_ND["up_plane"])


def gradients(case: CaseNd, tensors: list, dtype: torch.dtype, layout: Any, function: Any, device: str) -> list[Tensor]:
    """[y, dx, dw, db] by this function, in this precision."""
    x, mask, w, b, grad = (t if t is None else t.to(device) for t in tensors)
    x = x.to(dtype).contiguous(memory_format=layout) if layout else x.to(dtype)
    leaves = [leaf.detach().requires_grad_() for leaf in (x, w.to(dtype), *([] if b is None else [b.to(dtype)]))]
    y = function(leaves[0], mask, leaves[1], leaves[2] if b is not None else None)[0]
    y.backward(grad.to(dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[misc]


def stock(case: CaseNd) -> Any:
    return lambda x, mask, w, b: reference_nd.partial_conv(x, mask, w, b, case.window)


@pytest.mark.parametrize("case", [*CASES_ND, *LONG_CASES], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_in_every_dtype(
    case: CaseNd, dtype: torch.dtype, channels_last: bool, device: str
) -> None:
    if channels_last and case.axes == 1:
        layout: Any = None  # no format of torch's; any strides are taken
    else:
        layout = {2: torch.channels_last, 3: torch.channels_last_3d}.get(case.axes) if channels_last else None
    tensors = tensors_of(case, dtype)
    if case.axes == 1 and channels_last:
        tensors[0] = tensors[0].transpose(1, 2).contiguous().transpose(1, 2)
    ours = gradients(case, tensors, dtype, layout, case.call, device)
    clean = [tensors[0].nan_to_num(), *tensors[1:]]  # autograd through a select keeps NaN times zero
    torchs = gradients(case, clean, dtype, layout, stock(case), device)
    truth = gradients(case, clean, torch.float64, None, stock(case), device)
    sizes = [t if t is None or t.dtype == torch.bool else t.abs() for t in clean]
    sums = gradients(case, sizes, torch.float64, None, stock(case), device)
    for name, own, other, true, most in zip(("y", "dx", "dw", "db"), ours, torchs, truth, sums, strict=False):
        assert_as_good_as_torch(
            own, other, true, f"{case.name} {name}", most if dtype == torch.float32 and case.n > 0 else None
        )
        assert own.dtype == dtype
    if layout is not None and case.n > 0 and case.k > 1 and case.c > 1:
        assert ours[0].is_contiguous(memory_format=layout)
    if tensors[1] is not None:
        assert not ours[1].masked_select(~tensors[1].to(device).expand_as(ours[1])).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_counts_of_half_types_are_exact(name: str, dtype: torch.dtype, device: str) -> None:
    # 300 channels times the window are no 16-bit floats; the ratio is full / count, rounded to fp32 once.
    axes, transposed = int(name[-2]), "Transpose" in name
    _, mask = volume(axes, 2, 1)
    mask = mask.expand(2, 300, *mask.shape[2:]).clone()
    mask[:, 150:] &= torch.rand(mask[:, 150:].shape) > 0.3
    weight = torch.ones(*((300, 1) if transposed else (1, 300)), *[3] * axes)
    window = reference_nd.Window(*([each] * axes for each in (1, 1, 1, 0)), 1, transposed)
    expected = reference_nd.window_ratio(mask, weight.double(), window, torch.float64).float()
    if axes == 1:  # served as a row of pixels
        mask, weight, expected = (each.unsqueeze(2) for each in (mask, weight, expected))
    places = [list(each) if axes > 1 else [least, *each] for each, least in zip(window[:4], (1, 0, 1, 0), strict=True)]
    x, mask, weight = torch.ones(mask.shape, device=device, dtype=dtype), mask.to(device), weight.to(device, dtype)
    if name == "Conv1d":
        found = ops.partial_conv2d(x, mask, None, None, weight, None, *places[:3], 1)[2]
    else:
        found = ops.partial_conv_nd(x, mask, weight, None, *places, 1, transposed)[2]
    assert torch.allclose(found.cpu(), expected, rtol=2e-7, atol=0)  # one rounding of fp32


DIFFERENTIATED = [
    CaseNd("row", (5,), (3,), c=2, k=2, padding=(1,)),
    CaseNd("volume", (2, 3, 3), (2, 2, 2), n=1, c=2, k=2, stride=(1, 2, 1), padding=(1, 0, 0)),
    CaseNd("volume_groups", (2, 2, 3), (1, 2, 2), n=1, c=4, k=2, groups=2, mask="channels"),
    CaseNd("up_row", (4,), (3,), c=2, k=2, stride=(2,), transposed=True),
    CaseNd("up_plane", (3, 3), (3, 2), n=1, c=2, k=2, stride=(2, 2), padding=(1, 0), more=(1, 0), transposed=True),
    CaseNd("up_plane_groups", (2, 3), (2, 2), n=1, c=4, k=2, groups=2, mask="channels", transposed=True),
    CaseNd("up_volume", (2, 2, 2), (2, 1, 2), n=1, c=2, k=2, stride=(2, 1, 2), mask="none", transposed=True),
]


@pytest.mark.parametrize("case", DIFFERENTIATED, ids=lambda case: case.name)
def test_gradients_of_both_orders(case: CaseNd, device: str) -> None:
    x, mask, w, b, _ = (t if t is None else t.to(device) for t in tensors_of(case, poison=False))
    leaves = [leaf.requires_grad_() for leaf in (x, w, b)]
    assert gradcheck(lambda *given: case.call(given[0], mask, *given[1:])[0], leaves)
    assert gradgradcheck(lambda *given: case.call(given[0], mask, *given[1:])[0], leaves)


@pytest.mark.parametrize("name", ["row_groups", "volume_groups", "up_row_strided", "up_plane_dilated", "up_volume"])
def test_transforms_of_torch(name: str) -> None:
    case = BY_NAME_ND[name]
    x, mask, w, b, _ = tensors_of(case, poison=False)
    transforms: list[Any] = [
        lambda f: torch.func.grad(lambda v: f(x, mask, v, b)[0].sin().sum())(w),
        lambda f: torch.func.jvp(lambda v: f(v, mask, w, b)[0], (x,), (x,))[1],
        lambda f: torch.func.vmap(lambda i, m: f(i[None], m[None], w, b)[0])(x, mask),
    ]
    for transform in transforms:
        torch.testing.assert_close(transform(case.call), transform(stock(case)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["volume_strided", "volume_groups", "up_plane_dilated", "up_volume_groups", "up_plane_no_mask"]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(name: str, channels_last: bool, device: str) -> None:
    case = BY_NAME_ND[name]
    x, mask, w, b, grad = (
        None if t is None else t.to(device, torch.bool if t.dtype == torch.bool else torch.float32)
        for t in tensors_of(case, poison=False)
    )
    if channels_last:
        layout = torch.channels_last if case.axes == 2 else torch.channels_last_3d
        x, w = x.contiguous(memory_format=layout), w.contiguous(memory_format=layout)
    x, w, grad = (t.requires_grad_() for t in (x, w, grad))
    b = None if b is None else b.requires_grad_()
    window = [list(part) if isinstance(part, tuple) else part for part in case.window]
    torch.library.opcheck(ops.partial_conv_nd, (x, mask, w, b, *window))
    ratio = ops.partial_conv_nd(x, mask, w, b, *window)[2]
    for needed in ((True, True, True), (False, True, False), (True, False, False)):
        torch.library.opcheck(ops.partial_conv_nd_backward, (grad, x, mask, w, ratio, *window, *needed))


conv3, up3 = functional.partial_conv3d, functional.partial_conv_transpose3d
X = torch.zeros(2, 4, 5, 6, 7)
M = torch.ones(2, 1, 5, 6, 7)
W = torch.zeros(6, 4, 3, 3, 3)
U = torch.zeros(4, 6, 3, 3, 3)
ERRORS = {
    "input: expected (N, C, D, H, W) or (C, D, H, W), got shape (5, 6, 7)": lambda: conv3(X[0, 0], None, W),
    "input: expected (N, C, L) or (C, L)": lambda: functional.partial_conv1d(X, None, W),
    "input: expected 4 channels": lambda: conv3(X[:, :3], None, W),
    "input: expected 4 channels (weight (4, 6, 3, 3, 3)": lambda: up3(X[:, :3], None, U),
    "weight: expected (C, K / groups, ...) of 5 dimensions": lambda: up3(X, None, U[0]),
    "weight: expected output channels divisible by groups 4": lambda: conv3(X, None, W[:, :1], groups=4),
    "groups: expected a positive integer, got 0": lambda: conv3(X, None, W, groups=0),
    "bias: expected shape (6,), got (4,)": lambda: up3(X, None, U, torch.zeros(4)),
    "weight: expected the input's dtype torch.float32, got torch.float64": lambda: conv3(X, M, W.double()),
    "bias: expected the input's dtype": lambda: conv3(X, M, W, torch.zeros(6).double()),
    "mask: expected (2|1, 1|4, 5, 6, 7) to fit the input": lambda: conv3(X, M[..., :4], W),
    "mask: expected (1|C, D, H, W) as the input is unbatched": lambda: conv3(X[0], M, W),
    "mask: expected bool, uint8 or a floating": lambda: conv3(X, M.int(), W),
    "mask: expected a torch.Tensor, got ndarray": lambda: conv3(X, M.numpy(), W),
    "stride: expected an integer of at least 1, or 3 of them, got (1, 2)": lambda: conv3(X, M, W, stride=(1, 2)),
    "padding: expected an integer of at least 0, or 3 of them, got -1": lambda: conv3(X, M, W, padding=-1),
    "padding: expected integers, 'same' or 'valid', got 'full'": lambda: conv3(X, M, W, padding="full"),
    "padding: 'same' needs stride 1, got stride (2, 2, 2)": lambda: conv3(X, M, W, padding="same", stride=2),
    "leaves no output of the input": lambda: conv3(X[..., :2], M[..., :2], W),
    "output_padding: expected less than the stride (2, 2, 2) or the dilation (1, 1, 1), got 2": lambda: up3(
        X, M, U, stride=2, output_padding=2
    ),
    "replicate, circular, or a tuple of 3, one for each axis, got 'wrap'": lambda: partial(
        "Conv3d", 4, 6, 3, padding_mode="wrap"
    ),
    "or two for rows and columns, got ('zeros',)": lambda: partial("ConvTranspose2d", 4, 6, 3, padding_mode=("zeros",)),
    "padding: expected at most 5 for padding_mode 'circular' and an axis of 5, got 6": lambda: partial(
        "Conv3d", 4, 6, 3, padding=6, padding_mode="circular"
    )(X),
    "mask_in: expected nothing beside mask": lambda: partial("Conv3d", 4, 6, 3)(X, M, mask_in=M),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_the_argument(message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        ERRORS[message]()
    assert message in str(caught.value)


def test_raw_operators_refuse_what_would_crash() -> None:
    window: list[Any] = [[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0], 1, False]
    call = torch.ops.pconv_cuda.partial_conv_nd
    for bad in (M[:, :0], M[..., :3], torch.ones(3, 1, 5, 6, 7)):
        with pytest.raises(RuntimeError, match="^mask: expected"):
            call(X, bad, W, None, *window)
    with pytest.raises(RuntimeError, match="^weight: expected"):
        call(X, M, W[:, :3], None, *window)
    with pytest.raises(RuntimeError, match="^stride, padding"):
        call(X, M, W, None, [1, 1], *window[1:])
    with pytest.raises(RuntimeError, match="^bias: expected"):
        call(X, M, W, torch.zeros(2), *window)
    ratio = call(X, M, W, None, *window)[2]
    with pytest.raises(RuntimeError, match="^ratio: expected"):
        torch.ops.pconv_cuda.partial_conv_nd_backward(
            torch.zeros(2, 6, 3, 4, 5), X, M, W, ratio.double(), *window, True, True, True
        )


def test_masks_are_checked_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCONV_CHECK", "1")
    with pytest.raises(RuntimeError, match=r"mask: expected zeros and ones \(PCONV_CHECK=1\), got 420 other values"):
        conv3(X, M * 0.5, W)
    with pytest.raises(RuntimeError, match=r"mask: expected zeros and ones \(PCONV_CHECK=1\), got 420 other values"):
        torch.ops.pconv_cuda.partial_conv_nd(X, M * 0.5, W, None, *[[1] * 3, [0] * 3, [1] * 3, [0] * 3, 1, False])


@pytest.mark.parametrize("length", [300, 40])
def test_gradients_at_empty_windows_have_no_influence(length: int) -> None:
    """Not even infinite ones: of long planes (loops of blocks) and of short ones."""
    x = torch.randn(2, 3, length, requires_grad=True)
    w, b = torch.randn(4, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    mask = torch.ones(1, 1, length)
    mask[..., : length // 2] = 0
    output, new_mask = functional.partial_conv1d(x, mask, w, b)
    upstream = torch.where(new_mask > 0, torch.randn_like(output), torch.inf)
    found = torch.autograd.grad(output, (x, w, b), upstream)
    expected = torch.autograd.grad(functional.partial_conv1d(x, mask, w, b)[0], (x, w, b), upstream.clamp(max=100.0))
    for ours, right in zip(found, expected, strict=True):
        assert torch.equal(ours, right)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    case = CaseNd("many", (5, 33, 37), (3, 3, 3), c=8, k=16, padding=(1, 1, 1), mask="channels")
    tensors, before = tensors_of(case, torch.float32), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            window = [list(part) if isinstance(part, tuple) else part for part in case.window]
            given = [t if t is None or t.dtype == torch.bool else t.float() for t in tensors]
            _, new_mask, ratio = ops.partial_conv_nd(*given[:4], *window)
            db = ops.partial_conv_nd_backward(given[4], *given[:3], ratio, *window, False, False, True)[2]
            found.append((new_mask, ratio, db))
    finally:
        torch.set_num_threads(before)
    for one, many in zip(*found, strict=True):
        assert torch.equal(one, many)


def test_what_devices_without_a_kernel_get() -> None:
    """PCONV_FALLBACK=1 runs it: in a process, for it is read when we are loaded."""
    wanted = ["test_values_and_gradients_in_every_dtype and float32", "test_gradients_of_both_orders"]
    chosen = " or ".join(f"({each})" for each in wanted)
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", __file__, "-k", chosen]
    done = subprocess.run(command, env={**os.environ, "PCONV_FALLBACK": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]
