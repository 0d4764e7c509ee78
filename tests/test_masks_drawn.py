"""Drawn masks: every promise on random input, an independent truth for the occlusions, planted mistakes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pconv_cuda.errors import PConvError
from pconv_cuda.masks import KINDS, border_width, draw_mask, draw_masks_batch
from pconv_cuda.masks.drawing import VERSION, _frame, _wander
from pconv_cuda.masks.occlusion import Shape, inconsistent
from pconv_cuda.masks.raster import Bits, _sums, fill_discs, fill_polygons
from pconv_cuda.masks.shares import Limits
from pconv_cuda.masks.testset import PAPER_SHARES, paper_mask, paper_masks
from pconv_cuda.rng import Stream, generator
from pconv_cuda.training.config import load_config
from pconv_cuda.training.sources import open_data


def promises_broken(mask: np.ndarray, tenths: tuple[int, int], border: bool | None) -> str:
    """What of the promises ``mask`` breaks, worked out in whole numbers; empty where it keeps them all."""
    height, width = mask.shape
    holes = sum(not pixel for row in mask.tolist() for pixel in row)
    edge = max(1, round(50 * min(height, width) / 512))
    banded = sum(
        not mask[y, x] for y in range(height) for x in range(width) if min(y, x, height - 1 - y, width - 1 - x) < edge
    )
    broken = "" if tenths[0] * height * width < 10 * holes <= tenths[1] * height * width else "share "
    if border is not None and border != (banded > 0):
        broken += "border "
    return broken + ("" if mask.dtype == bool else "dtype")


DIGESTS = {
    "occlusion": "0f952148f8e41a28ef241ddafea55eeb03deb9bb9a93f7cf50e43d13206bef44",
    "strokes": "b089ea175b4e4d3cd3e49729e1c32838014e80b9ab56b3b912131bb2cbb02850",
    "mixed": "03b30c5f1e7ebc14c93a691894d90478d1db32766eac95c733050b59a12cb672",
}
CASES = {
    "kind": st.sampled_from(KINDS),
    "height": st.integers(1, 44),
    "width": st.integers(1, 44),
    "seed": st.integers(0, 2**60),
    "tenths": st.tuples(st.integers(0, 9), st.integers(1, 10)).filter(lambda pair: pair[0] < pair[1]),
    "border": st.sampled_from([True, False, None]),
}


def possible(height: int, width: int, tenths: tuple[int, int], border: bool | None) -> bool:
    edge = max(1, round(50 * min(height, width) / 512))
    room = height * width if border is not False else max(0, height - 2 * edge) * max(0, width - 2 * edge)
    return any(tenths[0] * height * width < 10 * n <= tenths[1] * height * width for n in range(room + 1))


@settings(max_examples=250, deadline=None)
@given(**CASES)
def test_every_promise_for_every_kind_size_share_and_border(kind, height, width, seed, tenths, border):
    share = (tenths[0] / 10, tenths[1] / 10)
    if not possible(height, width, tenths, border):
        with pytest.raises(PConvError, match="hole_share"):
            draw_mask((height, width), seed, kind, share, border)
        return
    mask = draw_mask((height, width), seed, kind, share, border)
    assert mask.shape == (height, width)
    assert not promises_broken(mask, tenths, border)
    assert np.array_equal(mask, draw_mask((height, width), np.random.default_rng(seed), kind, share, border))


@settings(max_examples=40, deadline=None)
@given(**CASES)
def test_every_promise_for_batches(kind, height, width, seed, tenths, border):
    if not possible(height, width, tenths, border):
        with pytest.raises(PConvError, match="hole_share"):
            draw_masks_batch(2, (height, width), seed, kind, (tenths[0] / 10, tenths[1] / 10), border)
        return
    masks = draw_masks_batch(3, (height, width), seed, kind, (tenths[0] / 10, tenths[1] / 10), border)
    assert masks.shape == (3, 1, height, width)
    for mask in masks[:, 0].numpy():
        assert not promises_broken(mask, tenths, border)
    assert (masks == draw_masks_batch(3, (height, width), seed, kind, (tenths[0] / 10, tenths[1] / 10), border)).all()


def test_a_batch_is_masks_of_draw_mask():
    masks = draw_masks_batch(3, (20, 31), 7, "mixed", (0.1, 0.4), True)
    for number, mask in enumerate(masks[:, 0].numpy()):
        rng = generator(7, Stream.MASK, number)
        assert np.array_equal(mask, draw_mask((20, 31), rng, "mixed", (0.1, 0.4), True))
    with pytest.raises(PConvError, match="n: expected at least 1, got 0"):
        draw_masks_batch(0, 8, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("border", [True, False, None])
@pytest.mark.parametrize("tenths", [(0, 1), (2, 3), (5, 6), (9, 10)])
def test_every_promise_at_full_size(kind, border, tenths):
    share = (tenths[0] / 10, tenths[1] / 10)
    if border is False and tenths[0] == 9:
        with pytest.raises(PConvError, match=r"keep 50 px .* at most 0.6475 of them, which is not in \(0.9, 1.0\]"):
            draw_mask(512, 0, kind, share, border)
        return
    assert not promises_broken(draw_mask(512, 3, kind, share, border), tenths, border)


def test_the_checker_sees_broken_promises():
    mask = draw_mask(64, 0, "mixed", (0.2, 0.3), False)
    assert promises_broken(mask, (2, 3), False) == ""
    planted = mask.copy()
    planted[0, 5] = False
    assert promises_broken(planted, (2, 3), False) == "border "
    assert promises_broken(mask, (3, 4), True) == "share border "
    assert promises_broken(mask.astype(np.uint8), (2, 3), False) == "dtype"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "holes"}, "kind: expected one of occlusion, strokes, mixed, got 'holes'"),
        ({"border": "yes"}, "border: expected True, False or None"),
        ({"size": 0}, "size: expected at least 1 x 1 pixels, got 0 x 0"),
        ({"hole_share": (0.5, 0.5)}, "hole_share: expected 0 <= low < high <= 1"),
        ({"hole_share": 0.5}, r"hole_share: expected two numbers \(low, high\), got 0.5"),
        ({"hole_share": (0.1, 0.2, 0.3)}, r"hole_share: expected two numbers"),
        ({"size": 2, "border": False}, "hole_share: holes that keep 1 px"),
    ],
)
def test_impossible_masks_are_refused(arguments, message):
    for call in (lambda **kw: draw_mask(seed=0, **kw), lambda **kw: draw_masks_batch(n=1, seed=0, **kw)):
        with pytest.raises(PConvError, match=message):
            call(**{"size": 32, **arguments})


@pytest.mark.parametrize(("kind", "digest"), DIGESTS.items())
def test_masks_of_this_version_keep_their_bits(kind, digest):
    """A resumed run must see the same masks: where a digest changes, ``drawing.VERSION`` has to."""
    assert VERSION == 1
    masks = [draw_mask((33, 47), seed, kind, (0.1, 0.5)) for seed in range(6)]
    assert hashlib.sha256(b"".join(np.packbits(mask).tobytes() for mask in masks)).hexdigest() == digest


# the truths: point by point, in float64


def even_odd(vertices: np.ndarray, y: float, x: float) -> bool:
    inside = False
    for (y0, x0), (y1, x1) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        if (x0 <= x) != (x1 <= x) and y0 + (x - x0) * (y1 - y0) / (x1 - x0) <= y:
            inside = not inside
    return inside


def star(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """No edges that cross, so that both rules agree."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    reach = rng.uniform(2, 0.6 * max(height, width), 9)
    centre = rng.uniform(-2, [height + 2, width + 2])
    return centre + np.stack([reach * np.sin(angles), reach * np.cos(angles)], axis=1)


