"""The training loop: what a run leaves behind, refusals, precision, accumulation, processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_support import TINY_RUN

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.models import PConvUNet
from pconv_cuda.training import load_config, objective, train
from pconv_cuda.training.checkpoints import Checkpoints
from pconv_cuda.training.learner import Learner

TINY = {**TINY_RUN, "model.width": 4, "train.lr": 0.01}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two smooth pictures, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("photos")
    ramp = np.linspace(40, 220, 24)
    for number, grey in enumerate((ramp[:, None] + 0 * ramp, ramp[None, :] + 0 * ramp[:, None])):
        Image.fromarray(grey.astype(np.uint8)).convert("RGB").save(folder / f"{number}.png")
    return folder


pytestmark = pytest.mark.usefixtures("one_thread")


def _config(photos, **changes):
    settings = {**TINY, "data.images": photos, **changes}
    return load_config(settings=[f"{key}={value}" for key, value in settings.items()])


def _weights(run):
    return load_file(run / "model.safetensors")


def _log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _same(one, other, tolerance):
    return all(torch.allclose(one[name].float(), other[name].float(), atol=tolerance, rtol=0) for name in one)


def test_a_run_learns_and_leaves_weights_that_load(photos, tmp_path):
    result = train(_config(photos, **{"train.steps": 40, "checkpoint.every": 15, "checkpoint.keep": 2}), tmp_path)
    assert (result.first_step, result.steps) == (0, 40)
    totals = [line["loss/total"] for line in _log(tmp_path)]
    assert len(totals) == 40
    assert np.mean(totals[-8:]) < 0.6 * np.mean(totals[:8])
    assert totals[-1] == pytest.approx(sum(result.terms.values()))
    network = PConvUNet.from_pretrained(tmp_path)
    assert (network.config["levels"], network.config["width"]) == (2, 4)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names >= {"best.pt", "step-00000030.pt", "step-00000040.pt"}
    assert "step-00000015.pt" not in names
    best = torch.load(tmp_path / "checkpoints/best.pt", weights_only=True)
    assert best["step"] == best["best_step"]


def test_the_best_checkpoint_outlives_newer_ones(photos, tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(Learner, "validate", lambda self, pairs: next(scores))
    changes = {"train.steps": 4, "checkpoint.every": 1, "checkpoint.keep": 1, "data.validation": photos}
    train(_config(photos, **changes), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "best.pt",
        "step-00000004.pt",
    ]
    best = torch.load(tmp_path / "checkpoints/best.pt", weights_only=True)
    assert (best["step"], best["best_score"]) == (2, 1.0)


def test_validation_is_the_same_each_time_and_leaves_the_weights_alone(photos, tmp_path):
    shared = {"train.steps": 3, "checkpoint.every": 1}
    train(_config(photos, **shared), tmp_path / "without")
    train(_config(photos, **shared, **{"data.validation": photos}), tmp_path / "with")
    assert _same(_weights(tmp_path / "without"), _weights(tmp_path / "with"), 0)
    scores = [line["validation/total"] for line in _log(tmp_path / "with") if "validation/total" in line]
    assert len(scores) == 3
    assert len(set(scores)) == 3


def test_resume_goes_on_and_a_complete_run_is_left_alone(photos, tmp_path, capsys):
    train(_config(photos, **{"train.steps": 3}), tmp_path / "parts")
    result = train(_config(photos, **{"train.steps": 6}), tmp_path / "parts")
    assert (result.first_step, result.steps) == (3, 6)
    train(_config(photos, **{"train.steps": 6}), tmp_path / "whole", resume="never")
    assert _same(_weights(tmp_path / "parts"), _weights(tmp_path / "whole"), 0)

    (tmp_path / "parts/model.safetensors").unlink()  # as if it had been killed just before
    capsys.readouterr()
    result = train(_config(photos, **{"train.steps": 6}), tmp_path / "parts")
    assert (result.first_step, result.steps) == (6, 6)
    assert f"complete: 6 steps are done in {tmp_path / 'parts'}\n" in capsys.readouterr().err
    assert train(_config(photos, **{"train.steps": 2}), tmp_path / "parts").steps == 6
    assert "complete: 6 steps are done in " in (said := capsys.readouterr().err)
    assert said.splitlines()[0].endswith("/parts, more than the 2 of train.steps")
    assert _same(_weights(tmp_path / "parts"), _weights(tmp_path / "whole"), 0)
    assert [line["step"] for line in _log(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]


def test_resume_from_a_path_and_refusals(photos, tmp_path):
    config = _config(photos, **{"train.steps": 2, "checkpoint.every": 1})
    train(config, tmp_path / "a")
    longer = _config(photos, **{"train.steps": 4})
    for name, source in (("b", tmp_path / "a"), ("c", tmp_path / "a/checkpoints/step-00000001.pt")):
        train(longer, tmp_path / name, resume=str(source))
        assert (tmp_path / name / "checkpoints/best.pt").exists()
    assert _same(_weights(tmp_path / "b"), _weights(tmp_path / "c"), 0)
    with pytest.raises(PConvError, match="holds checkpoints of a run already"):
        train(config, tmp_path / "a", resume="never")
    with pytest.raises(PConvError, match="expected auto, never, a checkpoint or a run, got 'yes'"):
        train(config, tmp_path / "d", resume="yes")
    with pytest.raises(PConvError, match="no checkpoint in"):
        train(config, tmp_path / "d", resume=str(photos))
    assert not (tmp_path / "d").exists()


def test_a_config_that_does_not_fit_is_refused_with_its_keys(photos, tmp_path):
    train(_config(photos, **{"train.steps": 1}), tmp_path / "run")
    before = (tmp_path / "run/model.safetensors").read_bytes()
    other = {"train.steps": 2, "model.width": 5, "train.lr": 0.02, "checkpoint.every": 7, "data.workers": 1}
    with pytest.raises(PConvError) as caught:
        train(_config(photos, **other), tmp_path / "run")
    lines = str(caught.value).splitlines()[1:-1]
    assert [line.strip() for line in lines] == [
        "model.width: 4 in the checkpoint, 5 now",
        "train.lr: 0.01 in the checkpoint, 0.02 now",
    ]
    assert (tmp_path / "run/model.safetensors").read_bytes() == before

    moved = tmp_path / "moved"
    moved.mkdir()
    for path in photos.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    train(_config(moved, **{"train.steps": 2}), tmp_path / "run")  # the same pictures at another place
    Image.new("RGB", (20, 20)).save(moved / "one more.png")
    with pytest.raises(PConvError, match="content of data.images: '2 files.* '3 files"):
        train(_config(moved, **{"train.steps": 3}), tmp_path / "run")


def test_a_damaged_checkpoint_is_passed_over(photos, tmp_path):
    config = _config(photos, **{"train.steps": 4, "checkpoint.every": 2})
    train(config, tmp_path)
    expected = _weights(tmp_path)
    newest = tmp_path / "checkpoints/step-00000004.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="step-00000004.pt.* cannot be read"):
        result = train(config, tmp_path)
    assert result.first_step == 2
    assert _same(_weights(tmp_path), expected, 0)
    for path in (tmp_path / "checkpoints").glob("step-*"):
        path.write_bytes(b"x")
    with pytest.warns(UserWarning), pytest.raises(PConvError, match="none of the checkpoints"):
        train(config, tmp_path)


def test_all_six_terms_are_trained_with_and_logged(photos, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.uint8([[255, 0], [0, 0]])).save(masks / "corner.png")
    changes = {"loss.vgg": "random", "data.masks": masks, "train.steps": 1, "log.tensorboard": True}
    train(_config(photos, **changes, **{"log.pictures": 1}), tmp_path / "run")
    (line,) = _log(tmp_path / "run")
    terms = {"valid", "hole", "perceptual", "style_out", "style_comp", "tv"}
    assert {name.removeprefix("loss/") for name in line if name.startswith("loss/")} == {*terms, "total"}
    assert line["loss/total"] == pytest.approx(sum(line[f"loss/{name}"] for name in terms))
    assert list((tmp_path / "run/tensorboard").iterdir())


def test_a_good_checkpoint_is_not_removed_in_favour_of_a_damaged_later_one(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for step in (1, 2, 3):
        (tmp_path / f"checkpoints/step-0000000{step}.pt").write_bytes(b"")
    Checkpoints(tmp_path, keep=1).tidy(2)
    assert sorted(path.name[12:13] for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


class _Poisoned(objective.InpaintingLoss):
    """A loss whose term "hole" goes wrong in the sixth call, in its value or in its gradient."""

    value, calls = float("nan"), 0

    def forward(self, input, mask, output, ground_truth):
        terms = super().forward(input, mask, output, ground_truth)
        type(self).calls += 1
        if self.calls == 6:
            # sqrt(0 * x) is 0 with an infinite slope: a good value with a bad gradient
            bad = terms["hole"] * self.value if self.value is not None else torch.sqrt(terms["hole"] * 0)
            terms["hole"] = bad
        return terms


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_loss_that_is_no_number_stops_and_the_last_checkpoint_stays(photos, tmp_path, monkeypatch, capsys, value):
    monkeypatch.setattr(objective, "InpaintingLoss", type("Poisoned", (_Poisoned,), {"value": value, "calls": 0}))
    settings = {**TINY, "train.steps": 9, "checkpoint.every": 2, "data.images": photos}
    options = [part for key, setting in settings.items() for part in ("--set", f"{key}={setting}")]
    assert main(["train", "--out", str(tmp_path), *options]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    if value is not None:
        assert message.startswith(f"pconv train: error: step 6: the loss term 'hole' is {value}; ")
    else:
        assert "step 6: the weights" in message
        assert "are not finite" in message
    assert message.endswith("step-00000004.pt")
    state = torch.load(tmp_path / "checkpoints/step-00000004.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    assert main(["train", "--out", str(tmp_path), *options]) == 0


def test_stage_two_freezes_the_encoder_statistics_and_lowers_the_rate(photos, tmp_path):
    changes = {"train.steps": 4, "train.finetune_after": 2, "checkpoint.every": 1, "checkpoint.keep": 9}
    train(_config(photos, **changes), tmp_path)
    states = [torch.load(tmp_path / f"checkpoints/step-{step:08d}.pt", weights_only=True) for step in (1, 2, 3, 4)]
    rates = [state["optimizer"]["param_groups"][0]["lr"] for state in states]
    assert rates == [0.01, 0.01, 5e-5, 5e-5]
    means = [name for name in states[0]["model"] if name.endswith("running_mean")]
    encoder = [name for name in means if name.startswith("enc")]
    assert encoder
    assert len(means) > len(encoder)
    for name in means:
        moved = [not torch.equal(a["model"][name], b["model"][name]) for a, b in zip(states, states[1:], strict=False)]
        assert moved == ([True, False, False] if name in encoder else [True, True, True]), name


def test_accumulation_gives_the_step_of_the_whole_batch(photos, tmp_path):
    # one level has no BatchNorm, whose statistics are a micro-batch's own
    shared = {"model.levels": 1, "train.batch_size": 4, "train.steps": 3}
    train(_config(photos, **shared), tmp_path / "whole")
    train(_config(photos, **shared, **{"train.accumulate": 2}), tmp_path / "parts")
    assert _same(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"), 1e-5)
    a, b = (_log(tmp_path / name)[-1]["loss/total"] for name in ("whole", "parts"))
    assert a == pytest.approx(b, rel=1e-4)


def _torchrun(settings, out):
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", "pconv_cuda", "train", "--out", str(out), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )


def test_two_gloo_processes_give_the_step_of_the_whole_batch(photos, tmp_path):
    changes = {"model.levels": 1, "train.batch_size": 4, "checkpoint.every": 2, "train.steps": 3}
    done = _torchrun({**TINY, "data.images": photos, **changes}, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("started afresh") == 1
    train(_config(photos, **changes), tmp_path / "one")
    assert _same(_weights(tmp_path / "two"), _weights(tmp_path / "one"), 1e-5)
    assert [line["step"] for line in _log(tmp_path / "two")] == [1, 2, 3]


@pytest.mark.full("slow trainings")
def test_with_frozen_statistics_two_processes_have_the_loss_curve_of_one(photos, tmp_path):
    changes = {"model.levels": 3, "train.batch_size": 4, "train.steps": 5, "log.every": 1}
    curves = {}
    for kind in ("frozen", "process"):
        settings = {**changes, "train.batch_norm": kind}
        done = _torchrun({**TINY, "data.images": photos, **settings}, tmp_path / f"two-{kind}")
        assert done.returncode == 0, done.stderr
        train(_config(photos, **settings), tmp_path / f"one-{kind}")
        curves[kind] = [
            [line["loss/total"] for line in _log(tmp_path / f"{processes}-{kind}")] for processes in ("one", "two")
        ]
        assert len(curves[kind][0]) == len(curves[kind][1]) == 5
    assert curves["frozen"][0] == pytest.approx(curves["frozen"][1], rel=1e-5)
    assert _same(_weights(tmp_path / "two-frozen"), _weights(tmp_path / "one-frozen"), 1e-4)
    # with statistics of each process's own share the curve is another one, and the comparison has to see it
    assert curves["process"][0] != pytest.approx(curves["process"][1], rel=1e-5)


def test_frozen_statistics_stay_and_sync_needs_gpus(photos, tmp_path):
    train(_config(photos, **{"train.steps": 2, "train.batch_norm": "frozen"}), tmp_path)
    weights = _weights(tmp_path)
    means = [value for name, value in weights.items() if name.endswith("running_mean")]
    assert means and all((mean == 0).all() for mean in means)
    if not torch.accelerator.is_available():
        with pytest.raises(PConvError, match="train.batch_norm: sync needs GPUs.*no CPU kernels"):
            train(_config(photos, **{"train.batch_norm": "sync"}), tmp_path / "sync")


@pytest.mark.full("slow trainings")
def test_two_processes_go_through_both_stages_with_accumulation_and_validation(photos, tmp_path):
    changes = {"train.batch_size": 4, "train.accumulate": 2, "train.finetune_after": 2, "train.steps": 4}
    changes |= {"checkpoint.every": 2, "data.validation": photos, "data.validation_samples": 3}
    done = _torchrun({**TINY, "data.images": photos, **changes}, tmp_path)
    assert done.returncode == 0, done.stderr
    states = [torch.load(tmp_path / f"checkpoints/step-0000000{n}.pt", weights_only=True) for n in (2, 4)]
    for name in states[0]["model"]:
        frozen = name.startswith("encoder") and ".norm." in name
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(*(state["model"][name] for state in states)) == frozen, name


def test_batches_that_cannot_be_divided_are_refused():
    from pconv_cuda.training.sources import training_batches

    with pytest.raises(PConvError, match="multiple of 4 processes x train.accumulate.*got 6"):
        training_batches(None, load_config(), 0, torch.device("cpu"), processes=4)


def test_bf16_runs_and_fp16_says_that_it_needs_a_gpu(photos, tmp_path):
    for precision in ("bf16", "fp32"):
        train(_config(photos, **{"train.steps": 2, "train.precision": precision}), tmp_path / precision)
    full, half = _weights(tmp_path / "fp32"), _weights(tmp_path / "bf16")
    assert all(value.dtype == full[name].dtype for name, value in half.items())
    assert _same(full, half, 0.05)
    assert not _same(full, half, 0)
    if not torch.accelerator.is_available():
        with pytest.raises(PConvError, match="train.precision: fp16 needs a GPU"):
            train(_config(photos, **{"train.precision": "fp16"}), tmp_path / "fp16")


def test_loaders_in_other_processes_change_nothing_and_report_errors_plainly(photos, tmp_path):
    for workers in (0, 2):
        train(_config(photos, **{"train.steps": 2, "data.workers": workers}), tmp_path / str(workers))
    assert _same(_weights(tmp_path / "0"), _weights(tmp_path / "2"), 0)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(PConvError, match="^images: none of the 1 pictures can be read"):
            train(_config(broken, **{"train.steps": 2, "data.workers": 1}), tmp_path / "run")


def test_out_that_cannot_be_made(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PConvError, match="out: cannot make the folder"):
        train(_config(photos), tmp_path / "file" / "run")
