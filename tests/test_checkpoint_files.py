"""Checkpoints that were damaged, swapped or removed are detected, reported and not used."""

from __future__ import annotations

import errno
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_support import TINY_RUN

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.training import load_config, train
from pconv_cuda.training.checkpoints import Checkpoints, _load

TINY = {**TINY_RUN, "train.batch_size": 1, "train.steps": 4, "checkpoint.every": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    ramp = np.linspace(40, 220, 24)
    Image.fromarray((ramp[:, None] + 0 * ramp).astype(np.uint8)).convert("RGB").save(folder / "0.png")
    return folder


def _config(photos, **changes):
    settings = {**TINY, "data.images": photos, **changes}
    return load_config(settings=[f"{key}={value}" for key, value in settings.items()])


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A run with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    train(_config(photos), folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def _same_weights(run, other):
    states = [load_file(folder / "model.safetensors") for folder in (run, other)]
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def test_every_flipped_bit_is_recognised(run, tmp_path):
    """Also in the parts that the archive's own checksums leave out, in the mark and in the digits."""
    whole = (run / "checkpoints/step-00000004.pt").read_bytes()
    rng = np.random.default_rng(0)
    tail = range(8 * (len(whole) - 110), 8 * len(whole), 37)  # the archive's last record, the mark, the digits
    path = tmp_path / "flipped.pt"
    for bit in (*rng.integers(0, 8 * len(whole), 150).tolist(), *tail):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(PConvError, match="flipped.pt' cannot be read"):
            _load(path)
    path.write_bytes(whole)
    assert _load(path)["step"] == 4
    assert zipfile.ZipFile(path).testzip() is None and torch.load(path, weights_only=True)["step"] == 4


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


def _swap_steps(path):
    shutil.copy(path.with_name("step-00000002.pt"), path)


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        _swap_steps,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(1000)),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: torch.save({"step": 4}, path),
    ],
    ids=["flipped", "another step", "empty", "zeros", "a byte short", "cut short", "no checksum"],
)
def test_the_newest_good_one_is_used_and_said(photos, trained, run, damage):
    newest = run / "checkpoints/step-00000004.pt"
    newest.unlink()  # best.pt may be the same file
    shutil.copy(trained / "checkpoints/step-00000004.pt", newest)
    damage(newest)
    with pytest.warns(UserWarning, match=r"step-00000004.pt' cannot be read: .*; the one before is taken"):
        result = train(_config(photos), run)
    assert (result.first_step, result.steps) == (2, 4)
    assert _same_weights(run, trained)
    assert _load(newest)["step"] == 4


def test_a_checkpoint_of_another_run_is_passed_over(photos, trained, run, tmp_path):
    train(_config(photos, **{"train.lr": 0.01}), tmp_path / "other")
    shutil.copy(tmp_path / "other/checkpoints/step-00000004.pt", run / "checkpoints")
    with pytest.warns(
        UserWarning, match=r"is of another run \(train.lr: 0.01 in the checkpoint, .*step-00000002.pt is"
    ):
        assert train(_config(photos), run).first_step == 2
    assert _same_weights(run, trained)
    # a changed configuration is not taken for that
    with pytest.raises(PConvError, match=r"does not fit .*step-00000004.pt':\n  train.lr"):
        train(_config(photos, **{"train.lr": 0.01}), run)


def test_a_checkpoint_that_lacks_something_is_recognised(photos, run):
    checkpoints = Checkpoints(run, 3)
    state = _load(checkpoints.path_of(4))
    for key in ("optimizer", "identity"):
        checkpoints.save({name: value for name, value in state.items() if name != key})
        with pytest.warns(UserWarning, match=f"it lacks {key}; the one before"):
            assert checkpoints.newest()[0] == checkpoints.path_of(2)
    checkpoints.save({**state, "model": {name: value for name, value in state["model"].items() if "bias" not in name}})
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(PConvError, match="resume: the checkpoint of step 4 does not fit: Error.*loading state_dict"):
        train(_config(photos, **{"train.steps": 5}), run)
    assert (run / "model.safetensors").read_bytes() == before


def test_the_last_good_checkpoint_is_one(run):
    checkpoints = Checkpoints(run, 3)
    assert checkpoints.newest_good() == checkpoints.path_of(4)
    checkpoints.path_of(4).write_bytes(b"")
    assert checkpoints.newest_good() == checkpoints.path_of(2)
    checkpoints.path_of(2).unlink()
    assert checkpoints.newest_good() is None


def _files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        (["checkpoints"], "model.safetensors, config.json, best.safetensors, training.yaml, log.jsonl"),
        (["checkpoints/step*"], "model.safetensors, config.json, best.safetensors, training.yaml, log.jsonl"),
        (["checkpoints", "training.yaml", "log.jsonl"], "model.safetensors, config.json, best.safetensors"),
        (["checkpoints", "*.safetensors", "config.json"], "training.yaml, log.jsonl"),
        (["checkpoints/*", "*.safetensors", "config.json"], "training.yaml, log.jsonl"),
    ],
)
def test_results_without_checkpoints_are_not_replaced(photos, run, gone, named):
    for pattern in gone:
        for path in list(run.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = _files(run)
    with pytest.raises(
        PConvError, match=rf"resume: 'auto', but .*run' holds {re.escape(named)} and no checkpoint of its"
    ):
        train(_config(photos), run)
    assert _files(run) == before
    assert train(_config(photos), run, resume="never").first_step == 0
    assert len((run / "log.jsonl").read_text().splitlines()) == 4


def test_a_run_from_another_one_does_not_replace_weights(photos, run, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(run / "model.safetensors", tmp_path / "other")
    with pytest.raises(PConvError, match="resume: .*run', but .*other' holds model.safetensors and no checkpoint"):
        train(_config(photos, **{"train.steps": 5}), tmp_path / "other", resume=str(run))


def test_a_run_that_was_stopped_before_its_first_checkpoint_goes_on(photos, tmp_path, monkeypatch):
    def stopped(self, state):
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(_config(photos), tmp_path)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    monkeypatch.undo()
    assert train(_config(photos), tmp_path).steps == 4


def test_file_systems_without_hard_links(photos, trained, tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    train(_config(photos, **{"train.steps": 2}), tmp_path)
    assert train(_config(photos), tmp_path).first_step == 2
    assert _same_weights(tmp_path, trained)
    assert _load(tmp_path / "checkpoints/best.pt")["best_step"] in (2, 4)


def test_a_file_in_the_place_of_the_folder(photos, tmp_path, capsys):
    (tmp_path / "checkpoints").write_text("x")
    settings = {**TINY, "data.images": photos}
    options = [part for key, setting in settings.items() for part in ("--set", f"{key}={setting}")]
    assert main(["train", "--out", str(tmp_path), *options]) == 1
    assert "--out: cannot make the folder" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["checkpoints"]
