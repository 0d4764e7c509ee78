"""Which files of a folder are taken or reported as left out, and how contents are told apart."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from pconv_cuda.data.find import FileSet, find_files
from pconv_cuda.data.images import FolderImages
from pconv_cuda.errors import PConvError


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path)
    return path


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files(folder, "--images")]


# ---- symbolic links


def test_links_to_files_and_folders_are_followed(tmp_path):
    root = tmp_path / "root"
    picture(root / "a.png")
    picture(tmp_path / "elsewhere/deep/b.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "c.png").symlink_to(tmp_path / "elsewhere/deep/b.png")
    assert names(root) == ["a.png", "c.png", "linked/deep/b.png"]
    assert len(FolderImages(root)) == 3
    (tmp_path / "root link").symlink_to(root)
    assert len(names(tmp_path / "root link")) == 3


def test_circular_links_end_and_a_folder_counts_once(tmp_path):
    picture(tmp_path / "one/a.png")
    (tmp_path / "one/up").symlink_to(tmp_path)
    (tmp_path / "0 again").symlink_to(tmp_path / "one")  # the folder itself is taken, not a link that sorts before it
    (tmp_path / "self").symlink_to(tmp_path / "self")
    previous = tmp_path / "bomb"
    previous.mkdir()
    picture(previous / "b.png")
    for number in range(40):  # each with two links to the one before: 2^40 ways down
        folder = tmp_path / f"level {number:02d}"
        folder.mkdir()
        (folder / "x").symlink_to(previous)
        (folder / "y").symlink_to(previous)
        previous = folder
    assert names(tmp_path) == ["bomb/b.png", "one/a.png"]


def test_a_link_to_nothing_is_named(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "no such file")
    with pytest.warns(UserWarning, match=r"images: 1 files in .* are left out, .*: links to nothing \(1\)"):
        assert names(tmp_path) == ["a.png"]


# ---- other kinds of pictures


def test_pictures_that_are_left_out_are_counted_by_kind_in_one_line(tmp_path):
    picture(tmp_path / "a.png")
    for name in ("b.heic", "c.HEIC", "d.gif", "sub/e.jxl", "notes.txt", "labels.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.warns(UserWarning) as caught:
        images = FolderImages(tmp_path)
    assert len(images) == 1
    (line,) = [str(one.message) for one in caught]
    assert line.startswith("data.images: 4 files in ") and line.endswith(": .gif (1), .heic (2), .jxl (1)")


def test_a_folder_of_nothing_else_says_what_there_is(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(PConvError, match=r"images: no picture in .*; left out: \.heic \(1\)"):
        find_files(tmp_path, "--images")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path):
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "a.avif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = FolderImages(tmp_path)
        assert abs(int(images.load(0).mean()) - 200) < 5


# ---- identity


def test_the_content_decides_not_the_place_or_the_date(tmp_path):
    for folder in ("one", "other"):
        picture(tmp_path / folder / "a.png", 1)
        picture(tmp_path / folder / "b.png", 2)
    os.utime(tmp_path / "other/a.png", (1, 1))
    fingerprint = FolderImages(tmp_path / "one").fingerprint
    assert fingerprint == FolderImages(tmp_path / "other").fingerprint
    picture(tmp_path / "other/b.png", 3)
    assert FolderImages(tmp_path / "other").fingerprint != fingerprint
    picture(tmp_path / "other/b.png", 2)
    (tmp_path / "other/b.png").rename(tmp_path / "other/c.png")
    assert FolderImages(tmp_path / "other").fingerprint != fingerprint


@pytest.mark.parametrize(("place", "seen"), [(10, True), (200_000, False), (-10, True)])
def test_of_large_files_the_size_and_both_ends_are_looked_at(tmp_path, place, seen):
    path = tmp_path / "a.png"
    content = bytearray(np.random.default_rng(0).bytes(400_000))

    def contents() -> tuple[str, str]:
        path.write_bytes(content)
        return tuple(FileSet(tmp_path, [path], "x", whole=whole).fingerprint for whole in (False, True))

    before = contents()
    content[place] ^= 1
    after = contents()
    assert (before[0] != after[0]) == seen and before[1] != after[1]
    content.extend(b"x")
    assert contents()[0] != after[0]


def test_a_file_that_vanishes_or_changes_is_an_error_and_a_new_date_is_none(tmp_path):
    paths = [picture(tmp_path / f"{number}.png", number) for number in range(3)]
    images = FolderImages(tmp_path)
    os.utime(paths[0], (1, 1))
    assert images.load(0) is not None and images.load(0) is not None
    with open(paths[1], "ab") as file:  # it grows
        file.write(b"x")
    paths[2].unlink()
    with pytest.raises(PConvError, match=r"data.images: .*1.png was changed since the start"):
        images.load(1)
    with pytest.raises(PConvError, match=r"data.images: .*2.png was there at the start and is gone"):
        images.load(2)


def test_a_limit_of_open_files_is_told_not_taken_for_the_content(tmp_path, monkeypatch):
    path = picture(tmp_path / "a.png")

    def refusing(*_, **__):
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr("builtins.open", refusing)
    with pytest.raises(OSError, match="Too many open files"):
        FileSet(tmp_path, [path], "x")
