"""The training configuration: the paper's defaults, YAML, overrides, and errors that help."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.training.conditions import loader_count
from pconv_cuda.training.config import TrainingConfig, flatten, load_config, to_yaml


def test_the_default_is_the_papers_recipe(tmp_path):
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    config = load_config(empty)
    assert config == TrainingConfig()
    assert (config.train.batch_size, config.train.lr, config.data.size) == (6, 2e-4, 512)
    assert (config.model.levels, config.model.width, config.model.conv) == (8, 64, "partial")
    assert (config.loss.preset, config.loss.vgg) == ("paper", "imagenet")
    after = config.train.finetune_after
    assert (config.lr_at(after - 1), config.stage_at(after - 1)) == (2e-4, 1)
    assert (config.lr_at(after), config.stage_at(after)) == (5e-5, 2)
    assert load_config(settings=["train.finetune_after=null"]).stage_at(10**9) == 1


def test_keys_that_are_public():
    assert set(flatten(TrainingConfig())) >= {
        "model.levels", "model.width", "model.conv", "data.size", "data.workers", "train.batch_size",
        "train.lr", "train.seed", "loss.preset", "loss.vgg", "checkpoint.every", "checkpoint.keep",
    }  # fmt: skip


def test_named_options_beat_settings_and_settings_beat_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {lr: 2e-3, seed: 5, steps: 7}\nmodel:\n")
    config = load_config(file, ["train.seed=6", "train.steps=8", "data.hole_share=[0.1, 0.2]"], {"train.steps": 9})
    assert (config.train.lr, config.train.seed, config.train.steps) == (2e-3, 6, 9)
    assert config.data.hole_share == (0.1, 0.2)


@pytest.mark.parametrize("setting", ["train.lr=1e-4", "train.lr=1.0e-4", "train.lr=0.0001"])
def test_numbers_are_numbers_however_written(setting):
    assert load_config(settings=[setting]).train.lr == 1e-4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.learning_rate=1", r"unknown key 'train.learning_rate'"),
        ("train.batchsize=1", r"nearest: train.batch_size"),
        ("modle.levels=1", r"nearest: model.levels"),
        ("size=1", r"nearest:.*data.size"),
        ("xyzzy=1", r"unknown key 'xyzzy'; sections are model, data"),
        ("train.batch_size=2.5", r"train.batch_size: expected a whole number, got 2.5"),
        ("train.batch_size=true", r"train.batch_size: expected a whole number, got True"),
        ("train.batch_size=six", r"train.batch_size: expected a whole number, got 'six'"),
        ("train.batch_size=", r"train.batch_size: expected a whole number, got None"),
        ("train.batch_size=0", r"train.batch_size: expected at least 1, got 0"),
        ("train.seed=-1", r"train.seed: expected at least 0"),
        ("train.lr=0", r"train.lr: expected a number above 0"),
        ("train.lr=.nan", r"train.lr: expected a number above 0"),
        ("train.lr=.inf", r"train.lr: expected a number above 0"),
        ("train.lr=fast", r"train.lr: expected a number, got 'fast'"),
        ("train.finetune_after=soon", r"train.finetune_after: expected a whole number or null"),
        ("train.channels_last=1", r"train.channels_last: expected true or false"),
        ("model.conv=full", r"model.conv: expected one of partial, plain, got 'full'"),
        ("loss.preset=mine", r"loss.preset: expected one of paper, bobqywei, review"),
        ("data.hole_share=0.5", r"data.hole_share: expected a list \[low, high\]"),
        ("data.hole_share=[0.5, 0.5]", r"data.hole_share: expected 0 <= low < high <= 1"),
        ("train.accumulate=4", r"train.batch_size: expected a multiple of train.accumulate \(4\), got 6"),
        ("train.lr", r"settings: expected key=value, got 'train.lr'"),
        ("train.lr=[", r"no valid value for train.lr"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(PConvError, match=message):
        load_config(settings=[setting])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "expected sections"),
        ("train: 3", r"train: expected keys such as 'train.KEY', got 3"),
        ("trian: {lr: 1}", r"unknown key 'trian'"),
        ("a: [", "no valid YAML"),
    ],
)
def test_wrong_files_are_named(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(PConvError, match=message):
        load_config(file)
    with pytest.raises(PConvError, match="cannot read"):
        load_config(tmp_path / "none.yaml")


def test_print_config_reads_back_as_the_same(tmp_path, capsys):
    settings = [
        "train.lr=3e-5",
        "loss.vgg=none",
        "data.images=my 'odd': #folder",
        "train.finetune_after=null",
    ]
    config = load_config(settings=settings)
    assert main(["train", "--print-config", *(part for one in settings for part in ("--set", one))]) == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert load_config(file) == config
    assert file.read_text() == to_yaml(config)


@pytest.mark.parametrize(("cores", "loaders"), [(1, 1), (2, 2), (64, 4)])
def test_loaders_are_as_many_as_usable_cores_but_at_most_four(monkeypatch, cores, loaders):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert load_config().data.workers is None  # a saved configuration does not hold one machine's number
    assert loader_count(None) == loaders
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert loader_count(None) == loaders
    assert [loader_count(asked) for asked in (0, 9)] == [0, 9]


def test_the_command_needs_a_folder_and_reports_errors_in_one_line(capsys):
    assert main(["train"]) == 1
    assert capsys.readouterr().err.startswith("pconv train: error: --out")


def test_help_needs_no_torch():
    code = (
        "import sys, pconv_cuda.cli.train as t, argparse; t.add_arguments(argparse.ArgumentParser());"
        "print([m for m in ('torch', 'numpy', 'PIL', 'yaml') if m in sys.modules])"
    )
    started = time.monotonic()
    # as the command starts it: `-m pconv_cuda` keeps the package from registering its operators
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = 'pconv'\n{code}"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
    assert time.monotonic() - started < 5
