"""pconv_cuda.fill with networks: units, channels, time steps, sizes, axes that go round."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pconv_cuda
from pconv_cuda import FillRefiner, PConvUNet
from pconv_cuda.errors import PConvError
from pconv_cuda.grids import network as grids_network
from pconv_cuda.grids.api import fill_with, grid_filler
from pconv_cuda.grids.smooth import plate

GLOBE = ("zeros", "circular")


def network(channels: int = 1, seed: int = 0, **options: Any) -> PConvUNet:
    torch.manual_seed(seed)
    options = {"levels": 2, "width": 4, "values": "data", **options}
    options = {"mean": (12.0,) * channels, "std": (8.0,) * channels, **options}
    return PConvUNet(channels, **options).eval()


def field(*shape: int, gaps: float = 0.4, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = 12 + 8 * rng.standard_normal(shape)
    return np.where(rng.random(shape) < gaps, np.nan, values).astype(dtype)


def by_hand(model: PConvUNet, array: np.ndarray) -> np.ndarray:
    """The network's answer (out, H, W) to (C, H, W), in float64."""
    mean, std = (torch.tensor(each, dtype=torch.float64).view(-1, 1, 1) for each in (model.mean, model.std))
    values = torch.from_numpy(array.astype(np.float64))
    known = ~torch.isnan(values)
    normal = torch.where(known, (values - mean) / std, 0)
    with torch.no_grad():
        output, reached = copy.deepcopy(model).double()(normal[None], known[None])
    assert bool(reached.all())
    first = (model.in_channels - model.out_channels) // 2
    part = slice(first, first + model.out_channels)
    return torch.where(known[part], values[part], output[0] * std[part] + mean[part]).numpy()


@pytest.mark.parametrize("size", [(8, 16), (9, 13), (3, 30)])
@pytest.mark.parametrize("mode", ["zeros", GLOBE], ids=str)
@pytest.mark.parametrize("conv", ["partial", "plain"])
def test_it_is_the_network_in_the_unit_of_the_data(size: tuple[int, int], mode: Any, conv: str) -> None:
    model, array = network(padding_mode=mode, conv=conv), field(2, 3, *size)
    before = array.copy()
    found = pconv_cuda.fill(model, array)
    expected = np.stack([[by_hand(model, plane[None])[0] for plane in planes] for planes in array])
    known = ~np.isnan(array)
    assert found.shape == array.shape and found.dtype == array.dtype
    assert np.array_equal(found[known], array[known]) and np.array_equal(array, before, equal_nan=True)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(pconv_cuda.fill(network(seed=1, padding_mode=mode, conv=conv), array) - expected).max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_and_kinds_of_arrays(dtype: torch.dtype) -> None:
    model, tensor = network(), torch.from_numpy(field(2, 8, 16)).to(dtype)
    found, known = pconv_cuda.fill(model, tensor), ~tensor.isnan()
    assert found.dtype == dtype and torch.equal(found[known], tensor[known]) and not found.isnan().any()
    if dtype == torch.float32:
        array = tensor.numpy()
        masked = np.ma.masked_array(np.nan_to_num(array, nan=-9999), np.isnan(array))
        filled = pconv_cuda.fill(model, masked)
        assert isinstance(filled, np.ma.MaskedArray) and np.array_equal(filled.data, found.numpy())
        assert np.array_equal(pconv_cuda.fill(model, array.astype(">f4")), found.numpy())


def test_any_unit() -> None:
    array = field(2, 8, 16, dtype=np.float64)
    plain = pconv_cuda.fill(network(mean=(0.0,), std=(1.0,)), array)
    for mean, std in ((101325.0, 500.0), (-4e-7, 1e-6)):
        found = pconv_cuda.fill(network(mean=(mean,), std=(std,)), array * std + mean)
        assert np.abs((found - mean) / std - plain).max() < 1e-5 * np.abs(plain).max()


def test_the_model_is_left_as_it_is() -> None:
    model = network().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = pconv_cuda.fill(model, field(8, 16))
    assert model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert np.array_equal(found, pconv_cuda.fill(network(), field(8, 16)))


