"""Text layout: European columns of words, and East Asian columns of characters from right to left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pconv_cuda.documents.fonts import Fonts
from pconv_cuda.documents.pen import Face, Pen
from pconv_cuda.documents.words import HANJA, hangul_words, latin_words

__all__ = ["STYLES", "styles_of", "write_page"]

STYLES = ("latin", "hangul", "hanja", "mixed")  # mixed: Hanja with Hangul between, in upright columns


def styles_of(fonts: Fonts) -> list[str]:
    """The styles that the fonts allow, the East Asian ones first; each is as likely as the others."""
    able = {"hanja": bool(fonts.hanja), "mixed": bool(fonts.hanja and fonts.hangul), "hangul": bool(fonts.hangul)}
    return [style for style, is_able in able.items() if is_able] + ["latin"]


@dataclass(frozen=True)
class _Box:
    top: float
    bottom: float
    left: float
    right: float

    @property
    def width(self) -> float:
        return self.right - self.left


def _one(rng: np.random.Generator, faces: tuple[str, ...]) -> str:
    return faces[int(rng.integers(len(faces)))]


def write_page(height: int, width: int, rng: np.random.Generator, fonts: Fonts, style: str, size: float) -> np.ndarray:
    """The page's ink, (height, width) uint8: 0 bare, 255 black.

    Args:
        style: one of :data:`STYLES`, which the fonts must allow.
        size: of the body text, pixels.
    """
    pen = Pen(height, width, rng)
    margin_y, margin_x = height * rng.uniform(0.04, 0.11), width * rng.uniform(0.04, 0.11)
    # a scan is often a part of the page: then the text runs over one edge
    right = width * (1.2 if rng.random() < 0.15 else 1) - margin_x
    bottom = height * (1.2 if rng.random() < 0.2 else 1) - margin_y
    box = _Box(margin_y, bottom, margin_x, right)
    if style == "latin" or (style == "hangul" and rng.random() < 0.6):
        _across(pen, box, rng, fonts.latin if style == "latin" else fonts.hangul, style, size)
    else:
        _down(pen, box, rng, fonts, style, size * 1.25)
    return pen.ink


def _across(pen: Pen, box: _Box, rng: np.random.Generator, faces: tuple[str, ...], style: str, size: float) -> None:
    """Lines from left to right: a heading, columns of justified paragraphs, notes at the foot."""
    face = Face(_one(rng, faces), round(size))
    pool = latin_words(rng, 140) if style == "latin" else hangul_words(rng, 140)
    top, bottom, leading = box.top, box.bottom, size * rng.uniform(1.2, 1.5)
    thin = max(1.0, size / 14)
    if rng.random() < 0.3:
        pen.frame(top - size * 0.8, bottom + size * 0.8, box.left - size * 0.8, box.right + size * 0.8, thin)
    if rng.random() < 0.6:  # running head and number of the page
        _centred(pen, face, pool[0].strip(",.;").upper(), top + size, (box.left + box.right) / 2, box.width * 0.6)
        pen.word(face, str(rng.integers(2, 700)), top + size, box.right - 2 * size)
        if rng.random() < 0.6:
            pen.bar(top + 1.5 * size, top + 1.5 * size, box.left, box.right, thin)
        top += 2.2 * size
    if rng.random() < 0.5:
        large = Face(face.path, round(size * rng.uniform(1.5, 2.6)))
        for line in range(int(rng.integers(1, 3))):
            words = [word.strip(",.;") for word in pool[5 + 3 * line : 7 + 3 * line]]
            _centred(pen, large, " ".join(words).upper(), top + large.size, (box.left + box.right) / 2, box.width)
            top += 1.3 * large.size
        pen.bar(top, top, box.left + box.width * 0.38, box.right - box.width * 0.38, thin)
        top += size
    if rng.random() < 0.35 and bottom - top > 14 * size:  # notes in small type under a rule
        small = Face(face.path, round(size * 0.75))
        notes = _Box(bottom - size * rng.uniform(3, 6), bottom, box.left, box.right)
        pen.bar(notes.top, notes.top, box.left, box.left + box.width * rng.uniform(0.3, 1), thin)
        _paragraphs(pen, small, pool, notes, small.size * 1.2, rng)
        bottom = notes.top - 0.6 * size
    columns = min(int(rng.choice([1, 1, 2, 2, 3])), max(1, int(box.width / (11 * size))))
    gap = size * 1.5
    width = (box.width - gap * (columns - 1)) / columns
    for column in range(columns):
        left = box.left + column * (width + gap)
        if column and rng.random() < 0.5:
            pen.bar(top, bottom, left - gap / 2, left - gap / 2, thin)
        start = column == 0 and rng.random() < 0.4
        _paragraphs(pen, face, pool, _Box(top, bottom, left, left + width), leading, rng, initial=start)


def _centred(pen: Pen, face: Face, text: str, y: float, x: float, room: float) -> None:
    """In type as large as ``room`` allows."""
    if face.length(text) > room:
        face = Face(face.path, int(face.size * room / face.length(text)))
    pen.word(face, text, y, x - face.length(text) / 2)


def _paragraphs(
    pen: Pen, face: Face, pool: list[str], box: _Box, leading: float, rng: np.random.Generator, initial: bool = False
) -> None:
    """Fills the box with justified lines; ``initial`` begins with a letter three lines high."""
    y, space, indent = box.top + leading, face.length("n") * 0.6, 0.0
    order, taken, beside = rng.integers(0, len(pool), 4096), 0, 0
    wide = 0.0
    if initial:
        letter, drop = pool[int(order[0])][0].upper(), Face(face.path, round(leading * 3.3))
        beside, wide = 3, drop.length(letter) + space
        pen.word(drop, letter, y + 2 * leading, box.left)
    while y < box.bottom and taken < 4000:
        left = box.left + (wide if beside > 0 else indent)
        line: list[str] = []
        used = 0.0
        while taken < 4000:
            word = pool[int(order[taken])]
            if initial and taken == 0:
                word = word[1:]  # its first letter is the large one
            length = face.length(word)
            if used + length + space * len(line) > box.right - left and line:
                break
            line.append(word)
            used, taken = used + length, taken + 1
        ends = rng.random() < 0.08  # the paragraph's last line is ragged
        gap = space if ends or len(line) < 2 else (box.right - left - used) / (len(line) - 1)
        x = left
        for word in line[: max(1, len(line) // 2)] if ends else line:
            pen.word(face, word, y, x)
            x += face.length(word) + min(gap, 4 * space)
        y, indent, beside = y + leading, (1.5 * face.size if ends else 0.0), beside - 1


def _down(pen: Pen, box: _Box, rng: np.random.Generator, fonts: Fonts, style: str, size: float) -> None:
    """Upright columns from right to left between rules, with notes in half-size double columns."""
    faces = fonts.hangul if style == "hangul" else fonts.hanja
    face = Face(_one(rng, faces), round(size))
    small = Face(face.path, max(6, round(size * 0.52)))
    syllables = "".join(hangul_words(rng, 60)) if style != "hanja" else ""
    between = Face(_one(rng, fonts.hangul), round(size * 0.9)) if style == "mixed" else face
    # a page's own 90 characters: enough not to repeat visibly, few enough to be drawn quickly
    chosen = [HANJA[one] for one in rng.integers(0, len(HANJA), 90)] if style != "hangul" else list(syllables)
    pitch, step = size * rng.uniform(1.35, 1.7), size * rng.uniform(1.04, 1.2)
    thin, ruled = max(1.0, size / 20), rng.random() < 0.65
    if rng.random() < 0.8:
        pen.frame(box.top, box.bottom, box.left, box.right, max(1.0, size / 9))
        if rng.random() < 0.6:
            inset = max(3.0, size / 5)
            pen.frame(box.top + inset, box.bottom - inset, box.left + inset, box.right - inset, thin)
    inner = _Box(box.top + size * 0.35, box.bottom - size * 0.3, box.left + size * 0.2, box.right - size * 0.2)
    x, column, fold = inner.right - pitch / 2, 0, int(rng.integers(4, 12))
    while x - pitch / 2 > inner.left - 1:
        if ruled and column:
            pen.bar(box.top, box.bottom, x + pitch / 2, x + pitch / 2, thin, ink=150)
        if column == fold:  # where the block's sheet is folded: a black mark and a short title
            pen.bar(inner.top + 2 * size, inner.top + 2.8 * size, x - pitch * 0.4, x + pitch * 0.4, ink=215)
            for place in range(3):
                pen.character(small, chosen[place], inner.top + size * (4 + 0.7 * place), x)
        else:
            _column(pen, (face, small, between), (chosen, syllables), inner, x, step, style, rng)
        x, column = x - pitch, column + 1


def _column(
    pen: Pen,
    faces: tuple[Face, Face, Face],
    texts: tuple[list[str], str],
    box: _Box,
    x: float,
    step: float,
    style: str,
    rng: np.random.Generator,
) -> None:
    (face, small, between), (chosen, syllables) = faces, texts
    y = box.top + step * (0.5 + (int(rng.integers(1, 4)) if rng.random() < 0.2 else 0))
    last = box.bottom - (step * rng.uniform(1, 9) if rng.random() < 0.15 else step * 0.4)
    while y < last:
        draw = rng.random()
        if draw < 0.05 and small.size > 7:
            length = int(rng.integers(2, 7))
            for row in range(length):
                for side in (-0.5, 0.5):
                    place = y - step * 0.22 + row * step * 0.56
                    if place < last:
                        letter = chosen[int(rng.integers(len(chosen)))]
                        pen.character(small, letter, place, x + side * small.size * 1.08)
            y += step * (0.56 * length + 0.45)
            continue
        if style == "mixed" and draw < 0.55:
            pen.character(between, syllables[int(rng.integers(len(syllables)))], y, x)
        else:
            pen.character(face, chosen[int(rng.integers(len(chosen)))], y, x)
        y += step
