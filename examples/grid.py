"""Fill the gaps of gridded data: a field on a globe of one degree, known where stations stand and along tracks.

    python examples/grid.py [OUT.png]

Prints the root mean square error where values were withheld, for pconv_cuda.fill and for scipy's interpolation, and
draws a map of each. Needs scipy and matplotlib beside pconv_cuda.
"""

import sys
import time

import numpy as np
from matplotlib import pyplot as plt
from scipy.interpolate import griddata

import pconv_cuda

LATITUDE, LONGITUDE = np.meshgrid(np.arange(-89.5, 90), np.arange(0.5, 360), indexing="ij")


def temperature(rng: np.random.Generator) -> np.ndarray:
    """In degrees Celsius: warm tropics, and waves of many lengths that go round the globe."""
    values, height = 40 * np.cos(np.radians(LATITUDE)) ** 2 - 15, np.cos(np.radians(LATITUDE))
    for _ in range(60):
        waves, tilt, (east, north) = rng.integers(1, 15), rng.uniform(1, 12), rng.uniform(0, 2 * np.pi, 2)
        shape = np.sin(np.radians(waves * LONGITUDE) + east) * np.cos(np.radians(tilt * LATITUDE) + north)
        values += rng.normal() * 6 / waves * shape * height
    return values


def main(path: str = "grid.png") -> None:
    rng = np.random.default_rng(0)
    truth = temperature(rng)
    known = (rng.random(truth.shape) < 0.03) | (np.abs((LONGITUDE - 2 * LATITUDE) % 60) < 1)  # stations, tracks
    known &= ~((np.abs(LATITUDE - 10) < 12) & (np.abs(LONGITUDE - 180) > 165))  # nothing there, across the seam
    data = np.where(known, truth, np.nan)
    # scipy is told of the globe too: every value stands there once more at either side
    places = np.concatenate([np.stack([LATITUDE[known], LONGITUDE[known] + turn], 1) for turn in (-360, 0, 360)])
    values, at = np.tile(truth[known], 3), (LATITUDE, LONGITUDE)
    pconv_cuda.fill("smooth", data[:8])  # so that no import is timed
    figure, axes = plt.subplots(3, 2, figsize=(10, 7.5), layout="constrained")
    for axis, (name, call) in zip(axes.flat, {
        "what is known": lambda: data,
        "fill": lambda: pconv_cuda.fill("smooth", data, wrap=(False, True)),
        "fill, tension 0": lambda: pconv_cuda.fill("smooth", data, wrap=(False, True), tension=0),
        **{f"scipy, {kind}": lambda kind=kind: griddata(places, values, at, kind, truth.mean())
           for kind in ("nearest", "linear", "cubic")},
    }.items(), strict=True):  # fmt: skip
        begun = time.perf_counter()
        filled = call()
        error = np.sqrt(np.mean((filled - truth)[~known] ** 2))
        print(f"{name}: {error:.3f} K, {time.perf_counter() - begun:.2f} s")
        axis.imshow(
            np.roll(filled, 180, 1), origin="lower", vmin=truth.min(), vmax=truth.max()
        )  # the seam in the middle
        axis.set_title(name)
        axis.axis("off")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
