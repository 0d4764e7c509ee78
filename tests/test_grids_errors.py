"""What pconv_cuda.fill, pconv fill and training on grids say of arguments and files that do not fit."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pconv_cuda
from pconv_cuda.errors import PConvError
from pconv_cuda.grids.work import fill_file
from pconv_cuda.training.grids import GridFacts, GridPairs, GridSteps

FIELD = np.add.outer(np.arange(6.0), np.arange(8.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wrap": 1}, "wrap: expected two answers, for rows and columns, got 1"),
        ({"wrap": ("no", "yes")}, r"wrap: expected two answers, for rows and columns, got \('no', 'yes'\)"),
        ({"wrap": {0: True, 1: False}}, "wrap: expected two answers, for rows and columns, got {"),
        ({"wrap": np.array([True])}, "wrap: expected two answers, for rows and columns, got array"),
        ({"tension": "a"}, "tension: expected 0 to 1, got 'a'"),
        ({"tension": [0.3]}, r"tension: expected 0 to 1, got \[0.3\]"),
        ({"tension": np.nan}, "tension: expected 0 to 1, got nan"),
        ({"tension": True}, "tension: expected 0 to 1, got True"),
        ({"dims": (True, False)}, r"dims: expected numbers of the array's 3 axes, got \(True, False\)"),
        ({"dims": (0.0, 1.0)}, r"dims: expected numbers of the array's 3 axes, got \(0.0, 1.0\)"),
        ({"dims": 1}, "dims: expected two or three axes, got 1"),
    ],
)
def test_arguments(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PConvError, match=message):
        pconv_cuda.fill("smooth", np.stack([FIELD, FIELD]), **options)
    if "dims" in options:
        np.save(tmp_path / "in.npy", np.stack([FIELD, FIELD]))
        with pytest.raises(PConvError, match="dims: expected two or three"):
            fill_file(tmp_path / "in.npy", tmp_path / "out.npy", **options)


@pytest.mark.parametrize("wrap", [[True, False], (False, True), None, "all"])
def test_wrap_of_files_is_a_word(wrap: Any, tmp_path: Path) -> None:
    with pytest.raises(PConvError, match=f"wrap: expected auto, none, .*got {re.escape(repr(wrap))}"):
        fill_file(tmp_path / "in.npy", tmp_path / "out.npy", wrap=wrap)


def test_numbers_of_numpy_are_arguments_too(tmp_path: Path) -> None:
    array = np.stack([FIELD, FIELD**2])
    array[:, 2:4, 3:6] = np.nan
    expected = pconv_cuda.fill("smooth", array, wrap=(False, True), tension=0.5, dims=(1, 2))
    options: dict[str, Any] = {"tension": np.float32(0.5), "dims": np.array([1, 2])}
    assert np.array_equal(pconv_cuda.fill("smooth", array, wrap=np.array([0, 1], bool), **options), expected)
    assert np.array_equal(pconv_cuda.fill("smooth", array, wrap=[0, 1], **options), expected)  # type: ignore[arg-type]
    np.save(tmp_path / "in.npy", array)
    fill_file(tmp_path / "in.npy", tmp_path / "out.npy", wrap="columns", **options)
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)


def saved(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved(np.float64(3)), r"input: expected \(..., rows, columns\) with values, got \(\) in .*in.npy"),
        (saved(np.arange(3.0)), r"input: expected \(..., rows, columns\) with values, got \(3,\) in .*in.npy"),
        (saved(np.ones((3, 4), int)), "input: expected floating numbers, NaN where missing, got int64 in"),
        (b"1 2 3\n4 5 6\n", r"cannot be read as npy: expected a file that begins with .*NUMPY', got b'1 2 3\\n'"),
        (b"", "cannot be read as npy: expected a file that begins with .*NUMPY', got b''"),
        (saved(np.array([{}, 1], object), allow_pickle=True), "cannot be read as npy: it holds Python objects"),
    ],
)
@pytest.mark.parametrize("wrap", ["auto", "none"])
def test_npy_files(content: bytes, message: str, wrap: str, tmp_path: Path) -> None:
    (tmp_path / "in.npy").write_bytes(content)
    with pytest.raises(PConvError, match=message) as caught:
        fill_file(tmp_path / "in.npy", tmp_path / "out.npy", wrap=wrap)
    assert not re.search("pickle", str(caught.value)) and not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize("each", [1, 2])
def test_training_needs_a_value_to_hide_and_one_to_show(each: int) -> None:
    values = np.full((6, 8, 8), np.nan, np.float32)
    for step in range(6):
        values[step, step, [0, 5][:each]] = step
    steps = GridSteps(values, (False, False), "", "")
    facts = [GridFacts(0.0, 1.0, "", count, (False, False), (False, False)) for count in (1, 3)]
    if each == 1:
        with pytest.raises(PConvError, match="expected steps with at least two values, .*, got at most one in each"):
            GridPairs(steps, facts[0], None, steps, 8, 2, 0)
    for fact in facts[each == 1 :]:
        several = GridPairs(steps, fact, None, steps, 8, 2, 0)
        hidden = 0
        for sample in range(12):
            truth, mask = (np.asarray(one) for one in several[0, sample])
            hidden += int((~np.isnan(truth) & ~mask)[len(truth) // 2].sum())
            assert mask.any()
        assert hidden > 0
