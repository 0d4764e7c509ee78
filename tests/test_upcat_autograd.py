"""What torch does with the decoder stage's operators: derivatives, opcheck, compile, autocast, transforms, fallback."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable

import pytest
import torch
from cases_upcat import BY_NAME, WINDOW, Stage, make_tensors
from torch import Tensor

from pconv_cuda import PartialConvUpCat2d, ops, reference
from pconv_cuda.functional import partial_conv2d_upcat

DIFFERENTIATED = [
    Stage("joined", n=2, low=2, skip=1, k=2, h=2, w=3),
    Stage("joined_no_masks", n=1, low=1, skip=2, k=2, h=1, w=2, low_mask="none", skip_mask="none", bias=False),
    Stage("phases", n=1, low=2, skip=1, k=1, h=8, w=9),
]


def leaves_of(stage: Stage, device: str) -> tuple[list[Tensor], list[Tensor | None]]:
    t = make_tensors(stage, poison=False)
    masks = [None if mask is None else mask.to(device) for mask in (t.low_mask, t.skip_mask)]
    return [leaf.to(device).requires_grad_() for leaf in t.leaves], masks


def call(function, leaves: list[Tensor], masks: list[Tensor | None]) -> Tensor:
    low, skip, weight, *bias = leaves
    return function(low, masks[0], skip, masks[1], weight, bias[0] if bias else None)[0]


@pytest.mark.parametrize("stage", DIFFERENTIATED, ids=lambda stage: stage.name)
def test_gradcheck(stage: Stage, device: str) -> None:
    leaves, masks = leaves_of(stage, device)
    assert torch.autograd.gradcheck(lambda *given: call(partial_conv2d_upcat, given, masks), leaves)


@pytest.mark.parametrize("stage", DIFFERENTIATED, ids=lambda stage: stage.name)
def test_gradgradcheck(stage: Stage, device: str) -> None:
    leaves, masks = leaves_of(stage, device)
    fast = stage.name == "phases"  # 300 inputs
    assert torch.autograd.gradgradcheck(lambda *given: call(partial_conv2d_upcat, given, masks), leaves, fast_mode=fast)


@pytest.mark.parametrize("name", ["joined", "phases", "phases_no_masks", "phases_one_mask_of_batch_1"])
def test_second_gradients_equal_the_composed_paths(name: str, device: str) -> None:
    """d/d(leaf) of a sum of squares of first gradients, for every pair of leaves."""
    leaves, masks = leaves_of(BY_NAME[name], device)
    for first, second in itertools.product(range(4), repeat=2):
        found = []
        for function in (partial_conv2d_upcat, reference.partial_conv2d_upcat):
            output = call(function, leaves, masks)
            (gradient,) = torch.autograd.grad(output.sin().sum(), [leaves[first]], create_graph=True)
            found.append(torch.autograd.grad(gradient.square().sum(), [leaves[second]])[0])
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_gradients_flow_only_where_they_are_wanted(device: str) -> None:
    leaves, masks = leaves_of(BY_NAME["phases"], device)
    expected = torch.autograd.grad(call(partial_conv2d_upcat, leaves, masks).sum(), leaves)
    for wanted in itertools.product((True, False), repeat=4):
        if not any(wanted):
            continue
        given = [leaf.detach().requires_grad_(need) for leaf, need in zip(leaves, wanted, strict=True)]
        call(partial_conv2d_upcat, given, masks).sum().backward()
        for leaf, need, gradient in zip(given, wanted, expected, strict=True):
            assert (leaf.grad is None) == (not need)
            if need:
                torch.testing.assert_close(leaf.grad, gradient)


def test_masks_have_no_gradient(device: str) -> None:
    leaves, masks = leaves_of(BY_NAME["phases"], device)
    floats = [mask.double().requires_grad_() for mask in masks]
    output, new_mask = partial_conv2d_upcat(leaves[0], floats[0], leaves[1], floats[1], leaves[2])
    output.sum().backward()
    assert not new_mask.requires_grad and all(mask.grad is None for mask in floats)


MORE = pytest.mark.full("opcheck in more cases")
OPCHECKED = ["joined", "phases", "phases_no_masks", "phases_masks_of_batch_1", "empty_batch"]


@pytest.mark.parametrize("name", ["joined", "phases"])
def test_opcheck(name: str, device: str) -> None:
    check_operators(name, True, device, [(True, True, True, True), (False, True, False, False)])


@MORE
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", OPCHECKED)
def test_opcheck_of_every_choice_of_gradients(name: str, channels_last: bool, device: str) -> None:
    check_operators(name, channels_last, device, itertools.product((True, False), repeat=4))


def check_operators(name: str, channels_last: bool, device: str, choices: Iterable[tuple[bool, ...]]) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    t = make_tensors(BY_NAME[name], poison=False).to(torch.float32, layout)
    low, skip, weight, bias, grad = (
        each.to(device).requires_grad_() for each in (t.low, t.skip, t.weight, t.bias, t.grad)
    )
    masks = [None if mask is None else mask.to(device) for mask in (t.low_mask, t.skip_mask)]
    arguments = (low, masks[0], skip, masks[1], weight)
    torch.library.opcheck(ops.partial_conv2d, (*arguments, bias, *WINDOW))
    ratio = ops.partial_conv2d(*arguments, bias, *WINDOW)[2]
    for needed in choices:
        torch.library.opcheck(ops.partial_conv2d_backward, (grad, *arguments, ratio, *WINDOW, *needed))
    torch.library.opcheck(ops.upcat_phases, (weight.detach(), low.shape[1]))


def test_compiled_without_a_break(device: str) -> None:
    torch._dynamo.reset()
    layer = PartialConvUpCat2d(5, 3, 4, return_mask=True).to(device)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for name in ("joined", "phases"):  # two sizes, one graph
        t = make_tensors(BY_NAME[name], poison=False).to(torch.float32)
        results = []
        for function in (layer, compiled):
            layer.zero_grad()
            low, skip = (each.to(device).requires_grad_() for each in (t.low.clone(), t.skip.clone()))
            output, new_mask = function(low, t.low_mask.to(device), skip, t.skip_mask.to(device))
            output.square().sum().backward()
            results.append([output, low.grad, skip.grad, layer.weight.grad.clone(), layer.bias.grad.clone(), new_mask])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match="skip_mask: expected one channel"):
        torch.compile(partial_conv2d_upcat, fullgraph=True)(
            t.low, t.low_mask, t.skip, t.skip_mask.repeat(1, 3, 1, 1), layer.weight.detach().cpu()
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, device: str) -> None:
    t = make_tensors(BY_NAME["phases"], poison=False).to(torch.float32)
    low, skip, weight, bias = (each.to(device).requires_grad_() for each in t.leaves)
    masks = [t.low_mask.to(device), t.skip_mask.to(device)]
    with torch.autocast(device, dtype):
        output, _ = partial_conv2d_upcat(low.to(dtype), masks[0], skip, masks[1], weight, bias)
        folded = ops.partial_conv2d(
            low.detach(), masks[0], skip.detach(), masks[1], weight.detach(), bias.detach(),
            *WINDOW, ops.upcat_phases(weight.detach(), 5), -1, 0.2,
        )[0]  # fmt: skip
    halves = [each.detach().to(dtype) for each in (low, skip, weight, bias)]
    expected, _ = partial_conv2d_upcat(halves[0], masks[0], halves[1], masks[1], *halves[2:])
    assert output.dtype == dtype and folded.dtype == dtype
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    largest = expected.float().abs().max().item()
    true = torch.nn.functional.leaky_relu(expected.float(), 0.2)
    assert (folded.float() - true).abs().max() <= 4 * torch.finfo(dtype).eps * largest
    output.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_torch_func_and_forward_mode(device: str) -> None:
    leaves, masks = leaves_of(Stage("transformed", n=3, low=2, skip=1, k=2, h=2, w=3), device)
    low, skip, weight, bias = (leaf.detach() for leaf in leaves)

    def both(transform):
        return [transform(function) for function in (partial_conv2d_upcat, reference.partial_conv2d_upcat)]

    for ours, true in (
        both(lambda f: torch.func.grad(lambda v: f(low, masks[0], skip, masks[1], v, bias)[0].sin().sum())(weight)),
        both(lambda f: torch.func.jvp(lambda v: f(v, masks[0], skip, masks[1], weight)[0], (low,), (low,))[1]),
        both(lambda f: torch.func.vmap(lambda w: f(low, masks[0], skip, masks[1], w)[0])(torch.stack([weight] * 2))),
    ):
        assert true.abs().sum() > 0
        torch.testing.assert_close(ours, true, rtol=1e-12, atol=1e-12)
    tangents = []
    with torch.autograd.forward_ad.dual_level():
        for function in (partial_conv2d_upcat, reference.partial_conv2d_upcat):
            dual = torch.autograd.forward_ad.make_dual(skip, skip)
            output = function(low, masks[0], dual, masks[1], weight)[0]
            tangents.append(torch.autograd.forward_ad.unpack_dual(output).tangent)
    assert tangents[0].abs().sum() > 0
    torch.testing.assert_close(tangents[0], tangents[1])


@pytest.mark.parametrize("negative_slope", [0.0, 0.2])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["joined", "phases", "phases_wide", "phases_no_bias"])
def test_the_activation_behind_the_epilogue(name: str, channels_last: bool, negative_slope: float, device: str) -> None:
    t = make_tensors(BY_NAME[name]).to(torch.float32, torch.channels_last if channels_last else torch.contiguous_format)
    bias = None if t.bias is None else t.bias.to(device)
    given = [each.to(device) for each in (t.low, t.low_mask, t.skip, t.skip_mask, t.weight)]
    plain, new_mask, _ = ops.partial_conv2d(*given, bias, *WINDOW)
    phases = ops.upcat_phases(given[4], t.low.shape[1])
    for prepared in (None, phases):
        output, _, _ = ops.partial_conv2d(*given, bias, *WINDOW, prepared, -1, negative_slope)
        torch.testing.assert_close(output, reference.activation(plain, negative_slope))
        assert (output[~new_mask.expand_as(output)] == 0).all()


def test_what_has_no_derivative_says_so() -> None:
    leaves, masks = leaves_of(BY_NAME["phases"], "cpu")
    low, skip, weight, bias = leaves
    for rest in ((None, -1, 0.2), (ops.upcat_phases(weight.detach(), 5),)):
        with pytest.raises(RuntimeError, match="input: expected one that needs no gradient, since a fused"):
            ops.partial_conv2d(low, masks[0], skip, masks[1], weight, bias, *WINDOW, *rest)


FALLBACK = """
import warnings
warnings.simplefilter("ignore")
import sys
import torch
sys.path.insert(0, sys.argv[1])
from test_upcat_autograd import results_of
torch.save(results_of(torch.load(sys.argv[2])), sys.argv[3])
"""


def results_of(given: dict[str, list[Tensor]]) -> list[Tensor]:
    low, skip, weight, bias = (each.requires_grad_() for each in given["leaves"])
    low_mask, skip_mask = given["masks"]
    output, new_mask, ratio = ops.partial_conv2d(low, low_mask, skip, skip_mask, weight, bias, *WINDOW)
    gradients = torch.autograd.grad(output, (low, skip, weight, bias), given["grad"])
    return [output.detach(), new_mask, ratio, *gradients, ops.upcat_phases(weight.detach(), low.shape[1])]


def test_the_fallback_is_the_same_operation(tmp_path) -> None:
    """PCONV_FALLBACK=1 runs what devices without a kernel get: in a process, for it is read when we are loaded."""
    t = make_tensors(BY_NAME["phases"], poison=False).to(torch.float32, torch.channels_last)
    torch.save({"leaves": t.leaves, "masks": [t.low_mask, t.skip_mask], "grad": t.grad}, tmp_path / "in.pt")
    here, given, out = os.path.dirname(__file__), str(tmp_path / "in.pt"), str(tmp_path / "out.pt")
    command = [sys.executable, "-c", FALLBACK, here, given, out]
    subprocess.run(command, env=os.environ | {"PCONV_FALLBACK": "1"}, check=True)
    results = [results_of(torch.load(given)), torch.load(out)]
    assert not all(torch.equal(one, other) for one, other in zip(*results, strict=True)), "both took the same kernels"
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert one.stride() == other.stride()
