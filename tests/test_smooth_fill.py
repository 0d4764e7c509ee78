"""smooth_fill against a direct sparse solution of its equation, which shares no code with it, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import DEVICES
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from pconv_cuda import ops, smooth
from pconv_cuda.functional import smooth_fill

SHAPES = [(1, 2), (1, 41), (37, 1), (2, 2), (3, 5), (4, 33), (17, 16), (31, 49), (64, 50)]
TENSIONS = [0.0, 0.2, 0.7, 1.0]
EXACT = {"tolerance": 1e-13, "max_iterations": 300}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=[*DEVICES, "reference"])
def fill(request: pytest.FixtureRequest):
    """smooth_fill on each device, and the reference in plain torch through the same door."""
    if request.param == "reference":
        request.getfixturevalue("monkeypatch").setattr(ops, "smooth_fill", smooth.smooth_fill)
    device = "cpu" if request.param == "reference" else request.param
    return lambda x, mask, **options: smooth_fill(x.to(device), mask.to(device), **options).cpu()


def plate_matrix(height: int, width: int, tension: float) -> sparse.csr_matrix:
    """(1 - tension) L L - tension L, with L's neighbours read off a reflected table of pixel numbers."""
    count = height * width
    number = np.pad(np.arange(count).reshape(height, width), 1, mode="symmetric")
    own, rows, columns = number[1:-1, 1:-1].ravel(), [], []
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        rows.append(own)
        columns.append(number[dy : dy + height, dx : dx + width].ravel())
    ones = sparse.coo_matrix((np.ones(4 * count), (np.concatenate(rows), np.concatenate(columns))), (count, count))
    laplacian = (ones - 4 * sparse.eye(count)).tocsr()
    return ((1 - tension) * laplacian @ laplacian - tension * laplacian).tocsr()


def direct(picture: np.ndarray, valid: np.ndarray, tension: float) -> np.ndarray:
    """One channel (H, W), float64."""
    matrix, u = plate_matrix(*picture.shape, tension), picture.ravel().copy()
    hole, known = np.flatnonzero(~valid.ravel()), np.flatnonzero(valid.ravel())
    u[hole] = spsolve(matrix[hole][:, hole].tocsc(), -matrix[hole][:, known] @ u[known])
    return u.reshape(picture.shape)


