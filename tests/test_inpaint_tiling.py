"""Where holes are filled: boxes around them, and pieces of a box that fit a limit; against definitions in numpy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inpaint_support import square_hole

from pconv_cuda.inpainting.tiling import Box, hole_boxes, pieces_of, spread


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(0, 6), st.integers(0, 2**30))
def test_spread_by_definition(height: int, width: int, radius: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.1
    expected = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        near = (
            slice(max(0, row - radius), row + radius + 1),
            slice(max(0, column - radius), column + radius + 1),
        )
        expected[near] = True
    assert (spread(torch.from_numpy(mask), radius).numpy() == expected).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.integers(0, 2**30))
def test_hole_boxes_hold_each_hole_once_and_tightly(height: int, width: int, gap: int, seed: int) -> None:
    hole = np.random.default_rng(seed).random((height, width)) < 0.02
    boxes = hole_boxes(torch.from_numpy(hole), gap)
    count = np.zeros(hole.shape, int)
    for box in boxes:
        count[box.slices] += 1
        part = hole[box.slices]
        assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
    assert count.max(initial=0) <= 1
    assert (count[hole] == 1).all()


def test_far_holes_get_their_own_boxes() -> None:
    hole = square_hole(100, 200, 10, 10, 5) | square_hole(100, 200, 80, 150, 9)
    assert hole_boxes(torch.from_numpy(hole), 20) == [Box(10, 10, 15, 15), Box(80, 150, 89, 159)]
    assert hole_boxes(torch.from_numpy(hole), 200) == [Box(10, 10, 89, 159)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pieces_cover_a_box_once_within_the_limit(data: st.DataObject) -> None:
    levels = data.draw(st.integers(1, 4))
    grid = 2**levels
    size = data.draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    top, left = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    box = Box(top, left, data.draw(st.integers(top + 1, size[0])), data.draw(st.integers(left + 1, size[1])))
    limit, context = grid * data.draw(st.integers(1, 14)), data.draw(st.integers(1, 60))
    count = np.zeros(size, int)
    for piece in pieces_of(box, size, grid, context, limit):
        count[piece.core.slices] += 1
        assert piece.core.inside(piece.window) == piece.core
        assert piece.window.inside(Box(0, 0, *size)) == piece.window
        assert max(piece.window.height, piece.window.width) <= limit
    expected = np.zeros(size, int)
    expected[box.slices] = 1
    assert (count == expected).all()
