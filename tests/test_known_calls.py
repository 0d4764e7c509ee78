"""Calls like one that was checked before skip the checks (pconv_cuda/known_calls.py), and nothing else changes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pconv_cuda import PartialConv2d, functional, known_calls, ops
from pconv_cuda.functional import partial_conv2d


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PCONV_CHECK", raising=False)
    known_calls._known.clear()
    yield
    known_calls._known.clear()


def operands(**changed: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    given = {
        "input": torch.randn(2, 4, 7, 9), "mask": torch.rand(2, 1, 7, 9) > 0.3, "weight": torch.randn(6, 4, 3, 3),
        "bias": torch.randn(6), "stride": 1, "padding": 1, "dilation": 1, "groups": 1,
    }  # fmt: skip
    return {**given, **changed}


def twice(given: dict[str, Any]) -> tuple[Any, Any]:
    """A call that is checked, and the same again."""
    first = partial_conv2d(**given)
    known = len(known_calls._known)
    second = partial_conv2d(**given)
    assert len(known_calls._known) == known
    return first, second


MASKS = {
    "none": lambda: None,
    "bool": lambda: torch.rand(2, 1, 7, 9) > 0.3,
    "float": lambda: (torch.rand(2, 1, 7, 9) > 0.3).float(),
    "bytes": lambda: (torch.rand(2, 1, 7, 9) > 0.3).byte(),
    "one for the batch": lambda: torch.rand(1, 1, 7, 9) > 0.3,
    "each channel": lambda: torch.rand(2, 4, 7, 9) > 0.3,
    "expanded over channels": lambda: (torch.rand(2, 1, 7, 9) > 0.3).expand(2, 4, 7, 9),
    "expanded over the batch": lambda: (torch.rand(1, 4, 7, 9) > 0.3).expand(2, 4, 7, 9),
    "expanded over both": lambda: (torch.rand(1, 1, 7, 9) > 0.3).expand(2, 4, 7, 9),
    "three dimensions": lambda: torch.rand(1, 7, 9) > 0.3,
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mask", list(MASKS))
def test_the_second_call_returns_what_the_first_did(mask: str, groups: int) -> None:
    given = operands(mask=MASKS[mask](), groups=groups, weight=torch.randn(6, 4 // groups, 3, 3))
    for (output, new_mask), (again, mask_again) in [twice(given)]:
        assert torch.equal(output, again)
        assert torch.equal(new_mask, mask_again)
        assert new_mask.dtype == mask_again.dtype and new_mask.shape == mask_again.shape
        assert new_mask.stride() == mask_again.stride()
    assert len(known_calls._known) == (mask != "three dimensions")


def test_an_expanded_mask_and_one_of_its_shape_are_two_calls() -> None:
    whole = torch.rand(2, 4, 7, 9) > 0.3
    expanded = whole[:1, :1].expand(2, 4, 7, 9)
    for first, second in ((expanded, whole), (whole, expanded)):
        known_calls._known.clear()
        partial_conv2d(**operands(mask=first))
        found, new_mask = partial_conv2d(**operands(mask=second))
        known_calls._known.clear()
        true, true_mask = partial_conv2d(**operands(mask=second.contiguous()))
        torch.testing.assert_close(found, true)
        assert torch.equal(new_mask, true_mask)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stride": 1.0},
        {"padding": (1, 1.0)},
        {"dilation": 0},
        {"groups": 1.0},
        {"groups": 3},
        {"input": torch.randn(2, 5, 7, 9)},
        {"input": torch.randn(2, 4, 7, 8)},
        {"input": torch.randn(2, 4, 7, 9, dtype=torch.float64)},
        {"input": torch.randn(2, 4, 7, 9, device="meta")},
        {"mask": torch.rand(3, 1, 7, 9) > 0.5},
        {"mask": torch.zeros(2, 1, 7, 9, dtype=torch.int64)},
        {"mask": torch.zeros(2, 1, 7, 9, dtype=torch.bool, device="meta")},
        {"mask": "all"},
        {"weight": torch.randn(6, 4, 3, 3, dtype=torch.float16)},
        {"weight": torch.randn(6, 4, 30, 3)},
        {"bias": torch.randn(5)},
        {"bias": torch.randn(6, dtype=torch.float64)},
    ],
    ids=lambda wrong: " ".join(wrong),
)
def test_another_call_is_checked(wrong: dict[str, Any]) -> None:
    twice(operands())
    for name in ("stride", "padding", "dilation"):
        twice(operands(**{name: (1, 1)}))
    with pytest.raises((ValueError, TypeError), match=r"expected|does not fit"):
        partial_conv2d(**operands(**wrong))


def test_values_are_looked_at_where_they_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands(mask=torch.full((2, 1, 7, 9), 0.5))
    twice(given)
    monkeypatch.setenv("PCONV_CHECK", "1")
    with pytest.raises(RuntimeError, match="expected zeros and ones"):
        partial_conv2d(**given)
    # The operator checks too; under torch.func the reference runs, which does not.
    with pytest.raises(RuntimeError, match="expected zeros and ones"):
        torch.func.grad(lambda x: partial_conv2d(**{**given, "input": x})[0].sum())(given["input"])


def test_mixed_dtypes_pass_under_autocast_alone() -> None:
    given = operands(input=torch.randn(2, 4, 7, 9, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        partial_conv2d(**given)
        partial_conv2d(**given)
    with pytest.raises(TypeError, match="weight: expected the input's dtype"):
        partial_conv2d(**given)


def test_gradients_come_when_they_are_asked_for() -> None:
    """A call without gradients runs below autograd; the next one, of the same shapes, must not."""
    given = operands()
    plain = partial_conv2d(**given)[0]
    assert not plain.requires_grad
    names = ("input", "weight", "bias")
    for name in names:
        leaf: Tensor = given[name].clone().requires_grad_()
        output = partial_conv2d(**{**given, name: leaf})[0]
        assert torch.equal(output, plain)
        output.sum().backward()
        assert leaf.grad is not None and leaf.grad.abs().sum() > 0
        with torch.no_grad():
            assert not partial_conv2d(**{**given, name: leaf})[0].requires_grad
    with torch.inference_mode():
        assert torch.equal(partial_conv2d(**given)[0], plain)
    tangent = torch.func.jvp(lambda x: partial_conv2d(**{**given, "input": x})[0], (given["input"],), (given["input"],))
    torch.testing.assert_close(tangent[1], plain - partial_conv2d(**operands(input=given["input"] * 0))[0])


def test_graphs_of_batched_gradients_are_kept() -> None:
    """``create_graph`` under vmap, which has to see the backward's operator."""
    given = operands(bias=None)
    x, weight = given["input"].requires_grad_(), given["weight"].requires_grad_()
    output = partial_conv2d(**{**given, "input": x, "weight": weight})[0]
    directions = torch.randn(3, *output.shape)
    batched = torch.autograd.grad(output, x, directions, is_grads_batched=True, create_graph=True)[0]
    mapped = torch.func.vmap(lambda v: torch.autograd.grad(output, x, v, create_graph=True)[0])(directions)
    alone = [torch.autograd.grad(output, x, v, create_graph=True)[0] for v in directions]
    for found in (batched, mapped):
        torch.testing.assert_close(found, torch.stack(alone))
        gradient = torch.autograd.grad(found.square().sum(), weight, retain_graph=True)[0]
        true = torch.autograd.grad(sum(each.square().sum() for each in alone), weight, retain_graph=True)[0]
        torch.testing.assert_close(gradient, true, rtol=1e-4, atol=1e-3)


