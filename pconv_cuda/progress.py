"""Progress of long work: a bar with speed and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time

from pconv_cuda.text import printable

__all__ = ["Progress"]

_BAR = 24  # characters
_REDRAWN = 0.05  # seconds between two states of the bar


class Progress:
    """Use as a context manager; :meth:`advance` for each step, :meth:`say` for lines of text. All goes to stderr.

    Args:
        label: what is being done, one word.
        total: steps of the whole work.
        done: steps done before (a resumed run): they count as progress, not for the speed.
        every: steps between plain lines where there is no terminal.
        seconds: least time between such lines.
        enabled: False prints nothing (all processes but the first).
    """

    def __init__(
        self, label: str, total: int, done: int = 0, every: int = 50, seconds: float = 0.0, enabled: bool = True
    ) -> None:
        self.label, self.total, self.done, self.enabled = label, total, done, enabled
        self._every, self._seconds = every, seconds
        self._first, self._started = done, time.monotonic()
        self._latest = self._written = self._started
        self._terminal = enabled and sys.stderr.isatty()
        self._bar = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.say(f"{self.label}: {self.done} of {self.total} are done")
        elif self._bar:
            print(file=sys.stderr, flush=True)

    @property
    def speed(self) -> float:
        """Steps per second since this process began."""
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def advance(self, note: str = "") -> None:
        """One step is done. ``note`` stands behind the bar, and in the plain lines."""
        self.show(self.done + 1, self.total, note)

    def show(self, done: int, total: int, note: str = "") -> None:
        """Step ``done`` of ``total`` is done; with a number that is no larger than the last, other work begins."""
        now = time.monotonic()
        if done <= self.done:
            self._first, self._started = 0, self._latest
        self.done, self.total, self._latest = done, total, now
        last = done == total
        if self._terminal:
            if last or not self._bar or now - self._written >= _REDRAWN:
                filled = _BAR * done // max(total, 1)
                self._draw(f"{self.label} [{'#' * filled}{'.' * (_BAR - filled)}] {self._state(note)}")
                self._written = now
        elif self.enabled and (done % self._every == 0 or last) and now - self._written >= self._seconds:
            print(printable(f"{self.label} {self._state(note)}", keep=""), file=sys.stderr, flush=True)
            self._written = now

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self.enabled:
            bar = self._bar
            self.clear()
            print(printable(text), file=sys.stderr, flush=True)
            if bar:
                self._draw(bar)

    def clear(self) -> None:
        """Removes the bar, so that a line can be printed in its place; the next step draws it again."""
        if self._bar:
            self._bar = ""
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _state(self, note: str) -> str:
        seconds = round((self.total - self.done) / max(self.speed, 1e-9))
        left = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return f"{self.done}/{self.total}  {self.speed:.2f} steps/s  {left} left  {note}".rstrip()

    def _draw(self, bar: str) -> None:
        # a line that wraps cannot be removed
        self._bar = printable(bar, keep="")[: shutil.get_terminal_size().columns - 1]
        print(f"\r\x1b[K{self._bar}", end="", file=sys.stderr, flush=True)
