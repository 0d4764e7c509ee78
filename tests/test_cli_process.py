"""The command as a process: its version, its output, signals and closed pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from files_support import AS_COMMAND
from PIL import Image
from process_support import default_signals, wait_for

import pconv_cuda
from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.masks import files
from pconv_cuda.signals import Interrupted, ending_signals

ROOT = Path(pconv_cuda.__file__).parents[1]
PCONV = [sys.executable, "-m", "pconv_cuda"]
ESCAPE, SHOWN = "\x1b]0;title\x07", "\\x1b]0;title\\x07"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def start(*words: object, **more) -> subprocess.Popen:
    return subprocess.Popen([*PCONV, *map(str, words)], env=environment(), preexec_fn=default_signals, **more)


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert not caught.value.code and capsys.readouterr().out == f"pconv {pconv_cuda.__version__}\n"


# ---- what is printed


def test_a_name_cannot_command_the_terminal(tmp_path, capsys):
    folder = tmp_path / f"a{ESCAPE}"
    assert main(["masks", "stats", str(folder)]) == 1
    folder.mkdir()
    (folder / f"b{ESCAPE}.png").write_bytes(b"x")
    assert main(["masks", "stats", str(folder)]) == 1
    err = capsys.readouterr().err
    assert f"b{SHOWN}.png: " in err and "\x1b" not in err
    Image.fromarray(np.eye(8, dtype=bool)).save(folder / "a.png")
    assert main(["masks", "stats", str(folder)]) == 1  # one is unreadable
    assert main(["train", "--set", f"{ESCAPE}=1", "--out", str(tmp_path / "r")]) == 1
    with pytest.raises(SystemExit):
        main(["masks", "make", "--out", "x", f"--{ESCAPE}"])
    out, err = capsys.readouterr()
    assert SHOWN in out and err.count(SHOWN) >= 2
    assert "\x1b" not in out + err and "\x07" not in out + err


def test_output_never_fails_on_its_encoding(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9 \xe5\x9b\xbe"
    os.mkdir(folder)
    with open(folder + b"/m.png", "wb") as file:
        Image.fromarray(np.eye(8, dtype=bool)).save(file, "PNG")
    done = subprocess.run(
        [*PCONV, b"masks", b"stats", folder],
        capture_output=True,
        env=environment(PYTHONIOENCODING="ascii", PYTHONUTF8="0"),
    )
    assert done.returncode == 0 and done.stderr.count(b"Traceback") == 0
    assert b"caf\\udce9 \\u56fe" in done.stdout


@pytest.mark.full("signals")
def test_the_output_pipe_may_be_closed(tmp_path):
    """The pipe is closed before the first line: the work is done, and no line counts as a failure."""
    reading, writing = os.pipe()
    os.close(reading)
    child = start("masks", "make", "--out", tmp_path / "m", "--size", 48, "--count", 1, stdout=writing, stderr=writing)
    os.close(writing)
    assert child.wait(60) == 0
    assert (tmp_path / "m/manifest.json").is_file()
    # and unfinished work is not reported as done
    reading, writing = os.pipe()
    os.close(reading)
    child = start("masks", "make", "--out", tmp_path / "x", "--size", 1, stdout=writing, stderr=writing)
    os.close(writing)
    assert child.wait(60) == 1


def test_help_into_a_closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    child = start("--help", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert child.communicate(timeout=60)[1] == b"" and child.returncode == 0


def test_output_into_a_full_disk():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PCONV, "info"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
    assert done.returncode == 1
    assert done.stderr == "pconv info: error: <stdout>: the disk is full; free some space, or write to another disk\n"


# ---- signals


@pytest.mark.parametrize(
    "name", ["SIGTERM", *(pytest.param(name, marks=pytest.mark.full("signals")) for name in ("SIGINT", "SIGHUP"))]
)
def test_a_signal_ends_the_work_and_says_how_to_go_on(tmp_path, name):
    child = start("masks", "make", "--out", tmp_path / "m", "--size", 64, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(tmp_path.glob("m/0.01-0.1/border/*.png"))) > 3)
    child.send_signal(getattr(signal, name))
    error = child.communicate(timeout=30)[1]
    assert child.returncode == 128 + getattr(signal, name)
    lines = error.splitlines()
    assert lines[-1] == f"pconv masks: interrupted ({name}); the same command goes on with what is missing"
    assert lines[-2].startswith("masks: ") and lines[-2].endswith(" of 12000 are done")
    assert "Traceback" not in error and not list(tmp_path.rglob(".pconv-*"))


def test_a_second_signal_ends_at_once(tmp_path, monkeypatch):
    """Also while the first one is still cleaned up after; its half-written file goes."""
    code = f"""
{AS_COMMAND}
import os, signal, time
from pathlib import Path
from pconv_cuda.signals import ending_signals
from pconv_cuda.files import atomic_path
with ending_signals(), atomic_path(Path({str(tmp_path / "file")!r})):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
"""
    started = time.monotonic()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), timeout=50, preexec_fn=default_signals)
    assert done.returncode == 130 and time.monotonic() - started < 30
    assert list(tmp_path.iterdir()) == []


_BUSY = """
import os, signal, sys, time, torch
from pconv_cuda import signals as answers
answers._PATIENCE = 1.0
torch.set_num_threads(1)
busy = torch.randn(2500, 2500, dtype=torch.float64)
signals = [getattr(signal, name) for name in sys.argv[1:]]
with answers.ending_signals(late=lambda number: print("late", number, flush=True)):
    if not os.fork():
        for number in signals:
            time.sleep(0.5)
            os.kill(os.getppid(), number)
        os._exit(0)
    torch.linalg.eigvals(busy)  # one call, for half a minute, in which Python answers nothing
