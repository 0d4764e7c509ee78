"""Scenes and masks that are turned, enlarged and cut out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pconv_cuda.errors import PConvError
from pconv_cuda.masks import augment, draw_mask
from pconv_cuda.masks.occlusion import Shape, random_scene
from pconv_cuda.masks.shares import Limits


def rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@pytest.mark.parametrize("seed", range(5))
def test_a_turned_shape_moves_as_the_turned_motion(seed):
    rng = np.random.default_rng(seed)
    shape = Shape(rng.normal(0, 9, (7, 2)), rng.normal(0, 9, 2), rng.normal(0, 1, (2, 2)), rng.normal(0, 3, 2))
    matrix, middle = rng.uniform(1, 2) * rotation(rng.uniform(0, 7)), rng.normal(0, 30, 2)
    turned = shape.turned(matrix, middle)
    assert np.allclose(turned.vertices, shape.vertices @ matrix.T + middle, rtol=0, atol=1e-9)
    assert np.allclose(turned.moved(), shape.moved() @ matrix.T + middle, rtol=0, atol=1e-9)
    # the check sees a motion that was left as it was
    wrong = Shape(turned.vertices, turned.centre, shape.linear, matrix @ shape.shift)
    assert not np.allclose(wrong.moved(), shape.moved() @ matrix.T + middle, rtol=0, atol=0.1)


@pytest.mark.parametrize(("height", "width"), [(200, 200), (400, 100)])
def test_scenes_lie_all_over_the_picture(height, width):
    limits = Limits.of(height, width, (0.2, 0.3), None)
    scenes = [random_scene(limits, height * width // 4, np.random.default_rng(seed)) for seed in range(400)]
    centres = np.array([one.centre for scene in scenes for one in scene]) / [height, width]
    inside = centres[((centres > 0) & (centres < 1)).all(axis=1)]
    counts, _, _ = np.histogram2d(inside[:, 0], inside[:, 1], bins=4, range=[[0, 1], [0, 1]])
    assert counts.min() / counts.mean() > 0.6 and counts.max() / counts.mean() < 1.4, counts
    assert len(inside) > 2 * len(scenes)


def test_motions_have_every_direction():
    limits = Limits.of(100, 100, (0.2, 0.3), None)
    shifts = np.array([random_scene(limits, 2500, np.random.default_rng(seed))[-1].shift for seed in range(800)])
    counts, _ = np.histogram(np.arctan2(shifts[:, 0], shifts[:, 1]), bins=8, range=(-math.pi, math.pi))
    assert counts.min() > 60 and counts.max() < 145, counts  # 100 each on the average


SIDES = st.integers(1, 60)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**40))
def test_augmented_masks_keep_their_promises(height, width, new_height, new_width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.9
    found = augment(mask, seed, (new_height, new_width))
    assert found.shape == (new_height, new_width) and found.dtype == bool
    assert np.array_equal(found, augment(mask, np.random.default_rng(seed), (new_height, new_width)))
    assert augment(np.ones_like(mask), seed, (new_height, new_width)).all()  # nothing is made up outside
    assert not augment(np.zeros_like(mask), seed, (new_height, new_width)).any()


def areas(seed: int) -> tuple[float, float]:
    """Of a disc in the middle third of a large mask: the scale of the result, and its area there."""
    y, x = np.mgrid[:301, :301] - 150
    marked = augment((y**2 + x**2) > 30**2, seed, 200)
    rows, columns = np.flatnonzero((~marked).any(1)), np.flatnonzero((~marked).any(0))
    if not rows.size or rows[0] == 0 or columns[0] == 0 or rows[-1] == 199 or columns[-1] == 199:
        return math.nan, math.nan
    return (rows[-1] - rows[0] + 1) / (columns[-1] - columns[0] + 1), float((~marked).sum())


def test_discs_stay_discs_larger_and_elsewhere():
    found = np.array([areas(seed) for seed in range(200)])
    whole = found[~np.isnan(found[:, 0])]
    assert len(whole) > 60
    assert np.abs(whole[:, 0] - 1).max() < 0.06
    # the largest crop of 301 px that fits is 200 px at between 301 / 200 / sqrt(2) and 301 / 200 px a pixel
    least, most = math.pi * (30 * 200 / 301) ** 2, math.pi * (30 * 200 / 301 * math.sqrt(2) / 0.6 + 5) ** 2
    assert whole[:, 1].min() > 0.95 * least and whole[:, 1].max() < most
    assert whole[:, 1].max() > 2 * whole[:, 1].min()


def test_every_angle_occurs():
    mask = np.ones((200, 200), dtype=bool)
    mask[:, 97:103] = False  # a straight bar through all of the mask
    angles = []
    for seed in range(300):
        y, x = np.nonzero(~augment(mask, seed, 100))
        if y.size > 300:
            values, vectors = np.linalg.eigh(np.cov(np.stack([y, x])))
            if values[1] > 20 * values[0]:
                angles.append(math.atan2(vectors[0, 1], vectors[1, 1]) % math.pi)
    counts, _ = np.histogram(angles, bins=6, range=(0, math.pi))
    assert counts.sum() > 100 and counts.min() > 0.4 * counts.mean(), counts


def test_bad_input_of_augment():
    with pytest.raises(PConvError, match=r"mask: expected \(height, width\) bool, got \(4, 4\) uint8"):
        augment(np.zeros((4, 4), np.uint8), 0, 4)
    with pytest.raises(PConvError, match="size: expected at least 1 x 1"):
        augment(draw_mask(16, 0), 0, 0)
