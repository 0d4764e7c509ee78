"""Replacing whole folders: a copy under a temporary name, which takes the final name at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pconv_cuda import files

__all__ = ["atomic_folder", "copy_folder"]


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A free name beside ``path`` for a folder; what the block makes there replaces ``path`` when it ends.

    After an error it is removed, and ``path`` is unchanged. No rename replaces a folder: an older one is moved aside
    for the moment, and a process that is killed right then leaves it under a name by which
    :func:`pconv_cuda.files.remove_leftovers` moves it back. A ``path`` that is a symbolic link is replaced; what it
    points to stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = files.temporary_path(path)
    aside = temporary.with_name(f"{path.name}{temporary.stem}.old")
    if len(os.fsencode(aside.name)) > 255:
        aside = temporary.with_suffix(f".{secrets.token_hex(4)}.old")
    files.unfinished.add(temporary)
    try:
        yield temporary
        _sync_tree(temporary)  # data before name, as of files
        files.aside[aside] = path
        if os.path.lexists(path):
            os.rename(path, aside)
        os.rename(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno:
            names = (str(error.filename2 or error.filename), str(error.filename))  # copying names the source first
            if any(name.startswith(str(temporary)) for name in names):
                error.filename, error.filename2 = str(path), None  # the name that the user knows
        raise
    finally:
        files.remove_tree(temporary)
        files.unfinished.discard(temporary)
        files.settle(aside, path)
        files.aside.pop(aside, None)
    files.sync_folder(path.parent)


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb") as written:
                files.sync(written.fileno())
        files.sync_folder(Path(place))


def copy_folder(source: Path, target: Path) -> None:
    """Files and folders with their contents, as new ones: modes follow the umask, so that the copy can be changed."""
    os.mkdir(target)
    for entry in sorted(os.scandir(source), key=lambda one: one.name):
        if entry.is_dir():
            copy_folder(Path(entry.path), target / entry.name)
        else:
            shutil.copyfile(entry.path, target / entry.name)
