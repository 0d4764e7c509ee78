"""The smooth fill in a network's place: box by box the whole picture's, for every kind of picture, without weights."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEVICES
from inpaint_support import small_network, smooth_picture, square_hole
from PIL import Image
from torch import Tensor

import pconv_cuda
from pconv_cuda import named
from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.functional import smooth_fill
from pconv_cuda.inpainting import inpaint, smooth_holes
from pconv_cuda.inpainting.smooth_holes import SmoothFiller

HEIGHT, WIDTH = 61, 83
LEVEL = 1 / 255
EXACT = {"tolerance": 1e-6, "max_iterations": 100}


def noise(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> np.ndarray:
    """uint8 without a smooth place: what is taken from a wrong pixel shows."""
    return np.random.default_rng(3).integers(0, 256, (height, width, channels), dtype=np.uint8)


def whole(picture: np.ndarray | Tensor, hole: np.ndarray, **options) -> np.ndarray:
    """smooth_fill of the whole picture (H, W, C) in [0, 1], cut to that."""
    colours = torch.as_tensor(picture).permute(2, 0, 1)
    filled = smooth_fill(colours.double(), torch.from_numpy(~hole)[None], **options)
    return filled.clamp(0, 1).permute(1, 2, 0).numpy()


def pairs(steps: tuple[int, ...]) -> np.ndarray:
    """Squares whose next pixels are so many pixels apart, side by side and one above the other."""
    hole = np.zeros((HEIGHT, WIDTH), bool)
    for row, step in zip(range(1, HEIGHT, 12), steps, strict=False):
        hole[row : row + 4, 4:10] = hole[row : row + 4, 9 + step : 14 + step] = True
        hole[row : row + 2, 50:60] = hole[row + 1 + step : row + 3 + step, 55:66] = True
    return hole


def scattered() -> np.ndarray:
    hole = np.random.default_rng(5).random((HEIGHT, WIDTH)) < 0.02
    hole[0, 0] = hole[-1, -1] = True
    return hole


HOLES = {
    "inside": square_hole(HEIGHT, WIDTH, 20, 30, 17),
    "at all borders": ~square_hole(HEIGHT, WIDTH, 3, 3, 50),
    "in corners": square_hole(HEIGHT, WIDTH, 0, 0, 9) | square_hole(HEIGHT, WIDTH, 50, 70, 20),
    "nearly touching": pairs((1, 2, 3, 4)),
    "farther apart": pairs((16, 17, 18, 19)),
    "scattered": scattered(),
    "all but one pixel": ~square_hole(HEIGHT, WIDTH, 40, 7, 1),
}


def patched(filler: SmoothFiller, picture: np.ndarray, hole: np.ndarray, **options) -> tuple[np.ndarray, int]:
    """The picture in [0, 1] with the patches' hole pixels in it, NaN where none gave a colour; how many there are."""
    result = picture / 255
    result[hole] = np.nan
    patches = filler.fill(torch.from_numpy(picture).permute(2, 0, 1), torch.from_numpy(hole), **options)
    for patch in patches:
        inside = hole[patch.box.slices]
        result[patch.box.slices][inside] = patch.colours.permute(1, 2, 0).numpy()[inside]
    return result, len(patches)