def scattered(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Holes of single pixels, and wide ones that touch the border, with some pixel valid."""
    rng = np.random.default_rng(seed)
    valid = rng.random((height, width)) < 0.6
    valid[height // 4 : 3 * height // 4, : 2 * width // 3] = False
    valid[-1, -1], valid[0, 0] = True, False
    return valid


def case(height: int, width: int, channels: int = 1) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(1)
    picture = torch.from_numpy(rng.random((1, channels, height, width)))
    return picture, torch.from_numpy(scattered(height, width))[None, None]


# The equation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("tension", TENSIONS)
def test_direct_solution(fill, shape: tuple[int, int], tension: float) -> None:
    x, mask = case(*shape)
    expected = direct(x[0, 0].numpy(), mask[0, 0].numpy(), tension)
    np.testing.assert_allclose(fill(x, mask, tension=tension, **EXACT)[0, 0].numpy(), expected, rtol=0, atol=1e-9)


MISTAKES = {
    "the tension's term twice": lambda x, m, t: smooth_fill(x, m, tension=2 * t / (1 + t), **EXACT),
    "valid and hole exchanged": lambda x, m, t: smooth_fill(x, ~m, tension=t, **EXACT),
    "stopped early": lambda x, m, t: smooth_fill(x, m, tension=t, tolerance=1e-4),
    "zeros beyond the border": lambda x, m, t: smooth_fill(
        torch.nn.functional.pad(x, (3, 3, 3, 3)),
        torch.nn.functional.pad(m.float(), (3, 3, 3, 3), value=1.0),
        tension=t,
        **EXACT,
    )[..., 3:-3, 3:-3],
    "border pixels not repeated": lambda x, m, t: smooth_fill(
        torch.nn.functional.pad(x, (3, 3, 3, 3), mode="reflect"),
        torch.nn.functional.pad(m.float(), (3, 3, 3, 3), mode="reflect"),
        tension=t,
        **EXACT,
    )[..., 3:-3, 3:-3],
    "one pixel not solved": lambda x, m, t: smooth_fill(x, m, tension=t, **EXACT).index_fill(
        -1, torch.tensor([0]), 0.5
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_check_catches(mistake: str) -> None:
    x, mask = case(17, 16)
    expected = direct(x[0, 0].numpy(), mask[0, 0].numpy(), 0.2)
    wrong = MISTAKES[mistake](x, mask, 0.2)[0, 0].numpy()
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(wrong, expected, rtol=0, atol=1e-9)


def test_many_holes_with_a_valid_pixel_between(fill) -> None:
    """Holes two pixels apart act on each other, holes three apart do not; each way to cut them is right."""
    x, _ = case(60, 100)
    mask = torch.ones(1, 1, 60, 100, dtype=torch.bool)
    for gap, row in ((1, 1), (2, 10), (3, 20), (17, 30)):
        for column in range(0, 100 - 5, 5 + gap):
            mask[..., row : row + 5, column : column + 5] = False
    for row, column in ((40, 15), (41, 16), (45, 48), (46, 47), (50, 79), (50, 81), (54, 95), (56, 95)):
        mask[..., row, column] = False  # pairs, all but the last on both sides of a multiple of 16
    expected = direct(x[0, 0].numpy(), mask[0, 0].numpy(), smooth.TENSION)
    np.testing.assert_allclose(fill(x, mask, **EXACT)[0, 0].numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("hole", ["inside", "outside"])
@pytest.mark.parametrize("shape", [(37, 45), (38, 70), (9, 300)], ids=str)
def test_each_iterate_is_the_torch_versions(shape: tuple[int, int], hole: str) -> None:
    """A hole whose surroundings are the whole picture: start, smoother and levels are then the same. A mistake in a
    V-cycle would else only cost iterations."""
    x, mask = case(*shape)
    mask[:] = hole == "inside"
    if hole == "inside":
        mask[..., 2:-2, 2:-2] = False
    else:
        mask[..., 3:6, 20:25] = True
    for iterations in (1, 2, 4):
        options = (0.3, 0.0, iterations)
        expected = smooth.smooth_fill(x, mask, *options)
        assert torch.allclose(ops.smooth_fill(x, mask, *options), expected, rtol=0, atol=1e-11)
        assert not torch.allclose(smooth.smooth_fill(x, mask, 0.3, 0.0, 8), expected, rtol=0, atol=1e-7)


def test_stated_tolerance(fill) -> None:
    """0.05 of 255 for most pixels of a photograph's hole, some tenths at single ones: what the docstring says."""
    x, mask = case(64, 50)
    x = 255 * torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    error = (fill(x.float(), mask).double() - fill(x, mask, **EXACT))[~mask].abs()
    assert error.mean() < 0.05 and error.max() < 0.5


def test_float32_in_a_wide_hole_is_as_good_as_float64(fill) -> None:
    """Weights that sum to 1e-6 instead of 0 act on the values: 0.6 grey levels of 255 in the middle of a wide hole."""
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(300.0), indexing="ij")
    picture = (100 + 0.3 * x + 40 * torch.sin(y / 30))[None, None]
    mask = torch.ones(1, 1, 300, 300, dtype=torch.bool)
    mask[..., 10:290, 5:270] = False
    options = {"tolerance": 1e-7, "max_iterations": 30}
    error = fill(picture, mask, **options).double() - fill(picture.double(), mask, **options)
    assert error.abs().max() < 2e-3


@pytest.mark.parametrize("tension", TENSIONS)
def test_planes_and_harmonic_quadratics_are_reproduced(fill, tension: float) -> None:
    """Both terms of the equation vanish for them, where the border is out of the plate's reach."""
    y, x = torch.meshgrid(torch.arange(40.0).double(), torch.arange(30.0).double(), indexing="ij")
    surfaces = torch.stack([2 + 3 * x - y, x * y, x**2 - y**2])[None]
    mask = torch.ones(1, 1, 40, 30, dtype=torch.bool)
    mask[..., 2:-2, 2:-2] = torch.from_numpy(scattered(36, 26))
    filled = fill(surfaces.masked_fill(~mask, 1e6), mask, tension=tension, **EXACT)
    assert torch.allclose(filled, surfaces, rtol=0, atol=1e-7)


def test_cubics_are_reproduced_without_tension_only(fill) -> None:
    y, x = torch.meshgrid(torch.arange(40.0).double(), torch.arange(30.0).double(), indexing="ij")
    cubic = (0.1 * x**2 + 0.01 * y**3)[None, None]
    mask = torch.ones(1, 1, 40, 30, dtype=torch.bool)
    mask[..., 8:30, 5:20] = False
    assert torch.allclose(fill(cubic, mask, tension=0, **EXACT), cubic, rtol=0, atol=1e-7)
    assert (fill(cubic, mask, tension=0.2, **EXACT) - cubic).abs().max() > 0.5


def test_no_new_extrema_under_full_tension(fill) -> None:
    x, mask = case(31, 49)
    filled, known = fill(x, mask, tension=1, **EXACT)[~mask], x[mask]
    assert known.min() - 1e-9 <= filled.min() and filled.max() <= known.max() + 1e-9


