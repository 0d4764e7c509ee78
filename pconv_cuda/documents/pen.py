"""Ink on a sheet: words and characters as stamps, rules and frames, with uneven pressure."""

from __future__ import annotations

from typing import Any

import numpy as np

from pconv_cuda.documents.fonts import load_font
from pconv_cuda.errors import require

__all__ = ["Face", "Pen"]


class Face:
    """A font at one size; each word is drawn once and stamped from then on, which is what makes pages quick.

    A stamp is (rows above the baseline, columns right of the start, (h, w) uint8 of coverage).
    """

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, max(4, size)
        self.font = load_font(self.path, self.size)
        self._stamps: dict[str, tuple[int, int, np.ndarray]] = {}
        self._lengths: dict[str, float] = {}

    def length(self, text: str) -> float:
        """Advance in pixels."""
        if text not in self._lengths:
            self._lengths[text] = float(self.font.getlength(text))
        return self._lengths[text]

    def stamp(self, text: str) -> tuple[int, int, np.ndarray]:
        if text not in self._stamps:
            pil_image, draw = require("PIL.Image", "inpaint"), require("PIL.ImageDraw", "inpaint")
            left, top, right, bottom = (round(part) for part in self.font.getbbox(text, anchor="ls"))
            picture: Any = pil_image.new("L", (max(1, right - left), max(1, bottom - top)))
            draw.Draw(picture).text((-left, -top), text, fill=255, font=self.font, anchor="ls")
            self._stamps[text] = (-top, left, np.asarray(picture))
        return self._stamps[text]


class Pen:
    """Writes into ``ink``, (H, W) uint8, 0 for bare paper; what lies outside is cut off."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.ink = np.zeros((height, width), dtype=np.uint8)
        self.rng = rng
        # type is inked unevenly: a factor for each word, drawn ahead since single draws are slow
        self._pressure = np.clip(rng.normal(225, 22, 512), 130, 255).astype(np.uint16)
        self._wobble = rng.integers(-1, 2, 512)
        self._count = 0

    def word(self, face: Face, text: str, y: float, x: float) -> None:
        """With its baseline at ``y`` and its start at ``x``."""
        ascent, shift, stamp = face.stamp(text)
        self._lay(stamp, round(y) - ascent, round(x) + shift)

    def character(self, face: Face, text: str, y: float, x: float) -> None:
        """Its drawn shape centred at (``y``, ``x``), a pixel off now and then as blocks were cut by hand."""
        _, _, stamp = face.stamp(text)
        off = int(self._wobble[self._count % 512]) if face.size > 16 else 0
        self._lay(stamp, round(y - stamp.shape[0] / 2), round(x - stamp.shape[1] / 2) + off)

    def _lay(self, stamp: np.ndarray, top: int, left: int) -> None:
        height, width = self.ink.shape
        first_row, first_column = max(0, -top), max(0, -left)
        piece = stamp[first_row : height - top, first_column : width - left] if top < height and left < width else None
        if piece is None or piece.size == 0:
            return
        self._count += 1
        # a wide type of its own: numpy 1 takes the pressure for 8 bits, being below 256
        pressed = ((piece.astype(np.uint16) * self._pressure[self._count % 512]) >> 8).astype(np.uint8)
        top, left = top + first_row, left + first_column
        window = self.ink[top : top + piece.shape[0], left : left + piece.shape[1]]
        np.maximum(window, pressed, out=window)

    def bar(self, top: float, bottom: float, left: float, right: float, thickness: float = 1, ink: int = 190) -> None:
        """A rule from one corner to the other, level or upright, at least a pixel thick."""
        top, left = max(0, round(top)), max(0, round(left))
        thick = max(1, round(thickness))
        window = self.ink[top : max(top + thick, round(bottom)), left : max(left + thick, round(right))]
        np.maximum(window, np.uint8(ink), out=window)

    def frame(self, top: float, bottom: float, left: float, right: float, thickness: float) -> None:
        self.bar(top, top, left, right + thickness, thickness)
        self.bar(bottom, bottom, left, right + thickness, thickness)
        self.bar(top, bottom, left, left, thickness)
        self.bar(top, bottom, right, right, thickness)
