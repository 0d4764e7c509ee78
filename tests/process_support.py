"""Processes that tests start, watch and send signals to."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["children", "default_signals", "is_alive", "loaders", "wait_for"]


def default_signals() -> None:
    """A ``preexec_fn``: a test run in the background, or under nohup, hands on signals that are ignored."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def children(process: int) -> list[int]:
    """Living processes whose parent it is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            found += [int(stat.parent.name)] * (parent == str(process) and state != "Z")
    return found


def loaders(process: int) -> list[int]:
    """The loader processes of a training: forked from it, or from its fork server (Python 3.14)."""
    own = children(process)
    servers = [one for one in own if b"forkserver" in Path(f"/proc/{one}/cmdline").read_bytes()]
    return [loader for server in servers for loader in children(server)] if servers else own


def is_alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "not in time"
        time.sleep(0.02)
