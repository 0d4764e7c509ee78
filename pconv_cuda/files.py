"""Writing files safely: atomic replacement, removal of leftovers, errors of the system in words.

A final name that is a symbolic link is replaced by the new file; the file that the link points to is never changed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pconv_cuda.errors import PConvError

__all__ = [
    "atomic_link",
    "atomic_path",
    "is_out_of_memory",
    "open_append",
    "os_error_text",
    "remove_leftovers",
    "remove_tree",
    "remove_unfinished",
    "settle",
    "sync",
    "sync_folder",
    "system_error_text",
    "temporary_folder",
    "temporary_path",
]

# Short for any final name, and random, so that no link can be planted under it.
_TEMPORARY = re.compile(r"\.pconv-(\d{1,10})-([0-9a-f]{8})-[0-9a-f]{16}\.tmp")
_ASIDE = re.compile(
    r"(.+)\.pconv-(\d{1,10})-([0-9a-f]{8})-[0-9a-f]{16}\.old", re.DOTALL
)  # an older folder of that name
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # absent on Windows
_FOREIGN_AGE = 24 * 3600  # seconds after which a temporary file of another host counts as abandoned

unfinished: set[Path] = set()  # temporary files of this process, and folders that take a final name
aside: dict[Path, Path] = {}  # older folders while they are replaced, and their names
_folders: set[Path] = set()  # and its temporary folders


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """An empty temporary file beside ``path``, to be filled; it replaces ``path`` when the block ends without an error.

    Its mode follows the umask. After an error it is removed, and ``path`` is unchanged.
    """
    with _replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666)
        os.close(descriptor)
        yield temporary


def atomic_link(source: Path, path: Path) -> None:
    """Makes ``path`` a hard link to ``source``, or a copy where the file system has no hard links."""
    try:
        with _replacing(path) as temporary:
            os.link(source, temporary)
    except OSError as error:
        # FAT, FUSE and SMB refuse with EPERM, ENOTSUP, ENOSYS, EACCES, EINVAL or EMLINK
        if error.errno in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        with atomic_path(path) as temporary:
            shutil.copyfile(source, temporary)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A free temporary name beside ``path``; the file of that name replaces ``path`` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    unfinished.add(temporary)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            sync(written.fileno())  # data before name: a power cut must not leave an empty file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink()
        if isinstance(error, OSError) and error.errno:
            last = error.filename2 or error.filename  # shutil names the source first
            if last in (None, str(temporary), temporary):
                error.filename, error.filename2 = str(path), None  # the name that the user knows
        raise
    finally:
        unfinished.discard(temporary)
    sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """A free name beside ``path``, by which :func:`remove_leftovers` knows whose it is."""
    return path.with_name(f".pconv-{os.getpid()}-{_host_digest()}-{secrets.token_hex(8)}.tmp")


def open_append(path: Path) -> IO[str]:
    """``path`` opened for appending text; a symbolic link is refused, since it would be written through.

    Raises:
        PConvError: ``path`` is a symbolic link.
    """
    if path.is_symlink():  # for platforms without O_NOFOLLOW, and for the message
        raise PConvError(f"{path}: expected a file of its own to append to, got a symbolic link; remove it")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_FOLLOW, 0o666)
    return open(descriptor, "a", encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files and folders in ``folder`` (not below it) of processes that were killed.

    A folder that one of them was about to replace gets its name back. What is of another host, or of another container,
    is removed when it is a day old: its process cannot be asked for.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:  # no such folder, or not readable: nothing that could be removed
        return
    for entry in entries:
        old = _ASIDE.fullmatch(entry.name)
        found = old or _TEMPORARY.fullmatch(entry.name)
        if not found or not (old or entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
            continue
        with contextlib.suppress(OSError):  # gone by now, or another user's
            process, host = found.groups()[-2:]
            local = host == _host_digest() and os.name == "posix"
            if local and int(process) == os.getpid():
                abandoned = folder / entry.name not in {*unfinished, *aside}
            elif local:
                abandoned = not _is_running(int(process))
            else:
                about = entry.stat(follow_symlinks=False)  # moved aside is not written: st_ctime tells when that was
                abandoned = time.time() - (about.st_ctime if old else about.st_mtime) > _FOREIGN_AGE
            if abandoned and old:
                settle(folder / entry.name, folder / old[1])
            elif abandoned:
                remove_tree(Path(entry.path))


def remove_tree(path: Path) -> None:
    """Removes a file, a link (not what it points to) or a folder, read-only ones too; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        for folder, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def settle(aside: Path, path: Path) -> None:
    """A folder that was moved aside goes where another one has its name, and else gets it back."""
    if not os.path.lexists(aside):
        return
    if os.path.lexists(path):
        remove_tree(aside)
    else:
        os.rename(aside, path)


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder for this user alone, where the system keeps temporary files; it is removed when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _folders.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _folders.discard(folder)


