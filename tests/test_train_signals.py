"""A signal ends a training after the step that it came in, with a checkpoint; a second one at once."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from process_support import children, is_alive, loaders, wait_for
from safetensors.torch import load_file
from training_support import TINY_RUN, start_training, write_noise

from pconv_cuda.training import load_config, train
from pconv_cuda.training.checkpoints import Checkpoints
from pconv_cuda.training.learner import Learner

# no checkpoint of its own before a signal comes
ENDLESS = {**TINY_RUN, "train.steps": 10**6, "checkpoint.every": 10**6}


@pytest.fixture(autouse=True)
def one_thread():
    """As the commands below have: the bits of a sum depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photos(tmp_path):
    return write_noise(tmp_path / "photos", 4)


def _settings(photos, **changes):
    return [f"{key}={value}" for key, value in {**ENDLESS, "data.images": photos, **changes}.items()]


def _config(photos, **changes):
    return load_config(settings=_settings(photos, **changes))


def _logged(run: Path) -> int:
    """Steps that the log of ``run`` has."""
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def _saved(run: Path) -> list[int]:
    return [int(path.stem[5:]) for path in sorted(run.glob("checkpoints/step-*.pt"))]


def _goes_on_to_the_same_weights(photos, run, tmp_path):
    """Three steps more from the checkpoint that a signal left are those of a run that was never stopped."""
    (steps,) = _saved(run)
    part = train(_config(photos, **{"train.steps": steps + 3}), run)
    assert part.first_step == steps
    train(_config(photos, **{"train.steps": steps + 3}), tmp_path / "whole")
    ours, whole = load_file(run / "model.safetensors"), load_file(tmp_path / "whole/model.safetensors")
    assert ours.keys() == whole.keys() and all(torch.equal(ours[name], whole[name]) for name in whole)
    logs = [(folder / "log.jsonl").read_text().splitlines() for folder in (run, tmp_path / "whole")]
    totals = [[json.loads(line)["loss/total"] for line in log] for log in logs]
    assert totals[0] == totals[1] and len(totals[0]) == steps + 3


# ---- the command


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize(
    "names",
    [["SIGTERM"], ["SIGINT", "SIGINT"], pytest.param(["SIGHUP"], marks=pytest.mark.full("signals while loaders run"))],
    ids="+".join,
)
def test_a_signal_leaves_a_checkpoint_and_no_loaders(photos, tmp_path, names, group):
    """A terminal sends Ctrl-C to all processes of a command; a launcher may hand it on a moment later."""
    run = tmp_path / "run"
    with start_training(_settings(photos, **{"data.workers": 2}), run, start_new_session=True) as child:
        wait_for(lambda: _logged(run) >= 3)
        workers = loaders(child.pid)
        assert len(workers) == 2 and not _saved(run)
        for name in names:
            (os.killpg if group else os.kill)(child.pid, getattr(signal, name))
            time.sleep(0.05)
        error = child.communicate(timeout=30)[1]
    assert child.returncode == 128 + getattr(signal, names[0]), error
    wait_for(lambda: not any(map(is_alive, workers)), seconds=10)
    assert "Traceback" not in error and not list(run.rglob(".pconv-*.tmp"))
    lines = error.splitlines()
    (steps,) = _saved(run)
    assert steps >= 3 and any(
        line.startswith("interrupted: a checkpoint follows when this step is done") for line in lines
    )
    path = run / f"checkpoints/step-{steps:08d}.pt"
    assert f"the newest checkpoint is {path}" in lines[-3:]
    assert f"step: {steps} of 1000000 are done" in lines[-3:]
    assert lines[-1].startswith(f"pconv train: interrupted ({names[0]}); the same command goes on from the newest")
    if not group:
        _goes_on_to_the_same_weights(photos, run, tmp_path)


_FORK_SERVER = """
import multiprocessing, sys
from pconv_cuda.cli import main
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    sys.exit(main(sys.argv[3:]))  # without "-m pconv_cuda"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork server")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_fork_server_outlives_a_signal_to_the_group(photos, tmp_path, name):
    """Python's default since 3.14."""
    script = tmp_path / "served.py"
    script.write_text(_FORK_SERVER)
    run = tmp_path / "run"
    settings = _settings(photos, **{"data.workers": 2})
    with start_training(settings, run, [str(script)], start_new_session=True) as child:
        wait_for(lambda: _logged(run) >= 3)
        workers = loaders(child.pid)
        assert len(workers) == 2 and not set(workers) & set(children(child.pid))
        os.killpg(child.pid, getattr(signal, name))
        error = child.communicate(timeout=30)[1]
    assert child.returncode == 128 + getattr(signal, name), error
    wait_for(lambda: not any(map(is_alive, workers)), seconds=10)
    assert "Traceback" not in error and len(_saved(run)) == 1


_SLOW = """
import sys, time
from pathlib import Path
from pconv_cuda.cli import main
from pconv_cuda.training.learner import Learner
step = Learner.step
def slow(self, number, *args, **keywords):
    if number == 2:
        Path(sys.argv[5], "slow").touch()
        time.sleep(60)
    return step(self, number, *args, **keywords)
Learner.step = slow
sys.exit(main(sys.argv[3:]))  # without "-m pconv_cuda"
"""


