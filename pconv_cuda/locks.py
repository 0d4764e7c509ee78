"""One writing process per folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from pconv_cuda.errors import PConvError
from pconv_cuda.files import os_error_text

__all__ = ["LOCK", "folder_lock"]

LOCK = ".pconv-lock"  # in a folder that a process writes into; holds its process id and host
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # absent on Windows

_locks: set[int] = set()  # descriptors that hold a lock


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[Callable[[], None]]:
    """Makes ``folder`` and keeps other processes from writing into it while the block runs.

    The block gets a function that raises PConvError when the folder was removed or replaced since: to be called before
    files are written, since writing a file makes the folders that it needs.

    The lock is an flock, so the end of the process releases it, however it ends. Where the file system or the platform
    has none, nothing is locked. Folders that were made here and stay empty are removed after an error.

    Raises:
        PConvError: another process holds the lock, or the folder cannot be made or written.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(folder)
        place = os.stat(folder)
    except OSError as error:
        reason = os_error_text(error)
        raise PConvError(f"out: cannot make the folder {str(folder)!r}, or write into it: {reason}") from error
    complete = False

    def check() -> None:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(folder), place):
                return
        raise PConvError(f"out: {str(folder)!r} was removed or replaced while files were written into it")

    try:
        yield check
        complete = True
    finally:
        _release(folder, descriptor)
        if not complete:
            with contextlib.suppress(OSError):
                for one in missing:
                    one.rmdir()


def _acquire(folder: Path) -> int | None:
    """The descriptor that holds the lock; None where nothing can be locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        descriptor = _open_lock(folder / LOCK)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PConvError(
                    f"out: {str(folder)!r} is in use by {_holder(descriptor)}; wait until it ends, or take "
                    "another folder"
                ) from None
            except OSError:  # not offered for files here (ENOLCK, ENOTSUP, ENOSYS); perhaps for folders
                return _lock_itself(folder, descriptor)
            if _is_at(folder / LOCK, descriptor):
                _write_holder(descriptor)
                _locks.add(descriptor)
                return descriptor
            os.close(descriptor)  # its holder removed it between opening and locking
        except BaseException:
            os.close(descriptor)
            raise


def _lock_itself(folder: Path, file: int) -> int | None:
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise PConvError(
            f"out: {str(folder)!r} is in use by {_holder(file)}; wait until it ends, or take another folder"
        ) from None
    except OSError:
        os.close(descriptor)
        os.close(file)
        os.unlink(folder / LOCK)
        return None
    _write_holder(file)
    os.close(file)
    _locks.add(descriptor)
    return descriptor


def _release(folder: Path, descriptor: int | None) -> None:
    if descriptor is None:
        return
    with contextlib.suppress(OSError):
        # while it is held, so that the next process makes a new one; not the lock of a folder made anew meanwhile
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) or _is_at(folder / LOCK, descriptor):
            os.unlink(folder / LOCK)
    _locks.discard(descriptor)
    os.close(descriptor)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
    except PermissionError:  # another user's process was killed here: its file can be locked, though not written
        return os.open(path, os.O_RDONLY | _NO_FOLLOW)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds, without its holder's name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    """``process 4711``, as the lock file tells it."""
    process, _, host = os.pread(descriptor, 300, 0).decode(errors="replace").strip().partition(" ")
    if not process.isdecimal():
        return "another process"
    return f"process {process}" + (f" on {host!r}" if host != socket.gethostname() else "")


def _forget_locks() -> None:
    """Called in a forked child, so that a loader process that outlives its parent does not keep the folder locked."""
    for descriptor in _locks:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
