"""pconv train on gridded data: gaps in the truth, masks that are other steps' gaps, mean and std in config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_support import TINY_RUN

import pconv_cuda
from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.models import load_network
from pconv_cuda.training import load_config, train
from pconv_cuda.training.grids import GridFacts, GridPairs, GridSteps
from pconv_cuda.training.objective import Objective
from pconv_cuda.training.sources import open_data

STEPS, ROWS, COLUMNS = 12, 12, 24
LATITUDE, LONGITUDE = np.arange(-82.5, 90, 15), np.arange(7.5, 360, 15)


def fields(scale: float = 8.0, offset: float = 280.0, gaps: float = 0.3, seed: int = 0) -> np.ndarray:
    """Waves that wander east, with gaps that last for some steps."""
    rng = np.random.default_rng(seed)
    time = np.arange(STEPS)[:, None, None]
    waves = np.sin(np.radians(2 * LONGITUDE + 20 * time)) * np.cos(np.radians(LATITUDE))[:, None]
    gone = rng.random((STEPS // 3, ROWS, COLUMNS)).repeat(3, 0) < gaps
    return np.where(gone, np.nan, offset + scale * waves).astype(np.float32)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    np.save(tmp_path / "grid.npy", fields())
    return tmp_path / "grid.npy"


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(grid: Path, recipe: str = "paper", **changes: Any) -> Any:
    settings = {**TINY_RUN, "data.images": str(grid), "data.masks": "observed", "data.wrap": "columns",
                "train.lr": 0.01, "data.size": 64, **changes}  # fmt: skip
    return load_config(overrides=settings, recipe=recipe)


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def pairs(values: np.ndarray, steps: int = 1, size: int = 64, wraps: Any = (False, True), **more: Any) -> GridPairs:
    facts = GridFacts(280.0, 8.0, "K", steps, wraps, wraps)
    source = GridSteps(values, wraps, "K", "")
    return GridPairs(source, facts, more.pop("masks", None), source, size, 4, more.pop("seed", 0))


@pytest.mark.parametrize("steps", [1, 3])
def test_masks_are_the_gaps_of_other_steps(steps: int) -> None:
    values = fields()
    known, half, seen = ~np.isnan(values), steps // 2, set()
    for number in range(24):
        truth, mask = (each.numpy() for each in pairs(values, steps)[number // 4, number % 4])
        assert truth.shape == mask.shape == (steps, ROWS, COLUMNS) and truth.dtype == np.float32
        at = [t for t in range(STEPS) if np.array_equal(truth[half] * 8 + 280 > -1e9, known[t])
              and np.allclose(truth[half] * 8 + 280, values[t], atol=1e-3, equal_nan=True)]  # fmt: skip
        (t,) = at
        seen.add(t)

        def around(source: np.ndarray, middle: int) -> np.ndarray:
            return np.stack([source[s] if 0 <= s < STEPS else np.zeros_like(source[0])
                             for s in range(middle - half, middle + half + 1)])  # fmt: skip

        assert np.array_equal(~np.isnan(truth), around(known, t))
        own, found = around(known, t), False
        for s in range(STEPS):
            drawn = own & around(known, s)
            # before the first step and after the last there is nothing: of what that hides some is shown again
            hides_most = [(a & ~b).sum() > 0.5 * a.sum() for a, b in zip(own, drawn, strict=True)]
            same = [np.array_equal(a, b) for a, b in zip(mask, drawn, strict=True)]
            found |= same[half] and all(a or b for a, b in zip(same, hides_most, strict=True))
        assert found
        assert not (mask & ~own).any()
        assert (~mask[half] & known[t]).any() and mask.any()
    assert seen == set(range(STEPS))  # every step once in an epoch


def test_few_stations_that_are_elsewhere_each_time_are_not_all_hidden() -> None:
    values = fields(gaps=0)
    values[np.random.default_rng(0).random(values.shape) < 0.9] = np.nan
    shares = []
    for number in range(32):
        truth, mask = (each.numpy() for each in pairs(values)[number, 0])
        known = ~np.isnan(truth)
        shares.append((known & ~mask).sum() / known.sum())
        assert not (mask & ~known).any()
    assert min(shares) > 0.02 and max(shares) <= 0.5 and np.std(shares) > 0.05


def test_masks_are_the_gaps_of_another_file(tmp_path: Path) -> None:
    complete, gaps = fields(gaps=0), fields(gaps=0.8, seed=5)[:4]
    np.save(tmp_path / "complete.npy", complete)
    np.save(tmp_path / "gaps.npy", gaps)
    settings = config(tmp_path / "complete.npy", **{"data.masks": str(tmp_path / "gaps.npy"), "train.steps": 3})
    data = open_data(settings)
    known = ~np.isnan(gaps)
    for number in range(12):
        truth, mask = (each.numpy() for each in data.training[number, 0])  # type: ignore[index]
        assert not np.isnan(truth).any() and any(np.array_equal(mask[0], one) for one in known)
    train(settings, tmp_path / "run")
    np.save(tmp_path / "gaps.npy", gaps[:, 1:])
    with pytest.raises(PConvError, match="data.masks, data.validation: expected steps of .*12, 24.*got .*11, 24"):
        open_data(settings)


def test_the_tension_of_the_fill_is_kept(grid: Path, tmp_path: Path) -> None:
    train(config(grid, "grid", **{"train.steps": 2, "model.tension": 0, "model.levels": 1}), tmp_path / "run")
    assert load_network(tmp_path / "run").config["tension"] == 0
    values = np.load(grid)
    network = load_network(tmp_path / "run")
    torch.nn.init.zeros_(network.last.weight)  # it then is the fill to which it adds
    expected = pconv_cuda.fill("smooth", values, wrap=(False, True), tension=0)
    assert np.abs(pconv_cuda.fill(network, values) - expected).max() < 0.05
    with pytest.raises(PConvError, match="model.tension: expected null without model.prefill"):
        config(grid, **{"model.tension": 0.5})


def test_crops_reach_across_the_seam_and_are_functions_of_their_number() -> None:
    values = np.tile(np.arange(COLUMNS, dtype=np.float32), (STEPS, ROWS, 1))
    values[np.random.default_rng(0).random(values.shape) < 0.2] = np.nan
    firsts = set()
    for number in range(64):
        truth, mask = pairs(values, size=8)[number, 0]
        again, mask_again = pairs(values, size=8)[number, 0]
        assert torch.equal(mask, mask_again) and torch.equal(truth.nan_to_num(), again.nan_to_num())
        columns = np.rint(np.nanmedian(truth[0].numpy() * 8 + 280, axis=0)).astype(int)
        assert np.array_equal(columns, np.arange(columns[0], columns[0] + 8) % COLUMNS)
        firsts.add(int(columns[0]))
        assert truth.shape == (1, 8, 8)
    assert any(first > COLUMNS - 8 for first in firsts) and min(firsts) < 5
    flat = {int(np.rint(np.nanmax(pairs(values, size=8, wraps=(False, False))[number, 0][0].numpy() * 8 + 280)))
            for number in range(64)}  # fmt: skip
    assert min(flat) >= 7


def test_stations_that_never_move_are_hidden_too() -> None:
    values = fields(gaps=0)
    values[:, np.random.default_rng(0).random((ROWS, COLUMNS)) < 0.9] = np.nan
    for number in range(16):
        truth, mask = pairs(values)[number, 0]
        hidden = ~mask & ~torch.isnan(truth)
        assert bool(hidden.any()) and bool(mask.any()) and not bool((mask & torch.isnan(truth)).any())
    single = np.full_like(values, np.nan)
    single[:, 3, 4] = 281
    single[0, 5, 6] = 282
    for number in range(8):
        truth, mask = pairs(single, size=4)[number, 0]
        assert bool((~torch.isnan(truth)).any()) and bool(mask.any())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data.time_steps": 3},
        {"data.masks": "strokes"},
        {"model.conv": "plain"},
        {"data.size": 9},
        {"loss.preset": "review", "train.finetune_after": 20},
    ],
    ids=str,
)
def test_a_network_learns_from_data_with_gaps(changes: dict[str, Any], grid: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(config(grid, **{"train.steps": 60, "model.width": 8, "checkpoint.every": 20, **changes}), run)
    totals = [line["loss/total"] for line in log(run) if "loss/total" in line]
    assert np.isfinite(totals).all() and np.mean(totals[-10:]) < 0.75 * np.mean(totals[:10])
    assert set(result.terms) == {"valid", "hole", "tv"}
    errors = [line["validation/rmse"] for line in log(run) if "validation/rmse" in line]
    assert len(errors) == 3 and all(0 < error < 20 for error in errors)  # the waves are 8 K high
    written = json.loads((run / "config.json").read_text())
    values, steps = np.load(grid).astype(np.float64), changes.get("data.time_steps", 1)
    seen = values[: -(STEPS // 10)]
    assert np.allclose(written["mean"], [np.nanmean(seen)] * steps) and np.allclose(
        written["std"], [np.nanstd(seen)] * steps
    )
    assert written["padding_mode"] == ["zeros", "circular"] and written["values"] == "data"
    network = load_network(run)
    assert (network.in_channels, network.out_channels) == (steps, 1)
    filled = pconv_cuda.fill(run, values)
    known = ~np.isnan(values)
    assert np.array_equal(filled[known], values[known]) and not np.isnan(filled).any()


def test_the_validations_error_is_that_of_hidden_values(grid: Path, tmp_path: Path) -> None:
    settings = config(grid, **{"train.steps": 4, "checkpoint.every": 4, "data.validation_samples": 5})
    train(settings, tmp_path / "run")
    network, data = load_network(tmp_path / "run"), open_data(settings)
    assert data.validation is not None
    apart = []
    for sample in range(5):
        truth, mask = (each[None] for each in data.validation[0, sample])
        with torch.no_grad():
            output, _ = network(torch.where(mask, truth, 0.0), mask)
        hidden = ~mask & ~torch.isnan(truth)
        apart.append(((network.denormalize(output) - network.denormalize(truth))[hidden]).double())
    expected = float(torch.cat(apart).square().mean().sqrt())
    (found,) = [line["validation/rmse"] for line in log(tmp_path / "run") if "validation/rmse" in line]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_killed_run_goes_on_to_the_same_weights(grid: Path, tmp_path: Path) -> None:
    for run, parts in (("whole", (8,)), ("parts", (4, 8))):
        for steps in parts:
            train(config(grid, **{"train.steps": steps, "checkpoint.every": 4, "data.time_steps": 3}), tmp_path / run)
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    np.save(grid, np.load(grid) + 1)
    with pytest.raises(PConvError, match="content of data.images"):
        train(config(grid, **{"train.steps": 12, "data.time_steps": 3}), tmp_path / "parts")


def test_the_command_from_netcdf_to_a_filled_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    data = xarray.Dataset(
        {"tas": (("time", "lat", "lon"), fields(), {"units": "K"}), "pr": (("time", "lat", "lon"), fields(seed=1))},
        coords={"lat": LATITUDE, "lon": ("lon", LONGITUDE, {"units": "degrees_east"})},
    )
    data.to_netcdf(tmp_path / "in.nc")
    sets = [part for key, value in {**TINY_RUN, "checkpoint.every": 5, "model.levels": 2, "data.size": 64}.items()
            for part in ("--set", f"{key}={value}")]  # fmt: skip
    command = ["train", "--recipe", "grid", "--data", str(tmp_path / "in.nc"), "--masks", "observed"]
    assert main([*command, "--out", str(tmp_path / "run"), "--steps", "10", *sets]) == 1
    assert (
        "config: data.variable" in (said := capsys.readouterr().err)
        or "data.variable: expected one or more of tas, pr" in said
    )
    assert main([*command, "--var", "tas", "--out", str(tmp_path / "run"), "--steps", "10", *sets]) == 0
    said = "".join(capsys.readouterr())
    assert "mean 280" in said and "step 10: error of hidden values" in said and said.count(" K\n") >= 2
    assert main(["fill", str(tmp_path / "in.nc"), "--var", "tas", "--weights", str(tmp_path / "run"),
                 "-o", str(tmp_path / "out.nc")]) == 0  # fmt: skip
    assert "columns go round" in capsys.readouterr().out
    with xarray.open_dataset(tmp_path / "out.nc") as filled:
        assert not filled.tas.isnull().any() and filled.pr.isnull().any()


def test_no_vgg_for_other_than_pictures_is_said_once(grid: Path, tmp_path: Path, capsys: Any) -> None:
    train(config(grid, **{"train.steps": 3, "loss.vgg": str(tmp_path / "none.pth")}), tmp_path / "run")
    assert "".join(capsys.readouterr()).count("loss.vgg: no perceptual and no style terms") == 1


def test_a_small_unit_and_a_large_offset(tmp_path: Path) -> None:
    for number, (scale, offset) in enumerate(((1e-9, 3e-9), (0.5, 1e5))):
        np.save(tmp_path / "g.npy", (fields(1, 0) * scale + offset).astype(np.float64))
        train(config(tmp_path / "g.npy", **{"train.steps": 30}), tmp_path / str(number))
        totals = [line["loss/total"] for line in log(tmp_path / str(number)) if "loss/total" in line]
        assert np.mean(totals[-5:]) < np.mean(totals[:5])
        filled = pconv_cuda.fill(tmp_path / str(number), np.load(tmp_path / "g.npy"))
        assert np.abs(filled - offset).max() < 30 * scale


def test_the_relative_loss_asks_nothing_of_what_is_unknown() -> None:
    settings = load_config(overrides={"loss.vgg": "none"}, recipe="grid")
    objective = Objective(settings, torch.device("cpu"))
    torch.manual_seed(0)
    target, mask, known = torch.randn(2, 1, 6, 8), torch.rand(2, 1, 6, 8) > 0.5, torch.rand(2, 1, 6, 8) > 0.3
    known |= mask
    output, fill = target + 0.1, target + 0.2
    found = objective.terms(target, mask, output, torch.where(known, target, torch.nan), fill, 0, known)
    assert float(found["hole"]) == pytest.approx(0.1 / 0.21, rel=1e-4)
    nothing = objective.terms(target, known, output, torch.where(known, target, torch.nan), fill, 0, known)
    assert float(nothing["hole"]) == 0


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (fields(gaps=0), {}, "data.masks: the gaps of other steps are wanted, .* got none"),
        (np.full((12, 4, 4), np.nan), {}, "data.images: expected values, got none"),
        (np.where(np.isnan(fields()), np.nan, 3.0), {}, "data.images: expected values that differ, got 3 everywhere"),
        (np.where(np.isnan(fields()), np.inf, 3.0), {}, "data.images: expected finite values"),
        (fields(), {"data.time_steps": 2}, "data.time_steps: expected an odd number, at most the 11 steps .*, got 2"),
        (fields(), {"data.time_steps": 13}, "data.time_steps: expected an odd number, .* got 13"),
        (fields(), {"data.time_steps": 3, "model.prefill": "smooth"}, "data.time_steps: expected 1 with model.prefill"),
        (fields(), {"loss.features": 1, "model.prefill": "smooth", "loss.relative": True, "loss.vgg": "random"},
         "loss.features: expected 0 for gridded data"),
        (fields(), {"data.variable": "tas"}, "data.variable: expected none, as .* is one array, got 'tas'"),
        (fields(), {"data.wrap": "east"}, "data.wrap: expected one of auto, none, columns, rows, both, got 'east'"),
        (fields()[0, 0], {}, r"data.images: expected \(..., rows, columns\) with values, got \(24,\)"),
        (fields(), {"data.validation": "none.nc"}, "data.validation: none.nc does not exist"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_named(values: Any, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", values.astype(np.float32))
    with pytest.raises(PConvError, match=message):
        train(config(tmp_path / "g.npy", **{"train.steps": 2, **changes}), tmp_path / "run")


def test_keys_of_grids_are_refused_for_pictures(tmp_path: Path) -> None:
    for key, value in (
        ("data.variable", "tas"),
        ("data.time_steps", 3),
        ("data.wrap", "columns"),
        ("model.tension", 0),
    ):
        with pytest.raises(PConvError, match=f"{key}: expected null but for a file of gridded data"):
            open_data(load_config(recipe="small", overrides={"data.images": "packaged", key: value}))
    with pytest.raises(PConvError, match="data.masks: observed is for a file of gridded data"):
        open_data(load_config(overrides={"data.images": "packaged", "data.masks": "observed"}))


def _netcdf(path: Path, **variables: float) -> str:
    """Each variable with a share of gaps of its own."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    each = {name: (("time", "y", "x"), fields(gaps=gaps, seed=7)) for name, gaps in variables.items()}
    xarray.Dataset(each).to_netcdf(path)
    return str(path)


