"""What a file says beside its pixels, and samples that Pillow would change: bands, inks, blocks, tags."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from inpaint_support import paint_and_save, smooth_picture, square_hole
from PIL import Image, ImageOps

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.api import restore
from pconv_cuda.inpainting.pictures import jpeg, read_picture, save_picture
from pconv_cuda.inpainting.pictures.inks import black_share, inks_of
from pconv_cuda.inpainting.tiling import Box

HOLE = square_hole(40, 50, 10, 15, 8)
COLOURS = np.random.default_rng(2).random((40, 50, 3), dtype=np.float32)

# ---- TIFF


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("colours", "extra"),
    [(3, [0]), (3, [0, 0]), (3, [2, 0]), (3, [0, 2]), (1, [0]), (1, [0, 0, 0])],
    ids=["rgb+nir", "rgb+2", "rgba+1", "rgb+1+a", "grey+1", "grey+3"],
)
def test_further_bands_are_kept(tmp_path: Path, dtype: type, colours: int, extra: list[int]) -> None:
    """A fourth band is no alpha unless the file says so, and a fifth does not get lost."""
    bands = colours + len(extra)
    samples = np.random.default_rng(bands).integers(0, np.iinfo(dtype).max, (40, 50, bands), dtype=dtype, endpoint=True)
    kind = "rgb" if colours == 3 else "minisblack"
    options = {"photometric": kind, "planarconfig": "contig", "extrasamples": extra, "metadata": None}
    tifffile.imwrite(tmp_path / "in.tif", samples, **options)
    picture = read_picture(tmp_path / "in.tif")
    alpha = picture.alpha()
    if 2 in extra:
        white = np.iinfo(dtype).max
        np.testing.assert_array_equal(alpha, np.ceil(samples[..., colours + extra.index(2)] / white * 255))
    else:
        assert alpha is None
    paint_and_save(tmp_path / "in.tif", tmp_path / "out.tif", HOLE, COLOURS)
    with tifffile.TiffFile(tmp_path / "out.tif") as new:
        after, page = new.asarray(), new.pages[0]
        assert [int(one) for one in page.extrasamples] == extra and page.photometric.name.lower() == kind
    assert after.dtype == dtype
    np.testing.assert_array_equal(after[~HOLE], samples[~HOLE])
    np.testing.assert_array_equal(after[..., colours:], samples[..., colours:])
    if colours == 3:
        np.testing.assert_allclose(after[HOLE][:, :3] / np.iinfo(dtype).max, COLOURS[HOLE], atol=0.003)


def test_premultiplied_alpha_is_seen_and_written_as_such(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    alpha = rng.integers(100, 256, (40, 50, 1))
    seen = rng.integers(0, 256, (40, 50, 3))
    samples = np.concatenate([np.rint(seen * alpha / 255), alpha], 2).astype(np.uint8)
    options = {"photometric": "rgb", "planarconfig": "contig", "extrasamples": ["assocalpha"], "metadata": None}
    tifffile.imwrite(tmp_path / "in.tif", samples, **options)
    picture = read_picture(tmp_path / "in.tif")
    np.testing.assert_allclose(picture.rgb().astype(int), seen, atol=2)
    paint_and_save(tmp_path / "in.tif", tmp_path / "out.tif", HOLE, COLOURS)
    after = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(after[~HOLE], samples[~HOLE])
    np.testing.assert_array_equal(after[..., 3], samples[..., 3])
    np.testing.assert_allclose(after[HOLE][:, :3], (COLOURS * alpha)[HOLE], atol=0.51)


GEO = [
    (33550, 12, 3, (0.5, 0.5, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0), True),
    (34735, 3, 4, (1, 1, 0, 0), True),
    (42113, 2, 6, "-9999", True),
    (65000, 7, 4, b"\x01\x02\x03\x04", True),
]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("turned", [False, True])
def test_tags_of_a_tiff_are_kept_while_they_hold(tmp_path: Path, dtype: type, turned: bool) -> None:
    samples = np.zeros((40, 50, 3), dtype)
    tags = [*GEO, (274, 3, 1, 6, True)] if turned else GEO
    tifffile.imwrite(tmp_path / "in.tif", samples, photometric="rgb", extratags=tags, resolution=(300, 300))
    picture = read_picture(tmp_path / "in.tif")
    save_picture(picture, tmp_path / "out.tif", "TIFF")
    with tifffile.TiffFile(tmp_path / "out.tif") as new:
        found = {tag.code: tag.value for tag in new.pages[0].tags.values()}
    for code, _, _, value, _ in GEO[3:] if turned else GEO:
        assert found[code] == value
    assert found[282] == (300, 1)
    if turned:
        assert 270 not in found  # tifffile's description tells a shape
        assert 33922 not in found and 34735 not in found and 274 not in found
        assert any("GeoTIFF" in note for note in picture.notes)


@pytest.mark.parametrize(("dtype", "big"), [(np.uint8, False), (np.uint16, False), (np.uint16, True)])
@pytest.mark.parametrize("given", [False, True])
def test_no_resolution_is_made_up(tmp_path: Path, dtype: type, big: bool, given: bool) -> None:
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    resolution = {"resolution": (72, 72)} if given else {}
    samples = np.zeros((4, 5, 3), dtype)
    tifffile.imwrite(source, samples, photometric="rgb", metadata=None, bigtiff=big, **resolution)
    if not given:
        from pconv_cuda.inpainting.pictures.tiff import _remove_tags

        with open(source, "r+b") as file:
            _remove_tags(file, (282, 283, 296))
    paint_and_save(source, target, np.zeros((4, 5), bool), np.zeros((4, 5, 3), np.float32))
    with tifffile.TiffFile(target) as new:
        codes = {tag.code for tag in new.pages[0].tags.values()}
        np.testing.assert_array_equal(new.asarray(), samples)
    assert bool(codes & {282, 283}) == given
    if dtype is np.uint8:
        save_picture(read_picture(source), tmp_path / "out.png", "PNG")
        with Image.open(tmp_path / "out.png") as new:
            assert ("dpi" in new.info) == given


# ---- CMYK


def test_inks_match_their_surroundings(tmp_path: Path) -> None:
    """A flat tint that is partly black stays that tint: the same inks, not only the same colour."""
    inks = np.empty((40, 50, 4), np.uint8)
    inks[:] = (10, 60, 30, 90)
    inks[:, 25:] = (0, 0, 0, 200)  # and a text that is black alone
    given = inks.copy()
    given[HOLE] = (255, 0, 0, 0)
    Image.fromarray(given, "CMYK").save(tmp_path / "in.tiff")
    picture = read_picture(tmp_path / "in.tiff")
    truth = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")) / np.float32(255)
    picture.prepare(HOLE)
    picture.paint(Box(0, 0, 40, 50), truth, HOLE)
    save_picture(picture, tmp_path / "out.tiff", "TIFF")
    with Image.open(tmp_path / "out.tiff") as new:
        after = np.asarray(new).astype(int)
    np.testing.assert_array_equal(after[~HOLE], inks[~HOLE])
    assert np.abs(after - inks)[HOLE].max() <= 3


def test_inks_are_shown_as_the_colours_asked_for() -> None:
    rng = np.random.default_rng(1)
    colours = rng.random((30, 40, 3), dtype=np.float32)
    for share in (np.zeros((30, 40)), np.ones((30, 40)), rng.random((30, 40))):
        shown = np.asarray(Image.fromarray(inks_of(colours, share.astype(np.float32)), "CMYK").convert("RGB"))
        assert np.abs(shown / 255 - colours).max() < 2.5 / 255


def test_the_share_of_black_is_interpolated() -> None:
    inks = np.zeros((33, 20, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 128, np.linspace(40, 200, 33).astype(np.uint8)[:, None]
    known = np.ones((33, 20), bool)
    known[10:20, 5:15] = False
    truth, found = black_share(inks, np.ones_like(known)), black_share(inks, known)
    np.testing.assert_array_equal(found[known], truth[known])
    assert np.abs(found - truth).max() < 0.15
    assert (black_share(np.zeros((3, 3, 4), np.uint8), np.ones((3, 3), bool)) == 0).all()


# ---- JPEG


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("subsampling", [0, 1, 2, "grey"])
def test_blocks_away_from_the_hole_are_the_files_own(tmp_path: Path, orientation: int, subsampling) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(smooth_picture(75, 93))
    if subsampling == "grey":
        stored.convert("L").save(tmp_path / "in.jpg", quality=70, exif=exif)
    else:
        stored.save(tmp_path / "in.jpg", quality=70, subsampling=subsampling, exif=exif, progressive=orientation > 4)
    with Image.open(tmp_path / "in.jpg") as old:
        shown = ImageOps.exif_transpose(old)
        before, size = np.asarray(shown.convert("RGB")).astype(int), shown.size[::-1]
    hole = square_hole(*size, 40, 50, 9)
    colours = np.zeros((*size, 3), np.float32)
    picture = read_picture(tmp_path / "in.jpg")
    picture.prepare(hole)
    picture.paint(Box(0, 0, *size), colours, hole)
    save_picture(picture, tmp_path / "out.jpg", "JPEG")
    with Image.open(tmp_path / "out.jpg") as new:
        assert new.quantization == Image.open(tmp_path / "in.jpg").quantization
        after = np.asarray(ImageOps.exif_transpose(new).convert("RGB")).astype(int)
    change = np.abs(after - before).max(-1)
    assert change[hole].max() > 60
    # at most the blocks of the hole on each side, and a pixel beside them
    assert change[~square_hole(*size, 40 - 17, 50 - 17, 9 + 34)].max() == 0
    assert abs((tmp_path / "out.jpg").stat().st_size / (tmp_path / "in.jpg").stat().st_size - 1) < 0.3


def test_a_jpeg_without_jpeglib_keeps_tables_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(smooth_picture(75, 93)).save(tmp_path / "in.jpg", quality=70)
    monkeypatch.setattr("pconv_cuda.inpainting.pictures.saving.with_blocks_of", lambda *_: None)
    paint_and_save(tmp_path / "in.jpg", tmp_path / "out.jpg", np.zeros((75, 93), bool), np.zeros((75, 93, 3)))
    with Image.open(tmp_path / "in.jpg") as old, Image.open(tmp_path / "out.jpg") as new:
        assert new.quantization == old.quantization
        assert np.abs(np.asarray(new).astype(int) - np.asarray(old)).mean() < 0.5
    assert abs((tmp_path / "out.jpg").stat().st_size / (tmp_path / "in.jpg").stat().st_size - 1) < 0.1


def test_jpegs_that_do_not_fit_are_not_mixed() -> None:
    def compressed(size: tuple[int, int] = (40, 50), **options) -> bytes:
        data = io.BytesIO()
        Image.fromarray(smooth_picture(*size)).save(data, "JPEG", **options)
        return data.getvalue()

    old, hole = compressed(quality=70), np.zeros((40, 50), bool)
    assert jpeg.with_blocks_of(old, compressed(quality=70), hole) is not None
    assert jpeg.with_blocks_of(old, compressed(quality=71), hole) is None
    assert jpeg.with_blocks_of(old, compressed(quality=70, subsampling=0), hole) is None
    assert jpeg.with_blocks_of(old, compressed((41, 70), quality=70), hole) is None


def test_a_cmyk_jpeg_is_written_as_one(tmp_path: Path) -> None:
    inks = np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(inks, "CMYK").save(tmp_path / "in.jpg", quality=95)
    hole = square_hole(40, 48, 8, 8, 8)
    with Image.open(tmp_path / "in.jpg") as old:
        before = np.asarray(old).astype(int)
    paint_and_save(tmp_path / "in.jpg", tmp_path / "out.jpg", hole, np.full((40, 48, 3), 0.5, np.float32))
    with Image.open(tmp_path / "out.jpg") as new:
        assert new.mode == "CMYK"
        assert np.abs(np.asarray(new).astype(int) - before)[~hole].max() <= 4


# ---- formats that are only read


@pytest.mark.parametrize("suffix", ["avif", "heic"])
def test_avif_and_heic_become_png(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x013B] = "An Artist"
    image = Image.fromarray(smooth_picture(64, 64))
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image.save(tmp_path / f"in.{suffix}", quality=90, exif=exif)
    with Image.open(tmp_path / f"in.{suffix}") as old:
        before = np.asarray(old.convert("RGB"))
    picture = read_picture(tmp_path / f"in.{suffix}")
    hole = square_hole(64, 64, 10, 10, 9)
    picture.prepare(hole)
    picture.paint(Box(0, 0, 64, 64), np.zeros((64, 64, 3), np.float32), hole)
    save_picture(picture, tmp_path / "out.png", "PNG")
    with Image.open(tmp_path / "out.png") as new:
        np.testing.assert_array_equal(np.asarray(new)[~hole], before[~hole])
        assert new.getexif()[0x013B] == "An Artist"


def test_heic_without_its_package_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "in.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(12))
    with pytest.raises(PConvError, match="HEIC needs .*pillow_heif"):
        read_picture(tmp_path / "in.heic")


def test_restore_prepares_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way from the command to the blocks: a jpg keeps its own where the hole is not."""
    from inpaint_support import small_network

    Image.fromarray(smooth_picture(75, 93)).save(tmp_path / "in.jpg", quality=70)
    picture = read_picture(tmp_path / "in.jpg")
    hole = square_hole(75, 93, 40, 50, 5)
    restore(small_network(2), picture, hole)
    save_picture(picture, tmp_path / "out.jpg", "JPEG")
    with Image.open(tmp_path / "in.jpg") as old, Image.open(tmp_path / "out.jpg") as new:
        assert (np.asarray(old)[:20] == np.asarray(new)[:20]).all()
