"""Trainings that end early: killed loaders, no memory, files and folders that are removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from process_support import loaders, wait_for
from training_support import TINY_RUN, start_training, write_noise

import pconv_cuda
from pconv_cuda.errors import PConvError
from pconv_cuda.files import is_out_of_memory, system_error_text
from pconv_cuda.progress import Progress
from pconv_cuda.training import load_config, train
from pconv_cuda.training.learner import Learner
from pconv_cuda.training.sources import _errors_without_traceback, loader_errors

ROOT = Path(pconv_cuda.__file__).parents[1]
TINY = {**TINY_RUN, "train.steps": 4, "checkpoint.every": 2}


@pytest.fixture
def photos(tmp_path):
    return write_noise(tmp_path / "photos", 4)


def _settings(photos, **changes):
    return [f"{key}={value}" for key, value in {**TINY, "data.images": photos, **changes}.items()]


def _config(photos, **changes):
    return load_config(settings=_settings(photos, **changes))


# ---- loader processes


def test_a_killed_loader_is_one_sentence_with_the_remedy(photos, tmp_path):
    run = tmp_path / "run"
    with start_training(_settings(photos, **{"train.steps": 10**6, "data.workers": 1}), run) as child:
        wait_for(lambda: list(run.glob("checkpoints/step-*.pt")))
        (loader,) = loaders(child.pid)
        os.kill(loader, signal.SIGKILL)
        error = child.communicate(timeout=30)[1]
    assert child.returncode == 1 and "Traceback" not in error
    last = error.splitlines()[-1]
    assert last.startswith("pconv train: error: data.workers: a loader process ended unexpectedly")
    assert "data.workers=0" in last


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()], ids=repr)
def test_a_loader_killed_while_it_hands_a_batch_over(error):
    """The training then reads from a pipe or socket that nobody holds any more."""

    def batches():
        yield "the first"
        raise error

    given = []
    with pytest.raises(PConvError, match="^data.workers: a loader process ended unexpectedly"), loader_errors():
        given.extend(_errors_without_traceback(batches()))
    assert given == ["the first"]


def test_an_interruption_prints_what_is_done(capsys):
    with pytest.raises(KeyboardInterrupt), Progress("step", 9, every=100) as progress:
        progress.advance()
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "step: 1 of 9 are done\n"


# ---- memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=["gpu", "python", "cpu", "oneDNN", "oneDNN memory", "system"],
)
def test_no_memory_is_one_sentence_with_the_remedies(photos, tmp_path, monkeypatch, error):
    assert is_out_of_memory(error) and system_error_text(error).startswith("out of memory; ")

    def failing(*_):
        raise error

    monkeypatch.setattr(Learner, "_forward", failing)
    with pytest.raises(PConvError, match=r"out of memory: fewer pictures .*accumulate .*data.size, 16\).*width, 2"):
        train(_config(photos), tmp_path / "run")


def test_other_errors_are_not_out_of_memory():
    for error in (RuntimeError("shape mismatch"), ValueError("can't allocate memory"), OSError(2, "No such file")):
        assert not is_out_of_memory(error)


_LIMITED = """
import resource, sys
import torch, accelerate, torchmetrics.functional, matplotlib.figure, PIL.Image, cv2, safetensors.torch, torch._dynamo
import pconv_cuda.evaluation, pconv_cuda.training, pconv_cuda.masks.files
from pconv_cuda.cli import main
torch.set_num_threads(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
kind, value = sys.argv[1], int(sys.argv[2])
value += used if kind == "RLIMIT_AS" else 0
resource.setrlimit(getattr(resource, kind), (value, value))
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "--set", "data.size=1024", "--set", "model.width=32"], "out of memory: fewer pictures at a time"),
        pytest.param(
            ["eval", "--size", "20000", "--baselines", "mean", "--shares", "0.1-0.2", "--count", "1"],
            "out of memory",
            marks=pytest.mark.full("limits of the system"),
        ),
        pytest.param(
            ["masks", "make", "--size", "20000", "--count", "1"],
            "out of memory",
            marks=pytest.mark.full("limits of the system"),
        ),
    ],
    ids=["train", "eval", "masks make"],
)
def test_a_limit_on_memory(photos, tmp_path, words, sentence):
    out = tmp_path / "out"
    if words[0] == "train":
        words = ["train", *(word for one in _settings(photos) for word in ("--set", str(one))), *words[1:]]
    elif words[0] == "eval":
        words = [*words, "--images", str(photos)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _LIMITED, "RLIMIT_AS", str(300 * 2**20), *words, "--out", str(out)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert sentence in done.stderr
    assert not list(out.rglob(".pconv-*.tmp"))


# ---- small file systems


@pytest.fixture
def small_disk():
    """Runs ``words`` of the command where ``folder`` is a file system of ``size`` bytes of its own."""

    def run(folder: Path, size: int, words: list[str], then: str = "true") -> subprocess.CompletedProcess[str]:
        script = f'mount -t tmpfs -o size={size} tmpfs "$0" && {{ "$@"; code=$?; {then}; exit $code; }}'
        unshare = shutil.which("unshare")
        if unshare is None or subprocess.run([unshare, "-m", "sh", "-c", script, folder, "true"]).returncode:
            pytest.skip("a file system cannot be mounted here")
        command = [unshare, "-m", "sh", "-c", script, folder, sys.executable, "-m", "pconv_cuda", *words]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.full("limits of the system")
def test_shared_memory_that_is_too_small_for_the_loaders(photos, tmp_path, small_disk):
    words = [word for one in _settings(photos, **{"data.size": 256, "data.workers": 2}) for word in ("--set", str(one))]
    done = small_disk(Path("/dev/shm"), 500_000, ["train", "--out", str(tmp_path / "run"), *words])
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("pconv train: error: shared memory (/dev/shm)") and "data.workers=0" in last


@pytest.mark.full("limits of the system")
@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["train", "--set", "train.steps=100", "--set", "model.width=16", "--set", "checkpoint.keep=50"], 500_000),
        (["eval", "--size", "200", "--baselines", "mean,telea", "--shares", "0.1-0.2", "--count", "20"], 30_000),
        (["masks", "make", "--size", "64", "--count", "5"], 50_000),
    ],
    ids=["train", "eval", "masks make"],
)
def test_a_disk_that_gets_full(photos, tmp_path, small_disk, words, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    if words[0] == "train":
        words = ["train", *(word for one in _settings(photos) for word in ("--set", str(one))), *words[1:]]
    elif words[0] == "eval":
        words = [*words, "--images", str(photos)]
    # what is left on the disk is looked at before it goes with the namespace
    done = small_disk(disk, size, [*words, "--out", str(disk / "out")], then='find "$0" -name ".pconv-*" -o -size -1')
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "the disk is full; free some space" in done.stderr.splitlines()[-1]
    assert [line for line in done.stdout.splitlines() if line.startswith(str(disk))] == []


# ---- what goes during a run


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_vanishes_is_named(photos, tmp_path, monkeypatch, workers):
    step, removed = Learner.step, []

    def removing(self, number, *args, **keywords):
        if number == 2 and not removed:
            removed.extend(path.rename(tmp_path / path.name) for path in sorted(photos.iterdir()))
        return step(self, number, *args, **keywords)

    monkeypatch.setattr(Learner, "step", removing)
    config = _config(photos, **{"train.steps": 40, "data.workers": workers})
    with pytest.raises(PConvError, match=r"^data.images: .*\.png was there at the start and is gone$"):
        train(config, tmp_path / "run")
    for path in removed:
        path.rename(photos / path.name)
    assert train(_config(photos, **{"train.steps": 40}), tmp_path / "run").first_step >= 2


def test_the_folder_of_the_run_is_removed(photos, tmp_path, monkeypatch):
    step = Learner.step

    def removing(self, number, *args, **keywords):
        if number == 2:
            shutil.rmtree(tmp_path / "run")
        return step(self, number, *args, **keywords)

    monkeypatch.setattr(Learner, "step", removing)
    with pytest.raises(PConvError, match=r"out: '.*run' was removed or replaced while files were written into it"):
        train(_config(photos), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- what cannot be trained


@pytest.mark.parametrize("changes", [{"train.batch_size": 1}, {"train.batch_size": 2, "train.accumulate": 2}])
def test_one_pixel_of_one_picture_is_refused_at_the_start(photos, tmp_path, changes):
    deep = {"model.levels": 4, "data.size": 16, **changes}
    with pytest.raises(PConvError, match=r"model.levels: 4 levels leave one pixel of data.size 16.* above 2\^4 = 16"):
        train(_config(photos, **deep), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"data.size": 17},
        {"model.levels": 3},
        {"train.batch_size": 2},
        {"train.batch_norm": "frozen"},
        {"train.finetune_after": 0},
        {"model.levels": 1, "data.size": 2},
    ],
    ids=str,
)
def test_sizes_that_batch_norm_allows_are_trained(photos, tmp_path, changes):
    """Sizes that work are not refused."""
    deep = {"model.levels": 4, "data.size": 16, "train.batch_size": 1, "train.steps": 1, **changes}
    assert train(_config(photos, **deep), tmp_path / "run").steps == 1


def test_other_pictures_under_the_same_names_are_another_run(photos, tmp_path):
    train(_config(photos, **{"train.steps": 2}), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(photos / "2.png")
    with pytest.raises(PConvError, match="content of data.images: '4 files, .* in the checkpoint, '4 files, .* now"):
        train(_config(photos), tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")} == before


def test_the_newest_log_line_is_json(photos, tmp_path):
    train(_config(photos, **{"train.steps": 1}), tmp_path / "run")
    (tmp_path / "run/log.jsonl").write_text("[" * 200_000 + "\n", encoding="utf-8")  # nested too deeply to be read
    assert train(_config(photos, **{"train.steps": 2}), tmp_path / "run").first_step == 1
    assert [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()] == [2]
