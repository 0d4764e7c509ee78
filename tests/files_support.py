"""Other processes at work in a folder: one that was killed, and one that holds the folder's lock."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def in_child(work) -> int:
    """Runs ``work`` in a forked process. Returns its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def leave_temporary_file(folder: Path) -> Path:
    """What a process that is killed while it writes leaves in ``folder``."""
    from pconv_cuda.files import atomic_path

    before = set(folder.iterdir())

    def killed() -> None:
        with atomic_path(folder / "file.png") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    (left,) = set(folder.iterdir()) - before
    return left


# A script that starts as the command does not import torch for a lock.
AS_COMMAND = "import sys; sys.argv[0] = 'pconv'\n"
_HOLDER = f"""
{AS_COMMAND}
from pathlib import Path
from pconv_cuda.locks import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def locked_by_another_process(folder: Path) -> Iterator[subprocess.Popen]:
    """``folder`` is locked by a process that can be killed; it ends with the block."""
    command = [sys.executable, "-c", _HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()
