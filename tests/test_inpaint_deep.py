"""Pictures of 16 bits a sample in colour, which Pillow does not have: read, painted and stored exactly."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from deep_png import deep_png, read_back
from inpaint_support import SIZES, paint_and_save, random_hole
from PIL import Image

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.pictures import Picture, read_picture, save_picture
from pconv_cuda.inpainting.pictures.sixteen_bit import Picture16


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (13, 6), (21, 19)])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_png_is_decoded_exactly(
    channels: int, size: tuple[int, int], interlaced: bool, tmp_path: Path
) -> None:
    samples = np.random.default_rng(7).integers(0, 65536, (*size, channels), dtype=np.uint16)
    (tmp_path / "in.png").write_bytes(deep_png(samples, interlaced=interlaced))
    picture = read_picture(tmp_path / "in.png")
    assert isinstance(picture, Picture16)
    np.testing.assert_array_equal(picture.samples, samples)
    with Image.open(tmp_path / "in.png") as other:  # the file is sound: Pillow sees the upper bytes
        if channels > 2:
            np.testing.assert_array_equal(np.asarray(other), samples >> 8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("suffix", "channels"), [("png", 2), ("png", 3), ("png", 4), ("tiff", 3), ("tiff", 4)])
def test_sixteen_bit_colour(suffix: str, channels: int, size: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(channels)
    samples = rng.integers(0, 65536, (*size, channels), dtype=np.uint16)
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    if suffix == "png":
        source.write_bytes(deep_png(samples, [(b"gAMA", struct.pack(">I", 45455))]))
    else:
        extra = ["unassalpha"] if channels == 4 else None
        tifffile.imwrite(source, samples, photometric="rgb", extrasamples=extra, planarconfig="contig")
    hole, colours = random_hole(*size, rng), rng.random((*size, 3), dtype=np.float32)
    paint_and_save(source, target, hole, colours)
    if suffix == "png":
        written = target.read_bytes()
        assert b"gAMA" in written
        after = read_back(written, samples.shape)
    else:
        after = tifffile.imread(target).reshape(samples.shape)
    assert after.dtype == np.uint16
    np.testing.assert_array_equal(after[~hole], samples[~hole])
    if channels > 2:
        np.testing.assert_allclose(after[hole][:, :3], colours[hole] * 65535, atol=0.51)
    if channels != 3:
        np.testing.assert_array_equal(after[..., -1], samples[..., -1])
    with Image.open(target) as new:  # a reader of its own finds it valid
        new.load()
        assert new.size == size[::-1]


def test_sixteen_bit_is_not_cut_down_on_the_way_to_another_format(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(deep_png(np.zeros((2, 2, 3), np.uint16), []))
    picture = read_picture(tmp_path / "in.png")
    assert isinstance(picture, Picture16)
    with pytest.raises(PConvError, match="16-bit colour"):
        save_picture(picture, tmp_path / "out.jpg", "JPEG")
    grey = Picture(Image.fromarray(np.zeros((2, 2), np.uint16)), "PNG")
    for name in ("JPEG", "WEBP", "BMP"):
        with pytest.raises(PConvError, match="16-bit samples"):
            save_picture(grey, tmp_path / "out", name)
    with pytest.raises(PConvError, match="transparency"):
        save_picture(Picture(Image.new("RGBA", (2, 2)), "PNG"), tmp_path / "out.jpg", "JPEG")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]