def test_a_grid_that_goes_round_begins_anywhere() -> None:
    array = field(8, 24)
    array[:, :3] = array[:, -3:] = np.nan
    flat, globe = network(), network(padding_mode=GLOBE)
    found = pconv_cuda.fill(globe, array)
    for columns in (4, 12):  # of the grid by which the network halves
        rolled = pconv_cuda.fill(globe, np.roll(array, columns, 1))
        assert np.abs(np.roll(rolled, -columns, 1) - found).max() < 1e-4
        ended = pconv_cuda.fill(flat, np.roll(array, columns, 1))
        assert np.abs(np.roll(ended, -columns, 1) - pconv_cuda.fill(flat, array)).max() > 0.1
    # a network whose axes end is given what lies beyond the seam
    wide = field(8, 80)
    wide[:, :3] = wide[:, -3:] = np.nan
    margin = -(-flat.context // flat.grid) * flat.grid
    assert margin <= 40
    long = pconv_cuda.fill(flat, np.concatenate([wide[:, 80 - margin :], wide, wide[:, :margin]], 1))
    found = pconv_cuda.fill(flat, wide, wrap=(False, True))
    assert np.abs(found - long[:, margin:][:, :80]).max() < 1e-4
    with pytest.raises(PConvError, match=r"wrap: expected \(False, True\) .*padding_mode .* got \(False, False\)"):
        pconv_cuda.fill(globe, array, wrap=(False, False))


def test_channels() -> None:
    model = network(3, mean=(0.0, 100.0, -5.0), std=(1.0, 10.0, 2.0))
    array = field(2, 3, 8, 16) * np.float32([[[1]], [[10]], [[2]]])
    found = pconv_cuda.fill(model, array)
    expected = np.stack([by_hand(model, stack) for stack in array])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    turned = pconv_cuda.fill(model, np.ascontiguousarray(array.transpose(0, 2, 3, 1)), dims=(-1, 1, 2))
    assert np.array_equal(turned.transpose(0, 3, 1, 2), found)
    single = pconv_cuda.fill(model, np.ascontiguousarray(array[0].transpose(1, 2, 0)), dims=(0, 1))
    assert np.array_equal(single.transpose(2, 0, 1), pconv_cuda.fill(model, array[0]))
    with pytest.raises(PConvError, match="array: expected 3 channels along axis 1, as the network has, got 2"):
        pconv_cuda.fill(model, array[:, :2])
    with pytest.raises(PConvError, match=r"array: expected \(..., C, H, W\) for a network of 3 channels"):
        pconv_cuda.fill(model, array[0, 0])
    with pytest.raises(PConvError, match="dims: expected the axes of channels, rows and columns"):
        pconv_cuda.fill(model, array, dims=(2, 3))
    with pytest.raises(PConvError, match="model: expected a network with one channel out, .*got out_channels=2"):
        pconv_cuda.fill(network(3, out_channels=2), array)


def test_time_steps_as_channels() -> None:
    model, array = network(3, out_channels=1), field(2, 5, 8, 16)
    array[0, 2] = np.nan  # a step without a value has neighbours
    found = pconv_cuda.fill(model, array)
    beyond = np.full((1, 8, 16), np.nan, np.float32)
    for series, filled in zip(array, found, strict=True):
        padded = np.concatenate([beyond, series, beyond])
        expected = np.stack([by_hand(model, padded[step : step + 3])[0] for step in range(5)])
        assert np.abs(filled - expected).max() < 1e-4 * np.abs(expected).max()
    known = ~np.isnan(array)
    assert np.array_equal(found[known], array[known]) and not np.isnan(found).any()
    alone = np.full((5, 8, 16), np.nan, np.float32)
    alone[:2] = field(2, 8, 16)
    with pytest.warns(UserWarning, match="array: 2 of 5 planes have no value and stay empty"):
        found = pconv_cuda.fill(model, alone)
    assert np.isnan(found[3:]).all() and not np.isnan(found[:3]).any()


def test_what_the_masks_do_not_reach_is_continued() -> None:
    model = network(levels=1)
    array = field(40, 48, gaps=0.1)
    array[5:36, 4:44] = np.nan
    known = torch.from_numpy(~np.isnan(array))[None, None]
    mean, std = model.mean[0], model.std[0]
    normal = torch.where(known, (torch.from_numpy(array) - mean) / std, 0.0)
    with torch.no_grad():
        output, reached = model(normal, known)
    assert not bool(reached.all())
    network_s = torch.where(known, torch.from_numpy(array), output * std + mean)
    expected = torch.where(reached, network_s.double(), plate(network_s, reached, (False, False), 0.3))[0, 0].numpy()
    found = pconv_cuda.fill(model, array)
    assert not np.isnan(found).any() and np.abs(found - expected).max() < 1e-2


@pytest.mark.parametrize(
    "model",
    [network(levels=1), network(levels=1, padding_mode=GLOBE), network(levels=1, prefill="smooth", padding_mode=GLOBE)],
    ids=["zeros", "round", "fill"],
)
def test_large_grids_are_filled_in_pieces(model: PConvUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    array = field(50, 64)
    whole = pconv_cuda.fill(model, array)
    runs = []
    run = grids_network.NetworkGrid._run
    monkeypatch.setattr(
        grids_network.NetworkGrid, "_run", lambda self, given: runs.append(given[0].shape) or run(self, given)
    )
    monkeypatch.setattr(grids_network, "_BUDGET", model.bytes_per_pixel * 40**2)
    found = pconv_cuda.fill(model, array)
    assert len(runs) > 1 and max(max(shape[2:]) for shape in runs) <= 40
    assert np.abs(found - whole).max() < 1e-4 * np.abs(whole).max()


def test_refiners_and_prefills_solve_finely() -> None:
    torch.manual_seed(0)
    refiner = FillRefiner(1, levels=2, width=4, mean=(12.0,), std=(8.0,), values="data", padding_mode=GLOBE).eval()
    array = field(12, 20)
    found = pconv_cuda.fill(refiner, array)  # untrained, it is the smooth fill
    assert np.abs(found - pconv_cuda.fill("smooth", array, wrap=(False, True))).max() < 1e-3
    assert np.array_equal(pconv_cuda.fill(network(prefill="smooth", padding_mode=GLOBE), array).shape, array.shape)
    two = FillRefiner(2, levels=2, width=4, mean=(12.0,) * 2, std=(8.0,) * 2, values="data").eval()
    with pytest.raises(PConvError, match="array: expected gaps at the same places in all channels"):
        pconv_cuda.fill(two, field(2, 12, 20))
    with pytest.raises(PConvError, match="tension: expected None beside a network, which has none, got 0.5"):
        pconv_cuda.fill(refiner, array, tension=0.5)


def test_by_path(tmp_path: Path) -> None:
    model, array = network(padding_mode=GLOBE), field(8, 16)
    model.save_pretrained(tmp_path)
    expected = pconv_cuda.fill(model, array)
    for path in (tmp_path, str(tmp_path)):
        assert np.array_equal(pconv_cuda.fill(path, array), expected)


def test_networks_for_pictures_are_refused(tmp_path: Path) -> None:
    """Three steps of a variable are no red, green and blue."""
    array = field(3, 8, 16)
    rgb = PConvUNet(3, levels=1, width=2)
    rgb.save_pretrained(tmp_path)
    expected = r"model: expected smooth or a network of grids \(values='data'\), got values='picture'.*inpaint"
    for model in (rgb, FillRefiner(3, levels=1, width=2), rgb.eval().fuse(), tmp_path):
        with pytest.raises(PConvError, match=expected):
            pconv_cuda.fill(model, array)
    grey = PConvUNet(1, levels=1, width=2).eval()  # which inpaint does not take
    assert pconv_cuda.fill(grey, array).shape == array.shape
    for name in ("photo", "document"):
        with pytest.raises(PConvError, match=f"model: expected smooth or a network of grids, got '{name}', a network"):
            pconv_cuda.fill(name, array)


def test_a_labelled_array_keeps_what_it_has() -> None:
    xarray = pytest.importorskip("xarray")
    model, array = network(3, out_channels=1), field(5, 8, 16)
    labelled = xarray.DataArray(
        array.transpose(1, 0, 2), dims=("lat", "time", "lon"), name="tas", attrs={"units": "K"},
        coords={"lat": np.arange(8.0), "time": np.arange(5), "height": 2.0},
    )  # fmt: skip
    found = pconv_cuda.fill(model, labelled, dims=("time", "lat", "lon"))
    expected = labelled.copy(data=pconv_cuda.fill(model, array).transpose(1, 0, 2))
    assert found.identical(expected) and found.dims == labelled.dims and labelled.isnull().any()
    with pytest.raises(PConvError, match=r"array: expected one variable of the xarray.Dataset, .*dataset\['tas'\]"):
        pconv_cuda.fill(model, labelled.to_dataset())


def test_progress_and_fused_networks() -> None:
    array = field(2, 20, 8, 16)
    for model, steps in ((network(), 40), (network(3, out_channels=1), 40), (network(20), 40)):
        told: list[tuple[int, int]] = []
        found = fill_with(grid_filler(model), array, progress=lambda *two, told=told: told.append(two))
        assert told == sorted(set(told)) and told[-1] == (steps, steps) and len(told) <= 4
        assert np.abs(pconv_cuda.fill(model.fuse(), array) - found).max() < 1e-5


def test_damaged_weights_are_named() -> None:
    model = network()
    with torch.no_grad():
        model.decoder[-1].conv.bias.fill_(torch.inf)
    with pytest.raises(PConvError, match="model: its output is not finite"):
        pconv_cuda.fill(model, field(8, 16))
