"""Signals that ask a process to end: when they are answered, and how the process then ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

__all__ = [
    "Interrupted",
    "Postponed",
    "end_now",
    "ending_signals",
    "outlive_signals",
    "postponed_signals",
    "shield_fork_server",
]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is absent on Windows
_PATIENCE = 5.0  # seconds that a call of a library may go on after a signal
_STEP_PATIENCE = 60  # seconds that a signal waits for the end of a step
# Signals within so many seconds are one request: a launcher forwards what the terminal sent to all processes, and ends
# the others when the first of them has ended.
_TOGETHER = 1.0


_commands = 0  # blocks of ending_signals that the main thread is in


class Interrupted(KeyboardInterrupt):
    """One of the signals that ask a process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]


def _restore(handlers: dict[int, Any]) -> None:
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    except BaseException:  # raised by the answer to a signal that came between two of them
        for number, handler in handlers.items():
            signal.signal(number, handler)
        raise


# ---- answered at once


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
        if not raised.is_set():
            raised.set()
            raise Interrupted(number)
        if time.monotonic() - _noticed > _TOGETHER:  # else it belongs to the one that a training has just answered
            end_now(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _commands
    numbers = [number for number in _numbers() if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handle) for number in numbers}
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, RuntimeError):  # no more open files, or no more threads
            stack.callback(_start_watching(numbers, raised, late))
        _commands += 1
        try:
            yield
        finally:
            _commands -= 1
            _restore(before)


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
    first, started = 0, 0.0
    with contextlib.closing(os.fdopen(reading, "rb", buffering=0)) as pipe:
        while True:
            waits = first != 0 and not raised.is_set()  # the main thread is within a call, or about to answer
            if waits and time.monotonic() - started > (_STEP_PATIENCE if _postponed else _PATIENCE):
                late(first)
                end_now(first)
            if not select.select([pipe], [], [], 0.05 if waits else None)[0]:
                continue
            if not (byte := pipe.read(1)):
                return
            if byte[0] not in numbers:  # SIGCHLD, of a loader process
                continue
            if not first:
                first, started = byte[0], time.monotonic()
            elif time.monotonic() - (max(started, _noticed) if _postponed else _noticed) > _TOGETHER:
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


# ---- answered at the end of a step

_postponed = False  # whether the main thread is in the block of postponed_signals
_noticed = -_TOGETHER  # when a signal began to wait there, or was answered


class Postponed:
    """``number`` of the signal that waits, 0 where there is none; signals do not wait while ``answers``."""

    def __init__(self, handlers: dict[int, Any]) -> None:
        self.number, self.answers = 0, False
        self._handlers = handlers

    def answer(self, number: int) -> None:
        """Does what signal ``number`` would have done: it raises :class:`Interrupted` or KeyboardInterrupt.

        A caller's own handler may also return.
        """
        global _noticed
        self.number, self.answers, _noticed = 0, True, time.monotonic()
        if (handler := self._handlers.get(number)) is None:  # another process of the training was asked to end
            raise Interrupted(number)
        handler(number, None)
        self.answers = False


@contextlib.contextmanager
def postponed_signals(tell: Callable[[], None] = lambda: None) -> Iterator[Postponed]:
    """In the block the first signal to end waits, so that a step is either done or not begun.

    The block asks ``number`` between two steps and calls :meth:`Postponed.answer`; its end answers too, and so does an
    error in it, which goes on where the answer does not raise. A second signal is answered at once if it comes a second
    or more after the first, and :func:`ending_signals` ends the process after a minute.

    Only signals with a handler in Python are meant: in a command all three, elsewhere Ctrl-C. Outside the main thread
    nothing is changed.

    Args:
        tell: called when a signal begins to wait.
    """
    global _postponed
    process = os.getpid()
    before: dict[int, Any] = {}
    waiting = Postponed(before)

    def handle(number: int, frame: FrameType | None) -> None:
        global _noticed
        if os.getpid() != process or waiting.answers:
            before[number](number, frame)
        elif not waiting.number:
            waiting.number, _noticed = number, time.monotonic()
            with contextlib.suppress(RuntimeError):  # the signal came within a write to the same stream
                tell()
        elif time.monotonic() - _noticed >= _TOGETHER:
            before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        before.update((number, signal.getsignal(number)) for number in _numbers())
        for number in [number for number, handler in before.items() if not callable(handler)]:
            del before[number]
    _postponed = bool(before)
    for number in before:
        signal.signal(number, handle)
    try:
        yield waiting
    except Exception:
        if waiting.number:
            waiting.answer(waiting.number)
        raise
    finally:
        waiting.answers, _postponed = True, False
        _restore(before)
    if waiting.number:
        waiting.answer(waiting.number)


# ---- loader processes


def shield_fork_server() -> None:
    """In a command, before the first loader process: a signal to all processes must not end what loaders come from.

    Since Python 3.14 that is a server, which SIGTERM and SIGHUP end, and a process that tracks resources, which SIGHUP
    ends. Here they start with both signals blocked. Elsewhere processes of the caller's own may come from them.
    """
    if not _commands or multiprocessing.get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver, resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _numbers())
    try:
        resource_tracker.ensure_running()  # first, for it sets a mask of its own before Python 3.14
        signal.pthread_sigmask(signal.SIG_BLOCK, _numbers())
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_signals() -> None:
    """For a loader process: it outlives a signal to all processes of a command, so that its parent can end the step.

    SIGTERM ends it at once if it comes from the parent, else after a minute.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows: who sent it cannot be told
        return
    parent = multiprocessing.parent_process()  # with a fork server it is not os.getppid()
    # blocked in this thread, and in those that it starts: the one below takes it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    sender = os.getppid() if parent is None else parent.pid
    threading.Thread(target=_end_by_parent, args=(sender,), daemon=True).start()


def _end_by_parent(parent: int) -> NoReturn:
    sender = signal.sigwaitinfo([signal.SIGTERM]).si_pid
    last = time.monotonic() + _STEP_PATIENCE
    while sender != parent and (left := last - time.monotonic()) > 0:
        if (info := signal.sigtimedwait([signal.SIGTERM], left)) is not None:
            sender = info.si_pid
    # torch writes a traceback about a loader process that ended with an error, even where its parent ended it
    os._exit(0 if sender == parent else 128 + signal.SIGTERM)
