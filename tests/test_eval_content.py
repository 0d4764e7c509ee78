"""An evaluation's results are tied to its files' content; interruptions are quick; names are escaped."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import threading

import numpy as np
import pytest
from conftest import Terminal
from inpaint_support import small_network, smooth_picture
from PIL import Image

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation import Settings, evaluate, methods
from pconv_cuda.evaluation import run as run_module
from pconv_cuda.evaluation.interruptible import interruptible
from pconv_cuda.progress import Progress
from pconv_cuda.signals import Interrupted, ending_signals

SIZE = 32
pytestmark = pytest.mark.filterwarnings("ignore:masks:")


@pytest.fixture
def material(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(3):
        Image.fromarray(smooth_picture(40, 36, number)).save(tmp_path / f"images/{number}.png")
    for number, top in enumerate((8, 10)):
        _save_mask(tmp_path / f"masks/{number}.png", top)
    return tmp_path


def _save_mask(path, top):
    hole = np.zeros((SIZE, SIZE), np.uint8)
    hole[top : top + 12, 8:20] = 255
    Image.fromarray(hole).save(path)


def settings(material, **changes):
    usual = {"images": str(material / "images"), "masks": str(material / "masks"), "size": SIZE, "resamples": 20}
    return Settings(**{**usual, "baselines": ("mean", "telea"), "shares": ("0.1-0.2",), **changes})


def texts(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# ---- content


@pytest.mark.parametrize("replaced", ["images/1.png", "masks/1.png"])
def test_files_replaced_under_their_names_are_other_files(material, replaced):
    evaluate(settings(material), material / "r")
    before = texts(material / "r")
    old = (material / replaced).read_bytes()
    if replaced.startswith("images"):
        Image.fromarray(smooth_picture(40, 36, 9)).save(material / replaced)
    else:
        _save_mask(material / replaced, 11)
    named = "picture 1.png" if replaced.startswith("images") else "mask 1 of 0.1-0.2/inside"
    with pytest.raises(PConvError, match=f"out: .* holds results of files with other content: {named}; take another"):
        evaluate(settings(material), material / "r")
    assert texts(material / "r") == before
    (material / replaced).write_bytes(old)
    os.utime(material / replaced, (1, 1))
    evaluate(settings(material), material / "r")
    assert texts(material / "r") == before
    shutil.move(material / "images", material / "moved")
    evaluate(settings(material, images=str(material / "moved")), material / "r")
    assert texts(material / "r") == before


@pytest.mark.parametrize("how", ["changed", "gone", "grown"])
def test_a_picture_that_does_not_stay_is_left_out_and_named(material, monkeypatch, how):
    measure, calls = run_module.measure, []

    def disturbing(*args):
        path = material / "images/2.png"
        if not calls and how == "gone":
            path.rename(material / "2.png")
        elif not calls and how == "changed":
            Image.fromarray(smooth_picture(40, 36, 9)).save(path)
        elif not calls:
            path.write_bytes(path.read_bytes() + b"x")
        calls.append(args)
        return measure(*args)

    monkeypatch.setattr(run_module, "measure", disturbing)
    report = evaluate(settings(material), material / "r")
    words = "was there at the start and is gone" if how == "gone" else "was changed since the start"
    assert not report["complete"] and report["measured"] == 4
    assert all(f"2.png {words}" in why for why in report["left_out"].values())
    assert f"2.png {words}" in (material / "r/table.md").read_text()


@pytest.mark.parametrize("another", [False, True], ids=["removed", "replaced"])
def test_the_folder_of_the_results_is_removed(material, monkeypatch, another):
    measure, calls = run_module.measure, []

    def removing(*args):
        calls.append(args)
        if len(calls) == 3:
            shutil.rmtree(material / "r")
            if another:
                (material / "r").mkdir()
        return measure(*args)

    monkeypatch.setattr(run_module, "measure", removing)
    with pytest.raises(PConvError, match=r"out: '.*r' was removed or replaced while files were written into it"):
        evaluate(settings(material), material / "r")
    assert not list(material.glob("r/*"))


# ---- interruptions


@pytest.mark.parametrize("slow", ["method", "metric"])
def test_a_long_call_of_a_library_is_not_waited_for(material, monkeypatch, slow):
    finished, threads = [], []

    def busy(*_):
        """One call in which Python answers no signal, for some seconds."""
        threads.append(threading.current_thread())
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        hashlib.pbkdf2_hmac("sha1", b"", b"", 25_000_000)
        finished.append(True)

    if slow == "method":
        monkeypatch.setattr(methods.Method, "restore", busy)
    else:
        monkeypatch.setattr(run_module, "measure", busy)
    with pytest.raises(Interrupted), ending_signals():
        evaluate(settings(material), material / "r")
    assert not finished
    assert "Partial: 0 of 6" in (material / "r/table.md").read_text()
    threads[0].join(120)  # left to itself it would go on into the tests behind this one, and measure there
    assert not threads[0].is_alive()


def test_an_error_of_such_a_call_comes_through():
    def failing():
        raise ValueError("singular")

    with pytest.raises(ValueError, match="singular"):
        interruptible(failing)
    assert interruptible(lambda: 3) == 3


def test_an_interrupted_evaluation_restores_nothing_for_its_report(material, monkeypatch, capsys):
    measure, restored, calls = run_module.measure, methods.Method.restore, []

    def interrupting(*args):
        if len(calls) == 3:
            raise Interrupted(signal.SIGTERM)
        return measure(*args)

    def counting(self, *args):
        calls.append(self.name)
        return restored(self, *args)

    monkeypatch.setattr(run_module, "measure", interrupting)
    monkeypatch.setattr(methods.Method, "restore", counting)
    words = ["eval", "--images", material / "images", "--masks", material / "masks", "--out", material / "r"]
    words += ["--size", SIZE, "--baselines", "mean,telea", "--shares", "0.1-0.2"]
    assert main([*map(str, words)]) == 143
    assert len(calls) == 3 and not (material / "r/sheet.png").exists()
    assert "Partial: 2 of 6" in (material / "r/table.md").read_text()
    error = capsys.readouterr().err.splitlines()
    assert error[-2:] == [
        "picture: 1 of 3 are done",
        "pconv eval: interrupted (SIGTERM); the same command goes on with what is missing",
    ]
    monkeypatch.undo()
    assert main([*map(str, words)]) == 0 and (material / "r/sheet.png").exists()


# ---- names


def test_names_do_no_harm_in_the_reports(material):
    names = ["<script>|`x`", "a$b^$", "_hidden", "x\x1b[2J"]
    small_network(2).save_pretrained(material / "net")
    weights = [f"{name}={material / 'net'}" for name in names]
    report = evaluate(settings(material, weights=weights, baselines=("mean",)), material / "r")
    assert report["complete"]
    table = (material / "r/table.md").read_text()
    assert "<script>" not in table and "\x1b" not in table
    assert "| &lt;script&gt;&#124;&#96;x&#96; |" in table
    widths = {line.count("|") for line in table.splitlines() if line.startswith("| ")}
    assert widths == {3}
    rows = list(csv.DictReader(io.StringIO((material / "r/table.csv").read_text())))
    assert {row["method"] for row in rows} == {"<script>|`x`", "a$b^$", "_hidden", "x\\x1b[2J", "mean"}


def test_no_cell_of_the_table_is_a_formula(material):
    small_network(2).save_pretrained(material / "net")
    weights = [f"{name}={material / 'net'}" for name in ("+1", "-1", "@sum")]
    evaluate(settings(material, weights=weights, baselines=()), material / "r")
    rows = list(csv.DictReader(io.StringIO((material / "r/table.csv").read_text())))
    assert {row["method"] for row in rows} == {"'+1", "'-1", "'@sum"}
    assert all(float(row["mean"]) == float(row["mean"]) for row in rows)
    results = json.loads((material / "r/results.json").read_text())
    assert set(results["methods"]) == {"+1", "-1", "@sum"}


@pytest.mark.parametrize("name", ["../x", "/x", "..", ".", "truth", "a\\b", "x" * 101, "a\0"])
def test_a_name_that_would_be_another_folder_is_refused(material, name):
    small_network(2).save_pretrained(material / "net")
    with pytest.raises(PConvError, match="weights: expected a name of at most 100 characters"):
        evaluate(settings(material, weights=[f"{name}={material / 'net'}"]), material / "r")
    assert not (material / "r").exists()


def test_names_are_not_interpreted_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("x[/y]z", 2) as progress:
        for name in ("x[/y]z.png", "a\x1b]0;title\x07.png"):
            progress.advance(name)
            progress.say(name)
    shown = sys.stderr.getvalue()
    assert "x[/y]z.png" in shown and "\x1b]0;" not in shown and "\x07" not in shown
