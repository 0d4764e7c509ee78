"""``pconv inpaint`` on the command line: masks, folders, messages, exit codes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from inpaint_support import smooth_picture, square_hole
from PIL import Image

from pconv_cuda.cli import main
from pconv_cuda.progress import Progress

HOLE = square_hole(40, 50, 10, 15, 8)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with photo.png (the hole marked in a colour of its own) and mask.png."""
    picture = smooth_picture(40, 50)
    picture[HOLE] = (255, 0, 255)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    save_mask(tmp_path / "mask.png", HOLE)
    return tmp_path


def save_mask(path: Path, hole: np.ndarray) -> None:
    Image.fromarray(hole.astype(np.uint8) * 255).save(path)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def assert_only_hole_changed(source: Path, target: Path, hole: np.ndarray) -> None:
    before, after = read(source), read(target)
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert (after[hole] != before[hole]).any(-1).mean() > 0.9


def call(weights: Path, *arguments: object) -> int:
    return main(["inpaint", *map(str, arguments), "--weights", str(weights)])


def test_one_picture(place: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    target = place / "new" / "restored.png"
    assert call(weights, place / "photo.png", "--mask", place / "mask.png", "-o", target) == 0
    assert_only_hole_changed(place / "photo.png", target, HOLE)
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert "white is the hole" in out and "3.2 % of 50 x 40 px" in out and str(target) in out
    assert err == ""
    assert [path.name for path in target.parent.iterdir()] == ["restored.png"]


def test_a_name_that_ends_in_a_slash_is_a_folder(place: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    words = [place / "photo.png", "--mask", place / "mask.png", "-o"]
    assert call(weights, *words, f"{place}/new/") == 0
    assert_only_hole_changed(place / "photo.png", place / "new/photo.png", HOLE)
    assert call(weights, *words, f"{place}/other") == 1  # without a slash it may be meant as a name
    assert "-o: expected a folder that exists or ends in a slash, or a name ending in" in capsys.readouterr().err
    assert call(weights, *words, f"{place}/mask.png/") == 1
    assert "-o: expected a folder, for its name ends in a slash, but" in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == ["mask.png", "new", "photo.png"]


def test_weights_as_one_file_and_a_folder_as_output(place: Path, weights: Path) -> None:
    (place / "out").mkdir()
    file = weights / "model.safetensors"
    assert call(file, place / "photo.png", "--mask", place / "mask.png", "-o", place / "out", "--tile", 16) == 0
    assert_only_hole_changed(place / "photo.png", place / "out" / "photo.png", HOLE)


def test_inverted_masks(place: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    save_mask(place / "black.png", ~HOLE)
    arguments = (place / "photo.png", "--mask", place / "black.png", "-o", place / "out.png")
    assert call(weights, *arguments, "--invert-mask") == 0
    assert_only_hole_changed(place / "photo.png", place / "out.png", HOLE)
    out, err = capsys.readouterr()
    assert "black is the hole" in out and "3.2 %" in out and err == ""
    assert call(weights, *arguments) == 0
    out, err = capsys.readouterr()
    assert "white is the hole" in out and "96.8 %" in out
    assert "warning" in err and "96.8 %" in err and "--invert-mask" in err


def test_threshold_and_dilation(place: Path, weights: Path) -> None:
    steps = np.zeros((40, 50), np.uint8)
    steps[10:20, 10:20], steps[25:30, 30:40] = 99, 100
    Image.fromarray(steps).save(place / "steps.png")
    arguments = (
        place / "photo.png",
        "--mask",
        place / "steps.png",
        "-o",
        place / "out.png",
        "--threshold",
        100,
    )
    assert call(weights, *arguments) == 0
    hole = np.zeros((40, 50), bool)
    hole[25:30, 30:40] = True
    assert_only_hole_changed(place / "photo.png", place / "out.png", hole)
    assert call(weights, *arguments, "--dilate", 3) == 0
    hole[22:33, 27:43] = True
    assert_only_hole_changed(place / "photo.png", place / "out.png", hole)


def test_alpha_as_mask(place: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    alpha = np.where(HOLE, 127, 128).astype(np.uint8)
    Image.fromarray(np.dstack([read(place / "photo.png"), alpha])).save(place / "cut.png")
    assert call(weights, place / "cut.png", "--mask", "alpha", "-o", place / "out.png") == 0
    after = read(place / "out.png")
    np.testing.assert_array_equal(after[~HOLE], read(place / "cut.png")[~HOLE])
    assert (after[HOLE][:, 3] == 255).all()
    assert "transparent is the hole" in capsys.readouterr().out
    assert call(weights, place / "photo.png", "--mask", "alpha", "-o", place / "no.png") == 1
    assert "no transparency" in capsys.readouterr().err


def test_a_colour_as_mask(place: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    assert call(weights, place / "photo.png", "--mask-color", "#ff00ff", "-o", place / "out.png") == 0
    assert_only_hole_changed(place / "photo.png", place / "out.png", HOLE)
    assert "#ff00ff is the hole" in capsys.readouterr().out
    marked = np.zeros((40, 50, 3), np.uint8)
    marked[HOLE], marked[0] = (1, 2, 3), (1, 2, 4)
    Image.fromarray(marked).save(place / "marked.png")
    arguments = ("--mask", place / "marked.png", "--mask-color", "#010203", "-o", place / "out2.png")
    assert call(weights, place / "photo.png", *arguments) == 0
    np.testing.assert_array_equal(read(place / "out2.png"), read(place / "out.png"))


def test_the_mask_fits_the_upright_picture(place: Path, weights: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: 40 x 50 becomes 50 x 40
    upright = Image.open(place / "photo.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(place / "turned.png", exif=exif)
    arguments = (place / "turned.png", "--mask", place / "mask.png", "-o", place / "out.png")
    assert call(weights, *arguments) == 0
    assert_only_hole_changed(place / "photo.png", place / "out.png", HOLE)


def test_a_mask_without_hole_copies(place: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    Image.fromarray(HOLE.astype(np.uint8) * 7).save(place / "faint.png")  # 0 and 7: nothing reaches 128
    assert call(weights, place / "photo.png", "--mask", place / "faint.png", "-o", place / "out.png") == 0
    np.testing.assert_array_equal(read(place / "out.png"), read(place / "photo.png"))
    out, err = capsys.readouterr()
    assert "0.0 %" in out and "no hole" in err and "brightest value is 7, below the threshold 128" in err


def test_jpg_stays_jpg(place: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    Image.fromarray(smooth_picture(40, 50)).save(place / "photo.jpg", quality=90)
    assert call(weights, place / "photo.jpg", "--mask", place / "mask.png", "-o", place / "out.jpg") == 0
    with Image.open(place / "out.jpg") as new:
        assert new.format == "JPEG"
        difference = np.abs(np.asarray(new).astype(int) - read(place / "photo.jpg")).max(-1)
    # blocks of 16 x 16 that the hole touches change, and one pixel beside them, where colours are interpolated
    assert "compressed again" not in capsys.readouterr().err
    away = ~square_hole(40, 50, 0, 0, 33)
    assert difference[away].max() == 0 and difference[HOLE].max() > 20


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpg_that_is_compressed_again_as_a_whole_is_reported(
    place: Path, weights: Path, mode: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(smooth_picture(40, 50)).convert(mode).save(place / "photo.jpg", quality=90)
    if mode == "RGB":
        monkeypatch.setitem(sys.modules, "jpeglib", None)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert call(weights, place / "photo.jpg", "--mask", place / "mask.png", "-o", place / "out.jpg") == 0
    said = capsys.readouterr().err
    assert "the whole jpg is compressed again, which changes pixels outside the hole" in said
    assert ("with the package jpeglib" in said) == (mode == "RGB")


def test_the_content_decides_the_format_where_the_ending_errs(place: Path, weights: Path) -> None:
    (place / "photo.jpg").write_bytes((place / "photo.png").read_bytes())
    assert call(weights, place / "photo.jpg", "--mask", place / "mask.png", "-o", place / "out.jpg") == 0
    assert_only_hole_changed(place / "photo.jpg", place / "out.jpg", HOLE)
    assert call(weights, place / "photo.png", "--mask", place / "mask.png", "-o", place / "out.bmp") == 0
    with Image.open(place / "out.bmp") as new:
        assert new.format == "BMP"
    assert_only_hole_changed(place / "photo.png", place / "out.bmp", HOLE)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """pictures/{a.png, b.bmp, sub/a.webp, notes.txt} and masks for all of them, of other formats."""
    for name in ("a.png", "b.bmp", "sub/a.webp"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth_picture(40, 50, len(name))).save(path, lossless=True)
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    (tmp_path / "masks" / "sub").mkdir(parents=True)
    save_mask(tmp_path / "masks" / "a.bmp", HOLE)
    save_mask(tmp_path / "masks" / "b.png", HOLE.T[:40].repeat(2, 1)[:, :50])
    save_mask(tmp_path / "masks" / "sub" / "a.png", ~HOLE & square_hole(40, 50, 0, 0, 20))
    return tmp_path


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_with_masks_by_name(folders: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    out = folders / "pictures" / "restored"  # inside the input: it must not become an input itself
    arguments = (folders / "pictures", "--mask", folders / "masks", "-o", out)
    assert call(weights, *arguments) == 0
    assert written(out) == ["a.png", "b.bmp"]
    assert call(weights, *arguments, "--recursive") == 0
    assert written(out) == ["a.png", "b.bmp", "sub/a.webp"]
    for name in written(out):
        mask = next((folders / "masks").glob(name.rsplit(".")[0] + ".*"))
        assert_only_hole_changed(folders / "pictures" / name, out / name, read(mask) > 0)
    assert "[3/3]" in capsys.readouterr().out


def test_a_mask_by_name_alone_where_that_is_clear(folders: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    """Flat masks serve pictures in subfolders, but never two pictures of one name."""
    (folders / "masks" / "sub" / "a.png").unlink()
    Image.new("RGB", (50, 40)).save(folders / "pictures" / "sub" / "c.png")
    save_mask(folders / "masks" / "c.png", HOLE)
    arguments = (folders / "pictures", "--mask", folders / "masks", "-o", folders / "out", "--recursive")
    assert call(weights, *arguments) == 1
    assert written(folders / "out") == ["a.png", "b.bmp", "sub/c.png"]
    assert "expected a mask named sub/a.*" in capsys.readouterr().err


def test_one_mask_for_all_and_skip_existing(folders: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = (folders / "pictures", "--mask", folders / "masks" / "a.bmp", "-o", folders / "out")
    assert call(weights, *arguments) == 0
    (folders / "out" / "a.png").write_bytes(b"mine")
    (folders / "out" / "b.bmp").unlink()
    capsys.readouterr()
    assert call(weights, *arguments, "--skip-existing") == 0
    assert (folders / "out" / "a.png").read_bytes() == b"mine"
    assert_only_hole_changed(folders / "pictures" / "b.bmp", folders / "out" / "b.bmp", HOLE)
    out = capsys.readouterr().out
    assert "1 of 2 skipped" in out
    assert call(weights, *arguments, "--skip-existing") == 0


def test_a_folder_goes_on_after_failures(folders: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    pictures, masks = folders / "pictures", folders / "masks"
    (pictures / "broken.png").write_bytes(b"broken")
    save_mask(masks / "broken.png", HOLE)
    Image.new("RGB", (9, 8)).save(pictures / "lonely.png")
    Image.new("RGB", (9, 8)).save(pictures / "other.png")
    save_mask(masks / "other.png", HOLE)
    save_mask(masks / "b.bmp", HOLE)
    assert call(weights, pictures, "--mask", masks, "-o", folders / "out") == 1
    assert written(folders / "out") == ["a.png"]
    err = capsys.readouterr().err
    assert "4 of 5 pictures failed" in err
    for words in (
        "broken.png cannot be read",
        "mask named lonely.*",
        "is 50 x 40 px",
        "found 2",
        "9 x 8",
    ):
        assert words in err


def test_nothing_to_do_is_an_error_that_says_what_was_looked_for(
    place: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    (place / "empty").mkdir()
    mask = ("--mask", place / "mask.png")

    def error(*arguments: object) -> str:
        assert call(weights, *arguments, "-o", place / "out") == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("pconv inpaint: error: ") and not (place / "out").exists()
        return err

    message = error(place / "empty", *mask)
    assert "no picture (.jpg" in message and str(place / "empty") in message and "--recursive" in message
    assert "no picture" in error(place / "empty", *mask, "--recursive")
    assert "does not exist" in error(place / "nowhere.png", *mask)
    assert "does not exist" in error(place / "photo.png", "--mask", place / "nowhere.png")
    assert "ending in .jpg" in error(place / "photo.png", *mask)
    assert "no picture" in error(place, "--mask", place / "empty")
    assert "--mask" in error(place / "photo.png")
    assert "--threshold: expected 1 to 255, but got 0" in error(place / "photo.png", *mask, "--threshold", 0)
    assert "--dilate" in error(place / "photo.png", *mask, "--dilate", -1)
    assert "--mask-color" in error(place / "photo.png", "--mask-color", "#ggg")


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere", "does not exist"), ("photo.png", "not a readable safetensors"), ("empty", "found none")],
)
def test_missing_or_invalid_weights(place: Path, name: str, words: str, capsys: pytest.CaptureFixture) -> None:
    (place / "empty").mkdir()
    arguments = (place / "photo.png", "--mask", place / "mask.png", "-o", place / "out.png")
    assert call(place / name, *arguments) == 1
    assert words in capsys.readouterr().err
    assert not (place / "out.png").exists()


def test_inputs_are_never_overwritten(place: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    photo, mask = place / "photo.png", place / "mask.png"
    assert call(weights, photo, "--mask", mask, "-o", photo) == 1
    assert call(weights, photo, "--mask", mask, "-o", mask) == 1
    assert call(weights, place, "--mask", mask, "-o", place) == 1
    assert capsys.readouterr().err.count("overwrite its own input") == 3
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_large_photos_print_their_peak_memory(place: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("L", (4000, 2000), 90).save(place / "large.bmp")
    hole = square_hole(2000, 4000, 700, 1500, 9)
    Image.fromarray(hole).save(place / "large_mask.png")
    assert call(weights, place / "large.bmp", "--mask", place / "large_mask.png", "-o", place / "out.bmp") == 0
    assert "peak memory" in capsys.readouterr().out
    assert (read(place / "out.bmp")[~hole] == 90).all()


def test_help_is_quick_and_says_the_polarity() -> None:
    started = time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "pconv_cuda", "inpaint", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert "White is the hole" in run.stdout
    imported = {line.rsplit("|")[-1].strip() for line in run.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"torch", "numpy", "PIL"}
    assert time.perf_counter() - started < 10  # the half second is measured where the machine is idle


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_plain_lines_elsewhere(
    terminal: bool, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Progress("photo.png", 0, every=1, seconds=10)
    for done, now[0] in ((1, 1.0), (2, 12.0), (3, 13.0), (1, 14.0)):  # the last of another picture
        display.show(done, 4)
    display.clear()
    err = capsys.readouterr().err
    if terminal:
        assert "\n" not in err and "[############............] 2/4" in err and err.endswith("\r\x1b[K")
        assert err.count("1/4  1.00 steps/s  0:00:03 left") == 2  # the second picture's speed is its own
    else:
        assert err == "photo.png 2/4  0.17 steps/s  0:00:12 left\n"
