"""Masks of ``pconv_cuda.inpaint``: what is refused, which colour is the hole, orientation tags."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from inpaint_support import small_network, smooth_picture, square_hole
from PIL import Image, ImageOps

from pconv_cuda import PConvError, PConvUNet, inpaint

HEIGHT, WIDTH = 37, 45
HOLE = square_hole(HEIGHT, WIDTH, 9, 12, 11) | square_hole(HEIGHT, WIDTH, 30, 40, 5)
PHOTO = smooth_picture(HEIGHT, WIDTH)
GREY = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
COLOURED = Image.fromarray(np.where(HOLE[..., None], (200, 255, 90), (90, 0, 60)).astype(np.uint8))
NO_MASKS = {
    "a photograph": (COLOURED, r"with colours \(mode RGB, 45 x 37 px\); mask.convert\('L'\).point"),
    "a grey photograph": (Image.fromarray(GREY), r"that is mostly grey \(mode L, 45 x 37 px\)"),
    "a 16-bit photograph": (Image.fromarray(GREY.astype(np.uint16) * 257), "that is mostly grey"),
    "grey values": (GREY, r"uint8 \(37, 45\) that is mostly grey, as a picture is; mask >= 128"),
    "16-bit grey values": (GREY.astype(np.uint16) * 257, "uint16 .*; mask >= 32768"),
}


@pytest.fixture(scope="module")
def model() -> PConvUNet:
    return small_network(3)


@pytest.mark.parametrize("what", NO_MASKS)
def test_a_photograph_as_mask_is_refused(model: PConvUNet, what: str) -> None:
    mask, words = NO_MASKS[what]
    with pytest.raises(PConvError, match=f"^mask: expected a black and white mask, got .*{words}"):
        inpaint(model, Image.fromarray(PHOTO), mask)


def test_advice_for_a_photograph_as_mask_is_correct(model: PConvUNet) -> None:
    image = Image.fromarray(PHOTO)
    with pytest.raises(PConvError) as raised:
        inpaint(model, image, COLOURED)
    advice = str(raised.value).partition("; ")[2].partition(" takes")[0]
    assert inpaint(model, image, eval(advice, {"mask": COLOURED})) == inpaint(model, image, Image.fromarray(HOLE))


@pytest.mark.parametrize(
    "image", [Image.fromarray(PHOTO), PHOTO[..., 0], torch.ones(1, 6, 5)], ids=["PIL", "numpy", "torch"]
)
def test_the_image_itself_is_refused_as_mask(model: PConvUNet, image) -> None:
    with pytest.raises(PConvError, match="mask: expected .* beside the image, got the image itself"):
        inpaint(model, image, image)


def test_masks_with_soft_edges_or_in_colour_modes_are_taken(model: PConvUNet) -> None:
    soft = np.where(HOLE, 255, 0).astype(np.uint8)
    soft[5, :20] = np.arange(20) * 6
    expected = inpaint(model, Image.fromarray(PHOTO), HOLE)
    for mask in (Image.fromarray(soft), Image.fromarray(soft).convert("RGB"), soft, soft / 255):
        assert inpaint(model, Image.fromarray(PHOTO), mask) == expected


@pytest.mark.parametrize("polarity", ["white-hole", "black-hole"])
def test_the_polarity_can_be_said(model: PConvUNet, polarity: str) -> None:
    is_set = HOLE if polarity == "white-hole" else ~HOLE
    expected = inpaint(model, PHOTO, HOLE)
    pairs = [
        (PHOTO, is_set),
        (PHOTO, np.where(HOLE, np.nan, float(polarity == "black-hole"))),
        (Image.fromarray(PHOTO), Image.fromarray(is_set)),
        (torch.from_numpy(PHOTO).permute(2, 0, 1), torch.from_numpy(is_set)),
    ]
    for image, mask in pairs:
        got = inpaint(model, image, mask, polarity=polarity)
        array = got.permute(1, 2, 0).numpy() if isinstance(got, torch.Tensor) else np.asarray(got)
        np.testing.assert_array_equal(array, expected)
    with pytest.raises(PConvError, match="polarity: expected None or white-hole or black-hole, got 'grey'"):
        inpaint(model, PHOTO, HOLE, polarity="grey")


def tagged(image: Image.Image, orientation: int) -> Image.Image:
    """As ``Image.open`` gives a file with this tag."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(file, "PNG", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_orientation_tag_is_applied(model: PConvUNet, orientation: int) -> None:
    """As in the command: the mask fits the upright picture, and has its own tag applied."""
    turned = tagged(Image.fromarray(PHOTO), orientation)
    upright = ImageOps.exif_transpose(turned)
    hole = square_hole(upright.height, upright.width, 9, 12, 11)
    expected = inpaint(model, upright, hole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if orientation < 5 else "error")
        got = inpaint(model, turned, hole)
    assert got == expected and 0x0112 not in got.getexif()
    back = {6: 8, 8: 6}.get(orientation, orientation)  # all others undo themselves
    mask = tagged(ImageOps.exif_transpose(tagged(Image.fromarray(hole), back)), orientation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inpaint(model, turned, mask) == expected
    if orientation >= 5:
        with pytest.raises(PConvError, match="mask: expected .* the image's size"):
            inpaint(model, turned, np.ones((HEIGHT, WIDTH), bool))


def test_a_half_turn_beside_a_mask_without_a_tag_is_told(model: PConvUNet) -> None:
    with pytest.warns(UserWarning, match="turned by its orientation tag; the mask, which has none"):
        inpaint(model, tagged(Image.fromarray(PHOTO), 3), HOLE)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_integers_that_are_mostly_grey_are_refused_in_every_dtype(model: PConvUNet, dtype: type) -> None:
    with pytest.raises(PConvError, match="mask: expected a black and white mask, got .* mostly grey"):
        inpaint(model, PHOTO, PHOTO[..., 0].astype(dtype))


@pytest.mark.parametrize("tag", [0, 9, 99, "up"])
def test_an_invalid_orientation_is_ignored(model: PConvUNet, tag: object) -> None:
    image = Image.fromarray(PHOTO)
    image.getexif()[0x0112] = tag
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inpaint(model, image, Image.fromarray(HOLE)).size == image.size


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (None, {}, "model: expected a network of pconv_cuda.models or a name, got NoneType"),
        (torch.nn.Conv2d(3, 3, 1), {}, "model: expected a network of pconv_cuda.models or a name, got Conv2d"),
        ("photo", {"tile": "64"}, "tile: expected a positive integer or None, got '64'"),
        ("photo", {"tile": 0}, "tile: expected a positive integer or None, got 0"),
    ],
)
def test_other_types_are_named(other: object, options: dict, message: str) -> None:
    with pytest.raises(PConvError, match=message):
        inpaint(other, PHOTO, HOLE, **options)
