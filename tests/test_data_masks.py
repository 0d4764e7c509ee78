"""Masks for training: shares met exactly, binary after resizing, polarity, seeds."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from pconv_cuda.errors import PConvError
from pconv_cuda.masks import KINDS, DrawnMasks, FolderMasks, draw_mask, hole_pixels


@pytest.mark.parametrize(
    ("share", "least", "most"), [((0.0, 0.1), 1, 10), ((0.25, 0.5), 26, 50), ((0.9, 1.0), 91, 100)]
)
def test_a_range_of_shares_is_open_below_and_closed_above(share, least, most):
    assert hole_pixels(100, share) == (least, most)


@pytest.mark.parametrize("hole_share", [(0.5, 0.5), (0.6, 0.2), (-0.1, 0.5), (0.1, 1.1), (float("nan"), 1)])
def test_invalid_ranges_of_shares_are_refused(hole_share):
    with pytest.raises(PConvError, match="hole_share: expected 0 <= low < high <= 1"):
        draw_mask(8, 0, hole_share=hole_share)
    with pytest.raises(PConvError, match="hole_share"):
        DrawnMasks("strokes", hole_share)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_picture_can_be_a_hole(kind):
    assert not draw_mask((33, 21), 0, kind, (0.9999, 1.0)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_functions_of_the_seed(kind):
    again = [draw_mask((40, 30), seed, kind) for seed in (1, 1, 2)]
    assert np.array_equal(again[0], again[1])
    assert not np.array_equal(again[0], again[2])
    from_generator = draw_mask((40, 30), np.random.default_rng(1), kind)
    assert np.array_equal(from_generator, again[0])


def test_holes_are_strokes_not_noise_and_lie_everywhere():
    masks = np.stack([draw_mask(48, seed, "strokes", (0.2, 0.3)) for seed in range(120)])
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