def test_a_second_signal_does_not_wait_for_the_step(photos, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(_SLOW)
    run = tmp_path / "run"
    with start_training(_settings(photos), run, [str(script)]) as child:
        wait_for((run / "slow").exists)
        child.send_signal(signal.SIGINT)
        time.sleep(1.5)
        assert child.poll() is None  # it waits for the step
        started = time.monotonic()
        child.send_signal(signal.SIGINT)
        error = child.communicate(timeout=50)[1]
    assert child.returncode == 130 and time.monotonic() - started < 20
    assert "Traceback" not in error and not _saved(run) and not list(run.rglob(".pconv-*.tmp"))


def test_processes_end_after_the_same_step_whichever_was_asked(photos, tmp_path):
    run = tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = _settings(photos, **{"model.levels": 1, "train.batch_size": 4})
    with start_training(settings, run, launcher, start_new_session=True) as child:
        wait_for(lambda: _logged(run) >= 3)
        ranks = {}
        for process in children(child.pid):
            words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            ranks |= {int(word[5:]): process for word in words if word.startswith(b"RANK=")}
        os.kill(ranks[1], signal.SIGTERM)  # the one that writes nothing
        error = child.communicate(timeout=60)[1]
    (steps,) = _saved(run)
    assert child.returncode != 0 and f"the newest checkpoint is {run}/checkpoints/step-{steps:08d}.pt" in error
    assert error.count("pconv train: interrupted (SIGTERM)") == 2  # both of them
    assert train(load_config(settings=[*settings, f"train.steps={steps}"]), run).first_step == steps


# ---- the function


def _interrupted_in(step, monkeypatch, number=signal.SIGINT, then=None):
    real = Learner.step

    def interrupting(self, at, *args, **keywords):
        if at == step:
            os.kill(os.getpid(), number)
            if then:
                then()
        return real(self, at, *args, **keywords)

    monkeypatch.setattr(Learner, "step", interrupting)


@pytest.fixture
def default_interrupt():
    """Python's own answer to Ctrl-C, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler


@pytest.mark.usefixtures("default_interrupt")
def test_the_function_raises_after_the_checkpoint(photos, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        _interrupted_in(1, patched)
        with pytest.raises(KeyboardInterrupt):
            train(_config(photos), tmp_path / "run")
    assert _saved(tmp_path / "run") == [2]
    assert "the newest checkpoint is " in capsys.readouterr().err
    _goes_on_to_the_same_weights(photos, tmp_path / "run", tmp_path)


def _fail(error):
    raise error


@pytest.mark.usefixtures("default_interrupt")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated."), False),  # by the same signal
        (ValueError("of the step"), True),
    ],
    ids=["loader", "step"],
)
def test_an_error_behind_a_signal_is_the_signal(photos, tmp_path, monkeypatch, capsys, error, told):
    _interrupted_in(1, monkeypatch, then=lambda: _fail(error))
    with pytest.raises(KeyboardInterrupt):
        train(_config(photos), tmp_path / "run")
    assert _saved(tmp_path / "run") == []
    said = f"the step or its checkpoint failed: {type(error).__name__}: {error}\nthere is no checkpoint yet\n"
    assert (said in capsys.readouterr().err) == told


@pytest.mark.usefixtures("default_interrupt")
def test_a_checkpoint_that_a_signal_asked_for_and_that_fails_is_told(photos, tmp_path, monkeypatch, capsys):
    _interrupted_in(1, monkeypatch)
    full = OSError(28, "No space left on device", "step.pt")
    monkeypatch.setattr(Checkpoints, "save", lambda *_: _fail(full))
    with pytest.raises(KeyboardInterrupt):
        train(_config(photos), tmp_path / "run")
    assert f"the step or its checkpoint failed: OSError: {full}\n" in capsys.readouterr().err


def test_an_error_behind_a_signal_whose_handler_returns_is_an_error(photos, tmp_path, monkeypatch):
    asked = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        _interrupted_in(1, monkeypatch, then=lambda: _fail(ValueError("of the step")))
        with pytest.raises(ValueError, match="^of the step$"):
            train(_config(photos), tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == [signal.SIGINT] and not (tmp_path / "run/model.safetensors").exists()


@pytest.mark.usefixtures("default_interrupt")
def test_the_checkpoint_does_not_wait_for_the_score(photos, tmp_path, monkeypatch):
    """Pictures set aside may take longer than a signal waits."""
    saved = []
    monkeypatch.setattr(Learner, "validate", lambda *_: saved.append(_saved(tmp_path / "run")) or 1.0)
    _interrupted_in(3, monkeypatch)
    changes = {"checkpoint.every": 2, "data.validation": photos}
    with pytest.raises(KeyboardInterrupt):
        train(_config(photos, **changes), tmp_path / "run")
    assert saved == [[], [2, 4]]
    state = torch.load(tmp_path / "run/checkpoints/step-00000004.pt", weights_only=True)
    assert state["best_step"] == 2 and state["best_score"] == 1.0 and state["losses"] == [0.0, 0]


def test_a_caller_whose_handler_returns_is_not_interrupted(photos, tmp_path, monkeypatch):
    asked = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append((number, _saved(tmp_path / "run"))))
    try:
        _interrupted_in(1, monkeypatch)
        assert train(_config(photos, **{"train.steps": 4}), tmp_path / "run").steps == 4
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == [(signal.SIGINT, [2])] and _saved(tmp_path / "run") == [2, 4]


def test_a_training_in_a_thread_leaves_signals_alone(photos, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    done = []
    work = threading.Thread(target=lambda: done.append(train(_config(photos, **{"train.steps": 2}), tmp_path / "run")))
    work.start()
    work.join()
    assert done[0].steps == 2 and signal.getsignal(signal.SIGINT) is before
