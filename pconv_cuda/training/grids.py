"""Training on gridded data: steps of a variable with gaps, and masks that are the gaps of other steps."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pconv_cuda.data.images import draw_order
from pconv_cuda.errors import PConvError
from pconv_cuda.grids.files import SUFFIXES, GridFile, open_grid
from pconv_cuda.grids.work import WRAPS
from pconv_cuda.masks import MaskSource
from pconv_cuda.models.wrap import Wraps
from pconv_cuda.rng import Stream, generator
from pconv_cuda.training.options import TrainingConfig

__all__ = ["GridFacts", "GridPairs", "GridSteps", "is_grid", "open_steps", "split_steps"]

_LEAST_HIDDEN = 0.01  # of the known values of a crop: a mask that hides fewer is moved about
_MOST_HIDDEN = 0.5  # of a step's known values: where stations are few and elsewhere each time, all would be
_TRIES = 8


def is_grid(path: str) -> bool:
    """Whether a path's ending is that of a file of gridded data."""
    return Path(path).suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class GridFacts:
    """What a network has to know of the data.

    ``mean`` and ``std`` are those of all known values of the training's steps. ``seen`` says which axes go round within
    a crop, ``wraps`` which do in the data: that is what config.json says.
    """

    mean: float
    std: float
    unit: str
    time_steps: int
    seen: Wraps
    wraps: Wraps

    @property
    def written(self) -> dict[str, Any]:
        """What of the written configuration differs from the network's own."""
        return {"padding_mode": mode_of(self.wraps)} if self.wraps != self.seen else {}


def mode_of(wraps: Wraps) -> tuple[str, str]:
    """A padding mode for rows and one for columns."""
    rows, columns = ("circular" if goes_round else "zeros" for goes_round in wraps)
    return rows, columns


@dataclass(frozen=True)
class GridSteps:
    """``values`` (steps, H, W), floating, NaN where one is missing."""

    values: np.ndarray
    wraps: Wraps
    unit: str
    fingerprint: str
    name: str = ""  # of the variable


def open_steps(
    path: str, variable: str | None, wrap: str | None, what: str = "data.images", like: str | None = None
) -> GridSteps:
    """A variable of a file; the axes before its last two are one.

    Args:
        variable: None for the only one, or ``like``.
        like: name of the training's variable, which is taken where no ``variable`` was asked for and the file has it.

    Raises:
        PConvError: a file, variable or axis that does not fit.
    """
    try:
        with contextlib.closing(open_grid(path)) as file:
            asked = _alike(file, like, what) if variable is None and like is not None else variable
            (name, *more) = file.chosen([asked] if asked else [])
            grid = file.read(name)
    except PConvError as error:
        # no option chooses the variable of the file of masks: there the file itself is what does not fit
        key = what if what == "data.masks" else "data.variable"
        text = str(error).replace("input:", f"{what}:", 1).replace("variables:", f"{key}:", 1)
        raise PConvError(text) from error
    if more or grid.values.ndim < 2 or 0 in grid.values.shape:
        raise PConvError(f"{what}: expected (..., rows, columns) with values, got {grid.values.shape} in {path}")
    turned = "train on a copy that is turned, such as by xarray's dataset.transpose(..., '{rows}', '{columns}')"
    grid.refuse_other_order(what, path, turned)
    values = grid.values.reshape(-1, *grid.values.shape[-2:])
    if np.isinf(values).any():
        raise PConvError(f"{what}: expected finite values, NaN where they are missing, got infinity in {path}")
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:12]
    wraps = grid.wraps(None) if wrap in (None, "auto") else WRAPS[str(wrap)]
    return GridSteps(values, wraps, grid.unit, f"{name} {values.shape} {values.dtype}, {digest}", name)


def _alike(file: GridFile, name: str, what: str) -> str | None:
    """``name``, or None where the file does not have it and there is no choice.

    Raises:
        PConvError: several other variables, or none.
    """
    if name in file.names:
        return name
    if len(file.names) != 1:
        found = ", ".join(file.names) or "none"
        raise PConvError(
            f"{what}: expected a file with the variable {name!r}, as data.images has it, or with one variable alone, "
            f"got {found} in {file.path}"
        )
    return None


