"""What torch does with the operators: derivatives of both orders, opcheck, compile, export, autocast."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from cases import BY_NAME, Case, make_tensors
from torch.autograd import gradcheck, gradgradcheck

from pconv_cuda import PartialConv2d, PConvUNet, nn, ops, reference
from pconv_cuda.functional import apply, partial_conv2d, partial_conv2d_sources
from pconv_cuda.nn import PartialConv1d, PartialConv3d, PartialConvTranspose1d, PartialConvUpCat2d
from pconv_cuda.ops import transforms

DIFFERENTIATED = [
    Case("single", n=2, c=2, h=4, w=3, k=2),
    Case("strided", n=1, c=2, h=5, w=4, k=2, stride=(2, 2)),
    Case("groups", n=1, c=4, h=3, w=3, k=4, groups=2, mask="channels"),
    Case("none", n=1, c=2, h=3, w=3, k=2, mask="none"),
    Case("dilated", n=1, c=1, h=5, w=5, k=2, dilation=(2, 1), padding=(2, 0)),
]


def leaves_of(case: Case, device: str = "cpu", dtype: torch.dtype = torch.float64):
    """Leaves that require grad; holes hold ordinary numbers, for finite differences move them too."""
    tensors = make_tensors(case, poison=False)
    leaves = [t.to(device, dtype).requires_grad_() for t in (tensors.input, tensors.weight, tensors.bias)]
    return leaves, None if tensors.mask is None else tensors.mask.to(device)


@pytest.mark.parametrize("case", DIFFERENTIATED, ids=lambda case: case.name)
def test_gradients_of_both_orders(case: Case, device: str) -> None:
    leaves, mask = leaves_of(case, device)

    def call(x, w, b):
        return partial_conv2d(x, mask, w, b, **case.parameters)[0]

    assert gradcheck(call, leaves)
    assert gradgradcheck(call, leaves)


def test_third_order_against_torchs_own(device: str) -> None:
    leaves, mask = leaves_of(DIFFERENTIATED[0], device)
    found = []
    for function in (partial_conv2d, reference.partial_conv2d):
        value = function(leaves[0], mask, leaves[1], leaves[2], padding=1)[0].sin().mean()
        for _ in range(3):
            gradients = torch.autograd.grad(value, leaves, create_graph=True)
            value = sum(gradient.sin().mean() for gradient in gradients)
        found.append(value)
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


def test_double_backward_with_frozen_parts(device: str) -> None:
    # A gradient penalty needs d/dW of d/dx only.
    leaves, mask = leaves_of(DIFFERENTIATED[0], device)
    found = []
    for function in (partial_conv2d, reference.partial_conv2d):
        x, w = leaves[0].detach().requires_grad_(), leaves[1].detach().requires_grad_()
        output = function(x, mask, w, None, padding=1)[0]
        (dx,) = torch.autograd.grad(output.square().sum(), [x], create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), [w])[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


def test_masks_and_ratios_have_no_gradient(device: str) -> None:
    leaves, mask = leaves_of(BY_NAME["plain3x3"], device)
    float_mask = mask.double().requires_grad_()
    output, new_mask = partial_conv2d(leaves[0], float_mask, leaves[1], leaves[2], padding=1)
    assert output.requires_grad and not new_mask.requires_grad
    output.sum().backward()
    assert float_mask.grad is None


MORE = pytest.mark.full("opcheck in more cases")
OPCHECKED = ["plain3x3", "grouped_channel_mask", "no_mask", "uneven", "empty_batch"]


@pytest.mark.parametrize("name", ["uneven"])
def test_opcheck(name: str, device: str) -> None:
    check_operators(name, True, device, [(True, False, True, True), (False, False, True, False)])


@MORE
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", OPCHECKED)
def test_opcheck_of_every_choice_of_gradients(name: str, channels_last: bool, device: str) -> None:
    choices = itertools.product((True, False), (False,), (True, False), (True, False))
    check_operators(name, channels_last, device, choices)


def check_operators(name: str, channels_last: bool, device: str, choices: Iterable[tuple[bool, ...]]) -> None:
    case = BY_NAME[name]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tensors = make_tensors(case, poison=False).to(torch.float32, layout)
    x, w, grad = (t.to(device).requires_grad_() for t in (tensors.input, tensors.weight, tensors.grad))
    bias = None if tensors.bias is None else tensors.bias.to(device).requires_grad_()
    mask = None if tensors.mask is None else tensors.mask.to(device)
    window = [list(case.stride), list(case.padding), list(case.dilation), case.groups]
    torch.library.opcheck(ops.partial_conv2d, (x, mask, None, None, w, bias, *window))
    ratio = ops.partial_conv2d(x, mask, None, None, w, bias, *window)[2]
    for needed in choices:
        torch.library.opcheck(
            ops.partial_conv2d_backward, (grad, x, mask, None, None, w, ratio, *window, False, *needed)
        )


def test_torch_func_transforms(device: str) -> None:
    leaves, mask = leaves_of(Case("transformed", n=3, c=2, h=5, w=4, k=2), device)
    x, w, b = (leaf.detach() for leaf in leaves)

    def both(transform):
        return [transform(function) for function in (partial_conv2d, reference.partial_conv2d)]

    for ours, true in (
        both(lambda f: torch.func.grad(lambda v: f(x, mask, v, b, padding=1)[0].sin().sum())(w)),
        both(lambda f: torch.func.jvp(lambda v: f(v, mask, w, b, padding=1)[0], (x,), (x,))[1]),
        both(lambda f: torch.func.vmap(lambda i, m: f(i, m, w, b, padding=1)[0])(x, mask)),
        both(lambda f: torch.func.vmap(torch.func.grad(lambda v, i: f(i, None, v)[0].sum()), (None, 0))(w, x)),
    ):
        assert true.abs().sum() > 0
        torch.testing.assert_close(ours, true, rtol=1e-12, atol=1e-12)


def test_forward_mode(device: str) -> None:
    leaves, mask = leaves_of(DIFFERENTIATED[0], device)
    tangents = []
    with torch.autograd.forward_ad.dual_level():
        for function in (partial_conv2d, reference.partial_conv2d):
            dual = torch.autograd.forward_ad.make_dual(leaves[0].detach(), leaves[0].detach())
            output, _ = function(dual, mask, leaves[1].detach(), padding=1)
            tangents.append(torch.autograd.forward_ad.unpack_dual(output).tangent)
    assert tangents[0].abs().sum() > 0
    torch.testing.assert_close(tangents[0], tangents[1])


def test_opcheck_with_two_sources(device: str) -> None:
    x, skip, grad = (torch.randn(2, c, 6, 4, device=device, requires_grad=True) for c in (2, 3, 3))
    w = torch.randn(3, 5, 3, 3, device=device, requires_grad=True)
    mask = torch.rand(2, 1, 6, 4, device=device) > 0.5
    window = ([1, 1], [1, 1], [1, 1], 1)
    for masks in ((mask, ~mask), (mask[:1], None)):
        given = (x, masks[0], skip, masks[1], w)
        torch.library.opcheck(ops.partial_conv2d, (*given, None, *window))
        ratio = ops.partial_conv2d(*given, None, *window)[2]
        for needed in ((True, True, True, True), (False, True, False, False), (True, False, False, False)):
            torch.library.opcheck(ops.partial_conv2d_backward, (grad, *given, ratio, *window, False, *needed))


def _step(function, x, mask, w, b):
    output, new_mask = function(x, mask, w, b, padding=1)
    return output.relu().square().mean(), new_mask


@pytest.mark.full("compiled layers")
@pytest.mark.parametrize("mask_kind", ["single", "channels", "none"])
def test_compile_fullgraph_with_dynamic_shapes(mask_kind: str, device: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda *arguments: _step(partial_conv2d, *arguments), fullgraph=True, dynamic=True)
    for height in (8, 11, 13):
        case = Case("compiled", h=height, w=height + 1, mask=mask_kind)
        leaves, mask = leaves_of(case, device, torch.float32)
        loss, new_mask = compiled(leaves[0], mask, leaves[1], leaves[2])
        expected, expected_mask = _step(reference.partial_conv2d, leaves[0], mask, leaves[1], leaves[2])
        torch.testing.assert_close(loss, expected)
        assert torch.equal(new_mask, expected_mask)
        for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_compile_the_network_fullgraph(device: str) -> None:
    torch._dynamo.reset()
    model = PConvUNet(levels=3, width=4).to(device).eval()
    image, mask = torch.randn(1, 3, 19, 16, device=device), torch.rand(1, 1, 19, 16, device=device) > 0.4
    output, new_mask = torch.compile(model, fullgraph=True)(image, mask)
    expected, expected_mask = model(image, mask)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(new_mask, expected_mask)


def test_export(device: str) -> None:
    layer = PartialConv2d(3, 5, 3, padding=1, return_mask=True).to(device)
    image, mask = torch.randn(2, 3, 9, 8, device=device), torch.rand(2, 1, 9, 8, device=device) > 0.5
    height = torch.export.Dim("height", min=4, max=64)
    program = torch.export.export(layer, (image, mask), dynamic_shapes=({2: height}, {2: height}))
    for rows in (9, 30):
        image, mask = torch.randn(2, 3, rows, 8, device=device), torch.rand(2, 1, rows, 8, device=device) > 0.5
        for ours, theirs in zip(program.module()(image, mask), layer(image, mask), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_an_exported_program_does_not_remember_strides(device: str) -> None:
    # Traced with an expanded mask, called with a true per-channel one.
    layer = PartialConv2d(3, 5, 3, padding=1).to(device)
    image = torch.randn(2, 3, 9, 8, device=device)
    expanded = (torch.rand(2, 1, 9, 8, device=device) > 0.5).expand(2, 3, 9, 8)
    program = torch.export.export(layer, (image, expanded)).module()
    mask = torch.rand(2, 3, 9, 8, device=device) > 0.5
    torch.testing.assert_close(program(image, mask), layer(image, mask))


def test_export_the_network_for_every_size_that_halves_evenly(device: str) -> None:
    model = PConvUNet(levels=2, width=4).to(device).eval()
    sizes = {2: 4 * torch.export.Dim("rows", min=2, max=16), 3: 4 * torch.export.Dim("columns", min=2, max=16)}
    image, mask = torch.randn(1, 3, 12, 8, device=device), torch.rand(1, 1, 12, 8, device=device) > 0.4
    program = torch.export.export(model, (image, mask), dynamic_shapes=(sizes, sizes)).module()
    image, mask = torch.randn(1, 3, 28, 20, device=device), torch.rand(1, 1, 28, 20, device=device) > 0.4
    for ours, theirs in zip(program(image, mask), model(image, mask), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, device: str) -> None:
    leaves, mask = leaves_of(BY_NAME["plain3x3"], device, torch.float32)
    with torch.autocast(device, dtype=dtype):
        output, new_mask = partial_conv2d(leaves[0], mask.float(), leaves[1], leaves[2], padding=1)
        joined, _ = partial_conv2d_sources(leaves[:1], [mask], leaves[1], leaves[2], padding=1)
    low = [leaf.detach().to(dtype) for leaf in leaves]
    expected, _ = partial_conv2d(low[0], mask, low[1], low[2], padding=1)
    assert output.dtype == dtype and new_mask.dtype == torch.float32
    assert torch.equal(output, expected) and torch.equal(joined, expected)
    gradients = torch.autograd.grad(output.float().sum(), leaves)
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_layers_is_that_of_the_operators(dtype: torch.dtype, device: str) -> None:
    """Layers cast themselves in eager code; compiled code leaves it to the operators' kernels for autocast."""
    x = torch.randn(2, 3, 6, 8, device=device)
    layers: list[tuple[torch.nn.Module, tuple[Any, ...]]] = [
        (PartialConv2d(3, 4, 3), (x, x != 0)), (PartialConv1d(3, 4, 3), (x[:, :, 0], x[:, :1, 0] > 0)),
        (PartialConv3d(3, 4, 1), (x.unsqueeze(2), None)), (PartialConvTranspose1d(3, 4, 2), (x[:, :, 0], None)),
        (PartialConvUpCat2d(3, 3, 4), (x, None, x.repeat(1, 1, 2, 2), None)),
    ]  # fmt: skip
    for layer, arguments in layers:
        layer.to(device)
        found = []
        for direct in (True, False):
            with torch.autocast(device, dtype=dtype), pytest.MonkeyPatch.context() as patched:
                if not direct:
                    patched.setattr(transforms, "_needs_the_dispatcher", lambda differentiable: True)
                output = layer(*arguments)
            found.append([output, *torch.autograd.grad(output.float().square().sum(), list(layer.parameters()))])
        assert found[0][0].dtype == dtype and found[0][1].dtype == torch.float32
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), type(layer).__name__
        with torch.no_grad(), torch.autocast(device, dtype=dtype):
            assert torch.equal(layer(*arguments), found[0][0])


