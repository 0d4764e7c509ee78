"""The command as a process: signals that end it, and closed output pipes."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, cast

__all__ = ["Interrupted", "end_now", "ending_signals", "standard_streams"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is absent on Windows
_PATIENCE = 5.0  # seconds that a call of a library may go on after a signal


class Interrupted(KeyboardInterrupt):
    """One of the signals that ask a process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def ending_signals(late: Callable[[int], None] = lambda number: None) -> Iterator[None]:
    """In the block Ctrl-C, SIGTERM and SIGHUP raise :class:`Interrupted`; a second one ends the process at once.

    Python answers signals between its own instructions, and one call of a library may take minutes. A thread therefore
    ends the process where nothing was raised for some seconds, and at the second signal.

    A signal that is ignored (nohup, a job in the background) stays so. Outside the main thread nothing is changed.

    Args:
        late: called with the signal's number before the process ends without having raised.
    """
    process = os.getpid()
    raised = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a loader process inherits the handler; its parent ends it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if raised.is_set():
            end_now(number)
        raised.set()
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handle) for number in numbers}
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, RuntimeError):  # no more open files, or no more threads
            stack.callback(_start_watching(numbers, raised, late))
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _start_watching(numbers: Sequence[int], raised: threading.Event, late: Callable[[int], None]) -> Callable[[], None]:
    """Returns what ends it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_watch, args=(reading, numbers, raised, late), daemon=True).start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def stop() -> None:
        signal.set_wakeup_fd(before)
        os.close(writing)  # the thread reads the end and closes the other one

    return stop


def _watch(reading: int, numbers: Sequence[int], raised: threading.Event, late: Callable[[int], None]) -> None:
    """Reads the signals' numbers, one byte each, as they arrive."""
    with contextlib.closing(os.fdopen(reading, "rb", buffering=0)) as pipe:
        while byte := pipe.read(1):
            number = byte[0]
            if number not in numbers:  # SIGCHLD, of a loader process
                continue
            ready, started = False, time.monotonic()
            while not raised.is_set() and not ready:  # the main thread is within a call, or about to answer
                if time.monotonic() - started > _PATIENCE:
                    late(number)
                    end_now(number)
                ready = bool(select.select([pipe], [], [], 0.05)[0])
            while byte := pipe.read(1):
                if byte[0] in numbers:
                    end_now(byte[0])


if hasattr(os, "register_at_fork"):
    # a loader process must not report its signals into its parent's pipe
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def end_now(number: int) -> NoReturn:
    """Ends the process as signal ``number`` does, without waiting for threads.

    Loader processes are killed, half-written files removed.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):
            stream.flush()
    processes = sys.modules.get("multiprocessing")
    for child in processes.active_children() if processes else ():
        child.kill()
    files = sys.modules.get("pconv_cuda.files")
    if files:
        files.remove_unfinished()
    os._exit(128 + number)


class _Stream:
    """A text stream that drops its output once its pipe is closed, so that the work goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._errors():
            self._stream.flush()

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._drop()
        except OSError as error:
            error.filename = self._stream.name  # such as <stdout>, for the message
            raise

    def _drop(self) -> None:
        # buffered output goes there too, at the latest when the interpreter ends
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """In the block stdout and stderr take every character, and a pipe that was closed is no error."""
    before = sys.stdout, sys.stderr
    for stream in before:
        with contextlib.suppress(AttributeError, ValueError, OSError):  # None, closed, or no TextIOWrapper
            cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (stream and _Stream(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
