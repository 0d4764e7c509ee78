"""Which axes are rows and columns: what coordinates say of latitude and longitude, in pconv fill and in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

import pconv_cuda
from pconv_cuda import cli
from pconv_cuda.errors import PConvError
from pconv_cuda.grids.work import fill_file
from pconv_cuda.training.grids import open_steps

SIZES = {"lat": 6, "lon": 8, "time": 5, "y": 6, "x": 8}
UNITS = {
    "lat": {"units": "degrees_north"},
    "lon": {"units": "degrees_east"},
    "time": {"units": "days since 2000-01-01"},
}
STANDARD = {"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}}
AXES = {"lat": {"axis": "Y"}, "lon": {"axis": "X"}, "time": {"axis": "T"}}
PROJECTED = {"y": {"standard_name": "projection_y_coordinate"}, "x": {"standard_name": "projection_x_coordinate"}}


def dataset(dims: tuple[str, ...], attributes: dict[str, dict[str, str]], names: Any = None) -> xarray.Dataset:
    rng = np.random.default_rng(0)
    shape = [SIZES[dim] for dim in dims]
    values = np.where(rng.random(shape) < 0.3, np.nan, rng.standard_normal(shape))
    called = {dim: (names or {}).get(dim, dim) for dim in dims}
    coordinates = {
        called[dim]: (called[dim], np.arange(float(SIZES[dim])), attributes.get(dim, {})) for dim in dims
    }  # fmt: skip
    return xarray.Dataset({"tas": (tuple(called.values()), values)}, coordinates)


def write(data: xarray.Dataset, path: Path) -> Path:
    if path.suffix == ".zarr":
        data.to_zarr(path, zarr_format=2, consolidated=False)
    else:
        data.to_netcdf(path)
    return path


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("attributes", [UNITS, STANDARD, AXES, {}], ids=["units", "names", "axes", "none"])
@pytest.mark.parametrize("dims", [("lat", "lon", "time"), ("lon", "lat", "time"), ("lat", "time", "lon")], ids=str)
def test_latitude_and_longitude_elsewhere_are_refused(
    dims: tuple[str, ...], attributes: Any, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"lat": "phi", "lon": "lam"} if attributes else {}  # it is not the name that tells
    path = write(dataset(dims, attributes, names), tmp_path / f"in{suffix}")
    rows, columns = names.get("lat", "lat"), names.get("lon", "lon")
    had = ", ".join(names.get(dim, dim) for dim in dims)
    wanted = rf"expected the horizontal axes, {rows} and {columns}, as the last two, got \({had}\) of 'tas' in .*"
    with pytest.raises(PConvError, match=f"dims: {wanted}; to fill them, give `dims={rows},{columns}`"):
        fill_file(path, tmp_path / f"out{suffix}")
    with pytest.raises(PConvError, match=rf"data.images: {wanted}transpose\(..., '{rows}', '{columns}'\)"):
        open_steps(str(path), None, None)
    command = ["fill", str(path), "-o", str(tmp_path / f"out{suffix}")]
    assert cli.main(command) == 1 and f"give --dims {rows},{columns}" in capsys.readouterr().err
    assert not (tmp_path / f"out{suffix}").exists()
    assert cli.main([*command, "--var", " tas, ", "--dims", f"{rows} , {columns}"]) == 0
    with xarray.open_dataset(path, engine="zarr" if suffix == ".zarr" else None, decode_times=False) as data:
        values = data["tas"].transpose("time", rows, columns).values
    with xarray.open_dataset(
        tmp_path / f"out{suffix}", engine="zarr" if suffix == ".zarr" else None, decode_times=False
    ) as data:
        filled = data["tas"].transpose("time", rows, columns).values
    assert np.array_equal(filled, pconv_cuda.fill("smooth", values))


@pytest.mark.parametrize(
    ("dims", "attributes"),
    [
        (("time", "lat", "lon"), UNITS),
        (("time", "lon", "lat"), UNITS),
        (("lat", "time"), UNITS),  # a section
        (("lat", "x", "time"), {}),
        (("x", "y", "time"), {}),  # that is not said
    ],
    ids=str,
)
def test_what_is_taken_without_dims(dims: tuple[str, ...], attributes: Any, tmp_path: Path) -> None:
    path = write(dataset(dims, attributes), tmp_path / "in.nc")
    (done,) = fill_file(path, tmp_path / "out.nc")
    assert done.left == 0 and open_steps(str(path), None, None).values.ndim == 3


def test_projections_and_curvilinear_grids(tmp_path: Path) -> None:
    path = write(dataset(("y", "x", "time"), PROJECTED), tmp_path / "in.nc")
    with pytest.raises(PConvError, match="dims: expected the horizontal axes, y and x, as the last two"):
        fill_file(path, tmp_path / "out.nc")
    data = dataset(("y", "x", "time"), {}).drop_vars(["y", "x"])
    for name in ("lat", "lon"):
        data[name] = ("y", "x"), np.zeros((6, 8)), UNITS[name]
    data = data.set_coords(["lat", "lon"])
    path = write(data, tmp_path / "curved.nc")
    with pytest.raises(PConvError, match="dims: expected the horizontal axes, y and x, as the last two"):
        fill_file(path, tmp_path / "out.nc")
    path = write(data.transpose("time", "y", "x"), tmp_path / "turned.nc")
    assert fill_file(path, tmp_path / "out.nc")[0].left == 0


def test_labelled_arrays() -> None:
    array = dataset(("lat", "lon", "time"), UNITS)["tas"]
    message = r"dims: expected the horizontal axes, \('lat', 'lon'\), as the last two, got \('lat', 'lon', 'time'\)"
    with pytest.raises(PConvError, match=message):
        pconv_cuda.fill("smooth", array)
    filled = pconv_cuda.fill("smooth", array, dims=("lat", "lon"))
    expected = pconv_cuda.fill("smooth", array.transpose("time", "lat", "lon"))
    assert np.array_equal(filled.transpose("time", "lat", "lon"), expected)


def test_planes_without_a_value_are_named(tmp_path: Path) -> None:
    data = dataset(("time", "lat", "lon"), UNITS)
    data["pr"] = data["tas"].transpose("lat", "lon", "time").copy()
    data["tas"][1] = np.nan
    data["pr"][..., [0, 3]] = np.nan
    path = write(data, tmp_path / "in.nc")
    with pytest.warns(UserWarning) as said:
        fill_file(path, tmp_path / "out.nc", variables=["tas", "pr"], dims=["lat", "lon"])
    texts = [str(one.message) for one in said if "no value" in str(one.message)]
    assert texts == [
        "tas: 1 of 5 planes have no value and stay empty: time 1",
        "pr: 2 of 5 planes have no value and stay empty: time 0; time 3",
    ]


@pytest.mark.parametrize(
    ("shape", "empty", "text"),
    [
        ((3, 4), ..., "array: 1 of 1 planes have no value and stay empty"),
        ((12, 3, 4), 7, "array: 1 of 12 planes have no value and stay empty: 7"),
        ((2, 3, 3, 4), (1, 2), r"array: 1 of 6 planes have no value and stay empty: \(1, 2\)"),
        ((30, 3, 4), slice(2, 20), "array: 18 of 30 .*: 2; 3; 4; 5; 6; 7 and 12 more"),
    ],
)
def test_planes_of_arrays_are_numbered(shape: tuple[int, ...], empty: Any, text: str) -> None:
    array = np.ones(shape)
    array[empty] = np.nan
    with pytest.warns(UserWarning, match=f"^{text}$"):
        pconv_cuda.fill("smooth", array)
