"""Long calls of libraries, interruptible by signals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["interruptible"]

T = TypeVar("T")


def interruptible(work: Callable[[], T]) -> T:
    """``work()`` in a thread of its own, which is left to itself when this one is interrupted.

    Python answers a signal between its own instructions, and only in the main thread: a solver, or a metric of a large
    picture, may take many seconds in one call.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result()