def test_rotations_and_flips(fill) -> None:
    x, mask = case(31, 49, 2)
    filled = fill(x, mask, **EXACT)
    for turns in range(4):
        for flip in ((), (-1,)):
            turn = lambda t, turns=turns, flip=flip: torch.rot90(t, turns, (-2, -1)).flip(flip)  # noqa: E731
            turned = fill(turn(x).contiguous(), turn(mask).contiguous(), **EXACT)
            assert torch.allclose(turned, turn(filled), rtol=0, atol=1e-9)


# What goes in and comes out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_dtypes_and_layouts(fill, dtype: torch.dtype, layout: torch.memory_format) -> None:
    x, mask = case(31, 49, 3)
    x = x.to(dtype).contiguous(memory_format=layout)
    filled = fill(x, mask, **EXACT)
    assert filled.dtype == dtype and filled.is_contiguous(memory_format=layout)
    assert torch.equal(filled[mask.expand_as(x)], x[mask.expand_as(x)])
    truth = fill(x.double(), mask, **EXACT)
    # One rounding of the result; float32 is computed with, and its own rounding is the last.
    assert (filled.double() - truth).abs().max() <= 0.51 * torch.finfo(dtype).eps * truth.abs().max() + (
        1e-9 if dtype == torch.float64 else 3e-6
    )


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -1e30], ids=str)
def test_holes_are_not_read(fill, rubbish: float) -> None:
    x, mask = case(31, 49, 2)
    assert torch.equal(fill(x.masked_fill(~mask, rubbish), mask), fill(x, mask))


def test_valid_pixels_keep_their_bits(fill) -> None:
    x, mask = case(31, 49)
    x = x.to(torch.float32)
    mask[..., 12:19, 32:43] = True  # infinity may reach two pixels
    special = torch.tensor([-0.0, float("inf"), float("nan"), 1e-42, 3e38])
    x[..., 15, 35:40] = special
    filled = fill(x, mask)
    assert torch.equal(filled[mask].view(torch.int32), x[mask].view(torch.int32))
    assert filled[~mask].isfinite().all()


def test_a_valid_nan_beside_a_hole_does_not_hang(fill) -> None:
    mask = torch.ones(1, 1, 9, 40, dtype=torch.bool)
    mask[..., 4, 4:6] = mask[..., 4, 34:36] = False
    x = torch.ones(1, 1, 9, 40)
    x[..., 4, 3] = float("nan")
    assert fill(x, mask)[..., 4, 4:6].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_tolerance_beyond_the_precision_ends_at_the_solution(fill, dtype: torch.dtype) -> None:
    """After as many steps as unknowns a conjugate direction is rounding alone: small holes meet that at once."""
    for seed in range(120):
        rng = np.random.default_rng(seed)
        valid = rng.random(rng.integers(2, 20, 2)) < rng.uniform(0.3, 0.97)
        valid[0, 0] = True
        x = torch.from_numpy(rng.random(valid.shape))[None, None].to(dtype)
        filled = fill(x, torch.from_numpy(valid)[None, None], tolerance=0.0, max_iterations=300)
        filled = filled[0, 0].double().numpy()
        expected = direct(x[0, 0].double().numpy(), valid, smooth.TENSION)
        np.testing.assert_allclose(filled, expected, rtol=0, atol=2e-5 if dtype == torch.float32 else 1e-12)


def test_samples_and_channels_are_independent(fill) -> None:
    """To the bit, with masks of their own or one for all; one plane is constant and done at once."""
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.random((3, 2, 31, 20)))
    x[1, 1] = 0.25
    masks = torch.from_numpy(np.stack([[scattered(31, 20, 2 * n + c) for c in range(2)] for n in range(3)]))
    for mask in (masks, masks[:1], masks[:, :1], masks[:1, :1]):
        filled, every = fill(x, mask), mask.expand_as(x)
        for n in range(3):
            for c in range(2):
                alone = fill(x[n : n + 1, c : c + 1], every[n : n + 1, c : c + 1])
                assert torch.allclose(filled[n, c], alone[0, 0], rtol=0, atol=1e-12)
    assert torch.allclose(filled[1, 1], torch.tensor(0.25).double(), rtol=0, atol=1e-12)


def test_unbatched_and_every_kind_of_mask(fill) -> None:
    x, mask = case(17, 16, 2)
    expected = fill(x, mask)
    floating = torch.where(mask, 0.5, 0.0)
    floating[~mask & (torch.arange(16) % 2 == 0)] = float("nan")
    for same in (mask.to(torch.uint8) * 255, floating, mask.expand(1, 2, -1, -1), mask.double()):
        assert torch.equal(fill(x, same), expected)
        assert torch.equal(fill(x[0], same[0]), expected[0])
    turned = fill(x.mT.contiguous().mT, mask.mT.contiguous().mT)  # torch's sums depend on the strides
    assert torch.allclose(turned, expected, rtol=0, atol=1e-12)


