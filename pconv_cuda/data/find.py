"""Which picture files a folder holds, and whether they have changed since."""

from __future__ import annotations

import errno
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pconv_cuda.errors import PConvError
from pconv_cuda.files import os_error_text

__all__ = ["CONTACT_SHEET", "IMAGE_SUFFIXES", "MANIFEST", "OTHER_SUFFIXES", "FileSet", "all_files", "find_files"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
# written by `pconv masks` beside its masks; the sheet is not a mask
CONTACT_SHEET, MANIFEST = "sheet.png", "manifest.json"

# Pictures of other kinds, for the warning that they are left out.
OTHER_SUFFIXES = frozenset(
    f".{one}"
    for one in (
        *("arw", "avif", "cr2", "cr3", "dds", "dng", "exr", "gif", "hdr", "heic", "heif", "ico", "j2k", "jfif"),
        *("jp2", "jpe", "jxl", "kra", "nef", "ora", "orf", "pbm", "pcx", "pdf", "pgm", "pnm", "ppm", "psb", "psd"),
        *("raf", "rw2", "svg", "tga", "xcf"),
    )
)
_EDGE = 65536  # bytes at each end of a file that are read for its digest
_THREADS = 8  # files that are opened at once: over a network each of them is waited for


def _suffixes() -> tuple[str, ...]:
    try:
        from PIL import features
    except ImportError:  # told when the first picture is read
        return IMAGE_SUFFIXES
    return (*IMAGE_SUFFIXES, ".avif") if features.check("avif") else IMAGE_SUFFIXES


def find_files(folder: str | Path, what: str) -> list[Path]:
    """Picture files under ``folder``, at any depth, in an order that does not depend on the file system.

    Symbolic links are followed, to files and to folders; a folder that is reached twice, or in a circle, counts once.
    A contact sheet beside the manifest of mask files is left out. So are pictures that cannot be read, such as HEIC:
    one warning says how many of which kind. AVIF is read where Pillow reads it.

    Args:
        folder: where to look.
        what: the argument's name, for the error.

    Raises:
        PConvError: ``folder`` is no folder, cannot be listed, or holds no file with one of :data:`IMAGE_SUFFIXES`.
    """
    root = Path(folder)
    if not root.is_dir():
        raise PConvError(f"{what}: expected a folder of pictures, got {str(folder)!r}, which is no folder")
    suffixes, files = _suffixes(), []
    left_out: Counter[str] = Counter()
    for path in all_files(root, what):
        suffix = path.suffix.lower()
        if suffix in suffixes:
            if not path.is_file():
                left_out["links to nothing" if path.is_symlink() else "no regular files"] += 1
            elif path.name != CONTACT_SHEET or not path.with_name(MANIFEST).is_file():
                files.append(path)
        elif suffix in OTHER_SUFFIXES:
            left_out[suffix] += 1
    kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(left_out.items()))
    if not files:
        found = f"; left out: {kinds}" if kinds else ""
        raise PConvError(
            f"{what}: no picture in {str(folder)!r}; looked for {' '.join(suffixes)} in it and all folders below{found}"
        )
    if kinds:
        warnings.warn(
            f"{what}: {left_out.total()} files in {str(folder)!r} are left out, for they cannot be read: {kinds}",
            stacklevel=2,
        )
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def all_files(root: Path, what: str, recursive: bool = True) -> list[Path]:
    """All files in and below ``root``. Folders are read before links to them.

    Links are followed; a folder that is reached twice, or in a circle, counts once.

    Raises:
        PConvError: a folder that cannot be listed; ``what`` is the argument's name.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    links = [root]
    while links:
        waiting, links = sorted(links), []
        for start in waiting:
            stack = [start]
            while stack:
                folder = stack.pop()
                try:
                    status = os.stat(folder)
                    if (status.st_dev, status.st_ino) in seen:
                        continue
                    seen.add((status.st_dev, status.st_ino))
                    with os.scandir(folder) as entries:
                        for entry in entries:
                            path = folder / entry.name
                            if entry.is_dir(follow_symlinks=False):
                                stack += [path] * recursive
                            elif entry.is_symlink() and path.is_dir():
                                links += [path] * recursive
                            else:
                                found.append(path)
                except OSError as error:
                    raise PConvError(f"{what}: cannot list {str(folder)!r}: {os_error_text(error)}") from error
    return found


class FileSet:
    """Files with digests of their content, to detect later changes.

    Args:
        root: folder that the names are relative to.
        files: in their order.
        what: the argument's name, for errors.
        whole: whether a digest is of the whole content. Else it is of the size and of 64 KiB at each end, since a
            training set may hold millions of files.
    """

    def __init__(self, root: str | Path, files: Sequence[Path], what: str, whole: bool = False) -> None:
        self.files, self.what, self.whole = list(files), what, whole
        self.names = [path.relative_to(root).as_posix() for path in files]
        self._stats = np.zeros((len(files), 2), np.int64)  # size and time, before the content is read
        for index, path in enumerate(files):
            self._stats[index] = _stat(path)
        with ThreadPoolExecutor(_THREADS) as pool:
            self._digests = list(pool.map(self._digest, files))

    @property
    def fingerprint(self) -> str:
        """A digest of names and contents."""
        return self._summary([name + content.hex() for name, content in zip(self.names, self._digests, strict=True)])

    @property
    def names_fingerprint(self) -> str:
        """A digest of the names."""
        return self._summary(self.names)

    def _summary(self, entries: Sequence[str]) -> str:
        digest = hashlib.sha256("\n".join(entries).encode("utf-8", "surrogateescape")).hexdigest()
        return f"{len(self.files)} files, {digest[:12]}"

    def content(self, index: int) -> str:
        """A digest of the content of file ``index``, as text."""
        return self._digests[index].hex()[:12]

    def _digest(self, path: Path) -> bytes:
        """A digest of 16 bytes; zeros for a file that cannot be read."""
        digest = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(size.to_bytes(8, "little"))
                if self.whole or size <= 2 * _EDGE:
                    while chunk := file.read(2**20):
                        digest.update(chunk)
                else:
                    digest.update(file.read(_EDGE))
                    file.seek(-_EDGE, os.SEEK_END)
                    digest.update(file.read(_EDGE))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # says nothing about the file
                raise
            return bytes(16)
        return digest.digest()[:16]

    def check(self, index: int) -> None:
        """Raises PConvError where file ``index`` was removed or changed since; a new date alone is no change."""
        path = self.files[index]
        stat = _stat(path)
        if stat == tuple(self._stats[index]):
            return
        if stat == (-1, -1):
            raise PConvError(f"{self.what}: {path} was there at the start and is gone")
        if self._digest(path) != self._digests[index]:
            raise PConvError(f"{self.what}: {path} was changed since the start")
        self._stats[index] = stat


def _stat(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
