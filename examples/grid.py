"""Fill the gaps of gridded data: a field on a globe of one degree, known where stations stand and along tracks.

    python examples/grid.py [OUT.png]

Prints the root mean square error where values were withheld, for pconv_cuda.fill and for scipy's interpolation, and
draws a map of each. Needs scipy and matplotlib beside pconv_cuda.
"""

import argparse
import time

import numpy as np
from matplotlib import pyplot as plt
from scipy.interpolate import griddata

from pconv_cuda import fill

LATITUDE, LONGITUDE = np.meshgrid(np.arange(-89.5, 90), np.arange(0.5, 360), indexing="ij")


def temperature(rng: np.random.Generator) -> np.ndarray:
    """In degrees Celsius: warm tropics, and waves of many lengths that go round the globe."""
    values, height = 40 * np.cos(np.radians(LATITUDE)) ** 2 - 15, np.cos(np.radians(LATITUDE))
    for _ in range(60):
        waves, tilt, (east, north) = rng.integers(1, 15), rng.uniform(1, 12), rng.uniform(0, 2 * np.pi, 2)
        shape = np.sin(np.radians(waves * LONGITUDE) + east) * np.cos(np.radians(tilt * LATITUDE) + north)
        values += rng.normal() * 6 / waves * shape * height
    return values


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", default="grid.png", help="the maps (default: %(default)s)")
    rng = np.random.default_rng(0)
    path, truth, errors = parser.parse_args(argv).out, temperature(rng), {}
    known = (rng.random(truth.shape) < 0.03) | (np.abs((LONGITUDE - 2 * LATITUDE) % 60) < 1)  # stations, tracks
    known &= (np.abs(LATITUDE - 10) > 12) | (np.abs(LONGITUDE - 180) < 165)  # nothing around a place on the seam
    data = np.where(known, truth, np.nan)
    # scipy is told of the globe too: every value stands there once more at either side
    places = np.concatenate([np.stack([LATITUDE[known], LONGITUDE[known] + turn], 1) for turn in (-360, 0, 360)])
    given = (places, np.tile(truth[known], 3), (LATITUDE, LONGITUDE))
    ways = {"data": lambda: data, "fill": lambda: fill("smooth", data, wrap=(False, True))}
    ways["fill, tension 0"] = lambda: fill("smooth", data, wrap=(False, True), tension=0)
    ways |= {kind: lambda kind=kind: griddata(*given, kind, truth.mean()) for kind in ("nearest", "linear", "cubic")}
    figure, axes = plt.subplots(3, 2, figsize=(10, 7.5), layout="constrained")
    for axis, (name, way) in zip(axes.flat, ways.items(), strict=True):
        begun, filled = time.perf_counter(), way()
        errors[name] = float(np.sqrt(np.mean((filled - truth)[~known] ** 2)))
        print(f"{name}: {errors[name]:.3f} K, {time.perf_counter() - begun:.2f} s")
        axis.imshow(np.roll(filled, 180, 1), origin="lower", vmin=truth.min(), vmax=truth.max())  # seam in the middle
        axis.set(title=name, xticks=[], yticks=[])
    figure.savefig(path, dpi=100)
    return errors


if __name__ == "__main__":
    main()
