"""Ways to fill gridded data on a globe: errors at withheld values, seconds on one core, and a map of each.

OMP_NUM_THREADS=1 python -m benchmarks.grids [--steps N] [--figure FILE] [--fields N] > result.json

The field, its stations and the network are those of examples/grid.py, which trains first. Kriging is PyKrige's ordinary
kriging with great-circle distances and the 40 nearest values; its variogram models are all tried and the best is shown,
which favours it. "step_at_seam" is the mean absolute difference of the errors on both sides of the grid's seam,
"step_beside" the same within ten columns of it. With more fields all errors and their medians are given.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from scipy.interpolate import griddata

from benchmarks import measure
from pconv_cuda import fill
from pconv_cuda.models import load_network
from pconv_cuda.training import load_config, train

ROOT = Path(__file__).resolve().parents[1]
VARIOGRAMS = ("spherical", "exponential", "gaussian", "power", "linear")
NEAREST = 40


def example() -> Any:
    spec = importlib.util.spec_from_file_location("example_grid", ROOT / "examples" / "grid.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kriged(module: Any, truth: np.ndarray, known: np.ndarray, variogram: str) -> np.ndarray:
    from pykrige.ok import OrdinaryKriging

    at = module.LONGITUDE, module.LATITUDE
    model = OrdinaryKriging(
        *(each[known] for each in at), truth[known], variogram, coordinates_type="geographic", nlags=30
    )
    filled = truth.copy()
    filled[~known] = model.execute("points", *(each[~known] for each in at), backend="loop", n_closest_points=NEAREST)[
        0
    ]
    return filled


def ways(module: Any, network: Any) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Each takes the truth and where it is known."""

    def ours(model: Any, **options: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda truth, known: fill(model, np.where(known, truth, np.nan), **options)

    def scipys(kind: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        def way(truth: np.ndarray, known: np.ndarray) -> np.ndarray:
            place = [np.stack([module.LATITUDE[known], module.LONGITUDE[known] + turn], 1) for turn in (-360, 0, 360)]
            given = np.concatenate(place), np.tile(truth[known], 3), (module.LATITUDE, module.LONGITUDE)
            return griddata(*given, kind, truth[known].mean())

        return way

    smooth = {"wrap": (False, True)}
    return {
        "network": ours(network),
        "smooth, tension 0": ours("smooth", **smooth, tension=0),
        "smooth, tension 0.3": ours("smooth", **smooth),
        **{f"scipy, {kind}": scipys(kind) for kind in ("cubic", "linear", "nearest")},
    }


def from_gaps_alone(run: Path, steps: int) -> Any:
    """A network that has seen of the other fields what their stations know, and nothing else."""
    fields, gaps = np.load(run / "fields.npy"), np.load(run / "gaps.npy")
    np.save(run / "seen.npy", np.where(np.isnan(gaps), np.nan, fields))
    own = {"data.images": str(run / "seen.npy"), "data.masks": "observed", "data.wrap": "columns", "model.tension": 0}
    with contextlib.redirect_stdout(sys.stderr):
        train(load_config(recipe="grid", overrides={**own, "train.steps": steps}), run / "alone")
    return load_network(run / "alone")


def error(filled: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    return float(np.sqrt(np.mean((filled - truth)[where] ** 2)))


def over_other_fields(module: Any, every: dict[str, Any], count: int) -> dict[str, Any]:
    """Errors on fields and stations that no network has seen: all of them, and their median."""
    rng, errors = np.random.default_rng(100), {name: [] for name in every}
    for _ in range(count):
        place = rng.uniform((0, -60, 0), (60, 60, 360))
        field, seen = module.temperature(rng), module.observed(rng, *place)
        for name, way in every.items():
            errors[name].append(round(error(way(field, seen), field, ~seen), 4))
    return {name: {"median": float(np.median(each)), "rmse": each} for name, each in errors.items() if each}


def figure(maps: dict[str, np.ndarray], path: str) -> None:
    """The grid's seam lies in the middle, as every map is rolled by half."""
    truth = maps["truth"]
    sheet, axes = plt.subplots(3, 3, figsize=(13.5, 7.5), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, values) in zip(axes.flat, maps.items(), strict=False):
        axis.imshow(np.roll(values, 180, 1), origin="lower", vmin=truth.min(), vmax=truth.max())
        axis.set_title(name, fontsize=10)
    sheet.savefig(path, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--run", type=Path, help="a folder where examples/grid.py has trained already")
    parser.add_argument("--fields", type=int, default=1, help="more fields, of which no network has seen one")
    parser.add_argument("--figure")
    options = parser.parse_args()
    module, result = example(), {"machine": measure.machine(), "steps": options.steps, "ways": {}}
    figure_path = os.path.abspath(options.figure) if options.figure else None
    if options.run is None:
        options.run = Path(tempfile.mkdtemp())
        os.chdir(options.run)
        begun = time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            module.main(["grid.png", "--steps", str(options.steps)])
        result["training_and_maps_cpu_s"] = round(time.process_time() - begun, 1)
    network = load_network(options.run / "network")
    rng = np.random.default_rng(0)
    truth, known = module.temperature(rng), module.observed(rng)
    wide = (np.abs(module.LATITUDE - 10) <= 12) & (np.abs((module.LONGITUDE + 180) % 360 - 180) <= 15)
    result["known"], result["withheld"] = int(known.sum()), int((~known).sum())
    maps = {"truth": truth, "known values": np.where(known, truth, np.nan)}

    def measured(name: str, way: Callable[[], np.ndarray]) -> np.ndarray:
        begun, values = time.perf_counter(), way()
        seconds = time.perf_counter() - begun
        steps = np.abs(np.diff(np.roll(values - truth, 180, 1), axis=1)).mean(0)  # the seam is the middle one
        beside = float(np.concatenate((steps[169:179], steps[180:190])).mean())
        figures = {"rmse": error(values, truth, ~known), "rmse_in_the_wide_gap": error(values, truth, wide)}
        figures |= {"step_at_seam": float(steps[179]), "step_beside": beside}
        result["ways"][name] = {
            **{key: round(value, 4) for key, value in figures.items()},
            "seconds": round(seconds, 2),
        }
        return values

    alone = from_gaps_alone(options.run, options.steps)
    measured("network, from gappy fields alone", lambda: fill(alone, maps["known values"]))
    for name, way in ways(module, network).items():
        values = measured(name, lambda way=way: way(truth, known))
        maps[f"{name}: {error(values, truth, ~known):.2f} K"] = values
    best: tuple[float, str, np.ndarray] | None = None
    for variogram in VARIOGRAMS:
        name = f"kriging, {variogram}"
        values = measured(name, lambda variogram=variogram: kriged(module, truth, known, variogram))
        if best is None or error(values, truth, ~known) < best[0]:
            best = error(values, truth, ~known), name, values
    assert best is not None
    maps[f"{best[1]}: {best[0]:.2f} K"] = best[2]
    every = {**ways(module, network), best[1]: partial(kriged, module, variogram=best[1].split()[-1])}
    result["other_fields"] = over_other_fields(module, every, options.fields - 1)
    if figure_path:
        figure(maps, figure_path)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
