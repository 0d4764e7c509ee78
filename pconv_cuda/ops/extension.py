"""Loads the compiled operators, or says in one sentence why it cannot; and runs the fallback where there are none."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from types import ModuleType
from typing import Any

try:
    import torch
    from torch import Tensor
except ImportError as missing:
    raise ImportError(
        f"pconv_cuda needs torch 2.11 or later, which could not be imported ({missing}); install it with: "
        "pip install 'torch>=2.11' torchvision"
    ) from missing

from pconv_cuda.checks import check_binary
from pconv_cuda.ops import tf32

__all__ = ["cuda_module", "load", "no_cuda_reason", "register_fallback", "register_unfused"]

_module: ModuleType | None = None
_cuda_module: ModuleType | None = None
_cuda_error = ""  # why a _C_cuda that is there did not load


def load() -> ModuleType:
    """Import ``pconv_cuda._C``, which registers schemas and CPU kernels. Raises ImportError with the remedy."""
    global _module
    if _module is None:
        try:
            _module = importlib.import_module("pconv_cuda._C")
        except ModuleNotFoundError as error:
            raise ImportError(
                "pconv_cuda: the compiled extension pconv_cuda._C was not found; build it with "
                "'pip install --no-build-isolation .' in the source folder (a source folder on sys.path hides an "
                "installed package: there, 'pip install --no-build-isolation -e .')"
            ) from error
        except ImportError as error:  # a symbol or a library is missing: another torch, another Python
            raise ImportError(
                f"pconv_cuda: the compiled extension does not fit torch {torch.__version__} ({error}); it needs torch "
                "2.11 or later: rebuild it with 'pip install --no-build-isolation --force-reinstall --no-deps .'"
            ) from error
        _load_cuda()
    return _module


def cuda_module() -> ModuleType | None:
    """``pconv_cuda._C_cuda``, or None where this build has no CUDA kernels or torch no CUDA."""
    return _cuda_module


def no_cuda_reason() -> str:
    """Why :func:`cuda_module` is None; empty where it is not."""
    if _cuda_module is not None:
        return ""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if _cuda_error:
        return f"the CUDA kernels do not fit torch {torch.__version__}: {_cuda_error}"
    # Empty where the build had kernels and their file is missing now.
    return load().build_info()["no_cuda"] or "the file pconv_cuda/_C_cuda*.so of this build is missing"


def _load_cuda() -> None:
    """Registers the CUDA kernels. Where they do not load, everything else still works: a warning, then the fallback."""
    global _cuda_module, _cuda_error
    if torch.version.cuda is None or importlib.util.find_spec("pconv_cuda._C_cuda") is None:
        return
    try:
        _cuda_module = importlib.import_module("pconv_cuda._C_cuda")
    except ImportError as error:
        _cuda_error = str(error)
        warnings.warn(
            f"pconv_cuda: the CUDA kernels do not fit torch {torch.__version__} ({error}); CUDA tensors are served by "
            "the unfused reference until the package is rebuilt",
            stacklevel=2,
        )
        return
    _cuda_module.set_tf32_reader(tf32.tf32_allowed)
    _cuda_module.set_family_checker(_is_right)


def _is_right(family: int, dtype: int, device: int) -> bool:
    from pconv_cuda import selftest

    return selftest.is_right(family, dtype, device)


# Where a device has no kernel of ours -------------------------------------------------------------------------

_warned: set[str] = set()


# The kernels below are the operators again, with the same arguments, in torch's own operators. Registered under
# CompositeExplicitAutograd they serve every device that has no kernel, and derivatives stay those of pconv_cuda/ops/convolution.py.


def _note_fallback(device: torch.device) -> None:
    """One warning a device type; an error where PCONV_FALLBACK=0 forbids the slow path."""
    choice = os.environ.get("PCONV_FALLBACK", "")
    message = f"pconv_cuda has no kernel for device {device.type!r}{_why(device)}: the unfused reference runs instead"
    if choice == "0":
        raise RuntimeError(f"{message}, which PCONV_FALLBACK=0 forbids")
    if choice != "1" and device.type not in _warned:
        _warned.add(device.type)
        warnings.warn(f"{message} (PCONV_FALLBACK=0 makes this an error, =1 silences it)", stacklevel=2)


def _why(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    reason = no_cuda_reason()
    if reason:
        return f" ({reason}; `pconv info` has the remedy)"
    return " (the CUDA kernels need compute capability 8.0 or later)"


def _valid(input: Tensor, mask: Tensor | None, skip: Tensor | None, skip_mask: Tensor | None, upsample: bool) -> Any:
    """What is convolved, one tensor, and where it is valid, a bool mask that broadcasts against it."""
    from pconv_cuda import ops, reference

    for each in (mask, skip_mask):
        if each is not None:
            check_binary(each)
    if skip is None:
        return input, reference.valid_mask(mask, input)
    layout = ops.result_format(input, skip)
    joined, valid = reference.join(input, mask, skip, skip_mask, upsample)
    return joined.contiguous(memory_format=layout), valid


def _forward(
    input: Tensor,
    mask: Tensor | None,
    skip: Tensor | None,
    skip_mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    upsample: bool = False,
    prepared: Tensor | None = None,
    allow_tf32: int = -1,
    negative_slope: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    from pconv_cuda import ops, reference

    _note_fallback(input.device)
    x, valid = _valid(input, mask, skip, skip_mask, upsample)
    where: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    precise = torch.float64 if x.dtype == torch.float64 else torch.float32
    ratio = reference.window_ratio(valid, weight, groups, precise, **where)
    output, _ = reference.partial_conv2d(x, valid, weight, bias, groups=groups, **where)
    output = reference.activation(output, negative_slope)
    return output.contiguous(memory_format=ops.memory_format(x)), ratio > 0, ratio.contiguous()


def _backward(
    grad: Tensor,
    input: Tensor,
    mask: Tensor | None,
    skip: Tensor | None,
    skip_mask: Tensor | None,
    weight: Tensor,
    ratio: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    upsample: bool,
    need_input: bool,
    need_skip: bool,
    need_weight: bool,
    need_bias: bool,
    allow_tf32: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from pconv_cuda import ops, reference

    _note_fallback(input.device)
    x, valid = _valid(input, mask, skip, skip_mask, upsample)
    # One ratio a group -> one an output channel; one for all stays one and broadcasts.
    spread = ratio.repeat_interleave(weight.shape[0] // ratio.shape[1], dim=1)
    live_grad = torch.where(spread > 0, grad, 0.0)
    # Unrequested outputs are empty. They must not alias.
    dx, dskip, dw, db = (input.new_empty((0,)) for _ in range(4))
    if need_bias:
        db = live_grad.sum(dim=(0, 2, 3))
    need_skip = need_skip and skip is not None
    need_x = need_input or need_skip
    if not (need_x or need_weight):
        return dx, dskip, dw, db
    scaled, masked, filters = (live_grad * spread).to(grad.dtype), torch.where(valid, x, 0.0), weight
    if reference.fails_in_half(masked, filters, stride, padding, dilation):
        scaled, masked, filters = scaled.float(), masked.float(), filters.float()
    if reference.needs_plain_strides(masked, filters, stride):
        scaled, masked, filters = (t.clone(memory_format=torch.contiguous_format) for t in (scaled, masked, filters))
    needed = [need_x, need_weight, False]
    whole, grad_weight, _ = torch.ops.aten.convolution_backward(
        scaled, masked, filters, None, stride, padding, dilation, False, [0, 0], groups, needed
    )
    if need_x:
        of_input, of_skip = reference.part(torch.where(valid, whole, 0.0), input, skip, upsample)
        if need_input:
            dx = of_input.to(input.dtype).clone(memory_format=ops.memory_format(input))
        if need_skip and skip is not None and of_skip is not None:
            dskip = of_skip.to(skip.dtype).clone(memory_format=ops.memory_format(skip))
    if need_weight:
        dw = grad_weight.to(input.dtype).contiguous(memory_format=ops.memory_format(weight))
    return dx, dskip, dw, db


def _phases(weight: Tensor, low_channels: int) -> Tensor:
    from pconv_cuda import reference

    return reference.upcat_phases(weight, low_channels).contiguous(memory_format=torch.channels_last)


def register_unfused(library: Any, name: str, kernel: Any) -> None:
    """``kernel`` for every device without one of ours; for all devices where PCONV_FALLBACK=1 asks for it.

    ``unfused_*`` is the same under a name of its own: the CUDA kernels call it on devices that are too old.
    """
    everywhere = os.environ.get("PCONV_FALLBACK") == "1"
    overridden = ["CPU", *(["CUDA"] if _cuda_module else [])] if everywhere else []
    library.impl(name, kernel, "CompositeExplicitAutograd")
    schema = str(getattr(torch.ops.pconv_cuda, name).default._schema).removeprefix("pconv_cuda::")
    library.define(f"unfused_{schema}")
    library.impl(f"unfused_{name}", kernel, "CompositeExplicitAutograd")
    with warnings.catch_warnings():  # torch 2.11 warns of the override even where it is allowed
        warnings.simplefilter("ignore", UserWarning)
        for key in overridden:
            library.impl(name, kernel, key, allow_override=True)


def register_fallback(library: Any) -> None:
    """The operators of :mod:`pconv_cuda.ops`."""
    for name, kernel in (
        ("partial_conv2d", _forward),
        ("partial_conv2d_backward", _backward),
        ("upcat_phases", _phases),
    ):
        register_unfused(library, name, kernel)
