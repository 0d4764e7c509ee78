"""Processes that tests send signals to."""

from __future__ import annotations

import signal

__all__ = ["default_signals"]


def default_signals() -> None:
    """A ``preexec_fn``: a test run in the background, or under nohup, hands on signals that are ignored."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
