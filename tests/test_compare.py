"""``pconv compare``: both trainings and the evaluation in one command, with a tiny network."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest
from inpaint_support import smooth_picture
from PIL import Image

from pconv_cuda.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:masks:")  # a mask for one cell of two

KEYS = {"model.levels": 2, "model.width": 2, "data.size": 16, "data.workers": 0, "train.batch_size": 2}
KEYS |= {"loss.vgg": "none", "log.tensorboard": "false", "log.pictures": 0, "train.finetune_after": "null"}


@pytest.fixture
def words(tmp_path):
    for folder, seeds in (("train", (0, 1)), ("test", (2,))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            Image.fromarray(smooth_picture(30, 30, seed)).save(tmp_path / folder / f"{seed}.png")
    (tmp_path / "masks").mkdir()
    hole = np.zeros((32, 32), np.uint8)
    hole[8:20, 8:20] = 255
    Image.fromarray(hole).save(tmp_path / "masks/0.png")
    words = [
        "compare",
        "--test",
        str(tmp_path / "test"),
        "--out",
        str(tmp_path / "r"),
        "--masks",
        str(tmp_path / "masks"),
    ]
    return [*words, "--size", "32", "--shares", "0.1-0.2", "--baselines", "mean", "--resamples", "20"]


def training(tmp_path, steps=3):
    keys = [word for key, value in KEYS.items() for word in ("--set", f"{key}={value}")]
    return ["--data", str(tmp_path / "train"), "--steps", str(steps), *keys]


def test_from_pictures_to_the_table(tmp_path, words, capsys):
    assert main([*words, *training(tmp_path)]) == 0
    report = json.loads((tmp_path / "r/eval/results.json").read_text())
    assert list(report["methods"]) == ["partial", "plain", "mean"] and report["complete"]
    assert {row["method"] for row in report["differences"]} == {"partial - plain"}
    for kind in ("partial", "plain"):
        assert json.loads((tmp_path / f"r/{kind}/config.json").read_text())["conv"] == kind
    table = (tmp_path / "r/eval/table.md").read_bytes()
    # again, with nothing left to do, with and without the training's words
    for more in (training(tmp_path), []):
        assert main([*words, *more]) == 0
        assert (tmp_path / "r/eval/table.md").read_bytes() == table


def test_runs_of_pconv_train_are_taken(tmp_path, words):
    for kind in ("partial", "plain"):
        out = ["--out", str(tmp_path / "r" / kind), "--set", f"model.conv={kind}"]
        assert main(["train", *training(tmp_path), *out]) == 0
    assert main(words) == 0


def test_unlike_runs_are_refused(tmp_path, words, capsys):
    assert main(words) == 1
    assert "--data: expected training pictures" in capsys.readouterr().err
    for kind, seed in (("partial", 0), ("plain", 1)):
        out = ["--out", str(tmp_path / "r" / kind), "--set", f"model.conv={kind}", "--set", f"train.seed={seed}"]
        assert main(["train", *training(tmp_path), *out]) == 0
    assert main(words) == 1
    assert "train.seed: 0 and 1" in capsys.readouterr().err
    assert not (tmp_path / "r/eval").exists()


def test_runs_on_other_pictures_are_refused(tmp_path, words, capsys):
    """The configurations agree, the folder's files do not."""
    for kind in ("partial", "plain"):
        out = ["--out", str(tmp_path / "r" / kind), "--set", f"model.conv={kind}"]
        assert main(["train", *training(tmp_path), *out]) == 0
        if kind == "partial":
            (tmp_path / "train/0.png").rename(tmp_path / "train/3.png")
    assert main(words) == 1
    assert "content of data.images" in capsys.readouterr().err


@pytest.mark.parametrize("trained", [False, True])
def test_a_picture_in_both_folders_is_refused(tmp_path, words, capsys, trained):
    if trained:
        for kind in ("partial", "plain"):
            out = ["--out", str(tmp_path / "r" / kind), "--set", f"model.conv={kind}"]
            assert main(["train", *training(tmp_path), *out]) == 0
    shutil.copy(tmp_path / "train/0.png", tmp_path / "test/other-name.png")
    assert main(words if trained else [*words, *training(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "got 1 that were" in error and "train/0.png" in error and "test/other-name.png" in error
    assert not (tmp_path / "r/eval").exists() and trained == (tmp_path / "r/partial").exists()


def test_a_closed_pipe_does_not_stop_the_work(tmp_path, words, monkeypatch):
    """``pconv compare ... | head -1``"""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main([*words, *training(tmp_path)]) == 0
    assert json.loads((tmp_path / "r/eval/results.json").read_text())["complete"]