@pytest.mark.parametrize("variable", ["tas", None])
def test_of_several_variables_masks_and_validation_take_the_data_s(tmp_path: Path, variable: str | None) -> None:
    data = _netcdf(tmp_path / "full.nc", tas=0.0)
    others = _netcdf(tmp_path / "masks.nc", area=0.9, tas=0.2, pr=0.6)
    unseen = _netcdf(tmp_path / "unseen.nc", pr=0.6, tas=0.0)
    named = {"data.variable": variable, "data.masks": others, "data.validation": unseen}
    found = open_data(config(data, **named, **{"data.wrap": "none"}))
    assert found.identity["content of data.masks"].startswith("tas (")
    assert found.identity["content of data.validation"].startswith("tas (")
    alone = _netcdf(tmp_path / "alone.nc", pr=0.6)  # one variable is taken whatever its name is
    found = open_data(config(data, **{**named, "data.masks": alone, "data.wrap": "none"}))
    assert found.identity["content of data.masks"].startswith("pr (")


def test_masks_of_several_other_variables_are_refused_by_name(tmp_path: Path) -> None:
    data = _netcdf(tmp_path / "full.nc", tas=0.0)
    others = _netcdf(tmp_path / "masks.nc", area=0.9, pr=0.6)
    message = r"^data.masks: expected a file with the variable 'tas', .* got area, pr in .*masks.nc$"
    with pytest.raises(PConvError, match=message):
        open_data(config(data, **{"data.variable": "tas", "data.masks": others}))
