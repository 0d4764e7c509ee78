"""Checkpoints that survive a kill at any moment: a file is either whole or not there.

RUN/checkpoints/step-00001000.pt    model, optimiser, step, configuration, score
RUN/checkpoints/best.pt             the one with the least score: the same file (a hard link, or a copy)
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_link, atomic_path, remove_leftovers

__all__ = ["Checkpoints"]

_FORMAT = 1

# keys that say how to work, not what comes out: they may change between two parts of a run.
# The folders are compared by their content (the keys "content of ..."), so a moved folder still fits.
_FREE = (
    "checkpoint.every",
    "checkpoint.keep",
    "data.images",
    "data.masks",
    "data.validation",
    "data.workers",
    "log.every",
    "log.pictures",
    "log.tensorboard",
    "train.steps",
)


def _load(path: Path) -> dict[str, Any]:
    """The checkpoint in ``path``, on the CPU.

    Raises:
        PConvError: the file is damaged, or none of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and OS errors, by what is wrong with the file
        raise PConvError(f"checkpoint {str(path)!r} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise PConvError(f"{str(path)!r} is no checkpoint of pconv train (format {_FORMAT})")
    return state


def _past(identity: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What of ``identity`` the first ``step`` steps depended on: not on a stage 2 that is still to come."""
    past = {key: value for key, value in identity.items() if key not in _FREE}
    after = past.get("train.finetune_after")
    if after is None or after >= step:
        past.pop("train.finetune_after", None)
        past.pop("train.finetune_lr", None)
    return past


def _differing_keys(saved: Mapping[str, Any], wanted: Mapping[str, Any], step: int) -> list[str]:
    """``"key: 8 in the checkpoint, 7 now"`` for each key by which ``wanted`` is another run than ``saved``.

    ``step`` is the number of steps that the checkpoint has done.
    """
    before, now = _past(saved, step), _past(wanted, step)
    return [
        f"{key}: {saved.get(key, 'absent')!r} in the checkpoint, {wanted.get(key, 'absent')!r} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


class Checkpoints:
    """The checkpoints of one run; only the first process writes."""

    def __init__(self, run: Path, keep: int) -> None:
        self.folder, self.keep = run / "checkpoints", keep
        self.best_path = self.folder / "best.pt"

    def paths(self) -> list[Path]:
        """All numbered checkpoints, the oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def path_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def tidy(self, step: int) -> None:
        """After ``step`` steps: removes the oldest checkpoints, and what a killed process left half-written.

        Later checkpoints do not count: the run went on from ``step`` because they are damaged, or not wanted.
        """
        past = [path for path in self.paths() if path.name <= self.path_of(step).name]
        for path in past[: -self.keep]:
            path.unlink(missing_ok=True)
        for folder in (self.folder, self.folder.parent):
            remove_leftovers(folder)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read, or None where there is none.

        A damaged file is passed over with a warning: from the one before, the same weights come out.

        Raises:
            PConvError: there are checkpoints, and none of them can be read.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return path, _load(path)
            except PConvError as error:
                warnings.warn(f"{error}; the one before is taken", stacklevel=2)
        if paths:
            raise PConvError(f"--resume auto: none of the checkpoints in {str(self.folder)!r} can be read")
        return None

    def to_resume(self, resume: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The checkpoint that ``resume`` (auto, never or a path) asks for, or None to start afresh.

        Raises:
            PConvError: there is none where one was named, it belongs to a run of another ``identity``, or
                this folder holds checkpoints that starting otherwise would mix with new ones.
        """
        if resume == "auto":
            found = self.newest()
        elif resume == "never":
            found = None
        elif (path := Path(resume)).is_dir():
            found = Checkpoints(path, 1).newest()
            if found is None:
                raise PConvError(f"--resume: no checkpoint in {str(path / 'checkpoints')!r}; looked for step-*.pt")
        elif path.is_file():
            found = path, _load(path)
        else:
            raise PConvError(f"--resume: expected auto, never, a checkpoint or a run, got {resume!r}")
        own = found is not None and found[0].resolve().parent == self.folder.resolve()
        if self.paths() and not own:
            raise PConvError(
                f"--resume {resume}: {str(self.folder.parent)!r} holds checkpoints of a run already; "
                "take --resume auto to go on with it, or another --out"
            )
        if found is None:
            return None
        path, state = found
        if differing := _differing_keys(state["identity"], identity, state["step"]):
            raise PConvError(
                f"the configuration does not fit {str(path)!r}:\n  "
                + "\n  ".join(differing)
                + "\ntake the checkpoint's values, or another --out"
            )
        # another run's best is no checkpoint of this one
        return state if own else {**state, "best_step": 0, "best_score": float("inf")}

    def save(self, state: dict[str, Any]) -> None:
        """Writes ``state`` (with "step" and "best_step"), updates the best, removes the oldest."""
        step = state["step"]
        with atomic_path(self.path_of(step)) as temporary:
            torch.save({"format": _FORMAT, **state}, temporary)
        self.mark_best(state)
        self.tidy(step)

    def mark_best(self, state: Mapping[str, Any]) -> None:
        """Links ``state``'s checkpoint as the best, if it is.

        A resume repeats it, for a kill may have come between the checkpoint and its link.
        """
        if state["best_step"] == state["step"]:
            atomic_link(self.path_of(state["step"]), self.best_path)
