"""Atomic files: temporary names, leftovers of killed processes, links, limited file systems."""

from __future__ import annotations

import errno
import os
import re
import time

import pytest
from files_support import in_child, leave_temporary_file

from pconv_cuda import files
from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_link, atomic_path, open_append, remove_leftovers, temporary_folder


def test_the_file_appears_whole_with_the_mode_of_the_umask(tmp_path):
    path = tmp_path / "new" / "file"
    before = os.umask(0o027)
    try:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            assert not path.exists()
            assert re.fullmatch(rf"\.pconv-{os.getpid()}-[0-9a-f]{{8}}-[0-9a-f]{{16}}\.tmp", temporary.name)
    finally:
        os.umask(before)
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    (tmp_path / "file").write_text("old")
    with pytest.raises(error), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_names_of_250_bytes(tmp_path):
    name = "é" * 123 + ".png"
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == [name]


def test_a_prepared_link_under_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    """Even if the random part is known."""
    (tmp_path / "victim").write_text("victim")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    with atomic_path(tmp_path / "file") as temporary:
        name = temporary.name
    os.symlink(tmp_path / "victim", tmp_path / name)
    with pytest.raises(FileExistsError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "victim").read_text() == "victim"


def test_a_final_name_that_is_a_link_is_replaced_and_its_target_kept(tmp_path):
    (tmp_path / "target").write_text("target")
    os.symlink("target", tmp_path / "file")
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert not (tmp_path / "file").is_symlink() and (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "target").read_text() == "target"


@pytest.mark.parametrize("there", [True, False])
def test_appending_through_a_link_is_refused(tmp_path, there):
    if there:
        (tmp_path / "target").write_text("target")
    os.symlink("target", tmp_path / "log")
    with pytest.raises(PConvError, match="log: expected a file of its own .* got a symbolic link"):
        open_append(tmp_path / "log")
    assert (tmp_path / "target").exists() == there


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    left = leave_temporary_file(tmp_path)
    host = left.name.split("-")[2]
    own = f".pconv-{os.getpid()}-{host}-{'0' * 16}.tmp"  # of a killed process that had the id of this one
    kept = [".file.png.4711.tmp", ".pconv-x-00000000-0000000000000000.tmp", ".pconv-4711.tmp", "a.tmp"]
    kept += [f".pconv-{os.getppid()}-{host}-{'0' * 16}.tmp", f".pconv-4711-00000000-{'0' * 16}.tmp"]
    abandoned = f".pconv-4711-00000000-{'1' * 16}.tmp"
    for name in (*kept, own, abandoned):
        (tmp_path / name).write_text("x")
    os.utime(tmp_path / abandoned, (time.time() - 2 * 24 * 3600,) * 2)  # of another host, two days old
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("x")
        remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "file"])
    remove_leftovers(tmp_path / "none")


def test_a_process_that_works_keeps_its_temporary_file(tmp_path):
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("x")
        assert in_child(lambda: remove_leftovers(tmp_path)) == 0
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.ENOTSUP, errno.EBADF, errno.ENOSYS])
def test_a_refused_fsync_is_no_failure(tmp_path, monkeypatch, number):
    def refused(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == ["file"]


def test_data_that_could_not_be_stored_are_a_failure(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [None, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES])
def test_hard_links_or_copies(tmp_path, monkeypatch, number):
    (tmp_path / "source").write_text("new")
    (tmp_path / "best").write_text("old")

    def refused(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    if number is not None:
        monkeypatch.setattr(os, "link", refused)
    atomic_link(tmp_path / "source", tmp_path / "best")
    assert (tmp_path / "best").read_text() == "new"
    assert (tmp_path / "best").samefile(tmp_path / "source") == (number is None)
    assert sorted(os.listdir(tmp_path)) == ["best", "source"]
    with pytest.raises(OSError):
        atomic_link(tmp_path / "none", tmp_path / "best")
    assert sorted(os.listdir(tmp_path)) == ["best", "source"]


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_temporary_folder_is_private_and_goes_with_its_block_or_the_process(tmp_path, monkeypatch, cut_off):
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    with temporary_folder("pconv-") as folder:
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
        (folder / "below").mkdir()
        (folder / "below" / "file").write_bytes(b"picture")
        if cut_off:
            files.remove_unfinished()
            assert not folder.exists()
    assert not folder.exists() and not files._folders
