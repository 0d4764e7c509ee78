"""Many holes: the work grows with the holes' surroundings, not with their number squared or with the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from inpaint_support import small_network, smooth_picture

from pconv_cuda.inpainting import tiling
from pconv_cuda.inpainting.fill import fill_holes
from pconv_cuda.inpainting.tiling import hole_boxes, pieces_of
from pconv_cuda.models import PConvUNet

LEVELS = 3
CONTEXT = PConvUNet(levels=LEVELS, width=1).context


@pytest.fixture(scope="module")
def model() -> PConvUNet:
    return small_network(LEVELS)


def single_pixels(side: int, step: int) -> np.ndarray:
    hole = np.zeros((side, side), bool)
    hole[step // 2 :: step, step // 2 :: step] = True
    return hole


def checkerboard(side: int, step: int) -> np.ndarray:
    return np.indices((side, side)).sum(0) % 2 == 1


def rows(side: int, step: int) -> np.ndarray:
    hole = np.zeros((side, side), bool)
    hole[step // 2 :: step] = True
    return hole


def borders(side: int, step: int) -> np.ndarray:
    hole = np.ones((side, side), bool)
    hole[1:-1, 1:-1] = False
    return hole


@pytest.mark.parametrize("kind", [single_pixels, checkerboard, rows, borders])
@pytest.mark.parametrize("step", [5, 100])
def test_every_hole_pixel_is_filled_and_nothing_is_asked_twice(model: PConvUNet, kind, step: int) -> None:
    hole = kind(160, step)
    image = torch.from_numpy(smooth_picture(160, 160)).permute(2, 0, 1)
    covered = torch.zeros(160, 160)
    for patch in fill_holes(model, image, torch.from_numpy(hole)):
        assert torch.isfinite(patch.colours).all()
        covered[patch.box.slices] += torch.from_numpy(hole)[patch.box.slices]
    np.testing.assert_array_equal(covered, hole)


def work(hole: np.ndarray) -> tuple[int, int]:
    """Pixels that the network sees for a hole, and the boxes that they are in."""
    boxes = hole_boxes(torch.from_numpy(hole), 2 * PConvUNet(levels=LEVELS, width=1).mask_reach)
    pieces = [piece for box in boxes for piece in pieces_of(box, hole.shape, 2**LEVELS, CONTEXT, 512)]
    return sum(piece.window.height * piece.window.width for piece in pieces), len(boxes)


def test_the_work_grows_with_the_holes_surroundings() -> None:
    around = (2 * (CONTEXT + 2**LEVELS) + 1) ** 2
    pixels, boxes = work(single_pixels(3000, 300))
    assert boxes == 100 and pixels <= 100 * around
    # ten thousand single pixels, four times as many as a quarter of the picture has
    large, _ = work(single_pixels(3000, 30))
    small, _ = work(single_pixels(1500, 30))
    assert small > 0 and large < 4.5 * small


@pytest.mark.parametrize("kind", [single_pixels, rows])
def test_finding_boxes_looks_at_the_picture_a_bounded_number_of_times(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many boxes there are, the pixels that are looked at stay a few times the picture's."""
    looked = []
    original = tiling.Box.slices.fget

    def counting(box: tiling.Box) -> tuple[slice, slice]:
        looked.append(box.height * box.width)
        return original(box)

    monkeypatch.setattr(tiling.Box, "slices", property(counting))
    boxes = hole_boxes(torch.from_numpy(kind(2000, 40)), gap=4)
    assert len(boxes) == (2500 if kind is single_pixels else 50)
    assert sum(looked) < 4 * 2000**2
