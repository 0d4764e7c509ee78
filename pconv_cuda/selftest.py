"""Whether this machine's kernels give right results: each family checked against the library's convolution.

On a GPU the CUDA operators ask :func:`is_right` before a family's first use with a dtype; what was found is remembered
in the user's cache folder, for this device, driver, torch and build. A family that is wrong is not used: the composed
path serves, and one warning says what to report. ``PCONV_SELFTEST=0`` asks nothing, ``force`` forgets what is
remembered. ``pconv selftest`` runs everything and prints a table.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from pconv_cuda import ops
from pconv_cuda.files import atomic_path
from pconv_cuda.ops import extension

__all__ = ["DTYPES", "FAMILIES", "Found", "Paths", "is_right", "judge", "run"]


@dataclass(frozen=True)
class Case:
    """One layer, or with ``skip`` channels a decoder stage, of which ``c`` channels come from the small grid.

    ``tile``: that its products take where they can, by its number in csrc/cuda/plan/tiles.h; -1: the plan's.
    """

    c: int
    k: int
    size: int
    window: int = 3
    stride: int = 1
    skip: int = 0
    tile: int = -1

    @property
    def choice(self) -> int:
        """What the operators are forced to (csrc/torch/choice.h): our kernels, with this tile in all four passes."""
        return 2 | sum((self.tile + 1) << bit for bit in (4, 8, 12, 16))


_WGMMA_256, _WGMMA_128, _WGMMA_64 = 5, 6, 7
_TALL_256, _TALL_128, _TALL_64, _SLIM = 8, 9, 10, 11  # 192, 256 and 256 pixels; of weight gradients 64 filters
# In the order of the bits of csrc/cuda/host/run.h: name, and cases of which the first layer and the first stage with
# each tile are the quick ones.
FAMILIES: dict[str, tuple[Case, ...]] = {
    "gemm": (Case(40, 48, 17), Case(64, 64, 33, 5, 2), Case(256, 128, 14)),
    "wgmma": (
        Case(72, 136, 33, tile=_WGMMA_256), Case(72, 136, 33, tile=_WGMMA_128), Case(72, 40, 33, tile=_WGMMA_64),
        Case(64, 128, 128, tile=_WGMMA_128), Case(128, 256, 130, tile=_WGMMA_256), Case(256, 64, 65, tile=_WGMMA_64),
    ),
    "first layer": (Case(3, 64, 33, 7, 2), Case(4, 40, 64, 5)),
    "last layer": (Case(72, 3, 33), Case(64, 8, 40)),
    "decoder stage": (Case(40, 48, 18, skip=24), Case(64, 64, 32, skip=64)),
    "decoder stage on wgmma": (
        Case(72, 136, 34, skip=64, tile=_WGMMA_256), Case(72, 136, 34, skip=64, tile=_WGMMA_128),
        Case(72, 40, 34, skip=64, tile=_WGMMA_64), Case(64, 128, 128, skip=64, tile=_WGMMA_128),
    ),
    "last decoder stage": (Case(64, 3, 34, skip=3), Case(32, 1, 64, skip=1)),
    "tall tiles on wgmma": (
        Case(136, 136, 33, tile=_TALL_256), Case(72, 136, 33, tile=_TALL_128), Case(72, 40, 33, tile=_TALL_64),
        Case(72, 136, 34, skip=64, tile=_TALL_256), Case(72, 72, 34, skip=64, tile=_TALL_128),
        Case(72, 40, 34, skip=64, tile=_TALL_64), Case(72, 72, 33, tile=_SLIM), Case(128, 256, 64, tile=_TALL_256),
    ),
}  # fmt: skip
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # in the order of csrc/geometry.h: DType
_ROUNDING = {torch.float64: 2.0**-40, torch.float32: 2.0**-21, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
_TF32 = 2.0**-11


@dataclass(frozen=True)
class Found:
    """The result of a case: errors relative to the largest value of the truth, ours and the library's."""

    family: str
    dtype: torch.dtype
    case: Case
    result: str  # output, grad_input, grad_skip, grad_weight, grad_bias
    ours: float
    library: float
    allowed: float

    @property
    def right(self) -> bool:
        """NaN is wrong."""
        return self.ours <= self.allowed


