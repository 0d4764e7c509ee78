"""Masks for training: shares met exactly, binary after resizing, polarity, seeds."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pconv_cuda.errors import PConvError
from pconv_cuda.masks import FolderMasks, StrokeMasks, hole_pixels, irregular_mask


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    seed=st.integers(0, 2**60),
    tenths=st.tuples(st.integers(0, 9), st.integers(1, 10)).filter(lambda pair: pair[0] < pair[1]),
)
def test_the_hole_share_lies_in_the_range(height, width, seed, tenths):
    low, high = tenths
    pixels = height * width
    # in whole numbers, free of rounding: low/10 < holes/pixels <= high/10
    possible = [holes for holes in range(pixels + 1) if low * pixels < 10 * holes <= high * pixels]
    if not possible:
        with pytest.raises(PConvError, match="no number of hole pixels"):
            irregular_mask(height, width, seed, (low / 10, high / 10))
        return
    assert hole_pixels(pixels, (low / 10, high / 10)) == (possible[0], possible[-1])
    mask = irregular_mask(height, width, seed, (low / 10, high / 10))
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    assert int((~mask).sum()) in possible


@pytest.mark.parametrize("hole_share", [(0.5, 0.5), (0.6, 0.2), (-0.1, 0.5), (0.1, 1.1), (float("nan"), 1)])
def test_a_range_that_is_none_is_refused(hole_share):
    with pytest.raises(PConvError, match="hole_share: expected 0 <= low < high <= 1"):
        irregular_mask(8, 8, 0, hole_share)
    with pytest.raises(PConvError, match="hole_share"):
        StrokeMasks(hole_share)


def test_shares_fill_the_range():
    shares = [1 - irregular_mask(64, 64, seed, (0.1, 0.5)).mean() for seed in range(150)]
    counts, _ = np.histogram(shares, bins=4, range=(0.1, 0.5))
    assert counts.sum() == 150
    assert counts.min() > 18  # uniform: 37 each


def test_the_whole_picture_can_be_a_hole():
    assert not irregular_mask(33, 21, 0, (0.9999, 1.0)).any()


def test_masks_are_functions_of_the_seed():
    again = [irregular_mask(40, 30, seed) for seed in (1, 1, 2)]
    assert np.array_equal(again[0], again[1])
    assert not np.array_equal(again[0], again[2])
    from_generator = irregular_mask(40, 30, np.random.default_rng(1))
    assert np.array_equal(from_generator, again[0])


def test_holes_are_strokes_not_noise_and_lie_everywhere():
    masks = np.stack([irregular_mask(48, 48, seed, (0.2, 0.3)) for seed in range(120)])
    holes = ~masks
    # a hole pixel's right neighbour is nearly always a hole too; in noise of this share one in four
    alike = (holes[:, :, 1:] & holes[:, :, :-1]).sum() / holes[:, :, :-1].sum()
    assert alike > 0.8
    quarters = [holes[:, rows, columns].mean() for rows in _HALVES for columns in _HALVES]
    assert min(quarters) > 0.15


_HALVES = (slice(0, 24), slice(24, 48))


def _save(path, array):
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("polarity", ["white-hole", "black-hole"])
def test_mask_files_are_resized_to_the_nearest_pixel_then_thresholded(tmp_path, polarity):
    grey = np.array([[0, 127], [128, 255]], dtype=np.uint8)
    _save(tmp_path / "a.png", grey)
    mask = FolderMasks(tmp_path, polarity).draw(6, np.random.default_rng(0))
    white = np.array([[False, False], [True, True]]).repeat(3, axis=0).repeat(3, axis=1)
    assert mask.dtype == bool
    assert np.array_equal(mask, ~white if polarity == "white-hole" else white)


def test_every_mask_file_is_drawn_and_broken_ones_are_skipped(tmp_path):
    for number in range(3):
        grey = np.zeros((4, 4), np.uint8)
        grey[number] = 255
        _save(tmp_path / f"{number}.png", grey)
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.warns(UserWarning, match="broken"):
        masks = FolderMasks(tmp_path)
    drawn = {masks.draw(4, np.random.default_rng(seed)).tobytes() for seed in range(40)}
    assert len(drawn) == 3


def test_inverted_masks_get_a_warning(tmp_path):
    grey = np.zeros((10, 10), np.uint8)
    grey[:7] = 255
    _save(tmp_path / "a.png", grey)
    with pytest.warns(UserWarning, match="70% hole when read as white-hole.*data.polarity=black-hole"):
        FolderMasks(tmp_path, "white-hole")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FolderMasks(tmp_path, "black-hole")


def test_bad_mask_folders(tmp_path):
    with pytest.raises(PConvError, match="data.masks: no picture"):
        FolderMasks(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(PConvError, match="data.polarity: expected white-hole or black-hole, got 'white'"):
        FolderMasks(tmp_path, "white")
    with pytest.warns(UserWarning):
        masks = FolderMasks(tmp_path)
    with pytest.raises(PConvError, match="none of the 1 files"):
        masks.draw(4, np.random.default_rng(0))
