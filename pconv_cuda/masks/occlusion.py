"""What moving shapes cover and uncover between two frames: the family that the paper's masks come from.

The paper takes two consecutive frames of a video and marks the pixels whose forward and backward motion do not
agree. Here the scene is drawn: shapes at several depths, each with an affine motion of its own before a
background at rest. A pixel of a frame is inconsistent where its layer's motion leads, in the other frame, to a
pixel that shows another layer. That is known exactly, without estimating any motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pconv_cuda.masks.raster import Patch, fill_polygons
from pconv_cuda.masks.shares import Limits

__all__ = ["Shape", "inconsistent", "occlusion", "random_scene"]

_VERTICES = 96
_ZOOM = 1.4  # a scene is enlarged up to this
_ANGLES = np.arange(_VERTICES) * (2 * math.pi / _VERTICES)
_WAVES = np.arange(2, 22)
_COS, _SIN = np.cos(_WAVES[:, None] * _ANGLES), np.sin(_WAVES[:, None] * _ANGLES)


@dataclass(frozen=True)
class Shape:
    """A shape of frame 1; to frame 2 leads p -> ``centre`` + ``linear`` (p - ``centre``) + ``shift``, in (y, x)."""

    vertices: np.ndarray  # (n, 2)
    centre: np.ndarray  # (2,)
    linear: np.ndarray  # (2, 2)
    shift: np.ndarray  # (2,)

    def moved(self) -> np.ndarray:
        """The vertices in frame 2."""
        return (self.vertices - self.centre) @ self.linear.T + self.centre + self.shift

    def turned(self, matrix: np.ndarray, middle: np.ndarray) -> Shape:
        """The shape and its motion under p -> ``matrix`` p + ``middle``; ``matrix`` (2, 2) is invertible."""
        return Shape(
            self.vertices @ matrix.T + middle,
            matrix @ self.centre + middle,
            matrix @ self.linear @ np.linalg.inv(matrix),
            matrix @ self.shift,
        )


def occlusion(limits: Limits, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """The inconsistent pixels of a random scene, of which about ``wanted`` are aimed at: (height, width) bool."""
    scene = random_scene(limits, wanted, rng)
    return inconsistent(scene, limits.height, limits.width)


def random_scene(limits: Limits, wanted: int, rng: np.random.Generator) -> list[Shape]:
    """Shapes from the farthest to the nearest.

    The paper turns, enlarges and crops its masks; here all of a scene, outlines and motions, is turned and enlarged
    before it becomes pixels. It reaches beyond the picture, which is cut out of it: nothing is repeated or mirrored.
    The motions are scaled together, so that what they sweep is about ``wanted`` pixels.
    """
    edge = limits.edge if limits.border is False else 0
    height, width = limits.height - 2 * edge, limits.width - 2 * edge
    side = max(1, min(height, width))
    turn, zoom = rng.uniform(0, 2 * math.pi), math.exp(rng.uniform(0, math.log(_ZOOM)))
    cosine, sine = math.cos(turn), math.sin(turn)
    matrix = zoom * np.array([[cosine, -sine], [sine, cosine]])
    count = int(rng.integers(3, 8))
    # of all sizes, small ones more often; where much is wanted small ones cannot give it
    least = 0.02 + 0.2 * wanted / (height * width)
    radius = side * np.exp(rng.uniform(math.log(least), math.log(0.36), count))
    # centres are uniform in the plane, turned or not: those about the picture are drawn where they end up
    around = np.array([height, width]) * (0.5 if edge else 0.6)
    places = around * rng.uniform(-1, 1, (count, 2)) + np.array([limits.height, limits.width]) / 2
    common = rng.normal(0, 1, 2)  # the camera's: things that stand move alike, nearer ones farther
    shapes, swept = [], 0.0
    for number in range(count):
        vertices = radius[number] * _outline(rng)
        linear = rng.normal(0, 0.12, (2, 2))
        shift = (common * (0.3 + number / count) + rng.normal(0, 1, 2)) * (0.25 * radius[number] + 0.02 * side)
        shapes.append(Shape(vertices, np.zeros(2), linear, shift).turned(matrix, places[number]))
        swept += _swept(shapes[-1]) * _visible(shapes[-1].vertices, limits)
    # what is swept twice counts once: of an area swept at random, 1 - exp(-swept / area) is covered
    area = height * width
    aim = -area * math.log(1 - min(0.9, wanted / area))
    # the largest steps must leave every motion invertible
    scale = min(rng.uniform(0.7, 1.5) * aim / max(swept, 1e-9), 4.0)
    return [Shape(one.vertices, one.centre, np.eye(2) + scale * one.linear, scale * one.shift) for one in shapes]


def _outline(rng: np.random.Generator) -> np.ndarray:
    """A closed curve about the origin, about 1 in radius: a smooth blob, a ragged one, or a polygon; (n, 2)."""
    kind = rng.random()
    if kind < 0.25:
        corners = int(rng.integers(3, 8))
        at = np.sort(rng.uniform(0, 2 * math.pi, corners))
        reach = rng.uniform(0.5, 1.2, corners)
        # straight between the corners: the corners' points are interpolated, not their radii
        points = np.stack([reach * np.sin(at), reach * np.cos(at)], axis=1)
        along = np.linspace(0, corners, _VERTICES, endpoint=False)
        before, part = along.astype(np.int64), (along % 1)[:, None]
        curve = points[before] * (1 - part) + points[(before + 1) % corners] * part
    else:
        fall = 1.7 if kind < 0.55 else 1.1  # amplitudes fall off as 1 / k^fall: smooth or ragged
        amplitudes = rng.normal(0, 0.33, (2, _WAVES.size)) / (_WAVES / 2.0) ** fall
        reach = np.maximum(1 + amplitudes[0] @ _COS + amplitudes[1] @ _SIN, 0.15)
        curve = np.stack([reach * np.sin(_ANGLES), reach * np.cos(_ANGLES)], axis=1)
    narrow = rng.uniform(0.12, 1.0)  # arms, poles and branches as well as heads and stones
    turn = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return (curve * np.array([narrow, 1.0])) @ rotation.T


def _visible(vertices: np.ndarray, limits: Limits) -> float:
    """About the share of a shape that lies in the picture."""
    y, x = vertices[:, 0], vertices[:, 1]
    return float(np.mean((y > 0) & (y < limits.height) & (x > 0) & (x < limits.width)))


def _swept(shape: Shape) -> float:
    """About the area that the outline sweeps on its way, in pixels: what is covered and what is uncovered."""
    vertices = shape.vertices
    step = (vertices - shape.centre) @ shape.linear.T + shape.shift
    edges = np.roll(vertices, -1, axis=0) - vertices
    return float(np.abs(edges[:, 0] * step[:, 1] - edges[:, 1] * step[:, 0]).sum())


def inconsistent(scene: list[Shape], height: int, width: int) -> np.ndarray:
    """The pixels covered between the frames, seen in frame 1, and those uncovered, seen in frame 2.

    Args:
        scene: from the farthest to the nearest; the background does not move.

    Returns:
        (height, width) bool. What moves in from outside the picture, or out of it, is not marked.
    """
    outlines = np.stack([*(one.vertices for one in scene), *(one.moved() for one in scene)])
    patches = fill_polygons(outlines, height, width)
    first, second = patches[: len(scene)], patches[len(scene) :]
    padded = _paint(first, height, width), _paint(second, height, width)
    labels = padded[0][1:-1, 1:-1], padded[1][1:-1, 1:-1]
    # the background: where it shows in one frame only
    found = (labels[0] == 0) != (labels[1] == 0)
    scratch = _scratch(height * width)
    for number, shape in enumerate(scene[:-1]):
        inverse = np.linalg.inv(shape.linear)
        there = shape.centre + shape.shift
        forth, back = (shape.linear, shape.centre, there), (inverse, there, shape.centre)
        # what hides a layer's pixel in a frame lies, there, within a nearer patch
        for here, other, patch, nearer, way, way_back in (
            (labels[0], padded[1], first[number], second[number + 1 :], forth, back),
            (labels[1], padded[0], second[number], first[number + 1 :], back, forth),
        ):
            window = _window(patch, nearer, *way_back)
            if window is not None:
                _mark(found, here, other, window, scratch, number + 1, *way)
    return found


def _paint(patches: list[Patch | None], height: int, width: int) -> np.ndarray:
    """Which shape each pixel shows, counted from 1; 0 is the background, and a rim of it, 1 px wide, lies about all."""
    padded = np.zeros((height + 2, width + 2), dtype=np.uint8)
    labels = padded[1:-1, 1:-1]
    for number, patch in enumerate(patches, 1):
        if patch is not None:
            # nearer shapes have greater numbers; a maximum is many times as fast as a masked assignment
            place = labels[patch[0], patch[1]]
            np.maximum(place, patch[2].view(np.uint8) * np.uint8(number), out=place)
    return padded


def _window(
    patch: Patch | None, nearer: list[Patch | None], linear: np.ndarray, centre: np.ndarray, there: np.ndarray
) -> tuple[slice, slice] | None:
    """The rows and columns of ``patch`` that, in the other frame, can lie behind one of the ``nearer`` patches."""
    boxes = [(other[0].start, other[0].stop, other[1].start, other[1].stop) for other in nearer if other is not None]
    if patch is None or not boxes:
        return None
    edges: np.ndarray = np.array(boxes)
    y, x = (edges[:, 0].min(), edges[:, 1].max()), (edges[:, 2].min(), edges[:, 3].max())
    corners = np.array([(a, b) for a in y for b in x], dtype=float)
    corners = (corners - centre) @ linear.T + there
    least, most = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    rows = slice(max(patch[0].start, int(least[0])), min(patch[0].stop, int(most[0])))
    columns = slice(max(patch[1].start, int(least[1])), min(patch[1].stop, int(most[1])))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _mark(
    found: np.ndarray,
    here: np.ndarray,
    other: np.ndarray,
    window: tuple[slice, slice],
    scratch: tuple[np.ndarray, ...],
    label: int,
    linear: np.ndarray,
    centre: np.ndarray,
    there: np.ndarray,
) -> None:
    """Marks the pixels that show layer ``label`` in ``here`` and whose place in ``other`` shows a nearer one.

    ``other`` has a rim of background, 1 px wide: what leaves the picture ends up there, and is not marked. A farther
    layer at that place is the outlines' rounding.
    """
    rows, columns = window
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    where, place, index, wide, shown = (one[: shape[0] * shape[1]].reshape(shape) for one in scratch)
    y = np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - centre[0])
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - centre[1])
    for axis, whole in ((0, index), (1, place)):
        down = np.float32(linear[axis, 0]) * y + np.float32(there[axis] + 1)
        np.add(down[:, None], np.float32(linear[axis, 1]) * x, out=where)
        np.clip(where, 0, other.shape[axis] - 1, out=where)
        np.copyto(whole, where, casting="unsafe")
    index *= np.int32(other.shape[1])
    index += place
    np.copyto(wide, index)  # the type that take() would convert to
    other.reshape(-1).take(wide, out=shown, mode="clip")
    found[rows, columns] |= (shown > label) & (here[rows, columns] == label)


def _scratch(count: int) -> tuple[np.ndarray, ...]:
    """What :func:`_mark` works in. Fresh memory for each layer would cost as much time as the work itself."""
    return tuple(np.empty(count, dtype) for dtype in (np.float32, np.int32, np.int32, np.int64, np.uint8))
