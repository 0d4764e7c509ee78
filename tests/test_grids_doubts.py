"""Values that other readers hide and pconv fill takes as values: a warning says how many there are."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from pconv_cuda import cli
from pconv_cuda.grids.doubts import doubts
from pconv_cuda.grids.work import fill_file

FIELD = np.arange(24.0).reshape(4, 6)


def said_of(path: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fill_file(path, path.with_name("out.nc"))
    return [str(one.message) for one in said if str(one.message).startswith("v: ")]


def netcdf(path: Path, dtype: str, fill_value: Any = None, **attributes: Any) -> Any:
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("y", 4)
        file.createDimension("x", 6)
        variable = file.createVariable("v", dtype, ("y", "x"), fill_value=fill_value)
        variable.setncatts(attributes)
        variable.set_auto_maskandscale(False)
        variable[:3] = FIELD[:3].astype(dtype)  # the last row is never written


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_default_fill_values(dtype: str, tmp_path: Path) -> None:
    netcdf(tmp_path / "in.nc", dtype)
    (said,) = said_of(tmp_path / "in.nc")
    assert said.startswith("v: 6 values are ") and f", the default fill value of {np.dtype(dtype).name}; such" in said
    with netCDF4.Dataset(tmp_path / "in.nc") as file:
        file.set_auto_maskandscale(False)
        assert f" {file['v'][3, 0]:g}," in said
    netcdf(tmp_path / "named.nc", dtype, fill_value=99)
    assert not said_of(tmp_path / "named.nc")
    netcdf(tmp_path / "missing.nc", dtype, missing_value=np.dtype(dtype).type(netCDF4.default_fillvals[dtype]))
    assert not said_of(tmp_path / "missing.nc")


def test_the_command_says_it_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    netcdf(tmp_path / "in.nc", "f4", valid_max=np.float32(16.5))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert cli.main(["fill", str(tmp_path / "in.nc"), "-o", str(tmp_path / "out.nc")]) == 0
    assert [str(one.message).split(";")[0] for one in said if str(one.message).startswith("v: ")] == [
        "v: 6 values are 9.96921e+36, the default fill value of float32",
        "v: 7 values are above the valid_max of 16.5",
    ]
    assert "0 of 24 values filled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"valid_range": np.array([1, 20])}, ["1 value is below the valid_range of 1", "3 values are above"]),
        ({"valid_min": 2, "valid_max": 30}, ["2 values are below the valid_min of 2"]),
        ({"valid_range": np.array([0.0, 10.0]), "scale_factor": 0.5}, ["3 values are above the valid_range of 10"]),
        ({"valid_range": np.array([0, 20], "i2"), "scale_factor": 0.5}, ["3 values are above the valid_range of 20"]),
        ({"valid_range": "0 to 5", "valid_min": np.array([1, 2]), "valid_max": np.nan}, []),
        ({}, []),
    ],
)
def test_valid_ranges(attributes: dict[str, Any], expected: list[str]) -> None:
    raw = FIELD.astype(np.int16)
    values = FIELD * attributes.get("scale_factor", 1)
    found = doubts(raw, values, attributes, True)
    assert len(found) == len(expected) and all(map(str.startswith, found, expected)), found
    values[:] = np.nan  # what is missing is beyond doubt
    assert not doubts(raw, values, attributes, True)


def test_limits_of_unsigned_numbers_in_signed_ones() -> None:
    raw = np.array([[0, 250, 255]], np.uint8)
    assert not doubts(raw, raw * 1.0, {"valid_max": np.int8(-1)}, True)
    assert doubts(raw, raw * 1.0, {"valid_max": np.int8(-2)}, True)[0].startswith(
        "1 value is above the valid_max of 254"
    )