def test_enable_grad_inside_inference_mode() -> None:
    layer = PartialConv2d(4, 6, 3, padding=1)
    with torch.inference_mode():
        x = torch.randn(2, 4, 7, 9)
        with torch.enable_grad():
            assert not layer(x).requires_grad and not torch.nn.Conv2d.forward(layer, x).requires_grad


def test_the_mask_that_was_given_is_kept_for_the_backward() -> None:
    """Whatever happens to the caller's tensor object, in the first call and in the second."""
    gradients = []
    given = operands()
    for _ in range(2):
        weight, mask = given["weight"].clone().requires_grad_(), given["mask"].clone()
        output = partial_conv2d(**{**given, "weight": weight, "mask": mask})[0]
        mask.data = ~mask
        output.sum().backward()
        gradients.append(weight.grad)
    assert torch.equal(*gradients)


def test_modes_and_subclasses_of_torch_function_see_the_operator() -> None:
    class Doubled(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            results = func(*args, **(kwargs or {}))
            return (2 * results[0], *results[1:]) if "partial_conv2d" in str(func) else results

    given = operands()
    leaves = [given["weight"].clone().requires_grad_() for _ in range(2)]
    with Doubled():
        doubled = partial_conv2d(**{**given, "weight": leaves[0]})[0]
    plain = partial_conv2d(**{**given, "weight": leaves[1]})[0]
    doubled.sum().backward()
    plain.sum().backward()
    torch.testing.assert_close(doubled, 2 * plain)
    torch.testing.assert_close(leaves[0].grad, 2 * leaves[1].grad)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_layer_holds_the_operator() -> None:
    layer, x, mask = PartialConv2d(4, 6, 3, padding=1), torch.randn(2, 4, 7, 9), torch.ones(2, 1, 7, 9)
    traced = torch.jit.trace(layer, (x, mask))
    assert str(traced.graph).count("pconv_cuda::partial_conv2d(") == 1
    torch.jit.save(traced, io.BytesIO())
    assert torch.equal(traced(x, mask), layer(x, mask))


def test_a_prepared_weight_that_requires_a_gradient_is_refused() -> None:
    low, skip = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 8, 8)
    weight = torch.randn(3, 4, 3, 3)
    prepared = ops.upcat_phases(weight, 2).requires_grad_()
    with pytest.raises(RuntimeError, match="expected one that needs no gradient"):
        functional.apply(
            low, None, weight, None, (1, 1), (1, 1), (1, 1), 1, skip, None, upsample=True, prepared=prepared
        )


def test_a_mask_that_requires_a_gradient_gets_none() -> None:
    given = operands(mask=torch.ones(2, 1, 7, 9))
    twice(given)
    mask = torch.ones(2, 1, 7, 9, requires_grad=True)
    output, new_mask = partial_conv2d(**{**given, "mask": mask})
    assert not output.requires_grad and not new_mask.requires_grad


def test_the_number_of_known_calls_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_calls, "MAX_KNOWN_CALLS", 3)
    layer = PartialConv2d(3, 4, 3, padding=1)
    for size in range(4, 12):
        layer(torch.randn(1, 3, size, size))
        assert len(known_calls._known) <= 3
