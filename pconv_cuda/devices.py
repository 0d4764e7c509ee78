"""Which device a command runs on: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``, ``xpu``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pconv_cuda.errors import PConvError

if TYPE_CHECKING:
    import torch

__all__ = ["DEVICE_HELP", "pick_device"]

DEVICE_HELP = "auto, cpu, cuda, cuda:N, mps or xpu (default: %(default)s)"


def pick_device(text: str, argument: str = "device") -> torch.device:
    """The device that ``text`` names; auto is the first CUDA device, or the CPU.

    Raises:
        PConvError: another word, or a device that torch does not find; the message names those that it does.
    """
    import torch

    found = _found()
    if text == "auto":
        return torch.device("cuda" if "cuda:0" in found else "cpu")
    match = re.fullmatch(r"(cpu|cuda|mps|xpu)(?::(\d{1,3}))?", text)
    listed = ", ".join(found)
    if not match:
        raise PConvError(
            f"{argument}: expected auto, cpu, cuda, cuda:N, mps or xpu, got {text!r}; torch finds {listed}"
        )
    kind, number = match[1], int(match[2] or 0)
    if (kind if kind in ("cpu", "mps") else f"{kind}:{number}") not in found or (kind in ("cpu", "mps") and number):
        why = ""
        if kind == "cuda" and torch.version.cuda is None and torch.version.hip is None:
            why = f" (torch {torch.__version__} is built without CUDA)"
        raise PConvError(f"{argument}: torch does not find {text}{why}, but {listed}; use one of these, or auto")
    return torch.device(kind if kind in ("cpu", "mps") or match[2] is None else f"{kind}:{number}")


def _found() -> list[str]:
    import torch

    found = ["cpu"]
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            found += [f"{kind}:{index}" for index in range(module.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