def _tensors(case: Case, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Random operands of the operator, the same each time; NaN in the holes, which must not be read."""
    generator = torch.Generator("cpu").manual_seed(7)  # whatever the default device is

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

    def source(channels: int, size: int) -> tuple[Tensor, Tensor]:
        mask = torch.rand((2, 1, size, size), generator=generator, device="cpu") > 0.4
        mask[:, :, : size // 4] = False  # windows without a valid pixel
        x = torch.where(mask, draw(2, channels, size, size), torch.nan)
        return x.to(device, memory_format=torch.channels_last), mask.to(device)

    small = case.size // 2 if case.skip else case.size
    x, mask = source(case.c, small)
    skip, skip_mask = source(case.skip, case.size) if case.skip else (None, None)
    weight = draw(case.k, case.c + case.skip, case.window, case.window) / (case.window * case.c**0.5)
    pads = case.window // 2
    side = (case.size + 2 * pads - case.window) // case.stride + 1
    return {
        "sources": (x, mask, skip, skip_mask),
        "weight": weight.to(device, memory_format=torch.channels_last),
        "bias": draw(case.k).to(device),
        "grad": draw(2, case.k, side, side).to(device, memory_format=torch.channels_last),
        "window": ([case.stride] * 2, [pads] * 2, [1, 1], 1, case.skip > 0),
    }


class Paths:
    """The operators as they are, and the library's convolution for comparison, on one device.

    On a GPU the same operators run on a forced path; elsewhere the reference of the operators is the library's.
    """

    def __init__(self, device: torch.device, operators: Any = ops, force: Any = None) -> None:
        module = extension.cuda_module()
        if force is None and device.type == "cuda" and module is not None:
            force = module.force_path
        self.device, self.operators, self.force = device, operators, force

    def results(self, given: dict[str, Any], dtype: torch.dtype, *, library: bool, choice: int = 2) -> list[Tensor]:
        """Output and gradients; of our kernels as ``choice`` says."""
        forward, backward = self._operators(library, choice)

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(dtype)

        x, mask, skip, skip_mask = given["sources"]
        sources = cast(x), mask, cast(skip), skip_mask
        weight, bias, grad, window = cast(given["weight"]), cast(given["bias"]), cast(given["grad"]), given["window"]
        needed = (True, skip is not None, True, True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the reference runs is what was asked for
            output, _, ratio = forward(*sources, weight, bias, *window)
            return [output, *backward(grad, *sources, weight, ratio, *window, *needed)]

    def _operators(self, library: bool, choice: int = 2) -> tuple[Any, Any]:
        if self.force is not None:
            self.force(0 if library else choice)
        elif library:
            unfused = torch.ops.pconv_cuda
            return unfused.unfused_partial_conv2d, unfused.unfused_partial_conv2d_backward
        return self.operators.partial_conv2d, self.operators.partial_conv2d_backward

    def skip_alone(self, given: dict[str, Any], dtype: torch.dtype) -> Tensor:
        """The weight's gradient for the skip's channels by the library's convolution of the skip alone.

        Of few channels it is summed less exactly than that of the joined input, which has more of them.
        """
        forward, backward = self._operators(library=True)
        x, mask, skip, skip_mask = given["sources"]
        weight, window = given["weight"].to(dtype), given["window"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, _, ratio = forward(x.to(dtype), mask, skip.to(dtype), skip_mask, weight, None, *window)
            own, alone = weight[:, x.shape[1] :], (*window[:-1], False)
            gradients = backward(
                given["grad"].to(dtype), skip.to(dtype), skip_mask, None, None, own, ratio, *alone,
                False, False, True, False,
            )  # fmt: skip
        return gradients[2]


NAMES = ("output", "grad_input", "grad_skip", "grad_weight", "grad_bias")


def _compare(family: str, dtype: torch.dtype, case: Case, paths: Paths) -> Iterator[Found]:
    given = _tensors(case, dtype, paths.device)
    truth = paths.results(given, torch.float64, library=True)
    library = paths.results(given, dtype, library=True)
    ours = paths.results(given, dtype, library=False, choice=case.choice)
    for name, own, other, exact in zip(NAMES, ours, library, truth, strict=True):
        if exact.numel() == 0:
            continue
        largest = exact.abs().max().item() or 1.0

        def error(found: Tensor, exact: Tensor = exact, largest: float = largest) -> float:
            value = (found.double() - exact).abs().max().item() / largest
            return value if value == value else float("inf")

        theirs = error(other)
        if case.skip and name == "grad_weight":
            theirs = max(theirs, error(paths.skip_alone(given, dtype), exact[:, case.c :]))
        rounding = _TF32 if dtype == torch.float32 and paths.force is not None else _ROUNDING[dtype]
        allowed = max(2 * theirs if theirs < 0.1 else 0.0, 4 * rounding)
        yield Found(family, dtype, case, name, error(own), theirs, allowed)


def _quick_cases(family: str) -> list[Case]:
    return list({(case.tile, case.skip > 0): case for case in reversed(FAMILIES[family])}.values())[::-1]


def run(family: str, dtype: torch.dtype, paths: Paths, *, quick: bool = False) -> list[Found]:
    """Every case of a family, or the quick ones. Neither the caller's random numbers nor its modes matter.

    Args:
        family: a key of :data:`FAMILIES`.
        dtype: float32, bfloat16 or float16.
        paths: what is compared.

    Raises:
        RuntimeError: a kernel could not be launched.
    """
    found: list[Found] = []
    with _disable_current_modes(), torch.no_grad(), torch.autocast(paths.device.type, enabled=False):
        try:
            for case in _quick_cases(family) if quick else FAMILIES[family]:
                found += _compare(family, dtype, case, paths)
        finally:
            if paths.force is not None:
                paths.force(-1)
    return found


def judge(family: str, dtype: torch.dtype, paths: Paths) -> tuple[bool, str]:
    """Whether the quick cases are right, and what is wrong with them otherwise."""
    try:
        found = run(family, dtype, paths, quick=True)
    except RuntimeError as error:
        return False, str(error).splitlines()[0]
    wrong = [each for each in found if not each.right]
    text = ", ".join(f"{each.result} off by {each.ours:.2g}, {each.allowed:.2g} allowed" for each in wrong)
    return not wrong, text


# Remembered ----------------------------------------------------------------------------------------------


def cache_file() -> Path:
    """Where findings are kept: ``$XDG_CACHE_HOME/pconv_cuda``, else ``~/.cache/pconv_cuda``."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "pconv_cuda" / "selftest.json"


def device_key(index: int) -> str:
    """A key of a CUDA device, its driver, torch and this build."""
    about = torch.cuda.get_device_properties(index)
    module = extension.cuda_module()
    build = Path(getattr(module, "__file__", "") or "")
    stamp = build.stat() if build.is_file() else None
    parts = [
        about.name, f"{about.major}.{about.minor}", torch.version.cuda, torch.__version__,
        getattr(torch._C, "_cuda_getDriverVersion", lambda: "")(), getattr(module, "architectures", ""),
        f"{stamp.st_size} {stamp.st_mtime_ns}" if stamp else "",
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _key(family: str, dtype: torch.dtype, device: torch.device) -> str:
    return f"{device_key(device.index or 0)} {family} {str(dtype).removeprefix('torch.')}"


def _remembered() -> dict[str, bool]:
    """Empty where there is no file or another program wrote it: everything is then checked again."""
    try:
        found = json.loads(cache_file().read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, bool)} if isinstance(found, dict) else {}


def _remember(key: str, right: bool) -> None:
    """A folder that cannot be written to means one check in each process."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {**_remembered(), key: right}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(known, indent=1))
    except OSError:
        pass


def is_right(family: int, dtype: int, index: int) -> bool:
    """Whether a family (a bit) gives right results with a dtype; the CUDA operators ask before its first use."""
    choice = os.environ.get("PCONV_SELFTEST", "1")
    name, kind, device = list(FAMILIES)[family.bit_length() - 1], DTYPES[dtype], torch.device("cuda", index)
    if choice == "0" or kind == torch.float64:
        return True
    key = _key(name, kind, device)
    known = {} if choice == "force" else _remembered()
    if key in known:
        right, why = known[key], "as remembered from an earlier check"
    else:
        right, why = judge(name, kind, Paths(device))
        _remember(key, right)
    with contextlib.suppress(Warning):  # where warnings are errors: this is asked in the middle of an operator
        if right:
            return True
        warnings.warn(
            f"pconv_cuda: the kernels {name!r} give wrong results in {kind} on {torch.cuda.get_device_name(device)} "
            f"({why}); the library's convolution is used instead, which is slower. Please report this with what "
            "`pconv selftest` prints. (PCONV_SELFTEST=0 skips the check, =force repeats it.)",
            stacklevel=2,
        )
    return False
