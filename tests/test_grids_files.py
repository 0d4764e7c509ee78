"""pconv fill: NetCDF, Zarr, GeoTIFF and npy files that their libraries made, read back by other readers."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import rasterio
import xarray
import zarr
from rasterio.transform import from_origin
from zarr_support import FORMATS

import pconv_cuda
from pconv_cuda import PConvUNet, cli
from pconv_cuda.errors import PConvError
from pconv_cuda.grids.files import open_grid
from pconv_cuda.grids.netcdf import NetcdfFile
from pconv_cuda.grids.packing import Packing, packing_of
from pconv_cuda.grids.work import fill_file

ROWS, COLUMNS = 10, 24
LATITUDE, LONGITUDE = np.arange(-81.0, 90, 18), np.arange(7.5, 360, 15)
TRUTH = (15 + 20 * np.cos(np.radians(LATITUDE))[:, None] + 5 * np.sin(np.radians(LONGITUDE))).astype(np.float32)


def series(steps: int = 3, gaps: float = 0.3) -> np.ndarray:
    """With gaps, one of them across the seam."""
    rng = np.random.default_rng(0)
    values = TRUTH + np.arange(steps, dtype=np.float32)[:, None, None]
    gone = rng.random(values.shape) < gaps
    gone[:, :, :2] = gone[:, :, -2:] = True
    return np.where(gone, np.float32(np.nan), values)


def netcdf(path: Path, format: str = "NETCDF4") -> np.ndarray:
    """A file such as a climate model writes: unlimited time, packed and unpacked variables, bounds, compression."""
    values = series()
    whole = format.startswith("NETCDF4") and format != "NETCDF4_CLASSIC"
    with netCDF4.Dataset(path, "w", format=format) as file:
        file.title = "made for a test"
        file.createDimension("time", None)
        for name, size in (("lat", ROWS), ("lon", COLUMNS), ("bnds", 2)):
            file.createDimension(name, size)
        time = file.createVariable("time", "f8", ("time",))
        time.units, time.calendar, time[:] = "days since 2000-01-01", "noleap", [0, 31, 59]
        latitude = file.createVariable("lat", "f8", ("lat",))
        latitude.units, latitude[:] = "degrees_north", LATITUDE
        longitude = file.createVariable("lon", "f4", ("lon",))
        longitude.units, longitude.bounds, longitude[:] = "degrees_east", "lon_bnds", LONGITUDE
        bounds = file.createVariable("lon_bnds", "f8", ("lon", "bnds"))
        bounds[:] = np.stack([LONGITUDE - 7.5, LONGITUDE + 7.5], 1)
        extra: dict[str, Any] = {"zlib": True, "chunksizes": (1, 5, 8)} if whole else {}
        tas = file.createVariable("tas", "f4", ("time", "lat", "lon"), fill_value=1e20, **extra)
        tas.units, tas.long_name, tas.missing_value = "degC", "air temperature", np.float32(1e20)
        tas[:] = np.where(np.isnan(values), 1e20, values)
        packed = file.createVariable("packed", "i2", ("time", "lat", "lon"), fill_value=-32768)
        packed.set_auto_maskandscale(False)
        packed.scale_factor, packed.add_offset, packed.units = 0.01, 20.0, "degC"
        packed[:] = np.where(np.isnan(values), -32768, np.rint((values - 20) / 0.01)).astype(np.int16)
        if whole:
            group = file.createGroup("other")
            group.createDimension("x", 3)
            group.createVariable("kept", "i4", ("x",))[:] = [1, 2, 3]
            file.createVariable("names", str, ("bnds",))[:] = np.array(["a", "b"], object)
    return values


def all_of(path: Path) -> dict[str, Any]:
    """Everything in a NetCDF file, raw, as netCDF4 tells it."""
    found: dict[str, Any] = {}
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        found["format"], found["attributes"] = file.data_model, {name: file.getncattr(name) for name in file.ncattrs()}
        for group in (file, *file.groups.values()):
            for name, variable in group.variables.items():
                key = f"{group.path}{name}"
                found[key] = np.asarray(variable[:])
                attributes = {one: str(variable.getncattr(one)) for one in variable.ncattrs()}
                storage = str(variable.dtype), variable.filters(), variable.chunking()
                found[f"{key} about"] = variable.dimensions, attributes, storage
            found[f"{group.path} dimensions"] = {
                name: (len(one), one.isunlimited()) for name, one in group.dimensions.items()
            }
    return found


def same_but(before: dict[str, Any], after: dict[str, Any], changed: set[str]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        if key in changed:
            continue
        same = np.array_equal(value, after[key]) if isinstance(value, np.ndarray) else value == after[key]
        assert same, (key, value, after[key])


@pytest.mark.parametrize("format", ["NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET"])
def test_netcdf(format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = netcdf(tmp_path / "in.nc", format)
    before = (tmp_path / "in.nc").read_bytes()
    assert cli.main(["fill", str(tmp_path / "in.nc"), "--var", "tas,packed", "-o", str(tmp_path / "out.nc")]) == 0
    said = capsys.readouterr().out.splitlines()
    gaps = int(np.isnan(values).sum())
    assert [
        f"out.nc: {name}: {gaps:,} of {values.size:,} values" in line
        for name, line in zip(("tas", "packed"), said, strict=True)
    ]
    assert all("columns go round" in line for line in said)
    assert (tmp_path / "in.nc").read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == [
        "in.nc",
        "out.nc",
    ]
    old, new = all_of(tmp_path / "in.nc"), all_of(tmp_path / "out.nc")
    same_but(old, new, {"/tas", "/packed"})
    known = ~np.isnan(values)
    expected = pconv_cuda.fill("smooth", values, wrap=(False, True))
    assert np.array_equal(new["/tas"], expected) and np.array_equal(new["/tas"][known], old["/tas"][known])
    assert np.array_equal(new["/packed"][known], old["/packed"][known])
    unpacked = new["/packed"] * 0.01 + 20
    assert np.abs(unpacked - expected).max() < 0.03 and (new["/packed"] != -32768).all()
    if format == "NETCDF4":  # another reader
        with h5py.File(tmp_path / "out.nc") as file:
            assert np.array_equal(file["tas"][:], expected) and file["tas"].compression == "gzip"
        with xarray.open_dataset(tmp_path / "out.nc", engine="h5netcdf") as read:
            assert not read.tas.isnull().any() and read.tas.units == "degC" and read.time.dt.calendar == "noleap"


def test_the_check_of_files_catches(tmp_path: Path) -> None:
    netcdf(tmp_path / "in.nc")
    fill_file(tmp_path / "in.nc", tmp_path / "out.nc", variables=["tas"])
    with netCDF4.Dataset(tmp_path / "out.nc", "r+") as file:
        file["tas"].units = "K"
    with pytest.raises(AssertionError, match="/tas about"):
        same_but(all_of(tmp_path / "in.nc"), all_of(tmp_path / "out.nc"), {"/tas"})


def test_a_network_with_time_steps(tmp_path: Path) -> None:
    values = netcdf(tmp_path / "in.nc")
    model = PConvUNet(3, levels=1, width=4, out_channels=1, padding_mode=("zeros", "circular"), values="data",
                      mean=(25.0,) * 3, std=(10.0,) * 3).eval()  # fmt: skip
    model.save_pretrained(tmp_path / "run")
    (done,) = fill_file(tmp_path / "in.nc", tmp_path / "out.nc", model=tmp_path / "run", variables=["tas"])
    assert done.wraps == (False, True) and done.left == 0 and done.missing == np.isnan(values).sum()
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        assert np.array_equal(file["tas"][:].data, pconv_cuda.fill(model, values))
    turned = xarray.open_dataset(tmp_path / "in.nc", decode_times=False)[["tas"]].transpose("lat", "time", "lon")
    turned.to_netcdf(tmp_path / "turned.nc")
    fill_file(tmp_path / "turned.nc", tmp_path / "t.nc", model=tmp_path / "run", dims=("time", "lat", "lon"))
    with netCDF4.Dataset(tmp_path / "t.nc") as file:
        assert np.array_equal(file["tas"][:].data.transpose(1, 0, 2), pconv_cuda.fill(model, values))


@pytest.mark.parametrize("format", FORMATS)
def test_zarr(format: Any, tmp_path: Path) -> None:
    values = series()
    data = xarray.Dataset(
        {"tas": (("time", "lat", "lon"), values, {"units": "degC"}), "other": (("lat",), LATITUDE * 2)},
        coords={"lat": LATITUDE, "lon": ("lon", LONGITUDE, {"units": "degrees_east"}), "time": [0, 1, 2]},
        attrs={"title": "made for a test"},
    )
    encoding = {"tas": {"chunks": (2, 5, 24), "dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}}
    data.to_zarr(tmp_path / "in.zarr", zarr_format=format, encoding=encoding)
    for _ in range(2):  # the second time over the first one's output
        (done,) = fill_file(tmp_path / "in.zarr", tmp_path / "out.zarr")
    assert done.wraps == (False, True) and sorted(p.name for p in tmp_path.iterdir()) == ["in.zarr", "out.zarr"]
    old, new = (zarr.open_group(str(tmp_path / name), mode="r") for name in ("in.zarr", "out.zarr"))
    raw, filled = np.asarray(old["tas"][:]), np.asarray(new["tas"][:])
    known = raw != -1
    assert filled.dtype == np.int16 and np.array_equal(filled[known], raw[known]) and (filled != -1).all()
    expected = pconv_cuda.fill("smooth", np.where(known, raw * 0.5, np.nan), wrap=(False, True))
    assert np.abs(filled * 0.5 - expected).max() <= 0.2501
    with xarray.open_zarr(tmp_path / "in.zarr") as one, xarray.open_zarr(tmp_path / "out.zarr") as two:
        assert (
            two.attrs == one.attrs
            and two.tas.attrs == one.tas.attrs
            and two.drop_vars("tas").identical(one.drop_vars("tas"))
        )
        assert two.tas.encoding["chunks"] == (2, 5, 24) and not two.tas.isnull().any()
    (tmp_path / "else.zarr").mkdir()
    with pytest.raises(PConvError, match="output: expected a new name or a Zarr store, got .*else.zarr"):
        fill_file(tmp_path / "in.zarr", tmp_path / "else.zarr")


def geotiff(path: Path, dtype: str = "int16", nodata: float | None = -9999, **more: Any) -> np.ndarray:
    rng = np.random.default_rng(1)
    bands = np.stack([np.add.outer(np.arange(40.0), np.arange(30.0)) * 3 + 100 * band for band in range(2)])
    gone = rng.random(bands.shape) < 0.2
    raw = np.where(gone, 0 if nodata is None else nodata, bands).astype(dtype)
    profile = {"driver": "GTiff", "height": 40, "width": 30, "count": 2, "dtype": dtype, "crs": "EPSG:32632",
               "transform": from_origin(5e5, 5e6, 30, 30), "nodata": nodata, "tiled": True, "blockxsize": 16,
               "blockysize": 16, "compress": "deflate", **more}  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(raw)
        file.update_tags(AREA_OR_POINT="Point", SOURCE="a test")
        file.update_tags(1, NAME="height", STATISTICS_MEAN="0")
        file.set_band_description(1, "height")
        file.units = ("m", "m")
        if nodata is None:
            file.write_mask(np.where(gone.any(0), 0, 255).astype(np.uint8))
    return bands


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64"])
@pytest.mark.parametrize("nodata", ["code", "nan", "mask"])
def test_geotiff(dtype: str, nodata: str, tmp_path: Path) -> None:
    if nodata == "nan" and not dtype.startswith("float"):
        nodata = "code"
    code: Any = {"code": 255 if dtype == "uint8" else -9999, "nan": np.nan, "mask": None}[nodata]
    bands = geotiff(tmp_path / "in.tif", dtype, code) % (256 if dtype == "uint8" else 1e9)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        geotiff(tmp_path / "in.tif", dtype, code)
    assert cli.main(["fill", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif"), "--tension", "0"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "out.tif"]
    with rasterio.open(tmp_path / "in.tif") as old, rasterio.open(tmp_path / "out.tif") as new:
        profile = {key: str(value) for key, value in old.profile.items()}
        assert {key: str(value) for key, value in new.profile.items()} == profile
        assert new.tags() == old.tags() and new.tags(1) == {"NAME": "height"} and new.descriptions == old.descriptions
        assert new.crs == old.crs and new.transform == old.transform and new.units == old.units
        before, after = old.read(), new.read()
        known = np.stack([old.read_masks(band) > 0 for band in (1, 2)])
        assert 0 < known.mean() < 1 and np.array_equal(after[known], before[known])
        assert (new.read_masks() == 255).all()
    if dtype != "uint8":
        assert np.abs(after[~known] - bands[~known]).max() < (6 if dtype == "int16" else 5)
    assert not np.isnan(after.astype(float)).any()


def test_geotiff_bands_scales_and_overviews(tmp_path: Path) -> None:
    geotiff(tmp_path / "in.tif")
    with rasterio.open(tmp_path / "in.tif", "r+") as file:
        file.scales, file.offsets = (0.1, 0.1), (-5.0, 0.0)
        file.build_overviews([2], rasterio.enums.Resampling.nearest)
    (done,) = fill_file(tmp_path / "in.tif", tmp_path / "out.tif", variables=["2"])
    with rasterio.open(tmp_path / "in.tif") as old, rasterio.open(tmp_path / "out.tif") as new:
        assert np.array_equal(old.read(1), new.read(1)) and (new.read(2) != -9999).all()
        assert new.scales == old.scales and new.overviews(2) == [2]
        assert done.name == "2" and done.missing == (old.read(2) == -9999).sum()
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as small:
        assert (small.read(2) != -9999).all()
    assert np.nanmax(open_grid(tmp_path / "in.tif").read("2").values) < 40  # in the bands' scaled unit
    with pytest.raises(PConvError, match="variables: expected numbers of bands, 1 to 2, got '3'"):
        fill_file(tmp_path / "in.tif", tmp_path / "o.tif", variables=["3"])


def test_npy(tmp_path: Path) -> None:
    values = series().astype(">f8")
    np.save(tmp_path / "in.npy", values)
    fill_file(tmp_path / "in.npy", tmp_path / "out.npy", wrap="columns")
    found = np.load(tmp_path / "out.npy")
    assert found.dtype == values.dtype and np.array_equal(found, pconv_cuda.fill("smooth", values, wrap=(False, True)))
    np.save(tmp_path / "turned.npy", values.transpose(1, 2, 0))
    fill_file(tmp_path / "turned.npy", tmp_path / "out.npy", wrap="columns", dims=["0", "1"])
    assert np.array_equal(np.load(tmp_path / "out.npy").transpose(2, 0, 1), found)


def test_steps_without_a_value_stay_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = series()
    values[1] = np.nan
    np.save(tmp_path / "in.npy", values)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert cli.main(["fill", str(tmp_path / "in.npy"), "-o", str(tmp_path / "out.npy")]) == 0
    assert any("1 of 3 planes have no value" in str(one.message) for one in said)
    assert f"; {ROWS * COLUMNS} stay empty" in capsys.readouterr().out
    assert np.isnan(np.load(tmp_path / "out.npy")[1]).all()


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netcdf(tmp_path / "in.nc")
    (tmp_path / "out.nc").write_bytes(b"before")
    monkeypatch.setattr(Packing, "pack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fill_file(tmp_path / "in.nc", tmp_path / "out.nc", variables=["tas"])
    assert (tmp_path / "out.nc").read_bytes() == b"before" and len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("kind", ["nc", "tif", "npy", "zarr"])
def test_a_damaged_file_is_named(kind: str, tmp_path: Path) -> None:
    path, rest = tmp_path / f"in.{kind}", {"nc": ["tas"], "zarr": ["tas"]}.get(kind, [])
    if kind == "zarr":
        data = xarray.Dataset({"tas": (("time", "lat", "lon"), series())})
        data.to_zarr(path, zarr_format=2, encoding={"tas": {"chunks": (1, ROWS, COLUMNS)}})
        damaged = path / "tas" / "1.0.0"
    else:
        damaged = path
        {"nc": netcdf, "tif": geotiff, "npy": lambda where: np.save(where, series())}[kind](path)
    damaged.write_bytes(damaged.read_bytes()[: int(0.5 * damaged.stat().st_size)])
    with pytest.raises(PConvError, match=f"input: .*in.{kind}.* cannot be read"):
        fill_file(path, tmp_path / f"out.{kind}", variables=rest)
    assert [one.name for one in tmp_path.iterdir()] == [f"in.{kind}"]


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netcdf(tmp_path / "in.nc")

    def full(*_: Any) -> None:
        raise RuntimeError("NetCDF: HDF error")

    monkeypatch.setattr(NetcdfFile, "rewrite", full)
    with pytest.raises(PConvError, match="output: .*out.nc cannot be written: NetCDF: HDF error"):
        fill_file(tmp_path / "in.nc", tmp_path / "out.nc", variables=["tas"])
    assert not (tmp_path / "out.nc").exists()


@pytest.mark.parametrize("code", [-1, 0, 127])
def test_packed_numbers_are_never_a_code(code: int) -> None:
    raw = np.array([5, code, code, code, code, -100], np.int8)
    packing = Packing(missing=(code, code + 1 if code < 127 else 126))
    values, gone = packing.unpack(raw)
    assert np.array_equal(np.isnan(values), gone) and gone.tolist() == [False, True, True, True, True, False]
    new = packing.pack(raw, np.array([9, code, code + 1, 1e9, np.nan, 7.0]), gone)
    assert new[0] == 5 and new[-1] == -100 and new[4] == code  # what was there, and what nobody knows
    assert not set(new[1:4].tolist()) & set(packing.missing) and abs(int(new[1]) - code) <= 2


def test_unsigned_numbers_in_signed_ones() -> None:
    raw = np.array([-1, -2, 3], np.int8)
    packing = packing_of({"_Unsigned": "true", "_FillValue": np.int8(-1), "scale_factor": np.array([2.0])})
    values, gone = packing.unpack(raw)
    assert np.isnan(values[0]) and values[1:].tolist() == [508, 6]
    assert packing.pack(raw, np.array([400.0, 0, 0]), gone).tolist() == [-56, -2, 3]


def test_longitudes_that_do_not_go_round(tmp_path: Path) -> None:
    for name, at in (("part", LONGITUDE / 2), ("uneven", LONGITUDE**1.1), ("back", LONGITUDE[::-1].copy())):
        data = xarray.Dataset({"tas": (("lat", "lon"), series()[0])}, coords={"lat": LATITUDE, "lon": at})
        data.to_netcdf(tmp_path / f"{name}.nc")
        (done,) = fill_file(tmp_path / f"{name}.nc", tmp_path / "out.nc")
        assert done.wraps == (False, name == "back"), name
        (done,) = fill_file(tmp_path / f"{name}.nc", tmp_path / "out.nc", wrap="none")
        assert done.wraps == (False, False)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("none.nc -o out.nc", "INPUT: .*none.nc does not exist"),
        ("in.txt -o out.txt", "INPUT: expected a name ending in .nc, .*got .*in.txt"),
        ("text.nc -o out.nc", "INPUT: .*text.nc cannot be read as NetCDF"),
        ("text.tif -o out.tif", "INPUT: .*text.tif cannot be read as GeoTIFF"),
        ("text.npy -o out.npy", "INPUT: .*text.npy cannot be read as npy"),
        ("in.txt -o out.nc", "INPUT: expected a name ending in .nc, .*got .*in.txt"),
        ("in.npz -o out.npy", "INPUT: expected a name ending in .nc, .*got .*in.npz"),
        (". -o out.zarr", r"INPUT: expected a name ending in .nc, .*got \."),
        ("in.nc -o out.zarr", "-o: expected a name ending in .nc, as the input's, got .*out.zarr"),
        ("in.nc -o in.nc", "-o: expected another name than the input's"),
        ("in.nc -o out.nc", "--var: expected one or more of tas, packed of .*in.nc, got none"),
        ("in.nc -o out.nc --var pr", r"--var: expected variables of .*in.nc \(tas, packed\), got 'pr'"),
        ("in.nc -o out.nc --var time", "--var: expected numbers with at least two axes, got 'time' of .*float64"),
        ("in.nc -o out.nc --var tas --dims lat,level", "--dims: expected two or three of time, lat, lon, got lat"),
        ("in.nc -o out.nc --var tas --wrap all", "--wrap: expected auto, none, columns, rows, both, got 'all'"),
        ("in.nc -o out.nc --var tas --weights none", "--weights: expected smooth, .*but none does not exist"),
        ("in.nc -o out.nc --var tas --tension 2", "--tension: expected 0 to 1, got 2.0"),
        ("in.nc -o out.nc --var tas --device gpu", "--device: expected auto, cpu"),
        ("in.nc -o out.nc --var lon_bnds --weights three", "--var: lon_bnds: expected .*network of 3 channels"),
        ("in.nc -o out.nc --var tas --weights photo", "--weights: expected smooth or a network of grids, got 'photo'"),
        ("in.nc -o out.nc --var tas --weights rgb", "--weights: expected smooth or .*got values='picture' in rgb"),
    ],
)  # fmt: skip
def test_errors_name_options(command: str, message: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    netcdf(tmp_path / "in.nc")
    for name in ("in.txt", "text.nc", "text.tif", "text.npy"):
        Path(name).write_text("no grid")
    PConvUNet(3, levels=1, width=2, values="data").save_pretrained("three")
    PConvUNet(3, levels=1, width=2).save_pretrained("rgb")
    assert cli.main(["fill", *command.split()]) == 1
    said = capsys.readouterr().err
    assert re.search(f"pconv fill: error: {message}", said), said
    assert not Path("out.nc").exists()
