"""pconv_cuda.backends without a GPU: the setting, and the file of choices. tests/emulation has the choice itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pconv_cuda import backends, selftest
from pconv_cuda.ops import extension


class Module:
    """The part of pconv_cuda._C_cuda that backends uses."""

    def __init__(self) -> None:
        self.reader: Callable[[], bool] | None = None
        self.choices: dict[str, int] = {}
        self.families = 1 << 31

    def set_benchmark_reader(self, reader: Callable[[], bool] | None) -> None:
        self.reader = reader

    def set_choices(self, known: dict[str, int]) -> None:
        self.choices = dict(known)

    def measured_choices(self) -> dict[str, int]:
        return dict(self.choices)

    def last_families(self) -> int:
        return self.families


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """A machine of two GPUs of one kind, with kernels."""
    made = Module()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(extension, "cuda_module", lambda: made)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(selftest, "device_key", lambda index: ("gpu-a", "gpu-b")[index])
    yield made
    backends.benchmark = False


def test_benchmark_mode_can_be_set_without_a_gpu() -> None:
    assert backends.last_plan() == ()
    backends.benchmark = True
    assert backends.benchmark is True
    backends.benchmark = False
    with pytest.raises(TypeError, match="benchmark: expected a bool, got 1"):
        backends.benchmark = 1


def test_deterministic_algorithms_turn_it_off(module: Module) -> None:
    backends.benchmark = True
    assert module.reader is not None and module.reader()
    torch.use_deterministic_algorithms(True)
    try:
        assert not module.reader()
    finally:
        torch.use_deterministic_algorithms(False)
    backends.benchmark = False
    assert module.reader is None


def test_choices_live_on_in_the_next_process(module: Module) -> None:
    backends.benchmark = True
    tiled = 2 | 8 << 4 | 3 << 16  # a path with tiles for two passes
    module.choices |= {"0 f0 6 64": 2, "1 b15 6 64": 0, "0 f0 6 65": tiled}
    backends.benchmark = False
    kept = {"gpu-a f0 6 64": 2, "gpu-b b15 6 64": 0, "gpu-a f0 6 65": tiled}
    assert json.loads(backends.choices_file().read_text()) == kept
    module.choices = {}
    backends.benchmark = True
    assert module.choices == {"0 f0 6 64": 2, "1 b15 6 64": 0, "0 f0 6 65": tiled}


def test_other_devices_and_processes_keep_theirs(module: Module) -> None:
    backends.choices_file().parent.mkdir(parents=True)
    theirs = {"gpu-c f0 1": 1, "gpu-a f0 2": 1 | 5 << 12}
    odd = {"gpu-a f0 3": "fast", "gpu-b f0 3": True, "x": 7, "gpu-a f0 4": 1 << 20, "gpu-a f0 5": -1, "gpu-a f0 6": 1.0}
    backends.choices_file().write_text(json.dumps({**theirs, **odd}))
    backends.benchmark = True
    assert module.choices == {"0 f0 2": 1 | 5 << 12}
    module.choices["0 f0 9"] = 0
    backends.benchmark = False
    assert json.loads(backends.choices_file().read_text()) == {**theirs, "gpu-a f0 9": 0}


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{"])
def test_a_broken_file_is_replaced(module: Module, content: bytes) -> None:
    backends.choices_file().parent.mkdir(parents=True)
    backends.choices_file().write_bytes(content)
    backends.benchmark = True
    module.choices["0 f0 1"] = 1
    backends.benchmark = False
    assert json.loads(backends.choices_file().read_text()) == {"gpu-a f0 1": 1}


def test_last_plan_names_the_families(module: Module) -> None:
    assert backends.last_plan() == ()
    module.families = 0
    assert backends.last_plan() == ("library",)
    module.families = 2 | 16
    assert backends.last_plan() == ("wgmma", "decoder stage")
