"""Fill the gaps of gridded data: a field on a globe of one degree, known where stations stand and along tracks.

python examples/grid.py [OUT.png] [--steps 1000]     root mean square errors where values were withheld, and maps: by a
network that is trained on other fields here, by pconv_cuda.fill without weights, by scipy (needs '.[train]', scipy)"""

import argparse

import numpy as np
from matplotlib import pyplot as plt
from scipy.interpolate import griddata

from pconv_cuda import fill
from pconv_cuda.training import load_config, train

LATITUDE, LONGITUDE = np.meshgrid(np.arange(-89.5, 90), np.arange(0.5, 360), indexing="ij")


def temperature(rng: np.random.Generator) -> np.ndarray:  # degrees Celsius: warm tropics, waves of many lengths
    values, height = 40 * np.cos(np.radians(LATITUDE)) ** 2 - 15, np.cos(np.radians(LATITUDE))
    for _ in range(60):
        waves, tilt, (east, north) = rng.integers(1, 15), rng.uniform(1, 12), rng.uniform(0, 2 * np.pi, 2)
        shape = np.sin(np.radians(waves * LONGITUDE) + east) * np.cos(np.radians(tilt * LATITUDE) + north)
        values += rng.normal() * 6 / waves * shape * height
    return values


def observed(rng: np.random.Generator, track=0.0, north=10.0, east=0.0) -> np.ndarray:  # stations, tracks, one gap
    known = (rng.random(LATITUDE.shape) < 0.03) | (np.abs((LONGITUDE - 2 * LATITUDE - track) % 60) < 1)
    return known & ((np.abs(LATITUDE - north) > 12) | (np.abs((LONGITUDE - east + 180) % 360 - 180) > 15))


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", default="grid.png", help="the maps (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="of the training (default: %(default)s)")
    options, (rng, others), errors = parser.parse_args(argv), map(np.random.default_rng, (0, 1)), {}
    np.save("fields.npy", np.stack([temperature(others) for _ in range(60)]))  # to train on, with gaps of their own
    places = others.uniform((0, -60, 0), (60, 60, 360), (60, 3))
    np.save("gaps.npy", np.stack([np.where(observed(others, *place), 0, np.nan) for place in places]))
    own = {"data.images": "fields.npy", "data.masks": "gaps.npy", "data.wrap": "columns", "model.tension": 0}
    train(load_config(recipe="grid", overrides={**own, "train.steps": options.steps}), "network")  # a folder
    truth, known = temperature(rng), observed(rng)
    results = {"truth": truth, "data": (data := np.where(known, truth, np.nan)), "network": fill("network", data)}
    results |= {f"fill, tension {each}": fill("smooth", data, wrap=(False, True), tension=each) for each in (0, 0.3)}
    at = np.concatenate([np.stack([LATITUDE[known], LONGITUDE[known] + turn], 1) for turn in (-360, 0, 360)])
    given = at, np.tile(truth[known], 3), (LATITUDE, LONGITUDE)  # the globe three times over: scipy knows no seam
    results |= {kind: griddata(*given, kind, truth.mean()) for kind in ("nearest", "linear", "cubic")}
    for number, (name, filled) in enumerate(results.items()):
        errors[name] = float(np.sqrt(np.mean((filled - truth)[~known] ** 2)))
        plt.subplot(4, 2, number + 1, title=f"{name}: {errors[name]:.2f} K", xticks=[], yticks=[])
        plt.imshow(np.roll(filled, 180, 1), origin="lower", vmin=truth.min(), vmax=truth.max())  # seam in the middle
    print("\n".join(f"{name}: {error:.3f} K" for name, error in errors.items()))
    plt.gcf().set(size_inches=(10, 10), layout_engine="constrained")
    plt.savefig(options.out, dpi=100)
    return errors


if __name__ == "__main__":
    main()
