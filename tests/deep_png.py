"""16-bit colour PNG, written and read back without the code under test."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def filtered_row(kind: int, row: bytes, above: bytes, size: int) -> bytes:
    """One PNG row by the standard's formulas (ISO/IEC 15948, 9.2), byte by byte."""
    result = bytearray([kind])
    for i, value in enumerate(row):
        left, corner = (row[i - size], above[i - size]) if i >= size else (0, 0)
        up = above[i]
        estimate = left + up - corner
        paeth = min((left, up, corner), key=lambda candidate: abs(estimate - candidate))
        result.append((value - (0, left, up, (left + up) // 2, paeth)[kind]) % 256)
    return bytes(result)


def deep_png(samples: np.ndarray, extra: list[tuple[bytes, bytes]] = (), *, interlaced: bool = False) -> bytes:
    """A 16-bit PNG (H, W, 2..4) by the standard's text, with all five filters in turn."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = samples.shape
    if interlaced:
        starts = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
        passes = [samples[y::dy, x::dx] for y, x, dy, dx in starts]
    else:
        passes = [samples]
    stream = b""
    for part in passes:
        if part.size:
            rows = [bytes(part.shape[1] * channels * 2), *(row.astype(">u2").tobytes() for row in part)]
            for i in range(len(part)):
                stream += filtered_row((i + 4) % 5, rows[i + 1], rows[i], channels * 2)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), *(chunk(*pair) for pair in extra)]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts, chunk(b"IDAT", zlib.compress(stream)), chunk(b"IEND", b"")])


def read_back(written: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Samples of a 16-bit PNG whose rows all have filter 2, without the code under test."""
    at = written.index(b"IDAT")
    (length,) = struct.unpack(">I", written[at - 4 : at])
    rows = np.frombuffer(zlib.decompress(written[at + 4 : at + 4 + length]), np.uint8).reshape(shape[0], -1)
    assert (rows[:, 0] == 2).all()
    plain = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)
    return plain.view(">u2").astype(np.uint16).reshape(shape)