def split_steps(steps: GridSteps) -> tuple[GridSteps, GridSteps | None]:
    """For training and for validation: the last tenth, of ten steps or more."""
    last = len(steps.values) // 10
    if not last:
        return steps, None
    seen, unseen = steps.values[:-last], steps.values[-last:]
    return (
        dataclasses.replace(steps, values=seen),
        dataclasses.replace(steps, values=unseen, fingerprint=f"the last {last} of {steps.fingerprint}"),
    )


def facts_of(steps: GridSteps, config: TrainingConfig) -> GridFacts:
    """Measured on the training's steps.

    Raises:
        PConvError: no value, or always the same one; a number of time steps that does not fit.
    """
    count = config.data.time_steps or 1
    if count % 2 == 0 or count > len(steps.values):
        raise PConvError(
            f"config: data.time_steps: expected an odd number, at most the {len(steps.values)} steps of the data, "
            f"got {count}"
        )
    known = steps.values[~np.isnan(steps.values)].astype(np.float64)
    if not known.size:
        raise PConvError("data.images: expected values, got none: all are missing")
    mean, std = float(known.mean()), float(known.std())
    if not (math.isfinite(std) and std > 1e-12 * abs(mean)):
        raise PConvError(f"data.images: expected values that differ, got {mean:g} everywhere")
    rows, columns = (min(config.data.size, size) for size in steps.values.shape[1:])
    whole = rows == steps.values.shape[1], columns == steps.values.shape[2]
    seen = steps.wraps[0] and whole[0], steps.wraps[1] and whole[1]
    return GridFacts(mean, std, steps.unit, count, seen, steps.wraps)


class GridPairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A crop of some steps and a mask for each (step, sample) of the training, functions of (seed, step, sample) alone.

    Args:
        steps: what is cropped.
        facts: of the training's steps.
        masks: None: the gaps of other steps, drawn from ``gaps``, of as many neighbouring ones. Else drawn masks, the
            same for all time steps.
        gaps: whose gaps are taken: ``steps``, or those of another file. Where steps are the training's own, values of
            its own gaps cannot be asked for, and so not more than half of the others are hidden.
        size: of the crops; where the grid is smaller, all of it. They reach across the seam of axes that go round.
        batch_size, seed: as of :class:`pconv_cuda.data.images.RandomCrops`.

    Raises:
        PConvError: the gaps of other steps are wanted, and there are none.
    """

    def __init__(
        self,
        steps: GridSteps,
        facts: GridFacts,
        masks: MaskSource | None,
        gaps: GridSteps,
        size: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.facts, self.masks, self.batch_size, self.seed = facts, masks, batch_size, seed
        self.normal = ((steps.values.astype(np.float64) - facts.mean) / facts.std).astype(np.float32)
        self.known = ~np.isnan(gaps.values)
        self.eases = bool(np.isnan(steps.values).any())
        self.wraps, self.shape = steps.wraps, tuple(min(size, side) for side in steps.values.shape[1:])
        self.some = np.flatnonzero((~np.isnan(steps.values)).any((1, 2)))
        if masks is None and (self.known.all() or not self.known.any()):
            raise PConvError(
                "data.masks: the gaps of other steps are wanted, and expected are some values that are "
                f"missing, got {'none' if self.known.all() else 'all'}; drawn masks are strokes, occlusion and mixed"
            )
        if self.known.shape[1:] != self.normal.shape[1:]:
            raise PConvError(
                f"data.masks, data.validation: expected steps of {self.normal.shape[1:]}, as the data's, got "
                f"{self.known.shape[1:]}"
            )
        if not len(self.some):
            raise PConvError("data.validation: expected values, got none: all are missing")
        if facts.time_steps == 1 and int((~np.isnan(steps.values)).sum((1, 2)).max()) < 2:
            raise PConvError(
                "data.images, data.validation: expected steps with at least two values, one that is hidden and one "
                "that is seen, got at most one in each; more time steps are seen with data.time_steps=3 or more"
            )

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised float32 (time_steps, h, w) with NaN where nobody knows, and a bool mask, True = seen.

        Of the middle step some known values are hidden, and at least one is seen in all.
        """
        step, sample = key
        epoch, place = divmod(step * self.batch_size + sample, len(self.some))
        middle = int(self.some[draw_order(self.seed, epoch, len(self.some))[place]])
        rng = generator(self.seed, Stream.CROP, step, sample)
        for _ in range(_TRIES):
            window = self._window(rng)
            truth = self._around(self.normal, middle, window, np.float32(np.nan))
            if not np.isnan(truth[len(truth) // 2]).all():
                break
        else:  # few values: a crop around one of them
            row, column = (int(each[0]) for each in np.nonzero(~np.isnan(self.normal[middle])))
            window = self._window(rng, (row, column))
            truth = self._around(self.normal, middle, window, np.float32(np.nan))
        mask = self._mask(truth, window, generator(self.seed, Stream.MASK, step, sample))
        return torch.from_numpy(truth), torch.from_numpy(mask)

    def _window(self, rng: np.random.Generator, holds: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Indices of rows and columns."""
        axes = []
        for axis, side in enumerate(self.shape):
            whole = self.normal.shape[1 + axis]
            free = whole if self.wraps[axis] and side < whole else whole - side + 1
            first = int(rng.integers(free))
            if holds is not None and not (holds[axis] - first) % whole < side:
                first = min(holds[axis], free - 1)
            axes.append(np.arange(first, first + side) % whole)
        return axes[0], axes[1]

    def _around(self, values: np.ndarray, middle: int, window: Sequence[np.ndarray], beyond: Any) -> np.ndarray:
        """The steps around one, cropped; before the first and after the last there is ``beyond``."""
        half = self.facts.time_steps // 2
        found = np.full((self.facts.time_steps, *self.shape), beyond, values.dtype)
        for place, at in enumerate(range(middle - half, middle + half + 1)):
            if 0 <= at < len(values):
                found[place] = values[at][np.ix_(*window)]
        return found

    def _mask(self, truth: np.ndarray, window: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        known = ~np.isnan(truth)
        own = known[len(known) // 2]
        for attempt in range(2 * _TRIES):
            mask = known & self._drawn(window, rng, moved=attempt >= _TRIES)
            hidden = int((own & ~mask[len(mask) // 2]).sum())
            if hidden >= max(1, _LEAST_HIDDEN * own.sum()):
                mask = np.stack([self._eased(*pair, rng) for pair in zip(known, mask, strict=True)])
                if mask.any():
                    return mask
        # stations that never move, and few of them: half of the middle step's values are hidden
        mask = known.copy()
        mask[len(mask) // 2] &= rng.random(own.shape) < 0.5
        if not mask.any():
            mask[len(mask) // 2].flat[int(rng.choice(np.flatnonzero(own)))] = True
        return mask

    def _eased(self, known: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A mask that shows some of the known values again where it hides most of them, unless it was drawn."""
        hidden, all_known = np.flatnonzero(known & ~mask), int(known.sum())
        if self.masks is not None or len(hidden) <= _MOST_HIDDEN * all_known or not self.eases:
            return mask
        count = int(all_known * rng.uniform(_LEAST_HIDDEN, _MOST_HIDDEN))
        mask = mask.copy()
        mask.flat[rng.permutation(hidden)[max(1, count) :]] = True
        return mask

    def _drawn(self, window: Sequence[np.ndarray], rng: np.random.Generator, moved: bool) -> np.ndarray:
        if self.masks is not None:
            return self.masks.draw(max(self.shape), rng)[: self.shape[0], : self.shape[1]][None]
        other = self._around(self.known, int(rng.integers(len(self.known))), window, False)
        if moved:  # the same gaps at other places
            other = np.roll(other, [int(rng.integers(side)) for side in self.shape], (1, 2))
        return other
