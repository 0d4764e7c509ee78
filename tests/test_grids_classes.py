"""Classes are no measurements: pconv fill and training refuse palettes of GeoTIFF and flags of NetCDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from pconv_cuda.errors import PConvError
from pconv_cuda.grids.work import fill_file
from pconv_cuda.training.grids import open_steps

CLASSES = np.where(np.add.outer(np.arange(10), np.arange(12)) > 10, 5, 1).astype(np.uint8)
CLASSES[4:6, 4:8] = 0


def landcover(path: Path, palette: bool = True) -> None:
    profile = {"driver": "GTiff", "height": 10, "width": 12, "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", **profile) as file:
        file.write(CLASSES, 1)
        if palette:
            file.write_colormap(1, {1: (0, 90, 0, 255), 5: (200, 180, 90, 255)})


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_palettes_are_refused(tmp_path: Path) -> None:
    landcover(tmp_path / "in.tif")
    with rasterio.open(tmp_path / "in.tif") as file:
        assert file.colorinterp == (ColorInterp.palette,)
    expected = "expected measurements, got .*in.tif, whose band 1 has a colour table: its values are classes"
    for chosen in ([], ["1"]):
        with pytest.raises(PConvError, match=f"^input: {expected}"):
            fill_file(tmp_path / "in.tif", tmp_path / "out.tif", variables=chosen)
    with pytest.raises(PConvError, match=f"^data.images: {expected}"):
        open_steps(str(tmp_path / "in.tif"), None, None)
    assert not (tmp_path / "out.tif").exists()
    landcover(tmp_path / "grey.tif", palette=False)
    assert fill_file(tmp_path / "grey.tif", tmp_path / "out.tif")[0].left == 0


@pytest.mark.parametrize(
    ("attributes", "known", "refused"),
    [
        ({"flag_values": np.array([1, 5], np.int8), "flag_meanings": "forest field"}, [], "flag_values"),
        ({"flag_masks": np.array([1, 4], np.int8), "flag_meanings": "cloud snow"}, [], "flag_masks"),
        ({"flag_values": np.array([99], np.int8), "flag_meanings": "coast"}, [99], ""),  # one code among measurements
        ({}, [], ""),
    ],
    ids=["values", "masks", "some", "none"],
)
def test_flags_are_refused(attributes: dict[str, Any], known: list[int], refused: str, tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "in.nc", "w") as file:
        file.createDimension("y", 10)
        file.createDimension("x", 12)
        variable = file.createVariable("cover", "i1", ("y", "x"), fill_value=0)
        variable[:] = np.ma.masked_equal(CLASSES, 0)
        for at, value in enumerate(known):
            variable[at, 0] = value
        variable.setncatts(attributes)
    if refused:
        with pytest.raises(PConvError, match=f"variables: expected measurements, got 'cover' of .*in.nc, .* {refused}"):
            fill_file(tmp_path / "in.nc", tmp_path / "out.nc")
        assert not (tmp_path / "out.nc").exists()
    else:
        assert fill_file(tmp_path / "in.nc", tmp_path / "out.nc")[0].left == 0
