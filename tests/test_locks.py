"""Two processes in one output folder: the second is refused, a killed first one leaves nothing that blocks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from files_support import AS_COMMAND, leave_temporary_file, locked_by_another_process
from inpaint_support import small_network, smooth_picture
from PIL import Image

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.locks import LOCK, folder_lock


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    for name, seed in (("images", 0), ("other", 1)):
        (folder / name).mkdir()
        Image.fromarray(smooth_picture(40, 36, seed)).save(folder / f"{name}/0.png")
    hole = np.zeros((40, 36), np.uint8)
    hole[8:20, 8:20] = 255
    Image.fromarray(hole).save(folder / "mask.png")
    small_network(2).save_pretrained(folder / "net")
    return folder


def words(command, material, out):
    """The command with ``out``, and one of its tiny settings."""
    images = str(material / "images")
    keys = ["model.levels=2", "model.width=2", "loss.vgg=none", "data.size=16", "data.workers=0"]
    keys += ["log.tensorboard=false", "train.batch_size=1"]
    tiny = [word for key in keys for word in ("--set", key)]
    small = ["--size", "64", "--count", "1", "--shares", "0.1-0.2"]
    return {
        "train": ["train", "--data", images, "--steps", "1", *tiny],
        "eval": ["eval", "--images", images, *small],
        "compare": ["compare", "--test", str(material / "other"), "--data", images, "--steps", "1", *tiny, *small],
        "make": ["masks", "make", "--size", "48", "--count", "1"],
        "inpaint": ["inpaint", images, "--mask", str(material / "mask.png"), "--weights", str(material / "net")],
    }[command] + ["--out", str(out)]


@pytest.mark.parametrize("command", ["train", "eval", "compare", "make", "inpaint"])
def test_the_second_process_is_refused(material, tmp_path, capsys, command):
    with locked_by_another_process(tmp_path / "out") as first:
        assert main(words(command, material, tmp_path / "out")) == 1
        error = capsys.readouterr().err
        assert f"{str(tmp_path / 'out')!r} is in use by process {first.pid}; wait until it ends" in error
        assert os.listdir(tmp_path / "out") == [LOCK]


@pytest.mark.parametrize("command", ["train", "make", "inpaint"])
def test_a_killed_process_blocks_nothing_and_its_leftovers_go(material, tmp_path, command):
    with locked_by_another_process(tmp_path / "out") as first:
        first.kill()
        first.wait()
    leave_temporary_file(tmp_path / "out")
    assert len(os.listdir(tmp_path / "out")) == 2  # the lock's file and the temporary one
    assert main(words(command, material, tmp_path / "out")) == 0
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".pconv-")]


def test_one_picture_into_a_folder_needs_no_lock_and_removes_leftovers(material, tmp_path):
    with locked_by_another_process(tmp_path / "out"):
        leave_temporary_file(tmp_path / "out")
        command = words("inpaint", material, tmp_path / "out/0.png")
        command[1] = str(material / "images/0.png")
        assert main(command) == 0
        assert sorted(os.listdir(tmp_path / "out")) == [LOCK, "0.png"]


def test_two_calls_in_one_process(tmp_path):
    with folder_lock(tmp_path / "a"), folder_lock(tmp_path / "b"):
        with pytest.raises(PConvError, match=f"is in use by process {os.getpid()};"), folder_lock(tmp_path / "a"):
            pass
        assert os.listdir(tmp_path / "a") == [LOCK]
    for name in "ab":
        with folder_lock(tmp_path / name):
            pass
        assert os.listdir(tmp_path / name) == []


def test_a_loader_process_that_outlives_its_killed_parent_does_not_hold_the_lock(tmp_path):
    script = f"""
{AS_COMMAND}
import os, time
from pathlib import Path
from pconv_cuda.locks import folder_lock
with folder_lock(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        loader = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        try:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                try:
                    with folder_lock(tmp_path):
                        break
                except PConvError:  # the child may not have run yet
                    time.sleep(0.05)
            else:
                pytest.fail("the folder is still locked")
            os.kill(loader, 0)  # it was alive all the time
        finally:
            os.kill(loader, signal.SIGKILL)


@pytest.mark.parametrize("refused", ["files", "everything"])
def test_file_systems_without_flock(tmp_path, monkeypatch, refused):
    """Where files cannot be locked the folder is; where nothing can be locked the work is done without."""
    import fcntl

    flock = fcntl.flock

    def selective(descriptor, operation):
        if refused == "everything" or not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", selective)

    def second():
        with folder_lock(tmp_path):
            pass

    with folder_lock(tmp_path):
        if refused == "files":
            with pytest.raises(PConvError, match=f"in use by process {os.getpid()};"):
                second()
        else:
            second()
    assert os.listdir(tmp_path) == []


def test_a_platform_without_flock(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with folder_lock(tmp_path), folder_lock(tmp_path):
        assert os.listdir(tmp_path) == []


def test_folders_that_were_made_for_nothing_are_removed(tmp_path):
    with pytest.raises(ValueError), folder_lock(tmp_path / "a/b"):
        raise ValueError
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError), folder_lock(tmp_path / "a/b"):
        (tmp_path / "a/file").write_text("x")
        raise ValueError
    assert os.listdir(tmp_path / "a") == ["file"]


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_text("victim")
    (tmp_path / "out").mkdir()
    os.symlink("../victim", tmp_path / "out" / LOCK)
    with (
        pytest.raises(PConvError, match="out: cannot make the folder .*symbolic link"),
        folder_lock(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "victim").read_text() == "victim"


def test_a_folder_that_was_made_anew_meanwhile_keeps_its_lock(tmp_path):
    with folder_lock(tmp_path / "out"):
        (tmp_path / "out").rename(tmp_path / "moved")
        with folder_lock(tmp_path / "out"):
            pass
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / LOCK).write_text("another's")
    assert (tmp_path / "out" / LOCK).read_text() == "another's"