@pytest.mark.parametrize("seed", range(12))
def test_polygons_against_points(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 24, 2))
    # one of them beside the picture: the others must not get its crossings
    stars = np.stack([star(rng, height, width), star(rng, height, width) + [0, 999], star(rng, height, width)])
    for vertices, patch in zip(stars, fill_polygons(stars, height, width), strict=True):
        truth = np.array([[even_odd(vertices, y + 0.5, x + 0.5) for x in range(width)] for y in range(height)])
        drawn = np.zeros((height, width), dtype=bool)
        if patch is not None:
            drawn[patch[0], patch[1]] = patch[2]
        assert np.array_equal(drawn, truth)


def test_a_polygon_that_winds_twice_and_back():
    """The rule of nonzero winding, where the even-odd rule and a sum of one sign would be wrong."""
    square = np.array([[1, 1], [1, 7], [7, 7], [7, 1]], dtype=float)
    inner = np.array([[3, 3], [3, 5], [5, 5], [5, 3]], dtype=float)
    for second, size in ((square, 36), (square[::-1], 0), (inner, 36), (inner[::-1], 32)):
        around = np.concatenate([square, square[:1], second, second[:1]])
        (patch,) = fill_polygons(around[None], 9, 20)
        assert patch is not None and int(patch[2].sum()) == size


