"""Forward-mode derivatives where torch compiles, exports or traces: the reference's, or an error, never zeros."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from pconv_cuda import PartialConv2d, PConvUNet, ops, reference
from pconv_cuda import functional as PF
from pconv_cuda.models import FillRefiner
from pconv_cuda.nn import PartialConv1d, PartialConv3d, PartialConvTranspose2d

X, MASK = torch.randn(2, 3, 6, 8), torch.rand(2, 1, 6, 8) > 0.4
CALLS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "2d": (PartialConv2d(3, 4, 3, padding=1, groups=1), X),
    "1d": (PartialConv1d(3, 4, 3, stride=2), X[..., 0].contiguous()),
    "3d": (PartialConv3d(3, 4, 2), torch.randn(1, 3, 3, 4, 3)),
    "transposed": (PartialConvTranspose2d(3, 4, 3, 2), X),
    "mask": (lambda x: PF.partial_conv2d(x, MASK, torch.ones(4, 3, 3, 3))[0], X),
    "stage": (lambda x: PF.partial_conv2d_upcat(x, MASK, X.repeat(1, 1, 2, 2), None, torch.ones(4, 6, 3, 3))[0], X),
    "weight": (lambda weight: PF.partial_conv2d(X, MASK, weight)[0], torch.randn(4, 3, 3, 3)),
}


@pytest.fixture(autouse=True)
def fresh_graphs():
    torch._dynamo.reset()
    torch.manual_seed(0)


@pytest.mark.parametrize("name", CALLS)
def test_compiled_tangents_are_those_of_eager_code(name: str) -> None:
    call, x = CALLS[name]
    tangent = torch.randn_like(x)

    def directional(x: Tensor) -> Tensor:
        return torch.func.jvp(call, (x,), (tangent,))[1]

    expected = directional(x)
    assert expected.abs().sum() > 1
    for backend in ("eager", "aot_eager"):
        found = torch.compile(directional, backend=backend, fullgraph=True)(x)
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_compiled_layer_takes_dual_numbers() -> None:
    layer, tangent = PartialConv2d(3, 4, 3), torch.randn_like(X)
    compiled = torch.compile(layer, backend="eager")
    found = []
    with forward_ad.dual_level():
        for call in (layer, compiled):
            found.append(forward_ad.unpack_dual(call(forward_ad.make_dual(X, tangent), MASK)).tangent)
    assert found[0] is not None and found[1] is not None
    torch.testing.assert_close(found[1], found[0])


def test_an_exported_program_has_tangents() -> None:
    layer = PartialConv2d(3, 4, 3)
    program = torch.export.export(layer, (X, MASK)).module()
    expected, found = (torch.func.jvp(lambda x, f=f: f(x, MASK), (X,), (X.flip(0),))[1] for f in (layer, program))
    assert expected.abs().sum() > 1
    torch.testing.assert_close(found, expected)


def test_the_operators_themselves() -> None:
    """Against the reference in float64, the backward operator too (forward over reverse)."""
    x, weight = X.double(), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    window = ([1, 1], [1, 1], [1, 1], 1)
    tangent, grad = torch.randn_like(x), torch.randn(2, 4, 6, 8, dtype=torch.float64)

    def ours(x: Tensor) -> Tensor:
        return ops.partial_conv2d(x, MASK, None, None, weight, None, *window)[0]

    def truth(x: Tensor) -> Tensor:
        return reference.partial_conv2d(x, MASK.expand_as(x), weight, None, padding=1)[0]

    def derivative(call: Callable[[Tensor], Tensor]) -> Tensor:
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(call(forward_ad.make_dual(x, tangent))).tangent
        assert found is not None
        return found

    torch.testing.assert_close(derivative(ours), derivative(truth))
    ratio = ops.partial_conv2d(x, MASK, None, None, weight, None, *window)[2]

    def of_weight(grad: Tensor) -> Tensor:
        needed = (False, False, True, False)
        return ops.partial_conv2d_backward(grad, x, MASK, None, None, weight, ratio, *window, False, *needed)[2]

    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(of_weight(forward_ad.make_dual(grad, grad.flip(0)))).tangent
    torch.testing.assert_close(found, of_weight(grad.flip(0)))  # it is linear in the gradient


@pytest.mark.parametrize("compiled", [False, True])
def test_the_smooth_fill_refuses_derivatives(compiled: bool) -> None:
    def fill(x: Tensor) -> Tensor:
        return PF.smooth_fill(x, MASK)

    def directional(x: Tensor) -> Tensor:
        return torch.func.jvp(fill, (x,), (torch.ones_like(x),))[1]

    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: fill(x).sum())(x)

    for call in (directional, gradient):
        run = torch.compile(call, backend="eager") if compiled else call
        with pytest.raises(Exception, match="smooth_fill has no derivative"):
            run(X)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="input: expected .* has no tangent, .*unpack_dual"):
        fill(forward_ad.make_dual(X, X))


def test_parameters_of_a_network_with_a_fill_have_derivatives() -> None:
    network = FillRefiner(levels=2, width=4, layers=1).double()
    image, mask = torch.rand(1, 3, 12, 10, dtype=torch.float64), torch.rand(1, 1, 12, 10) > 0.4
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(network, parameters, (image, mask))[0].square().sum()

    found = torch.func.grad(loss)(parameters)
    network(image, mask)[0].square().sum().backward()
    for name, value in network.named_parameters():
        torch.testing.assert_close(found[name], value.grad)
    tangents = {name: torch.ones_like(value) for name, value in parameters.items()}
    along = torch.func.jvp(loss, (parameters,), (tangents,))[1]
    torch.testing.assert_close(along, sum((value.sum() for value in found.values()), torch.zeros(()).double()))


@pytest.mark.parametrize(
    ("network", "channels"),
    [
        (FillRefiner(levels=2, width=4, layers=1), 1), (PConvUNet(levels=2, width=4, conv="plain"), 1),
        (PConvUNet(levels=2, width=4, composed=True), 1), (PConvUNet(levels=2, width=4), 3),
    ],
    ids=["refiner", "plain", "composed", "masks of channels"],
)  # fmt: skip
def test_compiled_networks_take_pictures_of_any_size(network: nn.Module, channels: int) -> None:
    """From the second size on torch compiles with symbols for sizes."""
    network.eval()
    compiled = torch.compile(network, backend="aot_eager")
    with torch.no_grad():
        for height, width in ((16, 16), (21, 18), (17, 30)):
            image, mask = torch.rand(1, 3, height, width), torch.rand(1, channels, height, width) > 0.3
            torch.testing.assert_close(compiled(image, mask)[0], network(image, mask)[0])
