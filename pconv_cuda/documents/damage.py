"""Masks in the shape of damage to old pages: worm holes, tears, patches lost under stains, worn folds.

Each piece is a field that is positive inside it and falls towards its contour. A piece that is larger than what is
wanted loses its lowest pixels first, so that it shrinks as a shape, and the share is met to the pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pconv_cuda.documents.noise import line_noise, smooth_noise
from pconv_cuda.errors import PConvError
from pconv_cuda.masks.raster import Bits
from pconv_cuda.masks.shares import hole_pixels

__all__ = ["DAMAGE", "VERSION", "damage_mask"]

VERSION = 1  # of the masks that a generator gives

Window = tuple[slice, slice]
_Piece = Callable[[int, int, np.random.Generator, float], tuple[Window, np.ndarray]]


def damage_mask(
    height: int,
    width: int,
    rng: np.random.Generator | int,
    hole_share: tuple[float, float] = (0.0, 0.3),
    kinds: Sequence[str] | None = None,
) -> np.ndarray:
    """A mask whose holes look like the damage of an old page.

    Args:
        height, width: pixels, >= 1.
        rng: a generator, or a seed >= 0. The same one gives the same mask.
        hole_share: (low, high]; the number of hole pixels is drawn uniformly from it and met exactly.
        kinds: some of "worms", "tears", "stains", "folds"; None draws which of them a page has.

    Returns:
        (height, width) bool, True where valid.

    Raises:
        PConvError: no pixels, an unknown kind, an invalid range, or one that holds no number of so few pixels.
    """
    if height < 1 or width < 1:
        raise PConvError(f"size: expected at least 1 x 1 pixels, got {height} x {width}")
    if kinds is not None and (not kinds or any(kind not in DAMAGE for kind in kinds)):
        raise PConvError(f"kinds: expected some of {', '.join(DAMAGE)}, got {list(kinds)!r}")
    rng = np.random.default_rng(rng)  # a generator comes back as it is
    fewest, most = hole_pixels(height * width, hole_share)
    wanted = int(rng.integers(fewest, most + 1))
    chosen = list(kinds) if kinds else [kind for kind in DAMAGE if rng.random() < 0.55] or ["tears"]
    valid = np.ones((height, width), dtype=bool)
    parts = rng.dirichlet(np.ones(len(chosen))) * wanted
    for kind, part in zip(chosen, parts, strict=True):
        draw, most_of_page = DAMAGE[kind]
        budget = int(min(part, most_of_page * valid.size))
        for _ in range(12):
            if budget < 1:
                break
            budget -= _take(valid, *draw(height, width, rng, budget), budget)
    # what worms and folds may not reach is lost in large pieces
    large = [kind for kind in chosen if kind in ("tears", "stains")] or (["tears", "stains"] if kinds is None else [])
    missing = wanted - int(np.count_nonzero(~valid))
    for _ in range(8):
        if missing < 1 or not large:
            break
        draw = DAMAGE[large[int(rng.integers(len(large)))]][0]
        missing -= _take(valid, *draw(height, width, rng, missing), missing)
    if missing > 0:
        _grow(valid, missing, rng)
    return valid


def _take(valid: np.ndarray, window: Window, field: np.ndarray, limit: int) -> int:
    """Makes holes of the valid pixels where the field is positive, of the ``limit`` highest; returns how many."""
    view = valid[window]
    places = np.flatnonzero(view & (field > 0))
    if places.size == 0:  # it fell beside the page, or where there are holes already
        return 0
    if places.size > limit:
        # the threshold by selection, and equals in their order: quicker than sorting, and the same everywhere
        heights = field.reshape(-1)[places]
        threshold = np.partition(heights, places.size - limit)[places.size - limit]
        above = places[heights > threshold]
        places = np.concatenate([above, places[heights == threshold][: limit - above.size]])
    rows, columns = np.unravel_index(places, view.shape)
    view[rows, columns] = False
    return int(places.size)


def _grow(valid: np.ndarray, missing: int, rng: np.random.Generator) -> None:
    """Adds ``missing`` hole pixels along the contour of the holes, ring by ring."""
    height, width = valid.shape
    if valid.all():
        valid[int(rng.integers(height)), int(rng.integers(width))] = False
        missing -= 1
    bits = Bits(height, width)
    allowed, holes, square = bits.pack(np.ones_like(valid)), bits.pack(~valid), False
    while missing > 0:
        grown = bits.dilate(holes, square, allowed)
        ring = grown.bit_count() - holes.bit_count()
        if ring > missing:
            new = bits.unpack(grown) & valid
            whole = (slice(0, height), slice(0, width))
            field = smooth_noise(height, width, 6, rng)
            _take(valid, whole, np.where(new, field - field.min() + 1, 0), missing)
            return
        holes, square, missing = grown, not square, missing - ring
        valid &= ~bits.unpack(grown)


def _worms(height: int, width: int, rng: np.random.Generator, budget: float) -> tuple[Window, np.ndarray]:
    """A winding track of small round holes, with gaps where the worm went deeper."""
    side = min(height, width)
    radius = max(0.7, side * rng.uniform(0.004, 0.012))
    count = int(np.clip(budget / (2 * radius**2), 2, rng.integers(6, 70)))
    turns = np.cumsum(rng.normal(0, 0.25, count)) + rng.uniform(0, 2 * np.pi)
    # close together in a gallery, apart where only its openings show
    spacing = radius * np.where(rng.random(count) < 0.75, rng.uniform(0.8, 1.3, count), rng.uniform(2.5, 6, count))
    y = rng.uniform(0, height) + np.cumsum(np.sin(turns) * spacing)
    x = rng.uniform(0, width) + np.cumsum(np.cos(turns) * spacing)
    radii = radius * rng.uniform(0.65, 1.25, count)
    # the piece's own window: it lies in a small part of the page
    up, first = (int(np.clip(place.min() - 2 * radius, 0, end)) for place, end in ((y, height), (x, width)))
    low, last = (int(np.clip(place.max() + 2 * radius + 1, 0, end)) for place, end in ((y, height), (x, width)))
    y, x = y - up, x - first
    field = np.zeros((low - up, last - first), dtype=np.float32)
    for number in range(count):
        reach = radii[number]
        top, left = max(0, int(y[number] - reach)), max(0, int(x[number] - reach))
        view = field[top : max(top, int(y[number] + reach) + 1), left : max(left, int(x[number] + reach) + 1)]
        rows = np.arange(top, top + view.shape[0], dtype=np.float32)[:, None] + 0.5 - y[number]
        columns = np.arange(left, left + view.shape[1], dtype=np.float32) + 0.5 - x[number]
        inside = 1 - (rows * rows + columns * columns) / reach**2
        # earlier holes stand higher: a track that is too long ends sooner instead of getting thinner
        np.maximum(view, np.where(inside > 0, inside + (count - number), 0), out=view)
    return (slice(up, low), slice(first, last)), field


def _tears(height: int, width: int, rng: np.random.Generator, budget: float) -> tuple[Window, np.ndarray]:
    """Torn away from an edge: a jagged bay, long and shallow or narrow and deep, or a corner."""
    edge = int(rng.integers(4))
    along, deep = (width, height) if edge < 2 else (height, width)
    wide = math.sqrt(budget * rng.uniform(0.7, 1.2)) * math.exp(rng.normal(0.2, 0.6))
    wide = float(np.clip(wide, 1, 1.5 * along))
    depth = min(1.6 * budget / wide, 0.8 * deep, 2 * wide + 2)
    place = np.arange(along, dtype=np.float32)
    centre = rng.choice([0.0, along, rng.uniform(0, along)], p=[0.2, 0.2, 0.6])
    away = np.abs(place - centre) / max(wide / 2 if 0 < centre < along else wide, 0.5)
    profile = depth * np.clip(1 - away ** rng.uniform(0.7, 2.2), 0, None)
    for cell, jag in ((wide / 3, 0.3), (wide / 9, 0.1)):
        profile *= 1 + jag * line_noise(along, max(1.0, cell), rng)
    profile += np.where(profile > 0, 0.7, 0) * line_noise(along, 2, rng)  # fibres
    profile[int(np.clip(centre, 0, along - 1))] += 0.5  # however little is wanted, it begins at the edge
    reached = int(np.clip(np.ceil(profile.max()) + 1, 1, deep))
    rows = np.arange(reached, dtype=np.float32)[:, None]
    # paper does not tear straight: row by row the bay is pushed sideways, more so further in and not at all at the
    # edge, so that it holds together and begins there
    scale = min(wide, depth)
    bend = 0.35 * line_noise(reached, max(2.0, scale / 2), rng) + 0.08 * line_noise(reached, max(2.0, scale / 7), rng)
    bent = place + bend[:, None] * np.minimum(rows, scale / 2)
    bent += np.minimum(rows, 1.5) * smooth_noise(reached, along, 3, rng)
    field = profile[np.clip(bent, 0, along - 1).astype(np.int64)] - rows
    band = slice(deep - reached, deep) if edge % 2 else slice(0, reached)
    field = field[::-1] if edge % 2 else field
    if edge < 2:
        return (band, slice(0, width)), field
    return (slice(0, height), band), field.T


def _stains(height: int, width: int, rng: np.random.Generator, budget: float) -> tuple[Window, np.ndarray]:
    """A blot with a ragged rim that hides what lies under it, longer one way than the other."""
    radius = max(0.8, math.sqrt(budget * rng.uniform(0.4, 1.1) / math.pi))
    longer = math.exp(rng.normal(0, 0.25))
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    reach = 2.0 * radius * max(longer, 1 / longer) + 1
    window = slice(max(0, int(y - reach)), int(y + reach) + 1), slice(max(0, int(x - reach)), int(x + reach) + 1)
    rows = np.arange(window[0].start, min(window[0].stop, height), dtype=np.float32)[:, None] + 0.5 - y
    columns = np.arange(window[1].start, min(window[1].stop, width), dtype=np.float32) + 0.5 - x
    rim = 1 + 0.28 * smooth_noise(rows.shape[0], columns.size, max(2.0, radius / 1.3), rng)
    rim += 0.08 * smooth_noise(rows.shape[0], columns.size, max(1.5, radius / 6), rng)
    distance = np.sqrt((rows * longer) ** 2 + (columns / longer) ** 2)
    return window, radius * rim - distance


def _folds(height: int, width: int, rng: np.random.Generator, budget: float) -> tuple[Window, np.ndarray]:
    """A crease across the page where the ink has rubbed off, broken here and there."""
    side = min(height, width)
    upright = rng.random() < 0.5
    along, other = (height, width) if upright else (width, height)
    thick = max(0.6, min(side * rng.uniform(0.004, 0.012), budget / along))
    wear = thick * (0.75 + 0.6 * line_noise(along, max(2.0, along / 12), rng) + 0.3 * line_noise(along, 4, rng))
    slope = rng.normal(0, 0.03)
    middle = other * rng.choice([1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4]) + rng.normal(0, 0.02) * other
    course = middle + slope * np.arange(along) + 0.5 * line_noise(along, max(2.0, along / 20), rng)
    course = course.astype(np.float32)
    reach = float(wear.max()) + 1
    band = slice(max(0, int(course.min() - reach)), max(0, int(course.max() + reach) + 1))
    across = np.arange(band.start, min(band.stop, other), dtype=np.float32)
    field = wear[:, None] - np.abs(across - course[:, None])
    return ((slice(0, height), band), field) if upright else ((band, slice(0, width)), field.T)


DAMAGE: dict[str, tuple[_Piece, float]] = {
    "worms": (_worms, 0.06),
    "tears": (_tears, 1.0),
    "stains": (_stains, 1.0),
    "folds": (_folds, 0.04),
}
"""Kinds of damage: how each is drawn, and the greatest part of a page that it takes."""