@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 23])
def test_columns_side_by_side_do_not_touch_each_other(width):
    """Eight (or four) columns are added in one word: no sum may carry or borrow into the next column."""
    rng = np.random.default_rng(width)
    rows, columns = rng.integers(0, 12, 400), rng.integers(0, width, 400)
    for lane, most in ((np.uint8, 120), (np.uint16, 30000)):
        values = rng.integers(-(most // 40), most // 40 + 1, 400)
        truth = np.zeros((12, width), dtype=np.int64)
        np.add.at(truth, (rows, columns), values)
        truth = truth.cumsum(axis=0)
        assert abs(truth).max() < most
        assert np.array_equal(_sums(rows, columns, values, 11, width, lane), truth[:-1] != 0)


@pytest.mark.parametrize("seed", range(8))
def test_discs_against_points(seed):
    rng = np.random.default_rng(seed)
    y, x, radius = rng.uniform(-5, 30, 7), rng.uniform(-5, 40, 7), rng.uniform(0.7, 8, 7)
    at_y, at_x = np.arange(25)[:, None, None] + 0.5, np.arange(35)[:, None] + 0.5
    truth = ((at_y - y) ** 2 + (at_x - x) ** 2 <= radius**2).any(axis=2)
    assert np.array_equal(fill_discs(y, x, radius, 25, 35), truth)


@pytest.mark.parametrize("square", [True, False])
def test_dilation_against_points(square):
    pixels = np.random.default_rng(0).random((9, 13)) < 0.1
    truth = np.zeros_like(pixels)
    for y, x in np.argwhere(pixels):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (square or not dy or not dx) and 0 <= y + dy < 9 and 0 <= x + dx < 13:
                    truth[y + dy, x + dx] = True
    bits = Bits(9, 13)
    everywhere = bits.pack(np.ones_like(pixels))
    assert np.array_equal(bits.unpack(bits.dilate(bits.pack(pixels), square, everywhere)), truth)


def true_occlusions(scene: list[Shape], height: int, width: int) -> np.ndarray:
    """By the definition, layer by layer, with exact containment instead of label pictures."""
    frames = [one.vertices for one in scene], [one.moved() for one in scene]
    found = np.zeros((height, width), dtype=bool)
    for here, other in ((0, 1), (1, 0)):
        for y in range(height):
            for x in range(width):
                point = np.array([y + 0.5, x + 0.5])
                layer = max((k for k, v in enumerate(frames[here]) if even_odd(v, *point)), default=-1)
                if layer >= 0:
                    one = scene[layer]
                    centre, there = one.centre, one.centre + one.shift
                    point = (
                        one.linear @ (point - centre) + there
                        if here == 0
                        else np.linalg.inv(one.linear) @ (point - there) + centre
                    )
                if not (0 <= point[0] < height and 0 <= point[1] < width):
                    continue
                found[y, x] |= any(k > layer and even_odd(v, *point) for k, v in enumerate(frames[other]))
    return found


def some_scene(seed: int) -> list[Shape]:
    rng = np.random.default_rng(seed)
    return [
        Shape(star(rng, 28, 36), rng.uniform(5, 25, 2), np.eye(2) + rng.normal(0, 0.05, (2, 2)), rng.normal(0, 3, 2))
        for _ in range(4)
    ]


def test_occlusions_against_the_definition():
    differing, marked = 0, 0
    for seed in range(6):
        truth, found = true_occlusions(some_scene(seed), 28, 36), inconsistent(some_scene(seed), 28, 36)
        differing += int((truth != found).sum())
        marked += int(truth.sum())
    # where a motion leads between pixels' centres the label of the nearest one stands for the point
    assert marked > 600
    assert differing < 0.08 * marked


def test_the_truth_catches_a_wrong_depth_order():
    scene = some_scene(1)
    truth, found = true_occlusions(scene, 28, 36), inconsistent(scene[::-1], 28, 36)
    assert (truth != found).sum() > 0.2 * truth.sum()


def test_shares_fill_their_range_and_holes_lie_everywhere():
    for kind in KINDS:
        masks = np.stack([draw_mask(64, seed, kind, (0.1, 0.3)) for seed in range(160)])
        counts, _ = np.histogram(1 - masks.mean(axis=(1, 2)), bins=4, range=(0.1, 0.3))
        assert counts.min() > 20, kind  # uniform: 40 each
        blocks = (~masks).mean(axis=0).reshape(4, 16, 4, 16).mean(axis=(1, 3))
        assert blocks.min() > 0.1 and blocks.max() < 0.32, (kind, blocks)  # 0.2 on the average


def pieces(mask: np.ndarray) -> list[int]:
    """Pixels of each connected hole (eight neighbours), the largest first."""
    from scipy.ndimage import label

    return sorted(np.bincount(label(~mask, np.ones((3, 3)))[0].reshape(-1))[1:].tolist(), reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_holes_come_in_many_sizes_and_do_not_always_reach_the_border(kind):
    """What tells these masks from one square in the middle and from salt and pepper."""
    masks = [draw_mask(128, seed, kind, (0.1, 0.4)) for seed in range(120)]
    sizes = [pieces(mask) for mask in masks]
    several = sum(len(one) > 1 for one in sizes)
    largest = np.array([one[0] / sum(one) for one in sizes])
    assert several > 20  # more than one hole in many masks
    assert np.median([sum(one) / len(one) for one in sizes]) > 100  # no dust: the mean hole is 10 px wide or more
    assert largest.min() < 0.6 and largest.max() > 0.95  # scattered and in one piece
    # with border=None holes lie anywhere, and most masks reach the band, which is a third of the picture; not all do
    edge = border_width(128, 128)
    small = [draw_mask(128, seed, kind, (0.0, 0.03)) for seed in range(120)]
    large, some = (np.mean([not mask.all() and not _inside(mask, edge) for mask in ones]) for ones in (masks, small))
    assert large > 0.9 and 0.6 < some < 1, (large, some)


def _inside(mask: np.ndarray, edge: int) -> bool:
    """Whether all holes lie farther than ``edge`` px from the border."""
    return bool((~mask).sum() == (~mask[edge:-edge, edge:-edge]).sum())


def test_the_sizes_see_a_planted_dust():
    dust = np.random.default_rng(0).random((128, 128)) > 0.2
    assert sum(pieces(dust)) / len(pieces(dust)) < 100


@pytest.mark.parametrize("seed", range(6))
def test_the_frame_lies_between_its_four_curves(seed):
    """Against the curves themselves, pixel by pixel: the same draws in the same order."""
    limits = Limits.of(60, 72, (0.1, 0.2), False)
    frame = _frame(limits, 500, np.random.default_rng(seed))
    rng, (rows, columns) = np.random.default_rng(seed), limits.inner
    most = 0.25 * (1 - 500 / ((rows.stop - rows.start) * (columns.stop - columns.start))) * 60
    above, below, left, right = (_wander(length, most, rng) for length in (72, 72, 60, 60))
    for y in range(60):
        for x in range(72):
            inside = rows.start + above[x] <= y < rows.stop - below[x]
            assert frame[y, x] == (inside and columns.start + left[y] <= x < columns.stop - right[y])


def test_paper_masks_are_those_of_paper_mask():
    everything = list(paper_masks(2, size=40, seed=5))
    assert [one.name for one in everything[:3]] == [
        "0.01-0.1/border/00000.png", "0.01-0.1/border/00001.png", "0.01-0.1/inside/00000.png",
    ]  # fmt: skip
    assert len(everything) == 6 * 2 * 2
    for one in everything:
        assert np.array_equal(one.valid, paper_mask(one.share, one.border, one.number, size=40, seed=5))
        assert one.share[0] < 1 - one.valid.mean() <= one.share[1]
        edge = border_width(40, 40)
        assert ((~one.valid).sum() > (~one.valid[edge:-edge, edge:-edge]).sum()) == one.border
    assert len({one.valid.tobytes() for one in everything}) == len(everything)
    with pytest.raises(PConvError, match="share: expected one of"):
        paper_mask((0.0, 0.1), True, 0)
    assert PAPER_SHARES[-1] == (0.5, 0.6)


@pytest.mark.parametrize("kind", ["strokes", "occlusion", "mixed"])
def test_training_takes_the_kinds(kind, tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    config = load_config(overrides={"data.images": str(tmp_path), "data.masks": kind, "data.size": 32})
    data = open_data(config)
    assert data.identity["content of data.masks"] == f"{kind}, version 1"
    _, mask = data.training[(3, 1)]
    assert mask.shape == (1, 32, 32) and 0.4 <= mask.float().mean() < 1
    assert (data.training[(3, 1)][1] == mask).all()
