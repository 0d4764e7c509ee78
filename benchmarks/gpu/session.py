"""A run's folder, its time, its report, and the commands that it starts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEPT_OUTPUT = 2000  # characters of a failure
Result = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A finished command. ``code`` 124: it ran out of time; 127: it could not be started."""

    code: int
    output: str  # standard output and error, in the order in which they were written

    @property
    def last_line(self) -> str:
        return (self.output.strip().splitlines() or ["nothing was printed"])[-1]


class Session:
    """One part of the run. Work files go to ``work``, a temporary folder; ``out`` holds results alone."""

    def __init__(self, name: str, out: Path, work: Path, seconds: float, rehearse: bool = False) -> None:
        self.name, self.out, self.work, self.rehearse = name, out, work, rehearse
        self.end = time.monotonic() + seconds
        self.report: Result = {"part": name, "stages": []}
        out.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        return self.end - time.monotonic()

    def run(self, command: list[Any], limit: float = 1e9, **environment: str) -> Done:
        """At most ``limit`` seconds, and what is left of the part; then the command is interrupted, and five seconds
        later killed with all its children."""
        words = [str(word) for word in command]
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        # A file, not a pipe: a child that outlives its parent would keep a pipe open.
        with (self.work / f"output-{time.monotonic_ns()}").open("w+", errors="replace") as log:
            try:
                process = subprocess.Popen(
                    words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=variables,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as missing:
                return Done(127, str(missing))
            try:
                code = process.wait(timeout=max(1.0, min(limit, self.left())))
            except subprocess.TimeoutExpired:
                code = 124
                with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                    process.send_signal(signal.SIGINT)  # pytest then says what it has found so far
                    process.wait(timeout=5)
            finally:
                kill_group(process)
            log.flush()
            log.seek(0)
            said = log.read()
        return Done(code, said + ("\nran out of time" if code == 124 else ""))

    def stage(self, name: str, work: Callable[[], Result], least: float = 5) -> Result:
        """Runs ``work`` and records what it found. A stage that raises has failed; the run goes on."""
        start = time.monotonic()
        try:
            found = work() if self.left() > least else {"outcome": "not run: no time left"}
        except Exception as error:
            found = {"outcome": f"failed: {type(error).__name__}: {error}", "output": traceback.format_exc()}
        result = {"stage": name, "seconds": round(time.monotonic() - start, 1), **found}
        self.report["stages"].append(result)
        print(f"{name}: {result['outcome']} ({result['seconds']} s)", flush=True)
        write(self.out / f"{self.name}.json", json.dumps(self.report, indent=1) + "\n")
        return result

    def failed(self) -> list[str]:
        return [stage["stage"] for stage in self.report["stages"] if stage["outcome"].startswith("failed")]


def kill_group(process: subprocess.Popen[Any]) -> None:
    """The command's whole process group: compilers and test workers too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def outcome(done: Done) -> Result:
    """passed, or failed with the end of what the command printed."""
    if done.code == 0:
        return {"outcome": "passed"}
    return {"outcome": f"failed ({done.code})", "output": done.output[-KEPT_OUTPUT:]}


def build_outcome(done: Done) -> Result:
    """As :func:`outcome`, but what is kept begins at the first error: later ones follow from it."""
    if done.code == 0:
        return {"outcome": "passed"}
    first = re.search(r"^.*(?:\berror\b|undefined reference).*$", done.output, re.MULTILINE | re.IGNORECASE)
    start = max(0, first.start() - 200) if first else max(0, len(done.output) - KEPT_OUTPUT)
    return {"outcome": f"failed ({done.code})", "output": done.output[start : start + KEPT_OUTPUT]}
