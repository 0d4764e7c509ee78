"""GeoTIFF in pconv fill: files beside it, masks of all bands, compression with loss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import rasterio
import zarr
from rasterio.transform import Affine, from_origin
from zarr_support import new_array, new_group

import pconv_cuda
from pconv_cuda import cli
from pconv_cuda.errors import PConvError
from pconv_cuda.grids.work import fill_file

BANDS = np.stack([np.add.outer(np.arange(20.0), np.arange(30.0)) * 2 + 10 * band + 1 for band in range(3)])
HOLE = np.zeros((20, 30), bool)
HOLE[4:8, 10:16] = True


def geotiff(path: Path, bands: np.ndarray, mask: bool = True, **more: Any) -> None:
    profile = {"driver": "GTiff", "height": 20, "width": 30, "count": len(bands), "dtype": bands.dtype,
               "transform": from_origin(5e5, 5e6, 30, 30), "crs": "EPSG:32632", **more}  # fmt: skip
    with rasterio.open(path, "w", **{key: value for key, value in profile.items() if value is not None}) as file:
        file.write(np.where(HOLE, 0, bands).astype(bands.dtype))
        if mask:
            file.write_mask(np.where(HOLE, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("compress", [None, "deflate"])
def test_a_mask_beside_the_file(internal: bool, compress: str | None, tmp_path: Path) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        geotiff(tmp_path / "in.tif", BANDS.astype(np.uint8), compress=compress)
    assert (tmp_path / "in.tif.msk").exists() != internal
    (done,) = fill_file(tmp_path / "in.tif", tmp_path / "out.tif")
    assert done.missing == 3 * HOLE.sum() and done.left == 0 and not list(tmp_path.glob("out.tif?*"))
    expected = np.rint(pconv_cuda.fill("smooth", np.where(HOLE, np.nan, BANDS)))
    with rasterio.open(tmp_path / "out.tif") as new, rasterio.open(tmp_path / "in.tif") as old:
        assert np.array_equal(new.read(), expected) and (new.read_masks() == 255).all()
        assert new.mask_flag_enums == old.mask_flag_enums and new.profile == old.profile


def test_what_stays_missing_stays_masked(tmp_path: Path) -> None:
    geotiff(tmp_path / "in.tif", BANDS.astype(np.float32), nodata=None)
    with rasterio.open(tmp_path / "in.tif", "r+") as file:
        file.write(np.full((20, 30), np.nan, np.float32), 2)  # a band without a value
    with pytest.warns(UserWarning, match="^bands: 1 of 3 planes have no value and stay empty: band 2$"):
        fill_file(tmp_path / "in.tif", tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as new:
        assert np.isnan(new.read(2)[~HOLE]).all() and (new.read_masks(2)[HOLE] == 0).all()


def test_world_files_and_metadata_beside_the_file(tmp_path: Path) -> None:
    geotiff(tmp_path / "in.tif", BANDS.astype(np.int16), mask=False, transform=None, crs=None)
    (tmp_path / "in.tfw").write_text("0.1\n0\n0\n-0.3\n1005.7\n2005.3\n")
    (tmp_path / "in.tif.aux.xml").write_text(
        '<PAMDataset><SRS>EPSG:32632</SRS><Metadata><MDI key="SOURCE">a test</MDI></Metadata><PAMRasterBand band="1">'
        "<Description>height</Description><NoDataValue>0</NoDataValue><Offset>5</Offset><Scale>0.5</Scale><UnitType>m"
        '</UnitType><Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata></PAMRasterBand>'
        + "".join(
            f'<PAMRasterBand band="{band}"><NoDataValue>0</NoDataValue></PAMRasterBand>' for band in (2, 3)
        )
        + "</PAMDataset>"
    )  # fmt: skip
    fill_file(tmp_path / "in.tif", tmp_path / "out.tif")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.tfw", "in.tif", "in.tif.aux.xml", "out.tif"]
    with rasterio.open(tmp_path / "in.tif") as old, rasterio.open(tmp_path / "out.tif") as new:
        assert new.transform == old.transform != Affine.identity() and new.crs == old.crs == "EPSG:32632"
        assert new.nodatavals == old.nodatavals == (0, 0, 0) and new.scales == old.scales == (0.5, 1, 1)
        assert new.offsets == old.offsets and new.units[0] == "m" and new.descriptions[0] == "height"
        assert new.tags()["SOURCE"] == "a test" and "STATISTICS_MEAN" not in new.tags(1)
        assert np.array_equal(new.read()[:, ~HOLE], old.read()[:, ~HOLE]) and (new.read()[:, HOLE] != 0).all()


def test_overviews_beside_the_file(tmp_path: Path) -> None:
    geotiff(tmp_path / "in.tif", BANDS.astype(np.int16), mask=False, nodata=0)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(tmp_path / "in.tif", "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    assert (tmp_path / "in.tif.ovr").exists()
    fill_file(tmp_path / "in.tif", tmp_path / "out.tif")
    assert not list(tmp_path.glob("out.tif?*"))
    with rasterio.open(tmp_path / "out.tif") as new:
        assert new.overviews(1) == [2, 4]
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as small:
        assert small.shape == (10, 15) and (small.read() > 0).all()


@pytest.mark.parametrize("code", [2**63 - 1, 2**53 + 1])
def test_codes_of_64_bits_that_are_no_float64(code: int, tmp_path: Path) -> None:
    raw = np.where(HOLE, code, BANDS[:1].astype(np.int64) + 2**53)
    raw[:, ~HOLE] += 3  # none is 2**53 + 1
    with rasterio.open(
        tmp_path / "in.tif", "w", driver="GTiff", height=20, width=30, count=1, dtype="int64", nodata=-(2**62)
    ) as file:
        file.write(raw)
    content = (tmp_path / "in.tif").read_bytes()
    (text,) = re.findall(rb"-4\.?6116860[0-9e+]*", content)
    (tmp_path / "in.tif").write_bytes(content.replace(text, str(code).encode().ljust(len(text), b"\0")))
    (done,) = fill_file(tmp_path / "in.tif", tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as new:
        found = new.read()
    assert done.missing == HOLE.sum() and np.array_equal(found[:, ~HOLE], raw[:, ~HOLE])
    assert (found[:, HOLE] != code).all() and (abs(found[:, HOLE] - 2**53) < 200).all()


def test_what_a_geotiff_cannot_hold_is_refused(tmp_path: Path) -> None:
    geotiff(tmp_path / "in.tif", BANDS.astype(np.int16), mask=False, nodata=0)
    (tmp_path / "in.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="2"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    with pytest.raises(PConvError, match=r"input: expected a GeoTIFF that holds .*in.tif, whose nodata cannot be"):
        fill_file(tmp_path / "in.tif", tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("uint8", {"compress": "jpeg"}),
        ("uint8", {"compress": "webp"}),
        ("float32", {"compress": "lerc", "MAX_Z_ERROR": 0.5}),
        ("float32", {"compress": "lerc_zstd", "MAX_Z_ERROR": 0.5}),
    ],
)
def test_compression_with_loss_is_refused(
    dtype: str, options: dict[str, Any], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        geotiff(Path("in.tif"), BANDS.astype(dtype), **options)
    assert cli.main(["fill", "in.tif", "-o", "out.tif"]) == 1
    said, name = capsys.readouterr().err, options["compress"].upper()
    assert f"INPUT: expected a file without loss, got in.tif with {name} compression" in said
    assert "gdal_translate -co COMPRESS=DEFLATE in.tif copy.tif" in said and not Path("out.tif").exists()


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("uint8", {"compress": "webp", "WEBP_LOSSLESS": "YES"}),
        ("float32", {"compress": "lerc"}),
        ("uint8", {"compress": "lzw"}),
        ("float32", {"compress": "zstd", "PREDICTOR": 3}),
    ],
)
def test_compression_without_loss_is_not(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    bands = (BANDS + np.random.default_rng(0).random(BANDS.shape)).astype(dtype)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        geotiff(tmp_path / "in.tif", bands, **options)
    fill_file(tmp_path / "in.tif", tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as new:
        assert np.array_equal(new.read()[:, ~HOLE], bands[:, ~HOLE])


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_one_band_of_several_that_share_a_mask(kind: str, tmp_path: Path) -> None:
    if kind == "mask":
        geotiff(tmp_path / "in.tif", BANDS[:2].astype(np.uint8))
    else:
        bands = np.stack([*BANDS, np.where(HOLE, 0, 255)]).astype(np.uint8)
        geotiff(tmp_path / "in.tif", bands, mask=False, photometric="rgb", alpha="yes")
    every = "1, 2" if kind == "mask" else "1, 2, 3"
    with pytest.raises(PConvError, match=rf"variables: expected all bands \({every}\) of .*, got 1; .* -b 1 in.tif"):
        fill_file(tmp_path / "in.tif", tmp_path / "out.tif", variables=["1"])
    assert not (tmp_path / "out.tif").exists()
    fill_file(tmp_path / "in.tif", tmp_path / "out.tif", variables=every.split(", "))
    with rasterio.open(tmp_path / "out.tif") as new:
        assert (new.read_masks() == 255).all() and (new.read()[:2, HOLE] > 0).all()


def test_other_filters_that_round_are_found(tmp_path: Path) -> None:
    values = np.arange(64.0).reshape(8, 8) / 7
    values[3, 4] = np.nan
    with netCDF4.Dataset(tmp_path / "in.nc", "w") as file:
        for name in "yx":
            file.createDimension(name, 8)
        file.createVariable("v", "f8", ("y", "x"))[:] = values
    with h5py.File(tmp_path / "in.nc", "a") as file:
        file["v"].attrs["least_significant_digit"] = np.int32(1)  # netCDF4 rounds whatever it writes then
    group = new_group(tmp_path / "in.zarr")
    from numcodecs import FixedScaleOffset

    filters = [FixedScaleOffset(offset=0, scale=10, dtype="f8", astype="i2")]
    new_array(group, "v", shape=(8, 8), chunks=(8, 8), dtype="f8", fill_value=None, filters=filters)
    group["v"][:], group["v"].attrs["_ARRAY_DIMENSIONS"] = np.nan_to_num(values, nan=-1), ["y", "x"]
    group["v"].attrs["missing_value"] = -1.0
    with pytest.raises(PConvError, match="input: expected values that can be written again as they are, got 'v' of"):
        fill_file(tmp_path / "in.nc", tmp_path / "out.nc")
    (done,) = fill_file(tmp_path / "in.zarr", tmp_path / "out.zarr")  # what was rounded before stays as it is
    old, new = (np.asarray(zarr.open_group(str(tmp_path / name), mode="r")["v"][:]) for name in ("in.zarr", "out.zarr"))
    assert done.missing == 1 and np.array_equal(new[old != -1], old[old != -1])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.nc", "in.zarr", "out.zarr"]
