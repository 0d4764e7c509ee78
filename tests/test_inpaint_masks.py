"""Masks that are easily misread: pictures, colours, 0 and 1, soft edges, other sizes and orientations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from inpaint_support import small_network, smooth_picture, square_hole
from PIL import Image, ImageDraw

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting import inpaint
from pconv_cuda.inpainting.masks import Hole, MaskRule
from pconv_cuda.inpainting.pictures import read_picture
from pconv_cuda.masks.values import is_set
from pconv_cuda.models import PConvUNet

HOLE = square_hole(40, 50, 10, 15, 8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(smooth_picture(40, 50)).save(path)
    return path


def hole_of(photo: Path, mask: Path | None, **rule) -> Hole:
    return MaskRule(**rule).hole(read_picture(photo), photo, mask)


def saved(photo: Path, image: np.ndarray | Image.Image, name: str = "mask.png", **options) -> Path:
    path = photo.with_name(name)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def test_a_picture_is_not_its_own_mask(photo: Path) -> None:
    with pytest.raises(PConvError, match=r"photo\.png is the picture itself"):
        hole_of(photo, photo)
    link = photo.with_name("link.png")
    link.symlink_to(photo)
    with pytest.raises(PConvError, match=r"link\.png is the picture itself"):
        hole_of(photo, link)
    for suffix in ("bmp", "tiff"):  # the same content in another file, a threshold or not
        copy = saved(photo, Image.open(photo), f"copy.{suffix}")
        for threshold in (None, 200):
            with pytest.raises(PConvError, match=rf"copy\.{suffix} is the picture .*photo\.png itself"):
                hole_of(photo, copy, threshold=threshold)


def test_a_copy_with_a_marked_colour_is_fine(photo: Path) -> None:
    marked = smooth_picture(40, 50)
    marked[HOLE] = (255, 0, 255)
    np.testing.assert_array_equal(hole_of(photo, saved(photo, marked), colour=(255, 0, 255)).pixels, HOLE)


def test_a_soft_brush_of_the_marked_colour_is_reported(photo: Path) -> None:
    """Antialiased edges of a stroke are mixed with the picture: they are not of its colour, and would stay."""
    large = Image.new("RGB", (200, 160), "#307050")
    ImageDraw.Draw(large).line((20, 20, 180, 130), fill=(255, 0, 0), width=9)
    soft = large.resize((50, 40), Image.Resampling.LANCZOS)
    exact = (np.asarray(soft) == (255, 0, 0)).all(-1)
    hole = hole_of(saved(photo, soft, "soft.png"), None, colour=(255, 0, 0))
    np.testing.assert_array_equal(hole.pixels, exact)
    assert len(hole.notes) == 1 and "have nearly the colour #ff0000 and are no hole" in hole.notes[0]
    assert "`dilate=2`" in hole.notes[0]
    assert not hole_of(photo.with_name("soft.png"), None, colour=(255, 0, 0), dilate=2).notes
    none = hole_of(photo.with_name("soft.png"), None, colour=(245, 10, 10))
    assert not none.pixels.any() and "nearly the colour #f50a0a" in none.notes[0] and "dilate" not in none.notes[0]
    hard = smooth_picture(40, 50)
    hard[HOLE] = (255, 0, 0)
    for samples in (hard, hard.astype(np.uint16) * 257):
        name = "hard.png" if samples.dtype == np.uint8 else "hard.tif"
        if samples.dtype == np.uint16:
            pytest.importorskip("tifffile").imwrite(photo.with_name(name), samples, photometric="rgb")
        else:
            saved(photo, samples, name)
        found = hole_of(photo.with_name(name), None, colour=(255, 0, 0))
        assert not found.notes and (found.pixels == HOLE).all()


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"colour": (255, 0, 0)}, "no pixel is exactly #ff0000"),
        ({"colour": (255, 0, 0), "invert": True}, "every pixel is #ff0000"),
        ({"alpha": True}, "no pixel is transparent, threshold 128"),
        ({"threshold": 9}, "threshold 9"),
    ],
)
def test_why_a_mask_has_no_hole(rule: dict, why: str) -> None:
    assert MaskRule(**rule).why_empty() == why


def test_an_erased_photo_as_mask_offers_its_alpha(photo: Path) -> None:
    erased = np.dstack([smooth_picture(40, 50, 1), np.where(HOLE, 0, 255).astype(np.uint8)])
    mask = saved(photo, erased)
    with pytest.raises(
        PConvError, match=r"mask\.png has colours, .* give .*mask\.png as the picture, with `alpha=True`"
    ):
        hole_of(photo, mask)
    np.testing.assert_array_equal(hole_of(mask, None, alpha=True).pixels, HOLE)
    own = saved(photo, np.dstack([smooth_picture(40, 50), np.where(HOLE, 0, 255).astype(np.uint8)]), "own.png")
    with pytest.raises(PConvError, match=r"own\.png is the picture .* itself; .*`alpha=True`"):
        hole_of(photo, own)


def test_colours_offer_the_colour(photo: Path) -> None:
    red = np.zeros((40, 50, 3), np.uint8)
    red[HOLE] = (255, 0, 0)
    with pytest.raises(PConvError, match=r"has colours.*`colour='#ff0000'`"):
        hole_of(photo, saved(photo, red))
    layer = np.zeros((40, 50, 4), np.uint8)
    layer[HOLE] = (0, 0, 255, 255)
    mask = saved(photo, layer, "layer.png")
    with pytest.raises(PConvError, match=r"has colours"):
        hole_of(photo, mask)
    np.testing.assert_array_equal(hole_of(photo, mask, colour=(0, 0, 255)).pixels, HOLE)
    layer[~HOLE] = (0, 0, 255, 0)  # what is transparent has no colour, whatever is stored below it
    np.testing.assert_array_equal(hole_of(photo, saved(photo, layer), colour=(0, 0, 255)).pixels, HOLE)


def test_a_grey_picture_is_refused_and_a_threshold_takes_it(photo: Path) -> None:
    grey = saved(photo, Image.fromarray(smooth_picture(40, 50, 3)).convert("L"))
    with pytest.raises(PConvError, match=r"is mostly grey, .*`threshold=T`"):
        hole_of(photo, grey)
    expected = np.asarray(Image.open(grey)) >= 90
    np.testing.assert_array_equal(hole_of(photo, grey, threshold=90, dilate=0).pixels, expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_black_and_white_masks_of_every_mode(photo: Path, mode: str) -> None:
    image = Image.fromarray(HOLE.astype(np.uint8) * 255)
    mask = Image.fromarray(HOLE.astype(np.uint16) * 65535) if mode == "I;16" else image.convert(mode)
    hole = hole_of(photo, saved(photo, mask))
    np.testing.assert_array_equal(hole.pixels, HOLE)
    assert hole.notes == [] and hole.about == "white is the hole"


def test_a_jpg_mask_is_black_and_white_with_noise(photo: Path) -> None:
    disk = Image.new("L", (50, 40))
    ImageDraw.Draw(disk).ellipse((10, 8, 30, 28), fill=255)
    mask = saved(photo, disk.convert("RGB"), "mask.jpg", quality=60)
    exact = np.asarray(disk) > 0
    assert (hole_of(photo, mask, dilate=0).pixels != exact).mean() < 0.02
    grown = hole_of(photo, mask)
    assert (grown.pixels >= exact).all() and "grown by 2 px" in grown.about


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_zero_and_one_is_read_as_black_and_white(photo: Path, dtype: type) -> None:
    hole = hole_of(photo, saved(photo, HOLE.astype(dtype)))
    np.testing.assert_array_equal(hole.pixels, HOLE)
    assert len(hole.notes) == 1 and "brightest value is 1; read as 0 and 255" in hole.notes[0]


def test_eight_bits_in_a_file_of_sixteen(photo: Path) -> None:
    hole = hole_of(photo, saved(photo, HOLE.astype(np.uint16) * 255))
    np.testing.assert_array_equal(hole.pixels, HOLE)
    assert "brightest value is 255 of 65535; read as 8-bit values" in hole.notes[0]


def test_another_size_is_an_error_that_names_the_option(photo: Path) -> None:
    half = saved(photo, HOLE[::2, ::2])
    with pytest.raises(PConvError, match=r"25 x 20 px, but .* is 50 x 40; `resize`"):
        hole_of(photo, half)
    hole = hole_of(photo, half, resize=True)
    np.testing.assert_array_equal(hole.pixels, HOLE[::2, ::2].repeat(2, 0).repeat(2, 1))


def turned(path: Path, image: Image.Image, orientation: int) -> Path:
    """Saved so that the orientation tag turns it into ``image``."""
    back = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image.transpose(back) if back is not None else image).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_and_orientation(tmp_path: Path, orientation: int) -> None:
    square = Image.fromarray(smooth_picture(40, 40))
    photo = turned(tmp_path / "photo.png", square, orientation)
    hole = square_hole(40, 40, 3, 20, 9)
    own = hole_of(photo, turned(tmp_path / "own.png", Image.fromarray(hole), orientation))
    np.testing.assert_array_equal(own.pixels, hole)  # a mask with a tag of its own is turned by it
    assert own.notes == []
    plain = hole_of(photo, saved(photo, hole, "plain.png"))
    np.testing.assert_array_equal(plain.pixels, hole)
    assert len(plain.notes) == 1 and "is turned by its orientation tag" in plain.notes[0]


def test_a_mask_as_the_file_is_stored_is_an_error_that_says_so(tmp_path: Path) -> None:
    photo = turned(tmp_path / "photo.png", Image.fromarray(smooth_picture(40, 50)), 6)
    with pytest.raises(PConvError, match="after its orientation tag is applied; turn the mask"):
        hole_of(photo, saved(photo, HOLE.T))


def test_soft_edges_leave_nothing_of_an_antialiased_object(photo: Path) -> None:
    """Every pixel that the object covers in part lies in the hole by default, and half of the rim without growth."""
    large = Image.new("L", (400, 320))
    ImageDraw.Draw(large).ellipse((83, 67, 251, 235), fill=255)
    coverage = np.asarray(large.resize((50, 40), Image.Resampling.BOX))
    mask = saved(photo, coverage)
    default, as_it_is = hole_of(photo, mask), hole_of(photo, mask, dilate=0)
    touched = coverage > 0
    assert (default.pixels >= touched).all()
    assert (touched & ~as_it_is.pixels).sum() > 10  # what would shine through as a rim
    np.testing.assert_array_equal(as_it_is.pixels, coverage >= 128)
    assert "grown by 2 px for its soft edges" in default.about and "grown" not in as_it_is.about
    np.testing.assert_array_equal(hole_of(photo, saved(photo, HOLE)).pixels, HOLE)  # a hard mask does not grow
    soft_alpha = saved(photo, np.dstack([smooth_picture(40, 50), 255 - coverage]), "cut.png")
    assert (hole_of(soft_alpha, None, alpha=True).pixels >= touched).all()


VALUES = np.array([[0, 1], [1, 0]])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.uint16, np.float16, np.float64, ">f4", ">u2"])
def test_one_rule_for_values(dtype) -> None:
    np.testing.assert_array_equal(is_set(VALUES.astype(dtype)), VALUES > 0)
    if dtype is not bool:
        np.testing.assert_array_equal(is_set((VALUES * 250 + 3).astype(dtype)), VALUES > 0)
    if np.dtype(dtype).itemsize > 1 and dtype is not np.float16:
        np.testing.assert_array_equal(is_set((VALUES * 33000 + 900).astype(dtype)), VALUES > 0)


def test_values_at_the_thresholds() -> None:
    np.testing.assert_array_equal(is_set(np.array([0, 0.49, 0.5, 1, np.nan])), [False, False, True, True, False])
    np.testing.assert_array_equal(is_set(np.array([0, 127, 128, 255])), [False, False, True, True])
    np.testing.assert_array_equal(is_set(np.array([0, 32767, 32768])), [False, False, True])
    for wrong in (np.array([-1, 1]), np.array([0, 70000]), np.array([0.0, np.inf])):
        with pytest.raises(PConvError, match="mask: expected values in"):
            is_set(wrong)
    with pytest.raises(PConvError, match="complex"):
        is_set(np.array([1j]))


@pytest.fixture(scope="module")
def model() -> PConvUNet:
    return small_network(3)


def test_arrays_pictures_and_tensors_follow_the_same_rule(model: PConvUNet) -> None:
    """A jpg's noise around black and white changes nothing, however the mask is passed."""
    picture = smooth_picture(40, 50)
    noisy = np.where(HOLE, 255 - np.arange(50, dtype=np.uint8) % 9, np.arange(50, dtype=np.uint8) % 9).astype(np.uint8)
    expected = inpaint(model, picture, HOLE)
    np.testing.assert_array_equal(inpaint(model, picture, noisy), expected)
    image = Image.fromarray(picture)
    for mask in (noisy, Image.fromarray(noisy), Image.fromarray(HOLE.astype(np.uint8)), noisy / 255.0):
        np.testing.assert_array_equal(np.asarray(inpaint(model, image, mask)), expected)
    planes = torch.from_numpy(picture).permute(2, 0, 1)
    for valid in (
        torch.from_numpy(~HOLE),
        torch.from_numpy(255 - noisy),
        torch.from_numpy(1 - noisy / 255.0).bfloat16(),
    ):
        np.testing.assert_array_equal(inpaint(model, planes, valid).permute(1, 2, 0).numpy(), expected)
    unknown = np.where(HOLE, np.nan, 0.0)
    np.testing.assert_array_equal(inpaint(model, picture, unknown), expected)
    undefined = torch.where(torch.from_numpy(HOLE), torch.nan, 1.0)
    np.testing.assert_array_equal(inpaint(model, planes, undefined).permute(1, 2, 0).numpy(), expected)
