"""The weights of a run: equal for equal runs, of a recorded step; the best ones usable, the same however extended."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from training_support import TINY_RUN, write_noise

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation import Settings
from pconv_cuda.evaluation.compare import _is_complete, compare
from pconv_cuda.models import PConvUNet, weights
from pconv_cuda.training import load_config, train
from pconv_cuda.training.checkpoints import Checkpoints
from pconv_cuda.training.learner import Learner

TINY = {**TINY_RUN, "train.lr": 0.01}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("photos"), 3)


def _config(photos, steps, every=2, **changes):
    settings = {**TINY, "data.images": photos, "train.steps": steps, "checkpoint.every": every, **changes}
    return load_config(settings=[f"{key}={value}" for key, value in settings.items()])


# ---- the file


def test_equal_weights_make_equal_files(tmp_path):
    """Also in another process: the library orders its metadata by a hash that differs in each."""
    code = (
        "state, config = {'b': torch.ones(3), 'a': torch.zeros(2)}, {'levels': 1, 'mean': [0.5]}\n"
        "for number in range(8): weights.save_file(state, config, folder / f'{number}.safetensors', step=7)"
    )
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    exec(code, {"torch": torch, "weights": weights, "folder": tmp_path / "one"})
    start = (
        "import sys, torch; from pathlib import Path; from pconv_cuda.models import weights\n"
        "folder = Path(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", start + code, str(tmp_path / "other")], check=True)
    contents = {path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert len(contents) == 1
    file = tmp_path / "one/0.safetensors"
    assert weights.saved_step(file) == 7
    assert {name: value.tolist() for name, value in load_file(file).items()} == {"a": [0, 0], "b": [1, 1, 1]}
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0


def test_other_files_have_no_step(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    save_file({"a": torch.zeros(1)}, tmp_path / "words.safetensors", {"step": "two"})
    for name in ("plain", "broken", "words", "none"):
        assert weights.saved_step(tmp_path / f"{name}.safetensors") is None


# ---- the step


@pytest.fixture
def extended(photos, tmp_path, monkeypatch):
    """A run of 2 steps that was extended to 6 and killed after a checkpoint of step 4: the weights are of step 2."""
    run = tmp_path / "run"
    train(_config(photos, 2), run)
    save = Checkpoints.save

    def killed(self, state):
        save(self, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(_config(photos, 6), run)
    monkeypatch.undo()
    assert weights.saved_step(run / "model.safetensors") == 2
    return run


def test_weights_of_an_unfinished_run_are_said_to_be_old(photos, extended):
    with pytest.warns(UserWarning, match=r"model.safetensors is of step 2, but the training .* went on to step 4"):
        PConvUNet.from_pretrained(extended)
    train(_config(photos, 6), extended)
    PConvUNet.from_pretrained(extended)  # without a warning, which would be an error here
    assert weights.saved_step(extended / "model.safetensors") == 6


def test_an_unfinished_run_is_not_compared(photos, extended, tmp_path):
    assert not _is_complete(extended)
    (extended / "training.yaml").rename(tmp_path / "training.yaml")
    assert not _is_complete(extended)  # its checkpoints tell it too
    (tmp_path / "training.yaml").rename(extended / "training.yaml")
    root = tmp_path / "r"
    train(_config(photos, 2, **{"model.conv": "plain"}), root / "plain")
    shutil.move(extended, root / "partial")
    with pytest.raises(PConvError, match=r"data: .*partial is no complete run \(its weights are of step 2, and its"):
        compare(root, Settings(images=str(photos)))
    assert _is_complete(root / "plain")
    assert not (root / "eval").exists()


def test_a_run_that_was_extended_and_killed_before_its_first_checkpoint_is_not_complete(photos, tmp_path):
    train(_config(photos, 2), tmp_path)
    assert _is_complete(tmp_path)
    text = (tmp_path / "training.yaml").read_text()
    (tmp_path / "training.yaml").write_text(text.replace("steps: 2 ", "steps: 6 "))  # what such a run leaves
    assert not _is_complete(tmp_path)


def test_weights_that_no_training_wrote_are_complete(tmp_path):
    assert not _is_complete(tmp_path)
    PConvUNet(levels=1, width=2).save_pretrained(tmp_path)
    assert _is_complete(tmp_path)


# ---- the best


def test_the_best_weights_are_used_as_any_others(photos, tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(Learner, "validate", lambda self, pairs: next(scores))
    run = tmp_path / "run"
    train(_config(photos, 6, **{"data.validation": photos}), run)
    best = torch.load(run / "checkpoints/best.pt", weights_only=True)
    assert best["step"] == 4
    model = PConvUNet.from_pretrained(run / "best.safetensors")
    assert all(torch.equal(value, best["model"][name]) for name, value in model.state_dict().items())
    assert weights.saved_step(run / "best.safetensors") == 4
    hole = np.zeros((24, 24), np.uint8)
    hole[4:8, 4:8] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    words = ["inpaint", str(photos / "0.png"), "--mask", str(tmp_path / "mask.png"), "-o", str(tmp_path / "out.png")]
    assert main([*words, "--weights", str(run / "best.safetensors")]) == 0


@pytest.mark.parametrize("validation", [True, False], ids=["pictures set aside", "training losses"])
@pytest.mark.parametrize("ends", [[3], [1, 3, 5], [5, 6]], ids=str)
def test_where_a_run_was_extended_does_not_decide(photos, tmp_path, validation, ends):
    changes = {"data.validation": photos} if validation else {}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(_config(photos, 8, **changes), whole)
    for steps in (*ends, 8):
        train(_config(photos, steps, **changes), parts)
        assert (parts / "checkpoints/best.pt").exists() and (parts / "best.safetensors").exists()
    states = [torch.load(run / "checkpoints/best.pt", weights_only=True) for run in (whole, parts)]
    for key in ("step", "best_step", "best_score"):
        assert states[0][key] == states[1][key]
    for name in ("best.safetensors", "model.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_until_there_is_a_score_the_last_checkpoint_is_the_best(photos, tmp_path):
    for steps in (1, 3):
        train(_config(photos, steps, every=4), tmp_path)
        assert weights.saved_step(tmp_path / "best.safetensors") == steps
    train(_config(photos, 5, every=4), tmp_path)
    assert weights.saved_step(tmp_path / "best.safetensors") == 4


def test_a_kill_before_the_best_weights_are_written_is_made_good(photos, tmp_path):
    train(_config(photos, 2), tmp_path)
    content = (tmp_path / "best.safetensors").read_bytes()
    (tmp_path / "best.safetensors").unlink()
    train(_config(photos, 2), tmp_path)
    assert (tmp_path / "best.safetensors").read_bytes() == content
