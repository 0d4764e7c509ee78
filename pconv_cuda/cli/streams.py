"""The command's output: every character is taken, and a pipe that was closed is no error."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, cast

__all__ = ["standard_streams"]


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
            self._drop()
            error.filename = self._stream.name  # such as <stdout>, for the message
            raise

    def _drop(self) -> None:
        # Buffered output goes there too, at the latest when the interpreter ends: an error then would be a second one,
        # and the exit code 120.
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