def remove_unfinished() -> None:
    """Removes the temporary files and folders that this process has, for an end without cleaning up."""
    for temporary in tuple(unfinished):
        remove_tree(temporary)
    for old, path in tuple(aside.items()):
        with contextlib.suppress(OSError):
            settle(old, path)
    for folder in tuple(_folders):
        shutil.rmtree(folder, ignore_errors=True)


def _host_digest() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def sync(descriptor: int) -> None:
    """fsync; a file system that does not offer it (EINVAL, EPERM, ENOTSUP, EBADF ...) is not an error."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # the data were not stored
            raise


def sync_folder(folder: Path) -> None:
    """fsync of the folder's own entries, where the system offers it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows, or a folder that may be written but not listed
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


# ---- texts of system errors

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space, or write to another disk",
    errno.EDQUOT: "the disk quota is used up; free some space, or write to another disk",
    errno.EFBIG: "the file is larger than the limit on file sizes allows; raise it (ulimit -f)",
    errno.EROFS: "the file system is read-only; write to another place",
    errno.EACCES: "permission denied; change the permissions, or write to another place",
    errno.EPERM: "not permitted; change the permissions, or write to another place",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n), or set data.workers=0 in training",
    errno.ENFILE: "too many open files on this system; end other programs, or raise its limit",
}


def os_error_text(error: OSError) -> str:
    """Cause and remedy as a phrase, without the file's name."""
    return _REMEDIES.get(error.errno or 0) or error.strerror or str(error)


# how libraries say in a RuntimeError that there is no memory left
_NO_MEMORY = (
    "out of memory",  # CUDA, HIP, MPS and XPU
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",  # the same on Windows, and cuBLAS
    "Cannot allocate memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",  # oneDNN, which allocates while it does; its other causes are shapes beyond ours
    "could not create a memory object",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch may not be loaded
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def system_error_text(error: Exception) -> str | None:
    """The same for any error caused by the system, torch's own included, with the file where it is known.

    None for every other error.
    """
    if is_out_of_memory(error):
        return "out of memory; take smaller pictures or fewer at a time, or end other programs"
    if isinstance(error, OSError) and (error.errno in _REMEDIES or isinstance(error.filename, str)):
        return (f"{error.filename}: " if isinstance(error.filename, str) else "") + os_error_text(error)
    text = str(error)
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        # torch raises it wherever the main thread is when the process ends, so not only where a batch is asked for
        return (
            "data.workers: a loader process ended unexpectedly: killed, out of memory, or out of shared memory "
            "(/dev/shm); load in the training's own process with data.workers=0, or give it more "
            f"({text.strip()})"
        )
    for number, remedy in _REMEDIES.items():
        # torch writes "No space left on device (28)", and a loader process passes on "[Errno 28]"
        if f"{os.strerror(number)} ({number})" in text or f"[Errno {number}]" in text:
            if "</torch_" in text:  # its name for a piece of shared memory
                reason = "it is full" if number == errno.ENOSPC else remedy
                return (
                    f"shared memory (/dev/shm) for the loader processes: {reason}; load in the training's own process "
                    "with data.workers=0, or give it more (docker run --shm-size)"
                )
            return remedy
    return None
