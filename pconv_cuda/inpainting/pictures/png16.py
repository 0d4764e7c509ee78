"""PNG with 16 bits a sample, which Pillow cuts down to 8: decoding and encoding of the samples alone.

ISO/IEC 15948. Not by imagecodecs (extra [inpaint]), so that 16-bit PNG works with what torchvision installs and no
more is decompressed than the header announces. Pillow has opened the file before and checked its chunks.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

__all__ = ["SIGNATURE", "kept_chunks", "png_chunks", "read_samples", "write_samples"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # PNG's number for a colour type -> samples a pixel
# Adam7: first row, first column, row step, column step of each pass
_PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png_chunks(path: Path) -> list[tuple[bytes, bytes]]:
    """Type and data of each chunk of a PNG file."""
    data, at, chunks = path.read_bytes(), len(SIGNATURE), []
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def kept_chunks(chunks: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """All chunks but for the picture data, of which one empty IDAT stays to tell the place."""
    kept: list[tuple[bytes, bytes]] = []
    for kind, data in chunks:
        if kind != b"IDAT":
            kept.append((kind, data))
        elif not any(one == b"IDAT" for one, _ in kept):
            kept.append((kind, b""))
    return kept


def read_samples(chunks: list[tuple[bytes, bytes]]) -> np.ndarray:
    """The samples (H, W, C), uint16, of a 16-bit PNG's chunks.

    No more is decompressed than the header's size tells.

    Raises:
        ValueError: the picture data is cut short or damaged.
    """
    width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    channels = _CHANNELS[colour]
    passes = _PASSES if interlaced else [(0, 0, 1, 1)]
    sizes = [(-(-(height - top) // down), -(-(width - left) // right)) for top, left, down, right in passes]
    total = sum(rows * (1 + columns * channels * 2) for rows, columns in sizes if rows > 0 and columns > 0)
    try:
        data = zlib.decompressobj().decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"), total)
    except zlib.error as error:
        raise ValueError(f"damaged picture data: {error}") from error
    stream = np.frombuffer(data, np.uint8)
    samples = np.empty((height, width, channels), np.uint16)
    at = 0
    for top, left, down, right in passes:
        part = samples[top::down, left::right]
        if not part.size:
            continue
        line = 1 + part.shape[1] * channels * 2
        rows = stream[at : at + part.shape[0] * line]
        if len(rows) < part.shape[0] * line:
            raise ValueError("the picture data is cut short")
        at += len(rows)
        part[:] = _unfiltered(rows.reshape(-1, line), channels * 2).view(">u2")
    return samples


def _unfiltered(rows: np.ndarray, size: int) -> np.ndarray:
    """Undo PNG's filters: rows (H, 1 + W * size) of bytes, the filter's number first -> (H, W, size).

    Each pixel depends on those to its left, above, and above left. Along a diagonal from the lower left to
    the upper right none depends on another, so one diagonal is undone at a time, for all filters alike.
    """
    height, width = rows.shape[0], (rows.shape[1] - 1) // size
    filters = rows[:, 0]
    if filters.max() > 4:
        raise ValueError(f"unknown filter {filters.max()}")
    differences = rows[:, 1:].reshape(height, width, size)
    pixels = np.zeros((height + 1, width + 1, size), np.uint8)  # a row and a column of zeros come first
    for diagonal in range(height + width - 1):
        row = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        column = diagonal - row
        left = pixels[row + 1, column].astype(np.int16)
        above = pixels[row, column + 1].astype(np.int16)
        corner = pixels[row, column].astype(np.int16)
        # Paeth: whichever of the three is nearest to left + above - corner, in this order
        to_left, to_above = np.abs(above - corner), np.abs(left - corner)
        to_corner = np.abs(left + above - 2 * corner)
        paeth = np.where(to_above <= to_corner, above, corner)
        paeth = np.where((to_left <= to_above) & (to_left <= to_corner), left, paeth)
        kind = filters[row, None]
        guess = np.select([kind == number for number in (1, 2, 3, 4)], [left, above, (left + above) // 2, paeth])
        pixels[row + 1, column + 1] = differences[row, column] + guess.astype(np.uint8)
    return np.ascontiguousarray(pixels[1:, 1:])


def write_samples(
    file: IO[bytes], samples: np.ndarray, before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]]
) -> None:
    """Write samples (H, W, C), uint16, as PNG, with further chunks before and after the picture data."""
    height, width, channels = samples.shape
    colour = next(number for number, count in _CHANNELS.items() if count == channels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    data = zlib.compress(_filtered(samples), 6)
    file.write(SIGNATURE)
    for kind, content in [(b"IHDR", header), *before, (b"IDAT", data), *after, (b"IEND", b"")]:
        file.write(struct.pack(">I", len(content)) + kind + content)
        file.write(struct.pack(">I", zlib.crc32(kind + content)))


def _filtered(samples: np.ndarray) -> bytes:
    """Big-endian rows, each as its difference to the row above (filter 2), which compresses well."""
    height = samples.shape[0]
    rows = np.ascontiguousarray(samples.astype(">u2")).reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    filtered[1:, 1:] = rows[1:] - rows[:-1]  # modulo 256, as the format has it
    return filtered.tobytes()
