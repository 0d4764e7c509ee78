"""Grey TIFF that is stored as MinIsWhite: pictures keep samples and tag, masks and training see black where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from inpaint_support import paint_and_save, square_hole
from PIL import Image

from pconv_cuda.data.images import load_rgb
from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.api import inpaint, restore
from pconv_cuda.inpainting.masks import MaskRule
from pconv_cuda.inpainting.pictures import read_picture, save_picture
from pconv_cuda.named import load

HOLE = square_hole(40, 50, 10, 15, 8)
SAMPLES = np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16)


def write(path: Path, samples: np.ndarray, photometric: str = "miniswhite", **options: Any) -> None:
    tifffile.imwrite(path, samples, photometric=photometric, metadata=None, **options)


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 8, 16])
def test_samples_and_tag_stay(bits: int, byteorder: str, compression: str | None, tmp_path: Path) -> None:
    samples = {1: SAMPLES > 30000, 8: (SAMPLES >> 8).astype(np.uint8), 16: SAMPLES}[bits]
    write(tmp_path / "in.tif", samples, byteorder=byteorder, compression=None if bits == 1 else compression)
    grey = np.full((40, 50, 3), 0.75, np.float32)
    paint_and_save(tmp_path / "in.tif", tmp_path / "out.tif", HOLE, grey)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        page = file.pages[0]
        assert page.photometric.name == "MINISWHITE"  # type: ignore[union-attr]
        after = page.asarray()
    np.testing.assert_array_equal(after[~HOLE], samples[~HOLE])
    stored = {1: 0, 8: 255 - 191, 16: 65535 - 49151}[bits]  # brightness 0.75 in the file's sense
    np.testing.assert_array_equal(after[HOLE], stored)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_it_is_filled_like_its_negative(byteorder: str, tmp_path: Path) -> None:
    for name, samples in (("miniswhite", SAMPLES), ("minisblack", 65535 - SAMPLES)):
        write(tmp_path / f"{name}.tif", samples, name, byteorder=byteorder)
        picture = read_picture(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(picture.rgb()[..., 0], 65535 - SAMPLES)
        restore(load("photo", "cpu"), picture, HOLE)  # type: ignore[arg-type]
        save_picture(picture, tmp_path / f"o-{name}.tif", "TIFF")
    white, black = (tifffile.imread(tmp_path / f"o-{name}.tif") for name in ("miniswhite", "minisblack"))
    np.testing.assert_array_equal(white, 65535 - black)


def test_another_format_gets_its_brightness_and_saving_twice_is_the_same(tmp_path: Path) -> None:
    write(tmp_path / "in.tif", SAMPLES)
    picture = read_picture(tmp_path / "in.tif")
    save_picture(picture, tmp_path / "out.png", "PNG")
    save_picture(picture, tmp_path / "out.tif", "TIFF")
    with Image.open(tmp_path / "out.png") as new:
        np.testing.assert_array_equal(np.asarray(new), 65535 - SAMPLES)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), SAMPLES)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_beside_the_grey_are_not_turned(dtype: type, tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (40, 50, 2), dtype=dtype)
    options: dict[str, Any] = {"planarconfig": "contig"}
    write(tmp_path / "in.tif", samples, extrasamples=["unassalpha"], **options)
    paint_and_save(tmp_path / "in.tif", tmp_path / "out.tif", HOLE, np.zeros((40, 50, 3), np.float32))
    after = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(after[~HOLE], samples[~HOLE])
    np.testing.assert_array_equal(after[..., 1], samples[..., 1])
    assert (after[HOLE][:, 0] == np.iinfo(dtype).max).all()
    write(tmp_path / "in.tif", samples, extrasamples=["assocalpha"], **options)
    with pytest.raises(PConvError, match="expected opacity that is stored apart beside MinIsWhite grey, but .*in.tif"):
        read_picture(tmp_path / "in.tif")


def test_samples_that_are_refused_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "in.tif", SAMPLES.astype(np.float16), "minisblack")
    with pytest.raises(PConvError, match=r"in.tif has 1 band of float16 \(MINISBLACK\)"):
        read_picture(tmp_path / "in.tif")


def test_masks_and_pictures_for_training(tmp_path: Path) -> None:
    write(tmp_path / "mask.tif", np.where(HOLE, 0, 65535).astype(np.uint16))  # white is the hole
    Image.fromarray(np.full((40, 50), 90, np.uint8)).save(tmp_path / "in.png")
    found = MaskRule().hole(read_picture(tmp_path / "in.png"), tmp_path / "in.png", tmp_path / "mask.tif")
    np.testing.assert_array_equal(found.pixels, HOLE)
    with Image.open(tmp_path / "mask.tif") as mask:
        array = SAMPLES.astype(np.float32)[..., None] / 65535
        filled = inpaint("smooth", array, mask)
    np.testing.assert_array_equal((filled != array)[..., 0] & ~HOLE, False)
    assert (filled != array)[..., 0][HOLE].mean() > 0.9
    np.testing.assert_array_equal(load_rgb(tmp_path / "mask.tif")[..., 0], np.where(HOLE, 255, 0))