print("done")
"""


@pytest.mark.parametrize(
    ("names", "said"), [(["SIGTERM"], "late 15\n"), (["SIGTERM", "SIGINT"], "")], ids=["one", "two"]
)
def test_a_signal_within_a_long_call_of_a_library(names, said):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _BUSY, *names],
        env=environment(),
        timeout=100,
        capture_output=True,
        text=True,
        preexec_fn=default_signals,
    )
    assert done.returncode == 128 + getattr(signal, names[-1]), done.stderr
    assert done.stdout == said and time.monotonic() - started < 20


def test_an_ignored_signal_stays_ignored_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        with ending_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Interrupted, match="SIGTERM"):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGHUP, before[0])


def test_an_interruption_without_a_signal(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "make_masks", interrupted)
    assert main(["masks", "make", "--out", str(tmp_path)]) == 130
    assert "pconv masks: interrupted (SIGINT); the same command goes on" in capsys.readouterr().err


def test_the_folder_is_removed_while_masks_are_written(tmp_path, monkeypatch):
    paint, calls = files.paper_mask, []

    def removing(*args, **keywords):
        calls.append(args)
        if len(calls) == 5:
            (tmp_path / "m").rename(tmp_path / "elsewhere")
        return paint(*args, **keywords)

    monkeypatch.setattr(files, "paper_mask", removing)
    with pytest.raises(PConvError, match=r"out: '.*m' was removed or replaced while files were written into it"):
        files.make_masks(tmp_path / "m", size=48, count=1, progress=False)
    assert not (tmp_path / "m").exists() and len(list((tmp_path / "elsewhere").rglob("*.png"))) == 4


def test_several_files_are_told_that_a_verb_takes_one(tmp_path, capsys):
    """A shell makes several of *.jpg."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    pictures = [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    for words, hint in ((pictures, True), ([pictures[0], "nowhere.jpg"], False)):
        with pytest.raises(SystemExit) as caught:
            main(["inpaint", *words, "--mask", "m.png", "-o", "out"])
        assert caught.value.code == 2
        assert ("; a verb takes one file, or a folder for several" in capsys.readouterr().err) == hint