# Box by box --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gap", [0, None], ids=["least gap", "own gap"])
@pytest.mark.parametrize("kind", HOLES)
def test_boxes_give_what_the_whole_picture_gives(
    device: str, gap: int | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, hole = noise(), HOLES[kind]
    if gap is not None:
        monkeypatch.setitem(smooth_holes._GAP, device, gap)
    within, _ = patched(SmoothFiller(device), picture, hole)
    exact = whole(picture / 255, hole, **EXACT)
    assert np.abs(within - exact).max() < LEVEL / 2  # what functional.smooth_fill says of its tolerance
    monkeypatch.setattr(smooth_holes, "smooth_fill", functools.partial(smooth_fill, **EXACT))
    exactly, _ = patched(SmoothFiller(device), picture, hole)
    np.testing.assert_allclose(exactly, exact, atol=1e-5)


def test_pixels_that_are_not_valid_are_unknown_too() -> None:
    """Beside a hole they are solved with it; apart from it nothing is done for them."""
    picture, hole = noise(), square_hole(HEIGHT, WIDTH, 20, 30, 10)
    gone = square_hole(HEIGHT, WIDTH, 22, 41, 12) | square_hole(HEIGHT, WIDTH, 22, 40, 1)
    far = square_hole(HEIGHT, WIDTH, 50, 2, 8)
    got, boxes = patched(SmoothFiller(), picture, hole, valid=torch.from_numpy(~(gone | far)))
    assert boxes == 1
    np.testing.assert_allclose(got[hole], whole(picture / 255, hole | gone)[hole], atol=LEVEL / 2)
    assert np.abs(got[hole] - whole(picture / 255, hole)[hole]).max() > 0.1


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pixels of each call."""
    calls: list[int] = []

    def counting(colours: Tensor, known: Tensor) -> Tensor:
        calls.append(known.numel())
        return smooth_fill(colours, known)

    monkeypatch.setattr(smooth_holes, "smooth_fill", counting)
    return calls


def test_work_and_memory_are_those_of_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    hole = np.zeros((1000, 1200), bool)
    hole[10::100, 10::100] = True
    picture, told = np.full((1000, 1200, 3), 9, np.uint8), []
    _, boxes = patched(SmoothFiller(), picture, hole, progress=lambda done, total: told.append((done, total)))
    assert boxes == 120 and calls == [25] * 120
    assert told == [(done, 120) for done in range(1, 121)]


def test_a_pixel_from_a_hole_is_never_read() -> None:
    picture, hole = noise() / np.float32(255), HOLES["nearly touching"]
    expected = inpaint("smooth", picture, hole)
    picture[hole] = np.nan
    np.testing.assert_array_equal(inpaint("smooth", picture, hole), expected)


def test_devices_without_a_kernel_leave_it_to_the_cpu() -> None:
    assert SmoothFiller("mps").device == torch.device("cpu")
    assert SmoothFiller("cuda:1").device == torch.device("cuda:1")


def test_too_little_memory_on_a_device_is_said_and_the_cpu_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(colours: Tensor, known: Tensor) -> Tensor:
        if colours.is_meta:
            raise torch.OutOfMemoryError("no room")
        return smooth_fill(colours, known)

    monkeypatch.setitem(smooth_holes._GAP, "meta", 9)  # in a GPU's place
    monkeypatch.setattr(smooth_holes, "smooth_fill", scarce)
    said: list[str] = []
    got, _ = patched(SmoothFiller("meta"), noise(), HOLES["inside"], notify=said.append)
    np.testing.assert_array_equal(got, patched(SmoothFiller(), noise(), HOLES["inside"])[0])
    assert len(said) == 1 and "out of memory on meta" in said[0] and "the CPU" in said[0]

    def broken(colours: Tensor, known: Tensor) -> Tensor:
        if colours.is_meta:
            raise RuntimeError("broken")
        return smooth_fill(colours, known)

    monkeypatch.setattr(smooth_holes, "smooth_fill", broken)
    with pytest.raises(RuntimeError, match="broken"):
        patched(SmoothFiller("meta"), noise(), HOLES["inside"])


# Every kind of picture ---------------------------------------------------------------------------------------

HOLE = square_hole(37, 45, 9, 12, 11) | square_hole(37, 45, 30, 40, 5)
PICTURE = smooth_picture(37, 45)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_arrays(dtype: type, bands: int) -> None:
    white = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    unit = np.random.default_rng(1).random((37, 45, bands))
    image = np.rint(unit * white).astype(dtype) if white > 1 else unit.astype(dtype)
    before = image.copy()
    got = inpaint("smooth", image, HOLE)
    np.testing.assert_array_equal(image, before)
    assert (got.dtype, got.shape) == (image.dtype, image.shape)
    np.testing.assert_array_equal(got[~HOLE], image[~HOLE])
    colours = 1 if bands < 3 else 3
    np.testing.assert_array_equal(got[..., colours:], image[..., colours:])  # the opacity
    exact = whole(image[..., :colours] / white, HOLE, **EXACT)
    np.testing.assert_allclose(got[HOLE][:, :colours] / white, exact[HOLE], atol=LEVEL)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors(dtype: torch.dtype) -> None:
    unit = torch.from_numpy(noise(37, 45)).permute(2, 0, 1) / 255
    image = (unit * 255).round().to(dtype) if dtype == torch.uint8 else unit.to(dtype)
    batch, valid = torch.stack([image, image.flip(2)]), torch.from_numpy(~HOLE)[None]
    got = inpaint("smooth", batch, torch.stack([valid, valid.flip(2)]))
    assert got.dtype == dtype and got.shape == batch.shape
    assert torch.equal(got[0][:, valid[0]], image[:, valid[0]])
    scale = 255 if dtype == torch.uint8 else 1
    exact = whole(image.double().permute(1, 2, 0) / scale, HOLE, **EXACT)
    for one in (got[0], got[1].flip(2)):
        np.testing.assert_allclose(one.double().permute(1, 2, 0).numpy()[HOLE] / scale, exact[HOLE], atol=1.2 * LEVEL)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pil_modes(mode: str) -> None:
    colour = Image.fromarray(PICTURE)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    else:
        image = colour.convert("P").convert("PA") if mode == "PA" else colour.convert(mode)
    before = np.array(image)
    got = inpaint("smooth", image, Image.fromarray(HOLE))
    assert (got.mode, got.size) == (image.mode, image.size)
    np.testing.assert_array_equal(np.asarray(image), before)
    np.testing.assert_array_equal(np.asarray(got)[~HOLE], before[~HOLE])
    if mode in ("1", "P", "PA"):
        return  # few colours: what is nearest to the fill
    seen, source = (np.asarray(one) / 65535 if mode == "I;16" else np.asarray(one.convert("RGB")) / 255
                    for one in (got, image))  # fmt: skip
    exact = whole(source.reshape(37, 45, -1), HOLE, **EXACT).reshape(source.shape)
    # CMYK and YCbCr are rounded in their own values, and once more on the way back
    np.testing.assert_allclose(seen[HOLE], exact[HOLE], atol=(4 if mode in ("CMYK", "YCbCr") else 1.1) * LEVEL)


def test_transparent_pixels_are_holes_and_keep_their_values() -> None:
    image = np.dstack([noise(37, 45), np.full((37, 45), 255, np.uint8)])
    image[:, 21:, 3] = 0  # from within the first hole on, over the second
    got = inpaint("smooth", image, HOLE)
    unknown = HOLE | (np.arange(45) >= 21)
    np.testing.assert_array_equal(got[~HOLE], image[~HOLE])
    np.testing.assert_array_equal(got[..., 3], image[..., 3])
    np.testing.assert_allclose(got[HOLE][:, :3] / 255, whole(image[..., :3] / 255, unknown, **EXACT)[HOLE], atol=LEVEL)


def test_a_hole_over_everything_and_none() -> None:
    with pytest.raises(PConvError, match="whole picture"):
        inpaint("smooth", PICTURE, np.ones((37, 45), bool))
    with pytest.warns(UserWarning, match="no hole"):
        got = inpaint("smooth", PICTURE, np.zeros((37, 45), bool))
    assert got is not PICTURE and np.array_equal(got, PICTURE)


@pytest.mark.parametrize("word", ["Smooth", "photos", "", "model.safetensors"])
def test_other_words_are_refused_with_those_that_there_are(word: str) -> None:
    with pytest.raises(
        PConvError, match="model: expected a network or one of the words smooth, photo, document, but"
    ) as caught:
        inpaint(word, PICTURE, HOLE)
    assert repr(word) in str(caught.value)


def test_the_smooth_fill_ignores_the_tile() -> None:
    with pytest.warns(UserWarning, match="tile: the smooth fill"):
        got = inpaint("smooth", PICTURE, HOLE, tile=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(inpaint("smooth", PICTURE, HOLE), got)


# The command -------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with pictures/{a,b}.png, masks/{a,b}.png and a network in the folder smooth."""
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    for name, hole in (("a", HOLE), ("b", HOLE[::-1])):
        Image.fromarray(PICTURE).save(tmp_path / "pictures" / f"{name}.png")
        Image.fromarray(hole).save(tmp_path / "masks" / f"{name}.png")
    small_network(2).save_pretrained(tmp_path / "smooth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def restored(*options: str, out: str = "out.png") -> np.ndarray:
    assert main(["inpaint", "pictures/a.png", "--mask", "masks/a.png", "-o", out, *options]) == 0
    with Image.open(out) as image:
        return np.asarray(image)


def test_a_picture_and_a_folder_without_weights(place: Path, capsys: pytest.CaptureFixture) -> None:
    for name, hole in (("a", HOLE), ("b", HOLE[::-1])):
        expected = inpaint(named.DEFAULT, PICTURE, hole)
        assert main(["inpaint", f"pictures/{name}.png", "--mask", f"masks/{name}.png", "-o", "one.png"]) == 0
        assert main(["inpaint", "pictures", "--mask", "masks", "-o", "all"]) == 0
        for path in ("one.png", f"all/{name}.png"):
            with Image.open(path) as image:
                np.testing.assert_array_equal(np.asarray(image), expected)
    assert capsys.readouterr().err == ""


def test_a_name_comes_before_a_folder_of_that_name(place: Path) -> None:
    expected = inpaint("smooth", PICTURE, HOLE)
    np.testing.assert_array_equal(restored("--weights", "smooth"), expected)
    network = restored("--weights", "./smooth")
    assert np.abs(network.astype(int) - expected)[HOLE].max() > 20
    np.testing.assert_array_equal(network, restored("--weights", str(place / "smooth" / "model.safetensors")))


def test_unknown_names_are_refused(place: Path, capsys: pytest.CaptureFixture) -> None:
    for word in ("Smooth", "photos", "nowhere"):
        assert main(["inpaint", "pictures/a.png", "--mask", "masks/a.png", "-o", "x.png", "--weights", word]) == 1
        assert "--weights: expected one of the names smooth, photo, document, a .safetensors file or a folder" in (
            error := capsys.readouterr().err
        ) and f"{word} does not exist" in error  # fmt: skip
    assert not Path("x.png").exists()
    assert restored("--weights", "pictures/../smooth").shape == PICTURE.shape


def test_a_tile_is_said_to_be_ignored_once(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inpaint", "pictures", "--mask", "masks", "-o", "all", "--weights", "smooth", "--tile", "1"]) == 0
    assert capsys.readouterr().err.count("--tile: the smooth fill") == 1
    restored("--tile", "16", "--weights", "./smooth")
    assert capsys.readouterr().err == ""


def test_too_little_memory_names_the_tile_only_where_it_helps(
    place: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pconv_cuda.inpainting.batch, "restore", scarce)
    for weights, helps in (("smooth", False), ("./smooth", True)):
        assert main(["inpaint", "pictures/a.png", "--mask", "masks/a.png", "-o", "x.png", "--weights", weights]) == 1
        error = capsys.readouterr().err
        assert "out of memory" in error and ("--tile" in error) == helps


def test_names_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, one in named.NAMED.items():
        (line,) = [line for line in lines if line.startswith(f"--weights {name} ")]
        assert one.about in line and ("default" in line) == (name == named.DEFAULT)
    with pytest.raises(SystemExit):
        main(["inpaint", "--help"])
    assert f"(default: {named.DEFAULT})" in " ".join(capsys.readouterr().out.split())
