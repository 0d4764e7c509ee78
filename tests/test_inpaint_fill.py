"""Windows, pieces, wide holes: any size and any hole, against one run on the whole picture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from inpaint_support import small_network, smooth_picture, square_hole
from torch import nn

from pconv_cuda.errors import PConvError
from pconv_cuda.functional import smooth_fill
from pconv_cuda.inpainting.fill import fill_holes
from pconv_cuda.inpainting.tiling import spread
from pconv_cuda.models import PConvUNet


def as_tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


def filled(model: nn.Module, picture: np.ndarray, hole: np.ndarray, **options) -> np.ndarray:
    """The picture as float (H, W, 3) with the patches' hole pixels in it, NaN where none gave a colour."""
    result = picture.astype(np.float32) / 255
    result[hole] = np.nan
    for patch in fill_holes(model, as_tensor(picture), torch.from_numpy(hole), **options):
        part, inside = result[patch.box.slices], hole[patch.box.slices]
        part[inside] = patch.colours.permute(1, 2, 0).numpy()[inside]
    return result


def whole_run(model: PConvUNet, picture: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What one run on the whole picture gives, and where its last mask says that it means something."""
    with torch.no_grad():
        colours = as_tensor(picture)[None] / 255
        output, mask = model(model.normalize(colours), torch.from_numpy(~hole)[None, None])
        return model.denormalize(output)[0].permute(1, 2, 0).numpy(), mask[0, 0].numpy()


class Canned(nn.Module):
    """Takes the network's place: ``answer(image, mask)`` gives the output in [0, 1] and the last mask."""

    def __init__(self, answer, levels: int = 3, width: int = 4) -> None:
        super().__init__()
        self.answer, self.levels, self.config = answer, levels, {"in_channels": 3, "width": width}
        self.grid, self.context, self.prefill = 2**levels, PConvUNet(levels=levels, width=1).context, None
        self.bytes_per_pixel, self.mask_reach = 200, PConvUNet(levels=levels, width=1).mask_reach
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, image, mask):
        return self.answer(image, mask)

    def normalize(self, image):
        return image

    def denormalize(self, image):
        return image.clamp(0, 1)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_context_radius_is_where_gradients_end(levels: int) -> None:
    model = PConvUNet(levels=levels, width=2).double().eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)  # positive, so that no ReLU hides a path
    grid, radius = model.grid, model.context
    start = -(-radius // grid) * grid
    side = 2 * start + grid
    farthest = 0
    for pixel in range(start, start + grid):
        image = torch.rand(1, 3, side, side, dtype=torch.double, requires_grad=True)
        output, _ = model(image, torch.ones(1, 1, side, side, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(output[0, :, pixel, pixel].sum(), image)
        rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        farthest = max(farthest, pixel - int(rows.min()), int(rows.max()) - pixel)
    assert farthest == radius


@pytest.mark.parametrize("windows", [(7, 5), (7, 5, 5), (7, 5, 5, 3), (3, 3, 3), (9, 9), (1, 3, 7)])
def test_mask_reach_is_what_the_network_closes(windows: tuple[int, ...]) -> None:
    """Squares of 1.3 times the reach close in one run wherever they lie; well above twice of it none does."""
    levels = len(windows)
    model, grid = small_network(levels, width=1, windows=windows), 2**levels
    for side, closes in ((13 * model.mask_reach // 10, True), (2 * model.mask_reach + grid, False)):
        size = side + 8 * grid
        picture = smooth_picture(size, size)
        for shift in range(0, grid, 3 if levels < 4 else 7):
            hole = square_hole(size, size, 4 * grid + shift, 4 * grid - shift // 2, side)
            assert whole_run(model, picture, hole)[1].all() == closes


@pytest.mark.parametrize("tile", [None, 80, 128])
@pytest.mark.parametrize("shape", [(97, 203), (160, 160), (31, 250)])
def test_windows_and_pieces_give_what_one_big_run_gives(shape: tuple[int, int], tile: int | None) -> None:
    """No seam, to the last digits: every piece sees all that one big run would have used."""
    model = small_network(3)
    picture = smooth_picture(*shape)
    hole = square_hole(*shape, 3, 5, 20) | square_hole(*shape, shape[0] - 17, shape[1] - 19, 17)
    hole |= square_hole(*shape, 0, 60, 30)
    expected, reached = whole_run(model, picture, hole)
    assert reached.all()
    got = filled(model, picture, hole, tile=tile)
    np.testing.assert_allclose(got[hole], expected[hole], atol=2e-6)
    assert expected[hole].std() > 0.01  # the comparison is not one of saturated values


@pytest.mark.parametrize("windows", [(9, 9, 9), (3, 3, 3), (1, 5, 3)])
def test_tiles_give_what_one_big_run_gives_with_other_windows(windows: tuple[int, ...]) -> None:
    """Of the widest hole that the network closes: no stand-in, and no seam."""
    model = small_network(3, windows=windows)
    halo = -(-model.context // model.grid) * model.grid
    size = (2 * halo + 120, 2 * halo + 90)
    hole = square_hole(*size, halo + 3, halo + 5, model.reach) | square_hole(*size, 0, 1, 9)
    picture = smooth_picture(*size)
    expected, reached = whole_run(model, picture, hole)
    assert reached.all() and expected[hole].std() > 0.01
    for tile in (None, 2 * halo + model.grid, 2 * halo + 4 * model.grid):
        np.testing.assert_allclose(filled(model, picture, hole, tile=tile)[hole], expected[hole], atol=2e-6)


def test_pieces_with_room_see_all_that_has_influence() -> None:
    """An answer that the farthest pixel decides as much as the nearest: a window that lacks one gives another."""
    levels, radius, grid = 3, small_network(3).context, 8

    def answer(image, mask):
        rows = nn.functional.max_pool2d(torch.where(mask, image, 0), (2 * radius + 1, 1), 1, (radius, 0))
        return nn.functional.max_pool2d(rows, (1, 2 * radius + 1), 1, (0, radius)), torch.ones_like(mask)

    size, rng = (150, 160), np.random.default_rng(1)
    picture = np.where(rng.random((*size, 3)) < 0.001, rng.integers(0, 256, (*size, 3)), 0).astype(np.uint8)
    hole = np.zeros(size, bool)
    hole[50:95:3, 60:105:3] = True
    expected = answer(as_tensor(picture)[None] / 255, torch.from_numpy(~hole)[None, None])[0][0].permute(1, 2, 0)
    least = 2 * -(-radius // grid) * grid + grid  # a window with room for a core of one cell of the grid
    for tile in (least, least + grid):
        got = filled(Canned(answer, levels), picture, hole, tile=tile)
        np.testing.assert_allclose(got[hole], expected.numpy()[hole], rtol=0, atol=1e-6)
    without_room = filled(Canned(answer, levels), picture, hole, tile=least - grid)
    assert np.abs(without_room - expected.numpy())[hole].max() > 0.1


def test_pieces_without_room_fade_into_each_other() -> None:
    """Each window answers with one colour of its own: the steps between them must not show."""

    def answer(image, mask):
        seen = image[mask.expand_as(image)].mean()
        return seen.expand_as(image), torch.ones_like(mask)

    rising = np.broadcast_to(np.linspace(0, 255, 256)[None, :, None], (256, 256, 3)).astype(np.uint8)
    hole = np.zeros((256, 256), bool)
    hole[40:216:2, 40:216:2] = True
    got = filled(Canned(answer), rising, hole, tile=64)[40:216:2, 40:216:2, 0]
    assert got.max() - got.min() > 0.4  # the windows did answer differently
    assert np.abs(np.diff(got, axis=0)).max() < 0.05
    assert np.abs(np.diff(got, axis=1)).max() < 0.05


def test_a_300_px_hole_with_five_levels() -> None:
    model = small_network(5)
    picture, hole = smooth_picture(400, 420), square_hole(400, 420, 50, 60, 300)
    assert not whole_run(model, picture, hole)[1].all()  # one run leaves a rest
    got = filled(model, picture, hole)
    assert np.isfinite(got).all() and got.min() >= 0 and got.max() <= 1
    assert got[hole].std() > 0.01
    other = picture.copy()
    other[hole] = 255 - other[hole]
    np.testing.assert_array_equal(got, filled(model, other, hole))  # nothing of the hole's own pixels


def test_a_wide_hole_takes_on_its_surroundings() -> None:
    """An ideal network answers with the mean of what it sees; the filling must then stay near the truth."""

    def answer(image, mask):
        near = nn.functional.avg_pool2d(mask.float(), 63, 1, 31)
        mean = nn.functional.avg_pool2d(image * mask, 63, 1, 31) / near.clamp(min=1e-6)
        return torch.where(mask, image, mean), near > 0

    picture = np.empty((300, 320, 3), np.uint8)
    picture[:] = (np.linspace(40, 200, 320)[None] + np.zeros((300, 1)))[..., None]
    hole = square_hole(300, 320, 40, 50, 200)
    got = filled(Canned(answer), picture, hole)
    error = np.abs(got - picture / 255)[hole]
    assert error.max() < 0.2 and error.mean() < 0.06
    # no step anywhere inside: the truth rises by 0.002 a pixel
    inside = got[45:235, 55:245, 0]
    assert max(np.abs(np.diff(inside, axis=0)).max(), np.abs(np.diff(inside, axis=1)).max()) < 0.06


def test_a_stand_in_fades_into_the_network_s_answer() -> None:
    """Black by the network, white by the smooth fill: in between no step may show."""

    def answer(image, mask):
        return torch.zeros_like(image), torch.ones_like(mask)

    hole = square_hole(120, 120, 20, 20, 80)
    got = filled(Canned(answer), np.full((120, 120, 3), 255, np.uint8), hole)[20:100, 20:100, 0]
    assert got[0, 0] == 0 and got[40, 40] == 1
    assert max(np.abs(np.diff(got, axis=0)).max(), np.abs(np.diff(got, axis=1)).max()) < 0.3


def test_a_network_that_reaches_next_to_nothing() -> None:
    def answer(image, mask):
        reached = spread(mask[0, 0], 3)[None, None]
        return torch.where(reached, 0.5, 0.0).expand_as(image), reached

    grey, hole = np.full((90, 110, 3), 128, np.uint8), square_hole(90, 110, 10, 20, 70)
    got = filled(Canned(answer), grey, hole)
    np.testing.assert_allclose(got, 0.5, atol=0.003)


@pytest.mark.parametrize("side", [1, 9, 70])
def test_a_network_that_reaches_nothing_leaves_the_smooth_fill(side: int) -> None:
    """Dead channels, say. The hole is narrower than the network should reach, or wider; another one is far away."""
    picture = smooth_picture(90, 110)
    hole = square_hole(90, 110, 10, 20, side) | square_hole(90, 110, 88, 108, 2)
    dead = Canned(lambda image, mask: (torch.full_like(image, torch.nan), torch.zeros_like(mask)), levels=1)
    expected = smooth_fill(as_tensor(picture) / 255, torch.from_numpy(~hole)[None])
    got = filled(dead, picture, hole)
    np.testing.assert_allclose(got[hole], expected.permute(1, 2, 0).clamp(0, 1).numpy()[hole], atol=2e-3)


def test_the_smooth_fill_stands_in_where_all_that_is_near_is_transparent() -> None:
    def answer(image, mask):
        return torch.zeros_like(image), torch.zeros_like(mask)

    picture, hole = np.full((90, 110, 3), 51, np.uint8), square_hole(90, 110, 30, 40, 20)
    valid = torch.zeros(90, 110, dtype=torch.bool)
    valid[:, :9] = True
    (patch,) = fill_holes(Canned(answer, levels=1), as_tensor(picture), torch.from_numpy(hole), valid)
    np.testing.assert_allclose(patch.colours, 0.2, atol=1e-4)


def test_pixels_outside_the_last_mask_are_never_written() -> None:
    def answer(image, mask):
        reached = spread(mask[0, 0], 9)[None, None]
        return torch.where(reached, 0.5, torch.nan).expand_as(image), reached

    picture, hole = smooth_picture(90, 110), square_hole(90, 110, 10, 20, 70)
    got = filled(Canned(answer), picture, hole)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 300), (257, 3), (5, 7)])
def test_tiny_and_narrow_pictures(shape: tuple[int, int]) -> None:
    picture = smooth_picture(*shape)
    hole = np.ones(shape, bool)
    hole[-1, -1] = False
    assert np.isfinite(filled(small_network(3), picture, hole)).all()


def test_plain_convolutions_too() -> None:
    model = PConvUNet(levels=2, width=2, conv="plain").eval()
    picture, hole = smooth_picture(90, 80), square_hole(90, 80, 5, 5, 70)
    assert np.isfinite(filled(model, picture, hole)).all()


def test_nothing_valid_and_nothing_wanted() -> None:
    model, image = small_network(1), as_tensor(smooth_picture(6, 5))
    assert fill_holes(model, image, torch.zeros(6, 5, dtype=torch.bool)) == []
    with pytest.raises(PConvError, match="whole picture"):
        fill_holes(model, image, torch.ones(6, 5, dtype=torch.bool))
    with pytest.raises(PConvError, match="tile: expected at least 8"):
        fill_holes(small_network(3), image, torch.eye(6, 5, dtype=torch.bool), tile=7)


def test_out_of_memory_is_retried_smaller_and_said() -> None:
    model, said = small_network(3), []
    forward, sides = model.forward, []

    def scarce(image, mask):
        sides.append(max(image.shape[2:]))
        if sides[-1] > 90:
            raise torch.OutOfMemoryError("no room")
        return forward(image, mask)

    picture, hole = smooth_picture(200, 210), square_hole(200, 210, 70, 60, 30)
    expected, _ = whole_run(model, picture, hole)
    model.forward = scarce
    got = filled(model, picture, hole, notify=said.append)
    assert np.isfinite(got).all()
    assert sides[0] > 90 and max(sides[1:]) <= 90
    assert len(said) == 1 and "out of memory" in said[0] and "trying again" in said[0]

    def never(image, mask):
        raise torch.OutOfMemoryError("no room")

    model.forward = never
    with pytest.raises(PConvError, match="out of memory"):
        filled(model, picture, hole)


def test_other_errors_are_not_taken_for_out_of_memory() -> None:
    def broken(image, mask):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        filled(Canned(broken), smooth_picture(20, 20), square_hole(20, 20, 5, 5, 5))


def test_the_model_is_left_as_it_was() -> None:
    model = small_network(2)
    model.train()
    model.encoder[1].norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    filled(model, smooth_picture(40, 40), square_hole(40, 40, 8, 8, 9))
    assert model.training and not model.encoder[1].norm.training and model.decoder[0].norm.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


_LARGE_PHOTO = """
import resource, sys
import torch
from inpaint_support import small_network
from pconv_cuda.inpainting.fill import fill_holes
torch.set_num_threads(1)
model = small_network(5)
image = torch.full((3, 3000, 4000), 7, dtype=torch.uint8)
image[:, :, ::3] += 100
hole = torch.zeros(3000, 4000, dtype=torch.bool)
hole[900:2100, 1300:2500] = True
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
def run(**options):
    (patch,) = fill_holes(model, image, hole, **options)
    assert (patch.box.top, patch.box.left, patch.box.bottom, patch.box.right) == (900, 1300, 2100, 2500)
    return patch.colours
fill_holes(model, image[:, :200, :200], hole[850:1050, 1250:1450])  # the libraries' own buffers
start = peak()
tiled = run(tile=512)
small = peak() - start
assert tiled.isfinite().all() and tiled.std() > 0
image[:, 900:2100, 1300:2500] = 200
whole = run()
print(small, peak() - start, (tiled - whole).abs().max().item())
"""


@pytest.mark.full("large pictures and networks")
def test_a_1200_px_hole_in_12_megapixels() -> None:
    """Every pixel filled, within bounded memory, and the same in 512 px pieces as in one window a pass."""
    run = subprocess.run(
        [sys.executable, "-c", _LARGE_PHOTO],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}"},
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    small, large, difference = map(float, run.stdout.split())
    print(f"peak memory above the start: {small:.0f} MiB with --tile 512, {large:.0f} MiB without")
    assert small < 300
    assert large < 1000
    assert difference < 1e-4
