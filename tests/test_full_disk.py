"""Errors of the system (space, size, open files, permissions): one sentence, exit code 1, no partial files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import threading

import numpy as np
import pytest
import torch
from inpaint_support import small_network
from PIL import Image
from test_locks import words

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.files import system_error_text
from pconv_cuda.training.checkpoints import _save
from pconv_cuda.training.sources import loader_errors


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A picture that does not compress below the limits, a mask, a network."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("images", "other"):
        (folder / name).mkdir()
        noise = np.random.default_rng(len(name)).integers(0, 256, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name / "0.png")
    hole = np.zeros((80, 90), np.uint8)
    hole[8:20, 8:20] = 255
    Image.fromarray(hole).save(folder / "mask.png")
    small_network(2).save_pretrained(folder / "net")
    return folder


@contextlib.contextmanager
def limited(kind, value):
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def _left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("command", "limit", "failed", "left"),
    [
        ("train", 1000, "training.yaml", []),
        ("train", 20000, "checkpoints/step-00000001.pt", ["log.jsonl", "training.yaml"]),
        ("eval", 300, "settings.json", []),
        ("eval", 2000, "results.json", ["records.jsonl", "settings.json"]),
        ("compare", 1000, "partial/training.yaml", []),
        ("make", 100, "0.01-0.1/border/00000.png", []),
        ("inpaint", 2000, "0.png", []),
    ],
)
def test_a_limit_on_file_sizes(material, tmp_path, capsys, command, limit, failed, left):
    with limited(resource.RLIMIT_FSIZE, limit):
        assert main(words(command, material, tmp_path / "out")) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"pconv {'masks' if command == 'make' else command}: error: ")
    assert str(tmp_path / "out" if failed == "settings.json" else tmp_path / "out" / failed) in line
    assert "the file is larger than the limit on file sizes allows; raise it (ulimit -f)" in line
    assert _left(tmp_path / "out") == left


def test_the_event_file_cannot_be_written(material, tmp_path, capsys, monkeypatch):
    """TensorBoard writes in a thread of its own, whose traceback is not shown."""
    raised = []
    monkeypatch.setattr(threading, "excepthook", raised.append)  # as pytest's own, which keeps the error for later
    more = ["--set", "log.tensorboard=true", "--set", "log.pictures=1", "--set", "data.size=64", "--steps", "6"]
    with limited(resource.RLIMIT_FSIZE, 8000):  # more than the configuration has, and less than the pictures
        assert main([*words("train", material, tmp_path / "out"), *more, "--set", "checkpoint.every=100"]) == 1
    error = capsys.readouterr().err
    assert not raised and "Traceback" not in error and "pconv train: error: the file is larger than the limit" in error


@pytest.mark.parametrize("command", ["train", "eval", "make", "inpaint"])
def test_too_many_open_files(material, tmp_path, capsys, command):
    descriptor = os.dup(0)
    os.close(descriptor)
    with limited(resource.RLIMIT_NOFILE, descriptor):
        code = main(words(command, material, tmp_path / "out"))
    assert code == 1 and "too many open files; raise the limit (ulimit -n)" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists() or _left(tmp_path / "out") == []


@pytest.mark.parametrize("command", ["train", "eval", "compare", "make", "inpaint", "one picture"])
@pytest.mark.parametrize(
    ("number", "text"), [(errno.EROFS, "the file system is read-only"), (errno.ENOSPC, "the disk is")]
)
def test_nothing_can_be_written(material, tmp_path, capsys, monkeypatch, command, number, text):
    there = tmp_path / "out"
    there.mkdir()
    open_file = os.open

    def refusing(path, flags, *args, **kwargs):
        if flags & os.O_CREAT and str(path).startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number), str(path))
        return open_file(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    call = words("inpaint" if command == "one picture" else command, material, there)
    if command == "one picture":
        call[1], call[-1] = str(material / "images/0.png"), str(there / "new.png")
    assert main(call) == 1
    assert text in capsys.readouterr().err.splitlines()[-1]
    assert there.is_dir() and _left(there) == []


def test_records_written_before_the_disk_was_full_are_used(material, tmp_path, capsys):
    with limited(resource.RLIMIT_FSIZE, 2500):
        assert main(words("eval", material, tmp_path / "out")) == 1
    records = (tmp_path / "out/records.jsonl").read_text()
    assert main(words("eval", material, tmp_path / "out")) == 0
    whole = records[: records.rfind("\n") + 1]  # a line that the limit cut short is done again
    assert whole and (tmp_path / "out/records.jsonl").read_text().startswith(whole)
    assert json.loads((tmp_path / "out/results.json").read_text())["complete"]


def test_errors_that_torch_has_made_of_them():
    text = "unable to write to file </torch_17_1_0>: No space left on device (28)"
    shared = system_error_text(RuntimeError(text))
    assert shared.startswith("shared memory (/dev/shm) for the loader processes: it is full; ")
    assert "data.workers=0" in shared
    assert "too many open files" in system_error_text(RuntimeError("cannot open file <x>: Too many open files (24)"))
    assert "too many open files" in system_error_text(OSError("Caught OSError ...\nOSError: [Errno 24] Too many open"))
    assert system_error_text(RuntimeError("shape (28, 27) does not fit")) is None
    assert system_error_text(OSError("cannot identify image file")) is None


def test_a_large_checkpoint_that_torch_cannot_write(tmp_path):
    with limited(resource.RLIMIT_FSIZE, 100_000), pytest.raises(OSError) as caught:
        _save({"model": torch.zeros(100_000)}, tmp_path / "large.pt")
    assert caught.value.errno == errno.EFBIG


def test_a_killed_loader_process():
    words = r"data.workers: a loader process .* data.workers=0, .*pid 4711"
    with pytest.raises(PConvError, match=words), loader_errors():
        raise RuntimeError("DataLoader worker (pid 4711) is killed by signal: Bus error.")
    with pytest.raises(RuntimeError, match="^another$"), loader_errors():
        raise RuntimeError("another")


def test_a_killed_loader_is_known_wherever_torch_reports_it():
    """Its handler of SIGCHLD raises in the main thread, in the middle of anything."""
    text = system_error_text(RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. "))
    assert text.startswith("data.workers: a loader process ended unexpectedly") and "data.workers=0" in text
    assert system_error_text(RuntimeError("The size of tensor a (3) must match")) is None