def test_nothing_to_fill(fill) -> None:
    x, _ = case(17, 16, 2)
    everywhere = torch.ones(1, 1, 17, 16)
    filled = fill(x, everywhere)
    assert torch.equal(filled, x) and filled.data_ptr() != x.data_ptr()
    assert fill(x[:0], everywhere[:0]).shape == (0, 2, 17, 16)


def test_the_same_bits_on_any_number_of_threads() -> None:
    """A hole that threads share, small ones that they deal out, and several planes."""
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.random((1, 3, 240, 400))).float()
    mask = torch.from_numpy(rng.random((1, 1, 240, 400)) < 0.999)
    mask[..., 20:220, 10:230] = False
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found += [smooth_fill(x, mask), smooth_fill(x[:, :1].contiguous(), mask)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found[::2])
    assert all(torch.equal(one, found[0][:, :1]) for one in found[1::2])


# Errors, and torch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"input": torch.zeros(1, 2, 8, 8, dtype=torch.int64)}, TypeError, "input: expected float64.*int64"),
        ({"input": torch.zeros(8, 8)}, ValueError, r"input: expected \(N, C, H, W\).*\(8, 8\)"),
        ({"input": torch.zeros(1, 2, 0, 8)}, ValueError, "input: expected .*at least one"),
        ({"mask": torch.ones(1, 1, 8, 7)}, ValueError, r"mask: expected \(1\|1, 1\|2, 8, 8\).*\(1, 1, 8, 7\)"),
        ({"mask": torch.ones(8, 8)}, ValueError, "mask: expected"),
        ({"mask": torch.ones(1, 1, 8, 8, dtype=torch.int32)}, TypeError, "mask: expected bool"),
        ({"tension": 1.5}, ValueError, "tension: expected 0 to 1, got 1.5"),
        ({"tension": float("nan")}, ValueError, "tension: expected 0 to 1, got nan"),
        ({"tolerance": -1.0}, ValueError, "tolerance: expected at least 0, got -1.0"),
        ({"max_iterations": 0}, ValueError, "max_iterations: expected at least 1, got 0"),
    ],
)
def test_errors_name_the_argument(change: dict, error: type[Exception], words: str) -> None:
    given = {"input": torch.zeros(1, 2, 8, 8), "mask": torch.ones(1, 1, 8, 8), **change}
    with pytest.raises(error, match=words):
        smooth_fill(given.pop("input"), given.pop("mask"), **given)


def test_a_plane_that_is_all_hole_is_an_error() -> None:
    mask = torch.ones(2, 3, 8, 8)
    mask[1, 2] = float("nan")
    with pytest.raises(ValueError, match="mask: expected at least one valid pixel.*sample 1, channel 2"):
        smooth_fill(torch.zeros(2, 3, 8, 8), mask)
    with pytest.raises(RuntimeError, match="mask: expected at least one valid pixel.*sample 1, channel 2"):
        ops.smooth_fill(torch.zeros(2, 3, 8, 8), mask == 1, 0.2, 1e-3, 9)


def test_a_gradient_is_refused_and_not_dropped() -> None:
    x, mask = case(17, 16)
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="input: expected a tensor that needs no gradient.*detach"):
        smooth_fill(x, mask)
    with torch.no_grad():
        assert not smooth_fill(x, mask).requires_grad
    assert torch.equal(smooth_fill(x.detach(), mask), smooth_fill(x.detach().clone(), mask))


def test_opcheck_compile_and_autocast(device: str) -> None:
    x, mask = case(17, 16, 2)
    x, mask = x.float().to(device), mask.to(device)
    torch.library.opcheck(ops.smooth_fill, (x, mask, 0.2, 1e-3, 30))
    last = x.contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(ops.smooth_fill, (last, mask, 0.2, 1e-3, 30))
    expected = smooth_fill(x, mask)
    compiled = torch.compile(lambda x, mask: smooth_fill(x, mask) + 1, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, mask), expected + 1)
    with torch.autocast(device, torch.bfloat16):
        assert torch.equal(smooth_fill(x, mask), expected)


def test_devices_without_a_kernel_run_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCONV_FALLBACK", "1")
    x, mask = case(17, 16, 2)
    unfused = torch.ops.pconv_cuda.unfused_smooth_fill(x, mask, smooth.TENSION, 1e-13, 300)
    assert torch.allclose(unfused, smooth_fill(x, mask, **EXACT), rtol=0, atol=1e-9)
