"""Folders of pictures and masks: names, links, what is left out, and files that are in the way."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from inpaint_support import smooth_picture, square_hole
from PIL import Image

from pconv_cuda.cli import main
from pconv_cuda.inpainting.batch import plan_jobs

HOLE = square_hole(40, 50, 10, 15, 8)


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth_picture(40, 50, seed)).save(path)
    return path


def mask(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(HOLE).save(path)
    return path


def planned(folder: Path, masks: Path | None, **options) -> dict[str, str | None]:
    """picture -> its mask, or the problem in brackets."""
    jobs = plan_jobs(folder, masks, folder.parent / "out", **options).jobs
    return {
        job.image.relative_to(folder).as_posix(): f"[{job.problem}]" if job.problem else job.mask and job.mask.name
        for job in jobs
    }


@pytest.mark.parametrize("ending", ["_mask", "-mask", ".mask", "_MASK"])
@pytest.mark.parametrize("beside", [True, False])
def test_masks_named_after_their_pictures(tmp_path: Path, ending: str, beside: bool) -> None:
    folder = tmp_path / "d"
    picture(folder / "a.png"), picture(folder / "b.jpg")
    masks = folder if beside else tmp_path / "m"
    mask(masks / f"a{ending}.png"), mask(masks / f"b{ending}.bmp")
    assert planned(folder, masks) == {"a.png": f"a{ending}.png", "b.jpg": f"b{ending}.bmp"}


def test_in_one_folder_a_picture_is_never_a_mask(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "d"
    picture(folder / "a.png"), picture(folder / "a.jpg", 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["inpaint", str(folder), "--mask", str(folder), "-o", str(tmp_path / "o"), "--weights", str(weights)])
    err = capsys.readouterr().err
    assert err.count("a picture cannot be its own mask") == 2 and "named a_mask.*" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list((tmp_path / "o").iterdir()) == []


def test_several_candidates_are_an_error(tmp_path: Path) -> None:
    folder, masks = tmp_path / "d", tmp_path / "m"
    picture(folder / "a.png"), picture(folder / "b.png")
    mask(masks / "a.png"), mask(masks / "a_mask.png"), mask(masks / "b-mask.png"), mask(masks / "b.mask.png")
    found = planned(folder, masks)
    assert "expected one mask for a, found 2: " in str(found["a.png"]) and "a_mask.png" in str(found["a.png"])
    assert "expected one mask for b, found 2: " in str(found["b.png"])


def test_masks_beside_their_pictures_are_no_pictures(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "d"
    picture(folder / "a.png"), mask(folder / "a_mask.png"), picture(folder / "only_mask.png")
    assert set(planned(folder, None)) == {"a.png", "only_mask.png"}  # no picture "only": then it is one itself
    one = mask(tmp_path / "m.png")
    assert main(["inpaint", str(folder), "--mask", str(one), "-o", str(tmp_path / "o"), "--weights", str(weights)]) == 0
    assert "left out, since they are named as masks of other pictures: 1 (" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["a.png", "only_mask.png"]


def test_names_are_compared_without_composition_and_case(tmp_path: Path) -> None:
    folder, masks = tmp_path / "d", tmp_path / "m"
    composed, apart = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    picture(folder / f"{composed}.png"), mask(masks / f"{apart}.png")
    picture(folder / "Photo.JPG"), mask(masks / "photo.PNG")
    picture(folder / "X.png"), mask(masks / "x.png"), mask(masks / "X.png")  # the very letters win
    picture(folder / "Y.png"), mask(masks / "y.png"), mask(masks / "y.bmp")
    found = planned(folder, masks)
    assert found[f"{composed}.png"] == f"{apart}.png" and found["Photo.JPG"] == "photo.PNG"
    assert found["X.png"] == "X.png" and "found 2" in str(found["Y.png"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "d"
    names = [b"caf\xe9.png", b"\xc7\xd1.png", b"n" * 246 + b".png", b"=1+1.png", b"a\x1b[31m.png", b"new\nline.png"]
    data = picture(folder / "plain.png").read_bytes()
    for name in names:
        Path(folder, name.decode("utf-8", "surrogateescape")).write_bytes(data)
    one, out = mask(tmp_path / "m.png"), tmp_path / "o"
    assert main(["inpaint", str(folder), "--mask", str(one), "-o", str(out), "--weights", str(weights)]) == 0
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "d", tmp_path / "elsewhere"
    picture(elsewhere / "c.png"), picture(tmp_path / "far.png"), picture(folder / "a.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "b.png").symlink_to(tmp_path / "far.png")
    (folder / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (elsewhere / "back").symlink_to(folder)
    (folder / "self").symlink_to(folder)
    assert sorted(planned(folder, None, recursive=True)) == ["a.png", "b.png", "linked/c.png"]
    assert sorted(planned(folder, None)) == ["a.png", "b.png"]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "d"
    picture(folder / "a.png"), picture(folder / "d.gif"), (folder / "raw.NEF").write_bytes(b"x")
    (folder / "notes.txt").write_text("no picture")
    one = mask(tmp_path / "m.png")
    assert main(["inpaint", str(folder), "--mask", str(one), "-o", str(tmp_path / "o"), "--weights", str(weights)]) == 0
    err = capsys.readouterr().err
    assert "left out, since they are not read here: 2 (" in err and "d.gif" in err and "raw.NEF" in err
    assert "notes.txt" not in err
    (folder / "a.png").unlink()
    assert main(["inpaint", str(folder), "--mask", str(one), "-o", str(tmp_path / "o2"), "--weights", str(weights)])
    err = capsys.readouterr().err
    assert "no picture (.jpg" in err and "d.gif" in err


def test_two_pictures_never_take_one_output(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    picture(folder / "a.png")
    Image.fromarray(smooth_picture(40, 50, 1)).save(folder / "a.avif")
    jobs = plan_jobs(folder, None, tmp_path / "out").jobs
    assert [job.output.name for job in jobs] == ["a.png", "a.png"]
    assert [bool(job.problem) for job in jobs] == [False, True] and "is written for" in jobs[1].problem


def test_a_closed_pipe_loses_no_picture(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "d"
    for name in "abc":
        picture(folder / f"{name}.png")
    arguments = ["inpaint", folder, "--mask", mask(tmp_path / "m.png"), "-o", tmp_path / "o", "--weights", weights]
    command = [sys.executable, "-m", "pconv_cuda", *map(str, arguments)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0 and err == ""
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["a.png", "b.png", "c.png"]


def test_an_output_that_is_a_link_is_replaced_and_not_followed(tmp_path: Path, weights: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "o.png").symlink_to(mine)
    source, one = picture(tmp_path / "a.png"), mask(tmp_path / "m.png")
    arguments = ["inpaint", source, "--mask", one, "-o", tmp_path / "o.png", "--weights", weights]
    assert main([str(argument) for argument in arguments]) == 0
    assert mine.read_text() == "mine" and not (tmp_path / "o.png").is_symlink()
    assert np.asarray(Image.open(tmp_path / "o.png")).shape == (40, 50, 3)
