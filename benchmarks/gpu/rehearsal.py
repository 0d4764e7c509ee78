"""Programs that stand in for NVIDIA's tools while a run is rehearsed on a machine without a GPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

# Each prints something of the real one's form; those that watch a program run it.
TOOLS = {
    "nvidia-smi": "echo '0.0, 1 MHz, 1 MHz, 30'",
    "compute-sanitizer": 'shift 4; "$@" && echo "========= ERROR SUMMARY: 0 errors"',
    "ncu": """case "$*" in
    *--query-metrics*) echo "gpu__time_duration"; exit 0;; esac
while [ "$1" != "" ] && [ ! -x "$1" ]; do shift; done
"$@" && echo '"ID","Kernel Name","Metric Value"'""",
}


@contextlib.contextmanager
def tools(work: Path, rehearse: bool) -> Iterator[None]:
    """In a rehearsal the stand-ins come first on PATH."""
    if not rehearse:
        yield
        return
    folder, before = work / "tools", os.environ["PATH"]
    folder.mkdir()
    for name, body in TOOLS.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before