def test_autocast_of_another_device_changes_nothing() -> None:
    layer, x = PartialConv2d(3, 4, 3, device="meta"), torch.empty(1, 3, 5, 5, device="meta")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.float32
    plain, picture = PartialConv2d(3, 4, 3), torch.randn(1, 3, 5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where there is no CUDA
        with torch.autocast("cuda", torch.bfloat16):
            assert plain(picture).dtype == torch.float32


def test_a_mask_that_is_a_source_keeps_its_dtype_under_autocast(device: str) -> None:
    x = torch.full((1, 1, 4, 4), 1e-12, device=device)  # 0 in float16
    weight, window = torch.ones(1, 2, 3, 3, device=device), ((1, 1), (0, 0), (1, 1), 1)
    with torch.autocast(device, dtype=torch.float16):
        _, new_mask = apply(x, x, weight[:, :1], None, *window)
        assert new_mask.all()
        output, new_mask = apply(x, x, weight, None, *window, skip=x, skip_mask=x)
        assert new_mask.all() and output.dtype == torch.float16


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "ConvTranspose2d"])
def test_autocast_gives_one_dtype_whatever_transforms(name: str, device: str) -> None:
    layer = getattr(nn, f"Partial{name}")(3, 4, 3).to(device)
    x = torch.randn(1, 3, *(6, 7)[: int(name[-2])], device=device)
    mask = torch.rand(1, 1, *x.shape[2:], device=device) > 0.3
    with torch.autocast(device, dtype=torch.bfloat16), torch.autograd.forward_ad.dual_level():
        expected = layer(x, mask)
        assert expected.dtype == torch.bfloat16
        dual = layer(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)), mask)
        assert dual.dtype == torch.autograd.forward_ad.unpack_dual(dual).tangent.dtype == torch.bfloat16
        mapped = torch.func.vmap(layer)(x[None], mask[None])[0]
        for found in (dual, mapped):
            torch.testing.assert_close(found.detach(), expected.detach(), rtol=2e-2, atol=2e-2)
            assert found.dtype == torch.bfloat16


def test_autocast_leaves_doubles_alone(device: str) -> None:
    leaves, mask = leaves_of(BY_NAME["plain3x3"], device)
    with torch.autocast(device, dtype=torch.bfloat16):
        output, _ = partial_conv2d(leaves[0], mask, leaves[1], leaves[2], padding=1)
    assert output.dtype == torch.float64
