"""A training that is killed (SIGKILL) and resumed gives the weights of an uninterrupted one, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SETTINGS = {
    "model.levels": 2,
    "model.width": 4,
    "data.size": 16,
    "data.workers": 0,
    "data.validation_samples": 2,
    "train.batch_size": 2,
    "train.steps": 4,
    "train.finetune_after": 1,  # so that a run begins in one stage and resumes in the other
    "train.lr": 0.01,
    "loss.vgg": "none",
    "checkpoint.every": 2,
    "checkpoint.keep": 1,
    "log.every": 1,
    "log.tensorboard": False,
}


@pytest.fixture(scope="module", params=["some", pytest.param("others", marks=pytest.mark.full("kill and resume"))])
def experiment(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("resume")
    (folder / "photos").mkdir()
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / "photos" / f"{number}.png")
    photos = str(folder / "photos")
    settings = {**SETTINGS, "data.images": photos, "data.validation": photos}
    (folder / "settings.json").write_text(json.dumps(settings))
    driver = Path(__file__).with_name("training_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(folder / "settings.json"), str(folder), request.param],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder, {**json.loads(done.stdout.splitlines()[-1]), "kind": request.param}, done.stderr


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _same_run(one: Path, other: Path) -> None:
    """The same files; weights, optimiser and logged losses the same to the bit."""
    assert _files(one) == _files(other)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    for name in ("step-00000004.pt", "best.pt"):
        states = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other)]
        assert states[0]["step"] == states[1]["step"]
        assert states[0]["best_step"] == states[1]["best_step"]
        for part in ("model", "optimizer"):
            flat = [torch.utils._pytree.tree_flatten(state[part])[0] for state in states]
            assert len(flat[0]) == len(flat[1]) > 0
            for a, b in zip(*flat, strict=True):
                assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, other)]
    for log in logs:
        for line in log:
            line.pop("pictures_per_second", None)
    assert logs[0] == logs[1]


def test_killed_at_every_moment_that_matters(experiment):
    folder, result, errors = experiment
    assert result["whole"]["exit"] == 0, errors
    points = result["whole"]["points"]
    assert points > 25  # four steps, two checkpoints, their files and names
    some = len(range(0, points, 7))
    assert len(result["at_points"]) == (some if result["kind"] == "some" else points - some)
    for name, (killed, resumed) in result["at_points"].items():
        assert (killed, resumed) == (-signal.SIGKILL, 0), errors
        _same_run(folder / name, folder / "whole")


def test_killed_at_random_moments_again_and_again(experiment):
    folder, result, errors = experiment
    assert result["at_random"][-1] == 0, errors
    assert set(result["at_random"]) <= {0, -signal.SIGKILL}
    _same_run(folder / "random", folder / "whole")


def test_the_uninterrupted_run_is_what_it_should_be(experiment):
    folder, _, _ = experiment
    steps = [json.loads(line)["step"] for line in (folder / "whole/log.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 3, 4]
    names = {path.name for path in (folder / "whole/checkpoints").iterdir()}
    assert names == {"best.pt", "step-00000004.pt"}
