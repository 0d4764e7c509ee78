"""Zarr stores in pconv fill: which fill values are missing ones, and how folders are replaced."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from zarr_support import FORMATS, new_array, new_group

import pconv_cuda
from pconv_cuda.errors import PConvError
from pconv_cuda.grids.work import fill_file


def store(path: Path, values: np.ndarray, *, attributes: dict[str, Any] | None = None, **options: Any) -> None:
    """One array ``v`` as zarr makes it, without xarray's defaults."""
    version = options.pop("zarr_format", 2)
    group = new_group(path, version)
    names = {"dimension_names": ("y", "x")} if version == 3 else {}
    array = new_array(group, "v", shape=values.shape, dtype=values.dtype, chunks=(3, 3), **names, **options)
    array[:] = values
    array.attrs.update({"_ARRAY_DIMENSIONS": ["y", "x"], **(attributes or {})})


def read(path: Path) -> np.ndarray:
    return np.asarray(zarr.open_group(str(path), mode="r")["v"][:])


def field(gap: float) -> np.ndarray:
    values = np.arange(36, dtype=np.float32).reshape(6, 6)
    values[1:3], values[4, 4] = 0, gap
    return values


@pytest.mark.parametrize("format", FORMATS)
def test_zeros_of_the_default_fill_value_are_values(format: int, tmp_path: Path) -> None:
    values = field(np.nan)
    store(tmp_path / "in.zarr", values, zarr_format=format)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (done,) = fill_file(tmp_path / "in.zarr", tmp_path / "out.zarr")
    told = [str(one.message) for one in said if "fill_value" in str(one.message)]
    assert len(told) == (format == 2) and all(one.startswith("v: 13 values are 0, ") for one in told)
    assert done.missing == 1 and np.array_equal(read(tmp_path / "out.zarr"), pconv_cuda.fill("smooth", values))


@pytest.mark.parametrize("key", ["_FillValue", "missing_value"])
def test_zeros_that_an_attribute_names_are_missing(key: str, tmp_path: Path) -> None:
    values = field(0)
    store(tmp_path / "in.zarr", values, attributes={key: 0})
    (done,) = fill_file(tmp_path / "in.zarr", tmp_path / "out.zarr")
    expected = pconv_cuda.fill("smooth", np.where(values == 0, np.nan, values))
    assert done.missing == 14 and np.array_equal(read(tmp_path / "out.zarr"), expected)


def test_another_fill_value_is_missing(tmp_path: Path) -> None:
    for number, (fill_value, attributes) in enumerate(
        [(-9.0, {}), (0.0, {"_FillValue": -9}), (5e9, {"_FillValue": -9})]
    ):
        store(tmp_path / f"{number}.zarr", field(-9), fill_value=fill_value, attributes=attributes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (done,) = fill_file(tmp_path / f"{number}.zarr", tmp_path / "out.zarr")
        assert done.missing == 1 and np.array_equal(
            read(tmp_path / "out.zarr"), pconv_cuda.fill("smooth", field(np.nan))
        )


def test_a_longitude_of_0_is_no_gap_in_its_axis(tmp_path: Path) -> None:
    store(tmp_path / "in.zarr", field(np.nan)[:, :4])
    group = zarr.open_group(str(tmp_path / "in.zarr"), mode="a")
    group["v"].attrs["_ARRAY_DIMENSIONS"] = ["lat", "lon"]
    axis = new_array(group, "lon", shape=(4,), dtype="f8")  # fill_value 0
    axis[:], axis.attrs["_ARRAY_DIMENSIONS"], axis.attrs["units"] = [0, 90, 180, 270], ["lon"], "degrees_east"
    with pytest.warns(UserWarning, match="values are 0"):
        (done,) = fill_file(tmp_path / "in.zarr", tmp_path / "out.zarr")
    assert done.wraps == (False, True)
    with xarray.open_zarr(tmp_path / "out.zarr", consolidated=False) as read_again:
        assert read_again.sizes == {"lat": 6, "lon": 4}


@pytest.mark.parametrize("nested", ["input within", "output within"])
def test_stores_within_each_other_are_refused(nested: str, tmp_path: Path) -> None:
    store(tmp_path / "outer.zarr", field(np.nan), zarr_format=3)
    store(tmp_path / "outer.zarr" / "in.zarr", field(np.nan), zarr_format=3)
    (tmp_path / "link").symlink_to(tmp_path / "outer.zarr")
    before = sorted(tmp_path.rglob("*"))
    pair = [tmp_path / "outer.zarr" / "in.zarr", tmp_path / "outer.zarr"]
    if nested == "output within":
        pair = [tmp_path / "outer.zarr", tmp_path / "link" / "new.zarr"]
    inside = "around" if nested == "input within" else "within"
    with pytest.raises(PConvError, match=f"output: expected a name outside of the input, .*, which lies {inside} it"):
        fill_file(*pair)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_is_a_link_to_a_store_and_a_read_only_input(tmp_path: Path) -> None:
    store(tmp_path / "in.zarr", field(np.nan), zarr_format=3)
    store(tmp_path / "target.zarr", field(1), zarr_format=3)
    (tmp_path / "out.zarr").symlink_to("target.zarr")
    for path in (*(tmp_path / "in.zarr").rglob("*"), tmp_path / "in.zarr"):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    fill_file(tmp_path / "in.zarr", tmp_path / "out.zarr")
    assert sorted(os.listdir(tmp_path)) == ["in.zarr", "out.zarr", "target.zarr"]
    assert not (tmp_path / "out.zarr").is_symlink() and np.array_equal(read(tmp_path / "target.zarr"), field(1))
    assert np.array_equal(read(tmp_path / "out.zarr"), pconv_cuda.fill("smooth", field(np.nan)))
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "out.zarr").rglob("*"))
