"""Codes for missing values and the limits of types: what counts as missing, and what is written into a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import rasterio

import pconv_cuda
from pconv_cuda.errors import PConvError
from pconv_cuda.grids.packing import Packing, packing_of
from pconv_cuda.grids.work import fill_file


def write(path: Path, raw: np.ndarray, fill_value: Any = None, **attributes: Any) -> None:
    """One variable; h5py writes attributes that netCDF4 would cast or refuse."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("y", raw.shape[0])
        file.createDimension("x", raw.shape[1])
        variable = file.createVariable("v", raw.dtype, ("y", "x"), fill_value=fill_value)
        variable.set_auto_maskandscale(False)
        variable[:] = raw
    with h5py.File(path, "a") as file:
        for name, value in attributes.items():
            file["v"].attrs[name] = value


def read(path: Path) -> np.ndarray:
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        return np.asarray(file["v"][:])


@pytest.mark.parametrize("code", [1e20, np.nan, np.inf, 65536, -999.5, 2.0**63, -(2.0**70)])
@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "i4", "i8", "u8"])
def test_a_code_outside_the_type_hides_nothing(code: float, dtype: str, tmp_path: Path) -> None:
    if code == 65536 and dtype[1] in "48":
        code = -1e15 - 0.5 if dtype == "i8" else 1e15
    if dtype == "u8" and code == 2.0**63:
        code = -1.0
    raw = np.array([[0, 0, 50, 60], [0, 99, 70, 80], [0, 0, 90, 100]], dtype)
    write(tmp_path / "in.nc", raw, fill_value=99, missing_value=np.float64(code))
    (done,) = fill_file(tmp_path / "in.nc", tmp_path / "out.nc")
    found, known = read(tmp_path / "out.nc"), raw != 99
    expected = pconv_cuda.fill("smooth", np.where(known, raw, np.nan).astype(np.float64))
    assert done.missing == 1 and np.array_equal(found, np.rint(expected).astype(dtype))


def test_codes_of_signed_and_unsigned_types() -> None:
    assert Packing(missing=(-9999,)).unpack(np.array([-15, 3], np.int8))[1].tolist() == [False, False]
    assert Packing(missing=(-1,)).unpack(np.array([255, 3], np.uint8))[1].tolist() == [False, False]
    for code in (-1, 255):  # of the signed type, or as it is read
        assert Packing(missing=(code,), unsigned=True).unpack(np.array([-1, 3], np.int8))[1].tolist() == [True, False]
    assert Packing(missing=(-9999,), unsigned=True).unpack(np.array([-15, 3], np.int8))[1].tolist() == [False, False]
    # a code in double precision beside float32 is rounded as the values were; one that becomes infinite is none
    assert Packing(missing=(1e20,)).unpack(np.array([1e20, 3], np.float32))[1].tolist() == [True, False]
    assert Packing(missing=(1e300,)).unpack(np.array([np.inf, 3], np.float32))[1].tolist() == [False, False]


@pytest.mark.parametrize("dtype", ["i8", "u8"])
@pytest.mark.parametrize("value", [5_000_000_000, 2**60])
def test_gaps_among_large_integers(dtype: str, value: int, tmp_path: Path) -> None:
    raw = np.full((3, 4), value, dtype)
    raw[1, 1] = 7
    write(tmp_path / "in.nc", raw, fill_value=np.dtype(dtype).type(7))
    fill_file(tmp_path / "in.nc", tmp_path / "out.nc")
    assert (read(tmp_path / "out.nc") == value).all()
    with rasterio.open(
        tmp_path / "in.tif", "w", driver="GTiff", height=3, width=4, count=1, dtype=raw.dtype.name, nodata=7
    ) as file:
        file.write(raw, 1)
    fill_file(tmp_path / "in.tif", tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.read(1) == value).all()


def test_the_largest_integers_as_codes() -> None:
    for dtype in (np.int64, np.uint64):
        limits = np.iinfo(dtype)
        raw = np.array([limits.max, 3, limits.max - 1, limits.min], dtype)
        packing = Packing(missing=(limits.max, limits.min))
        gone = packing.unpack(raw)[1]
        assert gone.tolist() == [True, False, False, True]
        new = packing.pack(raw, np.array([1e30, 0, 0, -1e30]), gone)
        assert new[1:3].tolist() == raw[1:3].tolist() and not packing.unpack(new)[1].any()
        assert int(new[0]) > limits.max - 3000 and int(new[3]) == limits.min + 1


def test_floats_stay_finite_and_are_never_a_code() -> None:
    for dtype in (np.float16, np.float32, ">f4", np.float64):
        highest = float(np.finfo(dtype).max)
        raw = np.array([0, 0, 0, 5], dtype)
        packing = Packing(scale=1e-5, missing=(0.0, highest))
        new = packing.pack(raw, np.array([0.0, highest, -highest, 1.0]), packing.unpack(raw)[1])
        assert new.dtype == dtype and np.isfinite(new).all() and not packing.unpack(new)[1].any() and new[3] == 5
        assert abs(float(new[0])) < 1e-6 and float(new[1]) > 0.99 * highest


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"scale_factor": "abc"}, "scale_factor: expected a number, got 'abc'"),
        ({"scale_factor": 0.0}, "scale_factor: expected a finite number other than 0, got 0.0"),
        ({"scale_factor": np.nan}, "scale_factor: expected a finite number other than 0, got nan"),
        ({"add_offset": np.array([1.0, 2.0])}, "add_offset: expected a number, got array"),
        ({"add_offset": np.inf}, "add_offset: expected a finite number, got inf"),
    ],
)
def test_bad_packing_is_named(attributes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PConvError, match=message):
        packing_of(attributes)
    write(tmp_path / "in.nc", np.ones((3, 4), np.int16), **attributes)
    with pytest.raises(PConvError, match=f"variables: v of .*in.nc: {message}"):
        fill_file(tmp_path / "in.nc", tmp_path / "out.nc")
    assert [one.name for one in tmp_path.iterdir()] == ["in.nc"]
