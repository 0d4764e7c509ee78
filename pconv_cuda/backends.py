"""Which kernels run: one setting and a report, modelled on ``torch.backends``.

``pconv_cuda.backends.benchmark = True``: the first time that an operator meets a new geometry on a CUDA device, it
times the alternatives (our kernels on mma.sync and, on sm_90, on wgmma; the library's convolution with our passes;
then every tile of the fastest of these) and keeps the fastest, in memory and at the end in the
user's cache folder. It pays where the same sizes recur,
as in training. Nothing is timed while a graph is captured, and under
``torch.use_deterministic_algorithms(True)`` the static plan decides: the same kernels, and so the same bits, in every
run.

Attributes:
    benchmark: bool, default False. Without a CUDA device it has no effect.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pconv_cuda import selftest
from pconv_cuda.files import atomic_path
from pconv_cuda.ops import extension

__all__ = ["benchmark", "last_plan"]

benchmark: bool
_state = {"on": False, "hooked": False}


def last_plan() -> tuple[str, ...]:
    """The families of kernels that this thread's last CUDA operator ran on; ``("library",)`` for the composed path.

    Empty where this thread has called none yet, or this build has no CUDA kernels.
    """
    module = extension.cuda_module()
    if module is None:
        return ()
    used = module.last_families()
    if used >> 31:  # csrc/torch/ops_cuda.h: no_call_yet
        return ()
    names = tuple(name for bit, name in enumerate(selftest.FAMILIES) if used >> bit & 1)
    return names or ("library",)


def choices_file() -> Path:
    """Where choices are kept, beside what :mod:`pconv_cuda.selftest` found."""
    return selftest.cache_file().with_name("choices.json")


def _wanted() -> bool:
    return _state["on"] and not torch.are_deterministic_algorithms_enabled()


def _set(on: bool) -> None:
    if not isinstance(on, bool):
        raise TypeError(f"benchmark: expected a bool, got {on!r}")
    _state["on"] = on
    module = extension.cuda_module()
    if module is None or _state["hooked"] == on:
        return
    _state["hooked"] = on
    module.set_benchmark_reader(_wanted if on else None)
    if on:
        module.set_choices({**_named_by_device(_read(), False), **module.measured_choices()})
        atexit.register(_save)
    else:
        _save()
        atexit.unregister(_save)


def _named_by_device(choices: dict[str, int], save: bool) -> dict[str, int]:
    """Keys begin with a device's number in memory and with its description in the file; other devices' are left out."""
    named = {str(index): selftest.device_key(index) for index in range(torch.cuda.device_count())}
    if not save:
        named = {name: number for number, name in named.items()}
    split = ((key.partition(" "), path) for key, path in choices.items())
    return {f"{named[first]} {rest}": path for (first, _, rest), path in split if first in named}


def _read() -> dict[str, int]:
    """Empty where there is no file, or another program wrote it."""
    try:
        found = json.loads(choices_file().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: choice for key, choice in found.items() if _is_choice(choice)}


def _is_choice(value: Any) -> bool:
    """A path and, from bit 4 on, a tile's number and one for each of four passes (csrc/torch/choice.h)."""
    return type(value) is int and 0 <= value < 1 << 20 and value & 15 in (0, 1, 2)


def _save() -> None:
    """Adds what was measured to the file, keeping other processes' and devices' choices."""
    module = extension.cuda_module()
    if module is None or not (measured := _named_by_device(module.measured_choices(), True)):
        return
    with contextlib.suppress(OSError):
        choices_file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(choices_file()) as temporary:
            temporary.write_text(json.dumps({**_read(), **measured}, indent=0))


class _Backends(ModuleType):
    @property
    def benchmark(self) -> bool:
        return bool(_state["on"])

    @benchmark.setter
    def benchmark(self, on: Any) -> None:
        _set(on)


sys.modules[__name__].__class__ = _Backends
