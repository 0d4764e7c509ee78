"""When signals to end are answered, in one process and in loader processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_support import default_signals

from pconv_cuda import signals as answers
from pconv_cuda.signals import Interrupted, ending_signals, postponed_signals


def test_the_first_signal_waits_and_is_answered_at_the_end_of_the_block():
    told, reached, after = [], [], []
    with pytest.raises(Interrupted, match="SIGTERM"), ending_signals():
        with postponed_signals(lambda: told.append(1)) as waiting:
            for _ in range(3):  # within a second they are one wish
                os.kill(os.getpid(), signal.SIGTERM)
            reached.append(waiting.number)
        after.append(1)
    assert told == [1] and reached == [signal.SIGTERM] and not after


_ANSWERED = """
import os, signal, sys, threading, time
from pconv_cuda import signals

def again():
    time.sleep(float(sys.argv[1]))
    os.kill(os.getpid(), signal.SIGTERM)

with signals.ending_signals():
    try:
        with signals.postponed_signals(lambda: print("waits", flush=True)) as waiting:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Thread(target=again, daemon=True).start()
            try:
                waiting.answer(waiting.number)
            finally:  # as what a training closes
                while time.monotonic() - signals._noticed < 3:
                    time.sleep(0.01)
    except signals.Interrupted:
        print("told", flush=True)
"""


@pytest.mark.parametrize(("gap", "lines"), [(0.2, ["waits", "told"]), (1.5, ["waits"])], ids=["together", "later"])
def test_a_signal_after_the_answer(gap, lines):
    """Within a second it is the launcher's, then another wish."""
    done = subprocess.run(
        [sys.executable, "-c", _ANSWERED, str(gap)],
        env={**os.environ, "PYTHONPATH": str(Path(answers.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.splitlines() == lines and done.returncode == (143 if gap > 1 else 0), done.stderr


@pytest.mark.parametrize("context", [ending_signals, postponed_signals])
def test_a_signal_while_the_handlers_are_restored(monkeypatch, context):
    real, armed = signal.signal, []

    def racing(number, handler):
        result = real(number, handler)
        if armed and armed.pop() == number:
            os.kill(os.getpid(), number)
        return result

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    first = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        with pytest.raises(KeyboardInterrupt), context():
            monkeypatch.setattr(signal, "signal", racing)
            armed.append(signal.SIGINT)
        assert not armed and not answers._postponed
        assert {signal.getsignal(number) for number in numbers} == {signal.default_int_handler}
    finally:
        for number, handler in first.items():
            real(number, handler)


_PATIENT = """
import os, signal, time
from pconv_cuda import signals
signals._STEP_PATIENCE, signals._PATIENCE = 2, 0.2
with signals.ending_signals(lambda number: print("late", number, flush=True)):
    with signals.postponed_signals() as waiting:
        os.kill(os.getpid(), signal.SIGTERM)
        started = time.monotonic()
        while time.monotonic() - started < 60:
            if time.monotonic() - started > 1:
                print("still here", flush=True)
            time.sleep(0.7)
"""


def test_a_step_without_an_end_is_not_waited_for():
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _PATIENT],
        env={**os.environ, "PYTHONPATH": str(Path(answers.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=default_signals,
    )
    assert done.returncode == 143, done.stderr
    assert time.monotonic() - started < 30 and done.stdout.splitlines()[0] == "still here"
    assert done.stdout.splitlines()[-1] == "late 15"


_LOADERS = """
import multiprocessing, os, signal, sys, time
from pconv_cuda.signals import outlive_signals

def wait(ready):
    outlive_signals()
    ready.put(os.getpid())
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    ready = context.Queue()
    process = context.Process(target=wait, args=(ready,))
    process.start()
    loader = ready.get(timeout=60)
    for name in ("SIGINT", "SIGHUP"):
        os.kill(loader, getattr(signal, name))
    if not os.fork():  # a stranger
        os.kill(loader, signal.SIGTERM)
        os._exit(0)
    time.sleep(1)
    print("alive", process.is_alive())
    process.terminate()
    process.join(20)
    print("ended", process.exitcode)
    process.kill()
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="who sent a signal cannot be told")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_loader_is_ended_by_its_parent_alone(tmp_path, method):
    script = tmp_path / "loaders.py"
    script.write_text(_LOADERS)
    env = {**os.environ, "PYTHONPATH": str(Path(answers.__file__).parents[1])}
    done = subprocess.run([sys.executable, script, method], env=env, capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines() == ["alive True", "ended 0"], done.stderr


_OWN_PROCESS = """
import multiprocessing, sys, time
from pconv_cuda.signals import shield_fork_server
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    shield_fork_server()
    process = multiprocessing.Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(20)
    print(process.exitcode)
    process.kill()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork server")
def test_processes_of_a_callers_own_can_be_terminated(tmp_path):
    script = tmp_path / "own.py"
    script.write_text(_OWN_PROCESS)
    env = {**os.environ, "PYTHONPATH": str(Path(answers.__file__).parents[1])}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=100)
    assert done.stdout == "-15\n", done.stderr
