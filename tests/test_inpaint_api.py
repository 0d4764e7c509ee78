"""``pconv_cuda.inpaint`` for PIL, numpy and tensors: same in, same out, and only the hole changes."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from inpaint_support import small_network, smooth_picture, square_hole
from PIL import Image

import pconv_cuda
from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting import inpaint
from pconv_cuda.models import PConvUNet

HEIGHT, WIDTH = 37, 45
HOLE = square_hole(HEIGHT, WIDTH, 9, 12, 11) | square_hole(HEIGHT, WIDTH, 30, 40, 5)


@pytest.fixture(scope="module")
def model() -> PConvUNet:
    return small_network(3)


@pytest.fixture(scope="module")
def truth(model: PConvUNet) -> np.ndarray:
    """The picture as floats, its hole filled by one run of the network on the whole of it."""
    colours = torch.from_numpy(smooth_picture(HEIGHT, WIDTH)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        output, _ = model(model.normalize(colours), torch.from_numpy(~HOLE)[None, None])
    return torch.where(torch.from_numpy(HOLE), model.denormalize(output), colours)[0].permute(1, 2, 0).numpy()


def test_inpaint_is_exported_by_the_package() -> None:
    assert pconv_cuda.inpaint is inpaint


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_numpy_rgb(model: PConvUNet, truth: np.ndarray, dtype: type) -> None:
    white = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    picture = smooth_picture(HEIGHT, WIDTH)
    image = picture.astype(dtype) * dtype(white // 255) if white > 1 else (picture / 255).astype(dtype)
    before = image.copy()
    got = inpaint(model, image, HOLE.astype(np.uint8) * 255)
    np.testing.assert_array_equal(image, before)  # the caller's array is left alone
    assert got.dtype == dtype and got.shape == image.shape
    np.testing.assert_array_equal(got[~HOLE], image[~HOLE])
    np.testing.assert_allclose(got[HOLE].astype(float) / white, truth[HOLE], atol=0.003)


@pytest.mark.parametrize("mask", [HOLE, HOLE.astype(np.uint8), HOLE[..., None].astype(float), HOLE * 200 + 3])
def test_numpy_masks_are_white_in_the_hole(model: PConvUNet, truth: np.ndarray, mask: np.ndarray) -> None:
    got = inpaint(model, smooth_picture(HEIGHT, WIDTH), mask)
    np.testing.assert_allclose(got / 255, truth, atol=0.003)


@pytest.mark.parametrize("channels", [None, 1, 2, 4])
def test_numpy_grey_and_alpha(model: PConvUNet, channels: int | None) -> None:
    rng = np.random.default_rng(5)
    shape = (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    image = rng.integers(1, 256, shape, dtype=np.uint8)
    got = inpaint(model, image, HOLE)
    assert got.shape == shape and got.dtype == np.uint8
    np.testing.assert_array_equal(got[~HOLE], image[~HOLE])
    if channels in (2, 4):
        np.testing.assert_array_equal(got[..., -1], image[..., -1])
    colours = image if channels == 4 else np.repeat(image.reshape(HEIGHT, WIDTH, -1)[..., :1], 3, 2)
    as_colour = inpaint(model, np.ascontiguousarray(colours[..., :3]), HOLE)[HOLE].astype(float)
    expected = as_colour if channels == 4 else as_colour @ np.array([[0.299], [0.587], [0.114]])
    values = got[HOLE].reshape(len(expected), -1)[:, : expected.shape[1]]
    np.testing.assert_allclose(values, expected, atol=1.01)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batched", [False, True])
def test_tensors_whose_mask_is_one_where_valid(
    model: PConvUNet, truth: np.ndarray, dtype: torch.dtype, batched: bool
) -> None:
    picture = torch.from_numpy(smooth_picture(HEIGHT, WIDTH)).permute(2, 0, 1)
    image = picture if dtype == torch.uint8 else (picture / 255).to(dtype)
    valid = torch.from_numpy(~HOLE)[None]
    if batched:
        image = torch.stack([image, image.flip(2)])
        valid = torch.stack([valid, valid.flip(2)]).float()
    got = inpaint(model, image, valid)
    assert got.dtype == dtype and got.shape == image.shape and got.data_ptr() != image.data_ptr()
    first, hole = (got[0] if batched else got), torch.from_numpy(HOLE)
    assert torch.equal(first[:, ~hole], (image[0] if batched else image)[:, ~hole])
    scale = 255 if dtype == torch.uint8 else 1
    tolerance = 0.02 if dtype == torch.bfloat16 else 0.003
    np.testing.assert_allclose(first.float().permute(1, 2, 0).numpy()[HOLE] / scale, truth[HOLE], atol=tolerance)
    if batched:
        hole = hole.flip(1)
        assert torch.equal(got[1][:, ~hole], image[1][:, ~hole])
        assert not torch.equal(got[1][:, hole], image[1][:, hole])


def test_one_mask_for_a_whole_batch(model: PConvUNet) -> None:
    image = torch.rand(3, 1, HEIGHT, WIDTH)
    got = inpaint(model, image, torch.from_numpy(~HOLE))
    for sample, filled in zip(image, got, strict=True):
        assert torch.equal(filled, inpaint(model, sample, torch.from_numpy(~HOLE)[None]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pil_modes(model: PConvUNet, mode: str) -> None:
    colour = Image.fromarray(smooth_picture(HEIGHT, WIDTH))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 200)
    else:
        image = colour.convert(mode)
    before = np.array(image)
    got = inpaint(model, image, Image.fromarray(HOLE.astype(np.uint8) * 255))
    assert (got.mode, got.size) == (image.mode, image.size)
    np.testing.assert_array_equal(np.asarray(image), before)
    np.testing.assert_array_equal(np.asarray(got)[~HOLE], before[~HOLE])
    assert (np.asarray(got)[HOLE] != before[HOLE]).any()


def test_pil_masks_begin_at_half_brightness(model: PConvUNet) -> None:
    image = Image.fromarray(smooth_picture(HEIGHT, WIDTH))
    expected = np.asarray(inpaint(model, image, HOLE))
    grey = Image.fromarray(np.where(HOLE, 128, 127).astype(np.uint8))
    for mask in (
        grey,
        Image.fromarray(HOLE),
        Image.fromarray(np.where(HOLE, 32768, 32767).astype(np.uint16)),
    ):
        np.testing.assert_array_equal(np.asarray(inpaint(model, image, mask)), expected)
    strokes = Image.new("RGBA", image.size, (255, 255, 255, 0))  # a white layer, all of it transparent
    strokes.paste("white", (12, 9, 23, 20))
    strokes.paste("white", (40, 30, 45, 35))
    np.testing.assert_array_equal(np.asarray(inpaint(model, image, strokes)), expected)


def test_values_in_the_hole_have_no_influence(model: PConvUNet) -> None:
    image = smooth_picture(HEIGHT, WIDTH).astype(np.float32) / 255
    expected = inpaint(model, image, HOLE)
    image[HOLE] = np.nan
    np.testing.assert_array_equal(inpaint(model, image, HOLE), expected)
    valid = torch.from_numpy(~HOLE)
    got = inpaint(model, torch.from_numpy(image).permute(2, 0, 1), valid)
    np.testing.assert_array_equal(got.permute(1, 2, 0).numpy(), expected)


def test_colours_below_full_transparency_do_not_bleed_in(model: PConvUNet) -> None:
    image = np.dstack([smooth_picture(HEIGHT, WIDTH), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    image[:, 25:, 3] = 0
    other = image.copy()
    other[:, 25:, :3] = 255 - other[:, 25:, :3]
    hole = square_hole(HEIGHT, WIDTH, 9, 12, 11)
    np.testing.assert_array_equal(inpaint(model, image, hole)[hole], inpaint(model, other, hole)[hole])
    image[..., 3] = 0  # nothing visible at all: then there is no better choice than those colours
    assert np.isfinite(inpaint(model, image, hole)).all()


@pytest.mark.parametrize("kind", ["numpy", "pil", "tensor"])
def test_no_hole_gives_a_copy_and_a_warning(model: PConvUNet, kind: str) -> None:
    picture, nothing = smooth_picture(5, 4), np.zeros((5, 4), bool)
    arguments = {
        "numpy": (picture, nothing),
        "pil": (Image.fromarray(picture), Image.fromarray(nothing)),
        "tensor": (torch.from_numpy(picture).permute(2, 0, 1), torch.ones(5, 4)),
    }[kind]
    with pytest.warns(UserWarning, match="no hole"):
        got = inpaint(model, *arguments)
    assert got is not arguments[0]
    same = got == arguments[0] if kind == "pil" else bool((got == arguments[0]).all())
    assert same


RGB = np.zeros((6, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "mask", "words"),
    [
        ([[0]], HOLE, "image: expected a PIL"),
        (np.zeros((6, 5, 5), np.uint8), np.ones((6, 5)), "1 to 4 channels"),
        (np.zeros((6, 5, 3), np.int32), np.ones((6, 5)), "int32"),
        (RGB, np.ones((5, 6)), r"\(5, 6\)"),
        (RGB, "mask.png", "mask: expected"),
        (RGB, np.ones((6, 5)), "whole picture"),
        (RGB + 1.5, np.eye(6, 5), r"\[0, 1\]"),
        (RGB + np.nan, np.eye(6, 5), "NaN"),
        (torch.zeros(5, 6, 5), torch.ones(6, 5), "1 to 4 channels"),
        (torch.zeros(3, 6, 5), np.ones((6, 5)), "expected a tensor"),
        (torch.zeros(3, 6, 5), torch.ones(5, 6), "mask: expected"),
        (torch.zeros(3, 6, 5), torch.ones(2, 1, 6, 5), "mask: expected"),
        (torch.zeros(3, 6, 5, dtype=torch.int64), torch.ones(6, 5), "int64"),
        (Image.new("F", (5, 6)), np.eye(6, 5), "mode F"),
    ],
)
def test_what_does_not_fit_is_named(model: PConvUNet, image, mask, words: str) -> None:
    with pytest.raises(PConvError, match=words):
        inpaint(model, image, mask)


def test_a_network_for_other_channels_is_refused() -> None:
    with pytest.raises(PConvError, match="model: expected a network for RGB pictures, got in_channels=1"):
        inpaint(PConvUNet(in_channels=1, levels=1, width=2), RGB, np.eye(6, 5))


def test_threads_share_a_model_in_training_mode(truth: np.ndarray) -> None:
    """Each answer is that of the model in eval mode, and the model itself is left alone."""
    model = small_network(3).train()
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    picture = smooth_picture(HEIGHT, WIDTH)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: inpaint(model, picture, HOLE), range(40)))
    for got in answers:
        np.testing.assert_allclose(got / 255, truth, atol=0.003)
    assert all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, statistics[name]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_other_precisions(truth: np.ndarray, dtype: torch.dtype) -> None:
    model = small_network(3).to(dtype)
    got = inpaint(model, smooth_picture(HEIGHT, WIDTH), HOLE)
    np.testing.assert_allclose(got / 255, truth, atol=0.003 if dtype == torch.float64 else 0.05)


def test_an_empty_batch(model: PConvUNet) -> None:
    empty = torch.zeros(0, 3, 8, 9)
    assert inpaint(model, empty, torch.ones(1, 1, 8, 9)).shape == (0, 3, 8, 9)


@pytest.mark.parametrize("dtype", [">u2", ">f4"])
def test_big_endian_arrays(model: PConvUNet, dtype: str) -> None:
    white = 65535 if dtype == ">u2" else 1
    native = (smooth_picture(HEIGHT, WIDTH) / 255 * white).astype(dtype[1:])
    got = inpaint(model, native.astype(dtype), HOLE.astype(dtype))
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got.astype(dtype[1:]), inpaint(model, native, HOLE))


def test_output_that_is_not_finite_is_an_error() -> None:
    model = small_network(2)
    with torch.no_grad():
        model.decoder[-1].conv.bias[1] = torch.nan
    with pytest.raises(PConvError, match="model: its output is not finite"):
        inpaint(model, smooth_picture(HEIGHT, WIDTH), HOLE)


@pytest.mark.parametrize("sentence", ["could not create a primitive", "could not create a memory object"])
def test_onednns_words_for_too_little_memory_make_the_pieces_smaller(
    model: PConvUNet, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = PConvUNet.forward, []

    def tight(self: PConvUNet, image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(image.shape[2:])
        if max(image.shape[2:]) > 24:
            raise RuntimeError(sentence)
        return original(self, image, mask)

    monkeypatch.setattr(PConvUNet, "forward", tight)
    got = inpaint(model, smooth_picture(HEIGHT, WIDTH), HOLE)
    assert max(calls[0]) > 24 and max(calls[-1]) <= 24
    assert (got[HOLE] != smooth_picture(HEIGHT, WIDTH)[HOLE]).any()


@pytest.mark.parametrize("kind", [np.asarray, Image.fromarray, torch.from_numpy])
def test_a_mask_that_looks_inverted_gets_one_warning(kind) -> None:
    """More than 60% hole, where the polarity was not named."""
    picture, mask = smooth_picture(20, 20), np.full((20, 20), 255, np.uint8)
    mask[:6, :8] = 0
    image = kind(picture) if kind is not torch.from_numpy else torch.from_numpy(picture).permute(2, 0, 1)
    usual = "black-hole" if kind is torch.from_numpy else "white-hole"
    other = "white-hole" if usual == "black-hole" else "black-hole"
    given = kind(255 - mask if kind is torch.from_numpy else mask)
    with pytest.warns(UserWarning, match=f"mask: 88% .* give `polarity={other}`, else `polarity={usual}`") as caught:
        inpaint("smooth", image, given)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inpaint("smooth", image, given, polarity=usual)
        inpaint("smooth", image, given, polarity=other)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 20, 30), r"expected \(H, W\) or \(H, W, C\) .* but got \(3, 20, 30\); channels come last in an array"),
        ((2, 20, 30, 3), r"expected \(H, W\) or \(H, W, C\) .* but got \(2, 20, 30, 3\)$"),
        ((0, 5, 3), r".* and a pixel, but got \(0, 5, 3\)$"),
    ],
)
def test_an_array_of_another_shape_is_not_blamed_on_its_mask(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(PConvError, match=f"image: {message}"):
        inpaint("smooth", np.zeros(shape, np.uint8), np.zeros(shape[:2], bool))
