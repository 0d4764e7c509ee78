"""pconv_cuda.fill: gaps in grids of any range, and what comes back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import pconv_cuda
from pconv_cuda.errors import PConvError
from pconv_cuda.functional import smooth_fill

LATITUDE, LONGITUDE = np.meshgrid(np.linspace(-88, 88, 45), np.arange(0, 360, 4.0), indexing="ij")
FIELD = 15 + 30 * np.cos(np.radians(LATITUDE)) + 5 * np.sin(np.radians(3 * LONGITUDE))


def with_gaps(field: np.ndarray, share: float = 0.4) -> np.ndarray:
    gaps = np.random.default_rng(0).random(field.shape) < share
    return np.where(gaps, np.nan, field).astype(field.dtype)


def rmse(found: np.ndarray, where: np.ndarray, truth: np.ndarray = FIELD) -> float:
    return float(np.sqrt(np.mean((found.astype(np.float64) - truth)[where] ** 2)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("lead", [(), (3,), (2, 0), (2, 3)])
def test_valid_values_are_returned_to_the_bit(dtype: type, lead: tuple[int, ...]) -> None:
    array = with_gaps(np.broadcast_to(FIELD, (*lead, *FIELD.shape)).astype(dtype))
    before = array.copy()
    filled = pconv_cuda.fill("smooth", array)
    known = ~np.isnan(array)
    assert filled.shape == array.shape and filled.dtype == array.dtype and not np.isnan(filled).any()
    assert np.array_equal(filled[known], array[known]) and np.array_equal(array, before, equal_nan=True)


def test_it_is_the_smooth_fill_of_each_plane() -> None:
    array = with_gaps(np.stack([FIELD, 3 * FIELD.T.reshape(FIELD.shape)]))
    known = torch.from_numpy(~np.isnan(array))[:, None]
    picture = torch.from_numpy(np.nan_to_num(array))[:, None]
    exact = smooth_fill(picture, known, tolerance=0.0, max_iterations=200)[:, 0].numpy()
    assert np.abs(pconv_cuda.fill("smooth", array) - exact).max() < 1e-3  # of a range of 105


@pytest.mark.parametrize("offset", [0, 101325.0, -3e7])
def test_no_offset_costs_precision(offset: float) -> None:
    array = (with_gaps(FIELD) + offset).astype(np.float32)
    gaps = np.isnan(array)
    spacing = float(np.spacing(np.float32(abs(offset) + 50)))
    assert rmse(pconv_cuda.fill("smooth", array), gaps, FIELD + offset) < 0.2 + spacing


def test_a_gap_across_the_seam_is_one_gap() -> None:
    array = FIELD.copy()
    array[:, :4] = array[:, -4:] = np.nan
    gap = np.isnan(array)
    apart, round_ = (pconv_cuda.fill("smooth", array, wrap=(False, wraps)) for wraps in (False, True))
    assert rmse(round_, gap) < rmse(apart, gap) / 2
    # A grid that begins elsewhere has the same answer.
    rolled = pconv_cuda.fill("smooth", np.roll(array, 30, axis=1), wrap=(False, True))
    assert np.abs(np.roll(rolled, -30, axis=1) - round_).max() < 0.05
    assert np.abs(pconv_cuda.fill("smooth", array.T, wrap=(True, False)).T - round_).max() < 0.05


def test_planes_without_a_value_stay_empty() -> None:
    array = np.stack([with_gaps(FIELD), np.full_like(FIELD, np.nan), FIELD])
    with pytest.warns(UserWarning, match="1 of 3 planes have no value"):
        filled = pconv_cuda.fill("smooth", array)
    assert np.isnan(filled[1]).all() and not np.isnan(filled[[0, 2]]).any() and np.array_equal(filled[2], FIELD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pconv_cuda.fill("smooth", array[[0, 2]])


def test_one_row_and_one_column() -> None:
    for shape in ((1, 9), (9, 1), (1, 1)):
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        array.flat[array.size // 2 :][:1] = np.nan if array.size > 1 else 0
        assert not np.isnan(pconv_cuda.fill("smooth", array, wrap=(True, True))).any()


def test_masked_arrays_and_tensors() -> None:
    array = with_gaps(FIELD)
    masked = np.ma.masked_array(np.where(np.isnan(array), -9999.0, array), np.isnan(array))
    filled = pconv_cuda.fill("smooth", masked)
    plain = pconv_cuda.fill("smooth", array)
    assert isinstance(filled, np.ma.MaskedArray) and not filled.mask.any() and np.array_equal(filled.data, plain)
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.from_numpy(array).to(dtype)
        found = pconv_cuda.fill("smooth", tensor)
        known = ~tensor.isnan()
        assert found.dtype == dtype and torch.equal(found[known], tensor[known]) and not found.isnan().any()


@dataclass
class Labelled:
    """As much of an xarray.DataArray as is used."""

    values: np.ndarray
    dims: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)

    def transpose(self, *names: str) -> Labelled:
        return Labelled(self.values.transpose([self.dims.index(name) for name in names]), names, self.attrs)

    def copy(self, data: np.ndarray) -> Labelled:
        return Labelled(data, self.dims, dict(self.attrs))


def labelled(values: np.ndarray, dims: tuple[str, ...]) -> Any:
    try:
        import xarray
    except ImportError:
        return Labelled(values, dims, {"units": "K"})
    return xarray.DataArray(values, dims=dims, attrs={"units": "K"}, coords={"lat": LATITUDE[:, 0]}, name="tas")


def test_a_labelled_array_keeps_its_names() -> None:
    array = with_gaps(np.stack([FIELD, FIELD + 1]))
    found = pconv_cuda.fill("smooth", labelled(array, ("time", "lat", "lon")), wrap=(False, True))
    assert found.dims == ("time", "lat", "lon") and found.attrs == {"units": "K"}
    expected = pconv_cuda.fill("smooth", array, wrap=(False, True))
    assert np.array_equal(found.values, expected)
    turned = labelled(np.ascontiguousarray(array.transpose(1, 2, 0)), ("lat", "lon", "time"))
    found = pconv_cuda.fill("smooth", turned, wrap=(False, True), dims=("lat", "lon"))
    assert found.dims == turned.dims and np.array_equal(found.values.transpose(2, 0, 1), expected)
    with pytest.raises(PConvError, match=r"dims: expected two or three of the array's \('lat', 'lon', 'time'\), got"):
        pconv_cuda.fill("smooth", turned, dims=("lat", "level"))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("photo", FIELD), {}, "model: expected smooth or a network of grids, got 'photo', .*pconv_cuda.inpaint"),
        (("none", FIELD), {}, "model: expected smooth, a .safetensors file or a folder .* but none does not exist"),
        ((FIELD, "smooth"), {}, "model: expected 'smooth', weights, .*, got ndarray; the model comes before the array"),
        ((torch.from_numpy(FIELD), "smooth"), {}, "model: expected .*, got Tensor; the model comes before the array"),
        ((3, FIELD), {}, "model: expected 'smooth', weights, or a network of pconv_cuda.models, got int"),
        (("smooth", FIELD.astype(int)), {}, "array: expected float16, float32 or float64, got int64"),
        (("smooth", torch.ones(3, 3, dtype=torch.int32)), {}, "array: expected float16, .*got torch.int32"),
        (("smooth", FIELD[0]), {}, r"array: expected \(..., H, W\) with at least one value, got shape \(90,\)"),
        (("smooth", FIELD[:, :0]), {}, r"got shape \(45, 0\)"),
        (("smooth", [1.0]), {}, "array: expected a numpy array, a torch tensor or an xarray.DataArray, got list"),
        (("smooth", np.where(FIELD > 40, np.inf, FIELD)), {}, "array: expected finite values, NaN where"),
        (("smooth", FIELD), {"wrap": (True,)}, r"wrap: expected two answers, for rows and columns, got \(True,\)"),
        (
            ("smooth", FIELD),
            {"dims": ("lat", "lon")},
            "dims: expected numbers of the array's 2 axes, got \\('lat', 'lon'\\)",
        ),
        (("smooth", FIELD), {"dims": (0, 0)}, r"dims: expected two or three different axes, got \(0, 0\)"),
        (("smooth", FIELD), {"tension": 2}, "tension: expected 0 to 1, got 2"),
    ],
)
def test_bad_input_is_named(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(PConvError, match=message):
        pconv_cuda.fill(*arguments, **options)
