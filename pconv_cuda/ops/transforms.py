"""How the functional forms call the operators: which of torch's transforms need the reference instead, and the shortest
way to an operator otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pconv_cuda.ops.autocast import cast, is_on, without_autocast

__all__ = [
    "call_in_backward",
    "call_operator",
    "has_tangent",
    "is_transformed",
    "register_derivative",
    "register_function",
    "unfused",
]

_functions: dict[Any, Any] = {}  # operator -> torch.autograd.Function
_cast: dict[Any, tuple[int, ...]] = {}  # operator -> positions of the arguments that autocast casts
_CAST = ("input", "skip", "weight", "bias", "prepared")  # masks keep their dtype
_unfused = False


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """In the block layers are made of torch's own operators: for exporters that do not know those of this package.

    The results are the same but for rounding; every layer takes longer. The smooth fill stays an operator of ours.
    The block holds for all threads.
    """
    global _unfused
    before, _unfused = _unfused, True
    try:
        yield
    finally:
        _unfused = before


def is_transformed(*tensors: Tensor | None) -> bool:
    """Inside torch.func's grad, jvp, vmap, or forward-mode AD, which the operators' derivatives do not serve; and in
    the block of :func:`unfused`.

    (torch.library's raise for the former and, worse, give zero tangents for the latter.) Compiled code traces the
    operators, whose kernels for autograd then take the reference for tangents: :func:`register_derivative`.
    """
    if _unfused:
        return True
    if torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():
        return True
    if forward_ad._current_level < 0:
        return False
    return any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def register_derivative(library: Any, operator: Any, backward: Any, setup_context: Any, for_tangents: Any) -> None:
    """``torch.library.register_autograd`` for the operator, and forward mode by ``for_tangents``.

    torch.library's kernel drops tangents without a word. In eager code :func:`is_transformed` comes first; this is for
    compiled, exported and traced programs. ``for_tangents`` takes the operator's arguments and is made of operators of
    torch's own, or raises.
    """
    info = torch._library.autograd.Info(backward, setup_context)
    derivative = torch._library.autograd.make_autograd_impl(operator, info)

    def kernel(keyset: Any, *arguments: Any) -> Any:
        if any(map(has_tangent, arguments)):
            return for_tangents(*arguments)
        return derivative(keyset, *arguments)

    library.impl(operator._opname, kernel, "Autograd", with_keyset=True)


def has_tangent(argument: Any) -> bool:
    """Whether forward mode follows it: in a kernel for autograd, which torch.func's transforms reach too."""
    if not isinstance(argument, Tensor) or not torch._C._is_fwd_grad_enabled():
        return False
    return torch._VF._unpack_dual(argument, level=0)[1] is not None  # type: ignore


def register_function(operator: Any, setup_context: Any, backward: Any) -> None:
    """Make an autograd function of what ``torch.library.register_autograd`` was given for the operator.

    :func:`call_operator` calls it instead of the operator. torch.library goes through the schema in Python at every
    call, which takes half of a small layer's time.
    """

    def forward(ctx: Any, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            results = operator(*arguments)
        setup_context(ctx, arguments, results)
        return results

    names = [argument.name for argument in operator._schema.arguments]
    _cast[operator] = tuple(position for position, name in enumerate(names) if name in _CAST)
    parts = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    _functions[operator] = type(f"{operator._opname}_function", (torch.autograd.Function,), parts)


def _needs_the_dispatcher(differentiable: tuple[Tensor | None, ...]) -> bool:
    """Whether torch has to see the operator itself: it compiles or traces, or a subclass or a mode overrides."""
    return torch.compiler.is_compiling() or torch._C._is_tracing() or torch.overrides.has_torch_function(differentiable)


def call_operator(operator: Any, differentiable: tuple[Tensor | None, ...], *arguments: Any) -> Any:
    """The operator's results: of a call below autograd where no gradient is asked for, else of the function that
    :func:`register_function` made. All of the operator's arguments have to be given; ``differentiable`` are those that
    may require a gradient."""
    if operator not in _functions or _needs_the_dispatcher(differentiable):
        return operator(*arguments)
    if torch._C._is_any_autocast_enabled():
        return _call_cast(operator, differentiable, arguments)
    return _call_directly(operator, differentiable, arguments)


def _call_cast(operator: Any, differentiable: tuple[Tensor | None, ...], arguments: tuple[Any, ...]) -> Any:
    """As the operator's kernel for autocast, without two ways through torch's dispatcher."""
    device = next(tensor.device.type for tensor in differentiable if tensor is not None)
    if not is_on(device):
        return _call_directly(operator, differentiable, arguments)
    lowered = list(arguments)
    for position in _cast[operator]:
        lowered[position] = cast(lowered[position], device)
    with without_autocast(device):
        return _call_directly(operator, tuple(lowered[position] for position in _cast[operator]), tuple(lowered))


def _call_directly(operator: Any, differentiable: tuple[Tensor | None, ...], arguments: tuple[Any, ...]) -> Any:
    records = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    if records and any(tensor is not None and tensor.requires_grad for tensor in differentiable):
        return _functions[operator].apply(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def call_in_backward(operator: Any, *arguments: Any) -> Any:
    """The results of an operator in a backward: below autograd, but where a graph is made of the backward (there vmap
    has to see the operator itself)."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return operator(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)
