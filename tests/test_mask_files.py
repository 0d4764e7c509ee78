"""Mask files: the test set that is made, resumed and refused, and the statistics of any folder."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import pytest
from files_support import leave_temporary_file
from PIL import Image

from pconv_cuda.cli import main
from pconv_cuda.cli import masks as cli
from pconv_cuda.data.images import find_files
from pconv_cuda.errors import PConvError
from pconv_cuda.masks import KINDS, POLARITIES, draw_mask
from pconv_cuda.masks.files import make_masks
from pconv_cuda.masks.stats import decide_polarity, mask_stats
from pconv_cuda.masks.testset import PAPER_SHARES, paper_masks


def make(out, **more):
    return make_masks(out, **{"size": 48, "count": 2, "seed": 3, "progress": False, **more})


def test_the_choices_of_the_command_are_the_library_s():
    assert set(cli._KINDS) == set(KINDS)
    assert ("auto", *POLARITIES) == cli._POLARITIES


def test_the_files_are_the_paper_s_masks(tmp_path):
    tmp_path = tmp_path / "set"
    assert main(["masks", "make", "--out", str(tmp_path), "--size", "48", "--count", "2", "--seed", "3"]) == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    entries = {one["path"]: one for one in manifest["files"]}
    masks = list(paper_masks(2, size=48, seed=3))
    assert len(masks) == len(entries) == 24
    for one in masks:
        with Image.open(tmp_path / one.name) as picture:
            assert (picture.mode, picture.format) == ("1", "PNG")
            white = np.array(picture)
        assert np.array_equal(white, ~one.valid)
        entry = entries[one.name]
        assert entry["share"] == list(one.share) and entry["border"] is one.border
        bits = "".join("1" if pixel else "0" for pixel in white.reshape(-1))  # 48 * 48 is a multiple of 8
        packed = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
        assert entry["sha256"] == hashlib.sha256(packed).hexdigest()
    assert {name: manifest[name] for name in ("seed", "kind", "size", "count", "polarity")} == {
        "seed": 3, "kind": "mixed", "size": 48, "count": 2, "polarity": "white-hole",
    }  # fmt: skip
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 88 and sheet.height > 6 * 88
    # the sheet is a picture of masks, and no mask: training and evaluation must not take it for one
    assert len(find_files(tmp_path, "x")) == len(find_files(tmp_path.parent, "x")) == 24
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    whole = make(tmp_path / "whole")
    calls = []
    from pconv_cuda.masks import files

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return mask(*args, **kwargs)

    mask = files.paper_mask
    monkeypatch.setattr(files, "paper_mask", failing)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut")
    assert not (tmp_path / "cut/manifest.json").exists()
    foreign = tmp_path / "cut/0.01-0.1/border/.00003.png.4711.tmp"
    foreign.write_text("another program's file")
    leave_temporary_file(tmp_path / "cut/0.01-0.1/border")
    assert make(tmp_path / "cut") == {**whole, "kept": 7}
    assert len(calls) == 8 + 17
    # nothing is left to do
    assert make(tmp_path / "cut") == {**whole, "kept": 24}
    assert len(calls) == 8 + 17
    # damaged files are drawn again: cut short, and with other pixels under the same text
    first, second = (tmp_path / "cut" / one["path"] for one in whole["files"][:2])
    good = first.read_bytes()
    first.write_bytes(good[: len(good) // 2])
    with Image.open(second) as picture:
        pixels, text = np.array(picture), dict(picture.text)
    pixels[0, 0] = ~pixels[0, 0]
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, value in text.items():
        info.add_text(name, value)
    Image.fromarray(pixels).save(second, pnginfo=info)
    assert make(tmp_path / "cut") == {**whole, "kept": 22}
    assert first.read_bytes() == good
    assert list(tmp_path.rglob("*.tmp")) == [foreign]


@pytest.mark.parametrize("finished", [True, False])
def test_another_set_is_refused_and_kept(tmp_path, finished):
    made = make(tmp_path, count=1)
    if not finished:
        (tmp_path / "manifest.json").unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(PConvError, match=r"other settings \(seed 3 there, 4 asked for\)"):
        make(tmp_path, count=1, seed=4)
    with pytest.raises(PConvError, match=r"kind 'mixed' there, 'strokes' asked for; size 48 there, 56 asked for"):
        make(tmp_path, count=1, kind="strokes", size=56)
    if finished:
        with pytest.raises(PConvError, match="count 1 there, 2 asked for"):
            make(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(made["files"]) == 12


def test_bad_input_of_make(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for more, message in (
        ({"out": tmp_path / "file"}, "out: expected a folder"),
        ({"size": 3}, "size: no test set of 3 x 3 px"),
        ({"count": 0}, "count, seed"),
        ({"seed": -1}, "count, seed"),
        ({"kind": "holes"}, "kind: expected one of"),
    ):
        with pytest.raises(PConvError, match=message):
            make(**{"out": tmp_path / "new", **more})
    assert not (tmp_path / "new").exists()
    foreign = tmp_path / "foreign/0.01-0.1/border/00000.png"
    foreign.parent.mkdir(parents=True)
    for kind in ("PNG", "JPEG"):
        Image.new("L", (48, 48)).save(foreign, format=kind)
        before = foreign.read_bytes()
        with pytest.raises(PConvError, match="not written by"):
            make(tmp_path / "foreign")
        assert foreign.read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text("[]")
    assert main(["masks", "make", "--out", str(other), "--count", "1", "--size", "48"]) == 1
    assert "no manifest of `pconv masks make`" in capsys.readouterr().err
    # a manifest that does not tell the truth
    manifest = make(tmp_path / "set", count=1)
    path = tmp_path / "set/manifest.json"
    path.write_text(path.read_text().replace(manifest["files"][0]["sha256"], "0" * 64))
    with pytest.raises(PConvError, match="the manifest was changed"):
        make(tmp_path / "set", count=1)


def save(folder, masks, white_hole):
    folder.mkdir()
    for number, mask in enumerate(masks):
        white = ~mask if white_hole else mask
        Image.fromarray(white.astype(np.uint8) * 255).save(folder / f"{number}.png")


@pytest.mark.parametrize("white_hole", [True, False])
def test_both_polarities_are_told_apart_and_counted(tmp_path, white_hole):
    masks = [one.valid for one in paper_masks(2, size=48, seed=1)]
    # at the edges of the ranges: 0.01 is below, 0.1 and 0.6 are within, above comes after
    for holes, height in ((1, 10), (10, 10), (60, 10), (61, 10)):
        flat = np.ones(height * 10, dtype=bool)
        flat[:holes] = False
        masks.append(flat.reshape(height, 10))
    save(tmp_path / "m", masks, white_hole)
    stats = mask_stats(tmp_path / "m")
    assert stats.polarity == ("white-hole" if white_hole else "black-hole") and not stats.unsure
    expected = {"below": [1, 0], **{f"{low}-{high}": [2, 2] for low, high in PAPER_SHARES}, "above": [1, 0]}
    expected["0.01-0.1"][0] += 1
    expected["0.5-0.6"][0] += 1
    assert stats.cells == expected
    assert stats.sizes == {"48 x 48": 24, "10 x 10": 4}
    assert stats.mean_hole_share == pytest.approx(np.mean([1 - mask.mean() for mask in masks]))
    assert stats.grey_files == 0
    # asked for the wrong way round, it counts so
    wrong = mask_stats(tmp_path / "m", POLARITIES[int(white_hole)])
    assert wrong.cells["above"] != [1, 0] and wrong.decided == "asked for"


def test_a_set_of_this_package_says_its_polarity(tmp_path, capsys):
    make(tmp_path)
    assert main(["masks", "stats", str(tmp_path), "--json"]) == 0
    capsys.readouterr()
    (tmp_path / "0.1-0.2/inside/00001.png").unlink()
    assert main(["masks", "stats", str(tmp_path), "--json"]) == 1  # something is missing
    out = json.loads(capsys.readouterr().out)
    assert out["masks"] == 23 and out["decided"] == "manifest.json says so" and out["polarity"] == "white-hole"
    assert out["missing"] == ["0.1-0.2/inside/00001.png"]
    assert out["cells"]["0.1-0.2"] == [2, 1] and out["cells"]["0.4-0.5"] == [2, 2]


def test_a_doubtful_polarity_is_reported(tmp_path):
    half = np.zeros((16, 16), dtype=bool)
    half[:8] = True
    save(tmp_path / "m", [half], True)
    with pytest.warns(UserWarning, match="is a guess"):
        assert main(["masks", "stats", str(tmp_path / "m")]) == 0
    assert not decide_polarity([0.2, 0.3], [0.1, 0.0])[1]
    assert decide_polarity([0.8, 0.7], [0.9, 1.0])[:2] == ("black-hole", False)
    assert decide_polarity([0.3, 0.4], [0.9, 0.8])[1]  # little white, but along the frame


def test_grey_and_broken_files_are_named(tmp_path, capsys):
    masks = [draw_mask(32, seed, hole_share=(0.1, 0.2)) for seed in range(3)]
    save(tmp_path / "m", masks, True)
    grey = (~masks[0]).astype(np.uint8) * 255
    grey[4, 5], grey[6, 7] = 120, 130
    Image.fromarray(grey).convert("RGB").save(tmp_path / "m/0.png")
    assert main(["masks", "stats", str(tmp_path / "m")]) == 0
    capsys.readouterr()
    (tmp_path / "m/broken.png").write_bytes(b"no picture")
    assert main(["masks", "stats", str(tmp_path / "m")]) == 1
    out = capsys.readouterr().out
    assert "grey (neither black nor white): 2 pixels in 1 files" in out
    assert "unreadable: broken.png" in out and "3 masks in" in out


def test_no_mask_is_an_error(tmp_path, capsys):
    assert main(["masks", "stats", str(tmp_path)]) == 1
    assert "no picture in" in capsys.readouterr().err
    assert main(["masks", "stats", str(tmp_path / "gone")]) == 1
    assert "is no folder" in capsys.readouterr().err
    (tmp_path / "a.png").write_bytes(b"")
    assert main(["masks", "stats", str(tmp_path)]) == 1
    assert "not one of 1 pictures can be read" in capsys.readouterr().err
    with pytest.raises(PConvError, match="polarity: expected auto"):
        mask_stats(tmp_path, "grey-hole")


def test_progress_is_shown_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    make(tmp_path, count=1, progress=True)
    assert "masks [########################] 12/12" in capsys.readouterr().err


def test_a_sheet_of_another_program_is_not_replaced(tmp_path):
    """Neither a picture of that name nor any other file; our own is, finished set or not."""
    sheet = tmp_path / "sheet.png"
    Image.new("L", (48, 48)).save(sheet)
    for content in (sheet.read_bytes(), b"no picture"):
        sheet.write_bytes(content)
        with pytest.raises(PConvError, match=r"out: .*sheet.png was not written by `pconv masks make`"):
            make(tmp_path, count=1)
        assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"] and sheet.read_bytes() == content
    sheet.unlink()
    make(tmp_path, count=1)
    (tmp_path / "manifest.json").unlink()
    assert make(tmp_path, count=1)["kept"] == 12


@pytest.mark.parametrize("name", ["photo.jpg", "holiday/photo.png", "model.safetensors"])
def test_a_folder_of_other_files_is_refused(tmp_path, capsys, name):
    """Photographs, or a training; unless masks of an earlier call lie there too."""
    there = tmp_path / "there"
    (there / name).parent.mkdir(parents=True)
    (there / name).write_bytes(b"mine")
    words = ["masks", "make", "--out", str(there), "--size", "48", "--count", "1"]
    assert main(words) == 1
    expected = "--out: expected a new or empty folder, or one with masks of `pconv masks make`"
    assert f"{expected}, got {str(there)!r} with {name.split('/')[0]!r}; use" in capsys.readouterr().err
    assert [str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()] == [name]
    (there / name.split("/")[0]).rename(tmp_path / "aside")
    make(there, count=1)
    (there / "notes.txt").write_text("of this set")
    assert make(there, count=1)["kept"] == 12
    (there / "manifest.json").unlink()  # cut off before its end
    assert make(there, count=1)["kept"] == 12


@pytest.mark.parametrize("name", [None, ".DS_Store"])
def test_a_folder_that_is_empty_but_for_hidden_files_is_taken(tmp_path, name):
    if name:
        (tmp_path / name).write_bytes(b"")
    assert make(tmp_path, count=1)["kept"] == 0
