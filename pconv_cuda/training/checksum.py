"""A checksum at the end of a zip archive, which torch.save writes: its comment, so that every reader still takes it."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import IO

from pconv_cuda.errors import PConvError

__all__ = ["append_checksum", "check"]

_MARK = b"pconv-sha256:"  # followed by 64 hexadecimal digits, the digest of all bytes before them
_DIGITS = 64
_END = 22  # bytes of a zip archive's last record; the last two are the comment's length


def append_checksum(path: Path) -> None:
    """Ends the archive ``path`` with a comment that holds the SHA-256 of all that precedes its digits."""
    with open(path, "r+b") as file:
        file.seek(-_END, 2)
        end = file.read(_END)
        if not (end.startswith(b"PK\5\6") and end.endswith(b"\0\0")):
            raise PConvError(f"{path}: expected a zip archive without a comment from torch.save, got another file")
        file.seek(-2, 2)
        file.write(struct.pack("<H", len(_MARK) + _DIGITS) + _MARK)
        size = file.tell()
        digest = _sha256(file, size)
        file.seek(size)
        file.write(digest)


def check(file: IO[bytes]) -> None:
    """Reads the whole of ``file`` and leaves its position at the beginning.

    Raises:
        PConvError: the checksum is missing or wrong; the message does not name the file.
    """
    size = file.seek(0, 2) - _DIGITS
    if size < len(_MARK):
        raise PConvError(f"expected at least {len(_MARK) + _DIGITS} bytes, got {size + _DIGITS}")
    file.seek(size - len(_MARK))
    if file.read(len(_MARK)) != _MARK:
        raise PConvError("it does not end with a checksum: it was cut short, or written by an earlier version")
    digest = file.read(_DIGITS)
    actual = _sha256(file, size)
    if digest != actual:
        raise PConvError(
            f"its checksum is {digest.decode('ascii', 'replace')[:12]}..., its content's {actual.decode()[:12]}..."
        )
    file.seek(0)


def _sha256(file: IO[bytes], size: int) -> bytes:
    """Of the first ``size`` bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(size, 2**22))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest().encode()
