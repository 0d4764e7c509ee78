"""Picture files: what is outside the hole survives to the byte, in every mode and format, with metadata."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from deep_png import deep_png
from inpaint_support import SIZES, paint_and_save, random_hole
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.pictures import Picture, read_picture, save_picture


def random_picture(mode: str, height: int, width: int, rng: np.random.Generator) -> Image.Image:
    channels = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "I;16": 1}[mode]
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    samples = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if mode in ("LA", "RGBA"):  # colours below full transparency are kept too
        samples[..., -1][samples[..., -1] < 80] = 0
    if mode == "1":
        return Image.fromarray(samples[..., 0] > 127)
    if mode == "P":
        image = Image.fromarray(samples[..., 0] % 200)
        image.putpalette(rng.integers(0, 256, 600, dtype=np.uint8).tobytes())
        return image
    if channels == 1:
        return Image.fromarray(samples[..., 0])
    if mode == "CMYK":
        return Image.merge("CMYK", [Image.fromarray(samples[..., i].copy()) for i in range(4)])
    return Image.fromarray(samples)


def raw(image: Image.Image) -> np.ndarray:
    samples = np.asarray(image)
    return samples.astype(np.int64).reshape(*samples.shape[:2], -1)


CASES = [
    (suffix, mode)
    for suffix, modes in {
        "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
        "bmp": ("1", "L", "P", "RGB", "RGBA"),
        "webp": ("RGB", "RGBA"),
    }.items()
    for mode in modes
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("suffix", "mode"), CASES)
def test_outside_the_hole_to_the_byte(suffix: str, mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(sum(size))
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    if (suffix, mode) == ("bmp", "RGBA"):
        save_picture(Picture(random_picture(mode, *size, rng), "BMP"), source, "BMP")
    else:
        random_picture(mode, *size, rng).save(source, **({"lossless": True} if suffix == "webp" else {}))
    hole, colours = random_hole(*size, rng), rng.random((*size, 3), dtype=np.float32)
    paint_and_save(source, target, hole, colours)
    with Image.open(source) as old, Image.open(target) as new:
        assert (new.format, new.mode, new.size) == (old.format, old.mode, old.size)
        assert old.mode == mode or min(size) == 1  # Pillow may read a palette of one or two greys as 1 or L
        before, after = raw(old), raw(new)
        if mode == "P":
            assert new.getpalette()[:600] == old.getpalette()[:600]
        alpha = "A" in new.getbands()
    np.testing.assert_array_equal(after[~hole], before[~hole])
    if alpha:
        np.testing.assert_array_equal(after[..., -1], before[..., -1])
    if mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(after[hole][:, :3], np.rint(colours[hole] * 255))
    if mode in ("L", "LA", "I;16"):
        white = 65535 if mode == "I;16" else 255
        luma = colours[hole] @ np.array([0.299, 0.587, 0.114]) * white
        np.testing.assert_allclose(after[hole][:, 0], luma, atol=white / 255)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"in.{suffix}", f"out.{suffix}"]


def test_a_palette_takes_its_nearest_colour_of_the_same_opacity(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 3], [2, 2, 0, 3]], np.uint8))
    image.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0, 240, 10, 0])
    image.save(tmp_path / "in.png", transparency=bytes([255, 255, 255, 0]))
    hole = np.array([[1, 1, 0, 0], [0, 0, 0, 1]], bool)
    red = np.broadcast_to(np.array([0.95, 0.02, 0], np.float32), (2, 4, 3))
    paint_and_save(tmp_path / "in.png", tmp_path / "out.png", hole, red)
    with Image.open(tmp_path / "out.png") as new:
        # index 3 would be nearest but is transparent: opaque pixels take 1, the transparent one stays 3
        np.testing.assert_array_equal(np.asarray(new), [[1, 1, 2, 3], [2, 2, 0, 3]])


def test_a_palette_with_alpha_keeps_both(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    base = random_picture("P", 6, 5, rng)
    image = base.convert("PA")
    image.putalpha(Image.fromarray(rng.integers(0, 256, (6, 5), dtype=np.uint8)))
    image.save(tmp_path / "in.tiff")
    hole = random_hole(6, 5, rng)
    paint_and_save(tmp_path / "in.tiff", tmp_path / "out.tiff", hole, np.zeros((6, 5, 3), np.float32))
    with Image.open(tmp_path / "in.tiff") as old, Image.open(tmp_path / "out.tiff") as new:
        assert new.mode == old.mode == "PA"
        np.testing.assert_array_equal(raw(new)[~hole], raw(old)[~hole])
        np.testing.assert_array_equal(raw(new)[..., 1], raw(old)[..., 1])
        entries = np.asarray(old.getpalette("RGB")).reshape(-1, 3)
        darkest = (entries.astype(int) ** 2).sum(1).min()
        assert (np.asarray(new.convert("RGB"))[hole].astype(int) ** 2).sum(1).max() == darkest


def test_a_transparent_colour_becomes_an_alpha_channel(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    samples[2, 2] = (9, 8, 7)
    Image.fromarray(samples).save(tmp_path / "in.png", transparency=(9, 8, 7))
    hole = np.zeros((5, 6), bool)
    hole[1] = True
    colours = np.broadcast_to(np.array([9, 8, 7], np.float32) / 255, (5, 6, 3))
    paint_and_save(tmp_path / "in.png", tmp_path / "out.png", hole, colours)
    with Image.open(tmp_path / "in.png") as old, Image.open(tmp_path / "out.png") as new:
        before, after = raw(old.convert("RGBA")), raw(new.convert("RGBA"))
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert (after[hole] == (9, 8, 7, 255)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "deep.png"])
def test_orientation_is_applied_and_its_tag_reset(suffix: str, orientation: int, tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    image = Image.fromarray(samples)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    if suffix == "deep.png":
        data = deep_png(samples.astype(np.uint16) * 257, [(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))])
        source.write_bytes(data)
    else:
        image.save(source, exif=exif, **({"lossless": True} if suffix == "webp" else {"quality": 95}))
    with Image.open(source) as old:
        expected = ImageOps.exif_transpose(old).convert("RGB")
    size = expected.size[::-1]
    assert size == ((16, 8) if orientation > 4 else (8, 16))
    paint_and_save(source, target, np.zeros(size, bool), np.zeros((*size, 3), np.float32))
    with Image.open(target) as new:
        tags = new.getexif()
        # a jpg stays as it was stored, so that its blocks can stay what they are; all others are turned upright
        assert tags.get(0x0112, 1) == (orientation if suffix == "jpg" else 1)
        assert tags[0x010F] == "Maker"
        shown = ImageOps.exif_transpose(new).convert("RGB")
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(expected))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_profile_resolution_and_metadata_are_kept(suffix: str, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x013B] = "An Artist"
    exif.get_ifd(0x8769)[0x9003] = "2018:09:08 10:00:00"
    options: dict = {"icc_profile": profile, "exif": exif, "dpi": (300, 300)}
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    if suffix == "png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Title", "A title")
        text.add_itxt("Note", "für später", "de")
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        text.add(b"gAMA", struct.pack(">I", 45455))
        options["pnginfo"] = text
    elif suffix in ("jpg", "webp"):
        options["xmp"] = xmp
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    if suffix == "tiff":
        exif[700] = xmp
        exif[33432] = "All rights"
        options["exif"] = exif.tobytes()
    Image.new("RGB", (8, 8), "teal").save(source, **options)
    paint_and_save(source, target, np.zeros((8, 8), bool), np.zeros((8, 8, 3), np.float32))
    with Image.open(target) as new:
        new.load()
        assert new.info["icc_profile"] == profile
        assert new.getexif()[0x013B] == "An Artist"
        assert new.getexif().get_ifd(0x8769)[0x9003] == "2018:09:08 10:00:00"
        if suffix != "webp":
            assert [round(float(value)) for value in new.info["dpi"]] == [300, 300]
        if suffix in ("jpg", "webp"):
            assert new.info["xmp"] == xmp
        if suffix == "tiff":
            assert new.info["xmp"] == xmp and new.getexif()[33432] == "All rights"
        if suffix == "png":
            assert new.text["Title"] == "A title" and new.text["Note"] == "für später"
            assert new.text["XML:com.adobe.xmp"] == xmp.decode()
            assert new.info["gamma"] == pytest.approx(0.45455)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_tiff_keeps_its_compression_unless_it_loses(compression: str, tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(samples).save(tmp_path / "in.tiff", compression=compression)
    hole = np.zeros((20, 30), bool)
    paint_and_save(tmp_path / "in.tiff", tmp_path / "out.tiff", hole, np.zeros((20, 30, 3), np.float32))
    with Image.open(tmp_path / "in.tiff") as old, Image.open(tmp_path / "out.tiff") as new:
        np.testing.assert_array_equal(raw(new), raw(old))
        assert new.info["compression"] == ("tiff_adobe_deflate" if compression == "jpeg" else compression)


@pytest.mark.parametrize("layout", ["tiled", "planar", "big-endian"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_layouts_of_tiff(layout: str, dtype: type, channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(channels)
    samples = rng.integers(0, np.iinfo(dtype).max, (33, 50, channels), dtype=dtype, endpoint=True)
    given = samples[..., 0] if channels == 1 else samples
    options: dict = {"photometric": "minisblack" if channels == 1 else "rgb", "metadata": None}
    if layout == "tiled":
        options |= {"tile": (16, 16), "compression": "zlib", "predictor": True}
    elif layout == "planar" and channels == 3:
        given, options["planarconfig"] = np.moveaxis(samples, -1, 0), "separate"
    elif layout == "big-endian":
        options["byteorder"] = ">"
    tifffile.imwrite(tmp_path / "in.tif", given, **options)
    hole, colours = random_hole(33, 50, rng), rng.random((33, 50, 3), dtype=np.float32)
    paint_and_save(tmp_path / "in.tif", tmp_path / "out.tif", hole, colours)
    after = tifffile.imread(tmp_path / "out.tif").reshape(samples.shape)
    assert after.dtype == dtype
    np.testing.assert_array_equal(after[~hole], samples[~hole])
    if channels == 3:
        np.testing.assert_allclose(after[hole] / np.iinfo(dtype).max, colours[hole], atol=0.003)


def test_sixteen_bit_tiff_with_a_codec_that_is_missing(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((4, 5, 3), np.uint16), photometric="rgb", metadata=None)
    data = bytearray((tmp_path / "in.tif").read_bytes())
    at = data.index(struct.pack("<HHI", 259, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", 34887)  # LERC: rare, and never decoded here
    (tmp_path / "in.tif").write_bytes(data)
    with pytest.raises(PConvError, match="in.tif cannot be"):
        read_picture(tmp_path / "in.tif")


def test_a_phones_jpeg_of_several_pictures_keeps_the_first_and_says_so(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    first.save(tmp_path / "in.jpg", "MPO", save_all=True, append_images=[second])
    picture = read_picture(tmp_path / "in.jpg")
    assert picture.format == "JPEG" and "first of its 2" in picture.notes[0]


def broken_files(folder: Path) -> dict[str, Path]:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "PNG")
    (folder / "cut.png").write_bytes(whole.getvalue()[:2000])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    frames = [Image.new("RGB", (4, 4), name) for name in ("red", "green")]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(folder / "pages.tiff", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "drawing.gif")
    Image.fromarray(np.zeros((3, 3), np.float32)).save(folder / "float.tiff")
    tifffile.imwrite(folder / "signed.tiff", np.zeros((4, 5, 3), np.int16), photometric="rgb")
    wide = np.zeros((4, 5, 5), np.uint16)
    tifffile.imwrite(folder / "inks.tiff", wide, photometric="separated", planarconfig="contig")
    key = deep_png(np.zeros((2, 2, 3), np.uint16), [(b"tRNS", bytes(6))])
    (folder / "key.png").write_bytes(key)
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut.png", "cannot be decoded"),
        ("text.png", "cannot be read"),
        ("empty.jpg", "cannot be read"),
        ("moving.webp", "holds 2"),
        ("pages.tiff", "holds 2"),
        ("drawing.gif", "is GIF"),
        ("float.tiff", "mode F"),
        ("signed.tiff", "signed.tiff"),
        ("inks.tiff", "5 bands of uint16"),
        ("key.png", "transparent"),
        ("missing.png", "does not exist"),
    ],
)
def test_unsupported_samples_are_an_error_that_names_the_file(name: str, words: str, tmp_path: Path) -> None:
    files = broken_files(tmp_path)
    with pytest.raises(PConvError, match=words) as caught:
        read_picture(files.get(name, tmp_path / name))
    assert name in str(caught.value)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"what was there")
    picture = Picture(Image.new("RGB", (4, 4)), "PNG")

    def full(self, file, *_args, **_options):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(PConvError, match="no space left"):
        save_picture(picture, target, "PNG")
    assert target.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [target]
