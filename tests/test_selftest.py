"""pconv selftest and what is remembered of it: the kernels themselves are checked in tests/emulation."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from pconv_cuda import cli, ops, selftest

GEMM, BFLOAT16 = 1, 2


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.dtype]]:
    """A device that is not there, whose "last layer" is wrong in bfloat16, and what was asked of it."""
    seen: list[tuple[str, torch.dtype]] = []

    def judge(family: str, dtype: torch.dtype, _: Any) -> tuple[bool, str]:
        seen.append((family, dtype))
        right = (family, dtype) != ("last layer", torch.bfloat16)
        return right, "" if right else "output off by 0.5, 0.01 allowed"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PCONV_SELFTEST", raising=False)
    monkeypatch.setattr(selftest, "judge", judge)
    monkeypatch.setattr(selftest, "_key", lambda family, dtype, _: f"device {family} {dtype}")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GPU X")
    return seen


def test_each_family_is_judged_once_and_remembered(judged: list, tmp_path: Path) -> None:
    for _ in range(2):
        assert selftest.is_right(GEMM, BFLOAT16, 0) and selftest.is_right(GEMM, BFLOAT16 + 1, 0)
    assert judged == [("gemm", torch.bfloat16), ("gemm", torch.float16)]
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "pconv_cuda", selftest.cache_file()]
    assert set(json.loads(selftest.cache_file().read_text()).values()) == {True}


def test_wrong_kernels_get_a_warning_and_stay_unused(judged: list) -> None:
    for why in ("output off by 0.5, 0.01 allowed", "as remembered"):
        with pytest.warns(UserWarning, match=f"'last layer' give wrong results in torch.bfloat16 on GPU X .{why}"):
            assert not selftest.is_right(8, BFLOAT16, 0)
    assert len(judged) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an operator is in the middle of its work
        assert not selftest.is_right(8, BFLOAT16, 0)


def test_the_environment_decides(judged: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCONV_SELFTEST", "0")
    assert selftest.is_right(8, BFLOAT16, 0) and judged == []
    monkeypatch.setenv("PCONV_SELFTEST", "force")
    for _ in range(2):
        with pytest.warns(UserWarning, match="off by"):
            assert not selftest.is_right(8, BFLOAT16, 0)
    assert len(judged) == 2


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"device gemm torch.bfloat16": "yes"}', b"\xff\xfe"])
def test_foreign_cache_files_are_ignored(judged: list, content: str | bytes) -> None:
    selftest.cache_file().parent.mkdir()
    selftest.cache_file().write_bytes(content if isinstance(content, bytes) else content.encode())
    assert selftest.is_right(GEMM, BFLOAT16, 0) and len(judged) == 1
    assert json.loads(selftest.cache_file().read_text()) == {"device gemm torch.bfloat16": True}


def test_a_folder_that_cannot_be_written_to_costs_nothing_else(
    judged: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert selftest.is_right(GEMM, BFLOAT16, 0) and selftest.is_right(GEMM, BFLOAT16, 0)
    assert len(judged) == 2


def test_a_kernel_that_cannot_be_launched_is_wrong() -> None:
    class Refusing:
        partial_conv2d_backward = None

        @staticmethod
        def partial_conv2d(*_: Any) -> None:
            raise RuntimeError("launching fprop 64x64 failed: invalid argument\nin a file")

    paths = selftest.Paths(torch.device("cpu"), Refusing, lambda _: None)
    assert selftest.judge("gemm", torch.float32, paths) == (False, "launching fprop 64x64 failed: invalid argument")


@pytest.mark.parametrize("family", selftest.FAMILIES)
def test_a_check_before_first_use_has_each_tile_of_layers_and_of_stages(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[selftest.Case] = []
    monkeypatch.setattr(selftest, "_compare", lambda _family, _dtype, case, _paths: ran.append(case) or [])
    selftest.run(family, torch.float32, selftest.Paths(torch.device("cpu")), quick=True)
    kinds = [(case.tile, case.skip > 0) for case in ran]
    assert len(set(kinds)) == len(kinds) and set(kinds) == {
        (case.tile, case.skip > 0) for case in selftest.FAMILIES[family]
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_a_cpu_is_right_with_any_number_of_threads(threads: int) -> None:
    """With one thread the library sums a skip of one channel in one long chain."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for family in ("last decoder stage", "decoder stage"):
            found = selftest.run(family, torch.float32, selftest.Paths(torch.device("cpu")))
            assert all(each.right for each in found), [each for each in found if not each.right]
    finally:
        torch.set_num_threads(before)


def test_a_wrong_gradient_of_the_skips_weights_is_seen() -> None:
    class Wrong:
        partial_conv2d = staticmethod(ops.partial_conv2d)

        @staticmethod
        def partial_conv2d_backward(*given: Any) -> list[Any]:
            gradients = list(ops.partial_conv2d_backward(*given))
            gradients[2][:, -1] *= 1.0001
            return gradients

    for dtype in (torch.float32, torch.float64):
        found = selftest.run("last decoder stage", dtype, selftest.Paths(torch.device("cpu"), Wrong))
        assert {each.result for each in found if not each.right} == {"grad_weight"}


def test_neither_random_numbers_nor_modes_of_the_caller_matter() -> None:
    paths, state = selftest.Paths(torch.device("cpu")), torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        found = selftest.run("last layer", torch.float32, paths, quick=True)
    assert all(each.right for each in found) and {each.dtype for each in found} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), state)


def test_the_command_reports_correct_kernels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["selftest", "--device", "cpu", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(", right") == 15 and printed.endswith("all right\n") and "WRONG" not in printed
    forward = torch.ops.pconv_cuda.partial_conv2d.default

    class Wrong:
        """One pixel of the last layer's output."""

        partial_conv2d_backward = torch.ops.pconv_cuda.partial_conv2d_backward.default

        @staticmethod
        def partial_conv2d(*given: Any) -> Any:
            output, *rest = forward(*given)
            if output.shape[1] == 3:
                output[0, 0, 20, 20] += 1
            return output, *rest

    monkeypatch.setattr(selftest, "Paths", lambda device: PATHS(device, Wrong))
    assert cli.main(["selftest", "--device", "cpu", "--quick"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("WRONG") == 7  # last layer, last decoder stage, in three dtypes; the last line
    assert cli.main(["selftest", "--device", "cuda:77"]) == 1
    assert "--device" in capsys.readouterr().err


PATHS = selftest.Paths
