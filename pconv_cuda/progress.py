"""Progress of long work: a bar with speed and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

from pconv_cuda.errors import require
from pconv_cuda.text import printable

__all__ = ["Progress"]


class Progress:
    """Use as a context manager; :meth:`advance` for each step, :meth:`say` for lines of text.

    Args:
        label: what is being done, one word.
        total: steps of the whole work.
        done: steps done before (a resumed run): they count as progress, not for the speed.
        every: steps between plain lines where there is no terminal.
        enabled: False prints nothing (all processes but the first).
    """

    def __init__(self, label: str, total: int, done: int = 0, every: int = 50, enabled: bool = True) -> None:
        self.label, self.total, self.done, self.every, self.enabled = label, total, done, every, enabled
        self._first, self._started = done, time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        # the extras of inpainting and video do not bring rich: lines will do there
        if self.enabled and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
            rich = require("rich.progress", "train", why="the progress bar")
            console = require("rich.console", "train").Console(stderr=True)
            self._bar = rich.Progress(
                rich.TextColumn("{task.description}", markup=False),
                rich.BarColumn(),
                rich.MofNCompleteColumn(),
                rich.TextColumn("{task.fields[speed]:.2f} steps/s", markup=False),
                rich.TimeRemainingColumn(),
                rich.TextColumn("{task.fields[note]}", markup=False),  # a name such as x[/y]z.png is no markup
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, speed=0.0, note="")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.say(f"{self.label}: {self.done} of {self.total} are done")
        if self._bar is not None:
            self._bar.stop()

    @property
    def speed(self) -> float:
        """Steps per second since this process began."""
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def advance(self, note: str = "") -> None:
        """One step is done. ``note`` stands behind the bar, and in the plain lines."""
        self.done += 1
        note = printable(note, keep="")
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, speed=self.speed, note=note)
        elif self.enabled and (self.done % self.every == 0 or self.done == self.total):
            seconds = round((self.total - self.done) / self.speed)
            left = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
            place = f"{self.label} {self.done}/{self.total}"
            print(
                f"{place}  {self.speed:.2f} steps/s  {left} left  {note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        text = printable(text)
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self.enabled:
            print(text, file=sys.stderr, flush=True)
