"""The command as a process: signals that end it, and output whose reader has gone."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, cast

__all__ = ["Interrupted", "ending_signals", "standard_streams"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is absent on Windows


class Interrupted(KeyboardInterrupt):
    """One of the signals that ask a process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """In the block Ctrl-C, SIGTERM and SIGHUP raise :class:`Interrupted`; a second one ends the process at once.

    A signal that is ignored (nohup, a job in the background) stays so. Outside the main thread nothing is changed.
    """
    process = os.getpid()
    seen: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a loader process inherits the handler; its parent ends it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if seen:
            _end_now(number)
        seen.append(number)
        raise Interrupted(number)

    before: dict[int, Any] = {}
    try:
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_now(number: int) -> None:
    """Without waiting for anything: loader processes are killed, half-written files removed."""
    processes = sys.modules.get("multiprocessing")
    for child in processes.active_children() if processes else ():
        child.kill()
    files = sys.modules.get("pconv_cuda.files")
    if files:
        files.remove_unfinished()
    os._exit(128 + number)


class _Stream:
    """A text stream that goes on, silently, when its reader has gone: the work counts, not who looks on."""

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
        # what is still in the buffer goes there too, at the latest when the interpreter ends
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
