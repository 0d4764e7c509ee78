"""Malicious files: configurations, checkpoints, weights of metrics, manifests."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pconv_cuda
from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation.learned import find_inception, find_perceptual
from pconv_cuda.evaluation.store import Store
from pconv_cuda.masks.files import make_masks
from pconv_cuda.masks.stats import mask_stats
from pconv_cuda.training import load_config, train
from pconv_cuda.training.checkpoints import _load
from pconv_cuda.training.checksum import append_checksum

ROOT = Path(pconv_cuda.__file__).parents[1]
_DEEP = "[" * 200_000


# ---- configurations


def _laughs(start: str) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    return "\n".join([*lines, start + "*a29"]) + "\n"


def _merges() -> str:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_laughs("train: "), "no aliases"),
        (_laughs("train.steps: "), "no aliases"),
        (_merges(), "no aliases"),
        ("train: " + "[" * 300_000, "nested too deeply"),
        ("train: " + "{a: " * 200_000, "nested too deeply"),
        ("- " * 300_000, "nested too deeply"),
        ("train:\n" + "".join(" " * n + f"k{n}:\n" for n in range(1, 1000)), "nested too deeply"),
        ("train: {steps: " + "9" * 100_000 + "}", "no valid YAML"),
        ("train: {steps: 0x" + "f" * 100_000 + "}", "train.steps: expected at most .*, got a number of 400000 bits"),
        ("train: {lr: 0x" + "f" * 100_000 + "}", "train.lr: expected a number, got a number of 400000 bits"),
        ("train: !!python/object/apply:os.system [touch hacked]", "no valid YAML"),
        ("#" * (2**20 + 1), "at most 1048576 bytes"),
        ("? " + "k" * 1_000_000 + "\n: 1", "unknown key 'kkk"),
        ("train: " + json.dumps(["x" * 1000] * 1000), "expected keys such as"),
    ],
    ids=[
        "aliases",
        "alias of a key",
        "merges",
        "brackets",
        "braces",
        "dashes",
        "indents",
        "digits",
        "hex",
        "hex number",
        "tag",
        "long",
        "key",
        "value",
    ],
)
def test_configurations_are_refused_at_once_and_in_few_words(tmp_path, monkeypatch, text, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PConvError, match=reason) as caught:
        load_config(tmp_path / "run.yaml")
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
    assert len(str(caught.value)) < 5000
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("value", ["[" * 100_000, "{a: " * 100_000, "0x" + "f" * 100_000, "&a [*a]"], ids=len)
def test_settings_too(value):
    with pytest.raises(PConvError) as caught:
        load_config(settings=[f"train.steps={value}"])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (f"train.seed={2**64}", "train.seed: expected at most 18446744073709551615, got 18446744073709551616"),
        ("model.levels=17", "model.levels: expected at most 16, got 17"),
        ("model.levels=1000000000", "model.levels: expected at most 16"),
    ],
)
def test_numbers_that_are_too_large(setting, message):
    with pytest.raises(PConvError, match=message):
        load_config(settings=[setting])
    assert load_config(settings=[f"train.seed={2**64 - 1}"]).train.seed == 2**64 - 1


def test_the_largest_seed_trains(tmp_path):
    tiny = ["model.levels=1", "model.width=1", "data.size=16", "data.workers=0", "loss.vgg=none", "train.batch_size=1"]
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    more = ["train.steps=1", "log.tensorboard=false", f"data.images={tmp_path}", f"train.seed={2**64 - 1}"]
    more += [f"data.validation={tmp_path}", "data.validation_samples=1"]
    assert train(load_config(settings=[*tiny, *more]), tmp_path / "run").steps == 1


# ---- pickles


class _Payload:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def _sealed(content, path: Path) -> Path:
    torch.save(content, path)
    append_checksum(path)
    return path


def test_a_checkpoint_cannot_run_anything(tmp_path, monkeypatch, capsys):
    """Its checksum is right, as in a prepared file."""
    monkeypatch.chdir(tmp_path)
    path = _sealed({"step": 1, "model": _Payload()}, tmp_path / "evil.pt")
    words = ["train", "--data", "documents", "--set", "loss.vgg=none", "--out", str(tmp_path / "run")]
    assert main([*words, "--resume", str(path)]) == 1
    error = capsys.readouterr().err
    assert "it asks for posix.system, and nothing but tensors is loaded" in error
    assert "weights_only" not in error and "trust" not in error and "Traceback" not in error
    assert not (tmp_path / "hacked").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("find", [find_perceptual, find_inception])
def test_weights_of_metrics_cannot_run_anything(tmp_path, monkeypatch, find):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": _Payload()}, tmp_path / "evil.pth")
    with pytest.raises(PConvError, match=r"posix.system.*nothing but tensors") as caught:
        find(str(tmp_path / "evil.pth"))
    assert "weights_only" not in str(caught.value) and not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"identity": ["model.levels"]}, "identity is list"),
        ({"step": "1"}, "step is str"),
        ({"model": None}, "model is NoneType"),
        ({"optimizer": torch.zeros(1)}, "optimizer is Tensor"),
        ({"network": 1}, "network is int"),
    ],
    ids=str,
)
def test_a_checkpoint_of_other_types_is_refused(tmp_path, changes, reason):
    state = {
        "format": 4,
        "step": 1,
        "model": {},
        "average": None,
        "optimizer": {},
        "scaler": None,
        "identity": {},
        "best_step": 1,
    }
    state |= {"best_score": 1.0, "losses": [0.0, 0], "network": {}}
    assert _load(_sealed(state, tmp_path / "good.pt"))["step"] == 1
    with pytest.raises(PConvError, match=f"cannot be read: {reason}"):
        _load(_sealed({**state, **changes}, tmp_path / "bad.pt"))


# ---- manifests and settings


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "m"
    make_masks(folder, size=48, count=1, progress=False)
    return folder


@pytest.fixture
def copied(masks, tmp_path):
    shutil.copytree(masks, tmp_path / "m")
    return tmp_path / "m"


def test_a_manifest_reaches_nothing_outside_its_folder(copied, tmp_path, monkeypatch):
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"mine")
    manifest = json.loads((copied / "manifest.json").read_text())
    names = ["../outside.png", str(outside), "0.1-0.2/../../outside.png", "a\0b"]
    manifest["files"] += [{"path": name, "sha256": "0" * 64} for name in names]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    looked = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: looked.append(self) or is_file(self))
    assert mask_stats(copied).missing == names
    assert not [path for path in looked if "outside" in str(path)]
    monkeypatch.undo()
    before = sorted(tmp_path.rglob("*"))
    make_masks(copied, size=48, count=1, progress=False)
    assert sorted(tmp_path.rglob("*")) == before and outside.read_bytes() == b"mine"
    assert len(json.loads((copied / "manifest.json").read_text())["files"]) == 12


@pytest.mark.parametrize("text", [_DEEP, '{"format": "pconv masks", "files": ' + _DEEP, "[]", "{}"], ids=len)
def test_an_invalid_manifest_is_ignored(copied, text):
    (copied / "manifest.json").write_text(text)
    assert mask_stats(copied).masks == 12  # another program's: it counts as none
    with pytest.raises(PConvError, match="manifest.json"):
        make_masks(copied, size=48, count=1, progress=False)
    assert (copied / "manifest.json").read_text() == text


@pytest.mark.parametrize(
    "text", [_DEEP, "[]", '{"methods": 1, "settings": {}}', '{"methods": {}, "settings": 1}'], ids=len
)
def test_invalid_settings_of_an_evaluation(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(PConvError, match="out: .*settings.json is not the settings of an evaluation"):
        Store(tmp_path, {}, {})


def test_invalid_records_are_measured_again(tmp_path):
    (tmp_path / "settings.json").write_text('{"settings": {}, "methods": {}}')
    lines = [
        _DEEP,
        "[]",
        "3",
        '{"pair": "a"}',
        '{"pair": "a", "method": "m"}',
        '{"pair": [], "method": {}}',
        "{",
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    assert list(Store(tmp_path, {}, {}).records) == [("a", "m")]


# ---- names


def test_a_folder_of_odd_names_from_end_to_end(tmp_path, capsys):
    """Bytes that are no text, escape sequences, markup, formulas: all of it in one evaluation and in one training."""
    (tmp_path / "images").mkdir()
    odd = [b"caf\xe9.png", b"a\x1b[2J.png", b"x[/y]z.png", b"=1+1.png", b"<b>|`.png", b"two\nlines.png"]
    for name in odd:
        path = os.fsencode(tmp_path / "images") + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    with open(os.fsencode(tmp_path / "images") + b"/bad\xe9.png", "wb") as file:
        file.write(b"x")
    words = ["--images", tmp_path / "images", "--size", "32", "--baselines", "mean", "--resamples", "2"]
    words += ["--shares", "0.1-0.2", "--out", tmp_path / "r"]
    assert main(["eval", *map(str, words)]) == 1
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "bad\\udce9.png cannot be read" in err
    results = json.loads((tmp_path / "r/results.json").read_text())
    assert (results["measured"], results["wanted"]) == (12, 14)
    assert "bad\\udce9.png cannot be read" in (tmp_path / "r/table.md").read_text(encoding="utf-8")
    tiny = ["model.levels=1", "model.width=1", "data.size=16", "data.workers=0", "loss.vgg=none", "train.batch_size=7"]
    tiny += ["train.steps=2", "log.tensorboard=false", f"data.images={tmp_path / 'images'}"]
    with pytest.warns(UserWarning, match="skipped .*bad"):
        train(load_config(settings=tiny), tmp_path / "run")
