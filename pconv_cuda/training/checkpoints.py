"""Checkpoints that survive a kill at any moment: files are written atomically.

RUN/checkpoints/step-00001000.pt    model, optimiser, step, configuration, score; a checksum at its end
RUN/checkpoints/best.pt             the one with the least score: the same file (a hard link, or a copy)
RUN/best.safetensors                its weights, as every command reads them
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_link, atomic_path, is_out_of_memory, os_error_text, remove_leftovers
from pconv_cuda.models.weights import BEST, CONFIG, FILE, save_file
from pconv_cuda.text import brief, load_error_text
from pconv_cuda.training.checksum import append_checksum, check
from pconv_cuda.training.logs import LOG, last_step

__all__ = ["CONFIGURATION", "Checkpoints"]

CONFIGURATION = "training.yaml"

_FORMAT = 4
_KEYS: dict[str, Any] = {
    "step": int,
    "model": dict,
    "average": (dict, type(None)),  # of the weights: what is written, where there is one
    "optimizer": dict,
    "scaler": (dict, type(None)),
    "identity": dict,
    "best_step": int,
    "best_score": (int, float),
    "losses": list,  # [sum, number] of the training losses since the last score
    "network": dict,  # the configuration that model.safetensors carries
}

# keys without influence on the result: they may change between two parts of a run.
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
        with open(path, "rb") as file:
            check(file)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and OS errors, by what is wrong with the file
        if is_out_of_memory(error):
            raise
        raise PConvError(f"checkpoint {str(path)!r} cannot be read: {load_error_text(error)}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise PConvError(f"{str(path)!r} is no checkpoint of pconv train (format {_FORMAT})")
    if missing := [key for key in _KEYS if key not in state]:
        raise PConvError(f"checkpoint {str(path)!r} cannot be read: it lacks {', '.join(missing)}")
    if wrong := [key for key, kinds in _KEYS.items() if not isinstance(state[key], kinds)]:
        found = f"{wrong[0]} is {type(state[wrong[0]]).__name__}"
        raise PConvError(f"checkpoint {str(path)!r} cannot be read: {found}, which a checkpoint does not hold")
    named = re.fullmatch(r"step-(\d+)\.pt", path.name)
    if named and int(named[1]) != state["step"]:
        raise PConvError(f"checkpoint {str(path)!r} cannot be read: it is that of step {state['step']}")
    return state


def _free(identity: Mapping[str, Any]) -> set[str]:
    """The keys that may change when a run of ``identity`` is resumed."""
    # a schedule that ends with the run gives every step another learning rate in a longer one
    return set(_FREE) - ({"train.steps"} if identity.get("train.schedule") == "cosine" else set())


def _is_foreign(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether ``saved`` is of another run than ``wanted``, a stage 2 that was planned otherwise aside."""
    skipped = (*_free(wanted), "train.finetune_after", "train.finetune_lr")
    return any(saved.get(key) != wanted.get(key) for key in {*saved, *wanted}.difference(skipped))


def _save(state: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch reports a write that failed as a position in the file that it did not expect
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _past(identity: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What of ``identity`` the first ``step`` steps depended on: not on a stage 2 that is still to come."""
    past = {key: value for key, value in identity.items() if key not in _free(identity)}
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
        f"{key}: {brief(saved.get(key, 'absent'))} in the checkpoint, {wanted.get(key, 'absent')!r} now"
        for key in sorted({*before, *now}, key=str)
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

    def newest_good(self) -> Path | None:
        """The newest checkpoint whose checksum is right."""
        for path in reversed(self.paths()):
            with contextlib.suppress(OSError, PConvError), open(path, "rb") as file:
                check(file)
                return path
        return None

    def last_good(self) -> str:
        """For messages: which checkpoint is the newest good one, or that there is none."""
        good = self.newest_good()
        return f"the last good checkpoint is {good}" if good else "there is no good checkpoint yet"

    def newest(self, identity: Mapping[str, Any] | None = None) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read, or None where there is none.

        A damaged file is passed over with a warning: from the one before, the same weights come out. So is one of
        another run than that of ``identity``, where there is an older one of that run.

        Raises:
            PConvError: there are checkpoints, and none of them can be read.
        """
        paths = self.paths()
        foreign: tuple[Path, dict[str, Any]] | None = None
        for path in reversed(paths):
            try:
                state = _load(path)
            except PConvError as error:
                warnings.warn(f"{error}; the one before is taken", stacklevel=2)
                continue
            if identity is not None and _is_foreign(state["identity"], identity):
                foreign = foreign or (path, state)
                continue
            if foreign:
                lines = "; ".join(_differing_keys(foreign[1]["identity"], state["identity"], foreign[1]["step"]))
                warnings.warn(f"{str(foreign[0])!r} is of another run ({lines}); {path.name} is taken", stacklevel=2)
            return path, state
        if paths and foreign is None:
            raise PConvError(f"resume: none of the checkpoints in {str(self.folder)!r} can be read")
        return foreign

    def refuse_replacing(self, resume: str, every: int) -> None:
        """Refuses a run without checkpoints that has results of an earlier one, except for ``resume`` "never".

        A training that was killed before its first checkpoint has a folder for them, a configuration, and a log of at
        most ``every`` steps; it has no weights.

        Raises:
            PConvError: with the files that would be replaced.
        """
        run = self.folder.parent
        if resume == "never" or self.paths():
            return
        names = [FILE, CONFIG, BEST]
        if not self.folder.is_dir() or last_step(run / LOG) > every:
            names += [CONFIGURATION, LOG]
        if there := [name for name in names if (run / name).exists()]:
            raise PConvError(
                f"resume: {resume!r}, but {str(run)!r} holds {', '.join(there)} and no checkpoint of its own; the "
                "training would replace them. Take `resume=never` if that is wanted, or another `out`"
            )

    def make_folder(self) -> None:
        """Before anything else of a run is written: :meth:`refuse_replacing` tells by it what was lost."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PConvError(f"out: cannot make the folder {str(self.folder)!r}: {os_error_text(error)}") from error

    def to_resume(self, resume: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The checkpoint that ``resume`` (auto, never or a path) asks for, or None to start afresh.

        Raises:
            PConvError: there is none where one was named, it belongs to a run of another ``identity``, or
                this folder holds checkpoints that starting otherwise would mix with new ones.
        """
        if resume == "auto":
            found = self.newest(identity)
        elif resume == "never":
            found = None
        elif (path := Path(resume)).is_dir():
            found = Checkpoints(path, 1).newest()
            if found is None:
                raise PConvError(f"resume: no checkpoint in {str(path / 'checkpoints')!r}; looked for step-*.pt")
        elif path.is_file():
            found = path, _load(path)
        else:
            raise PConvError(f"resume: expected auto, never, a checkpoint or a run, got {resume!r}")
        own = found is not None and found[0].resolve().parent == self.folder.resolve()
        if self.paths() and not own:
            raise PConvError(
                f"resume: {resume!r}, but {str(self.folder.parent)!r} holds checkpoints of a run already; "
                "take `resume=auto` to go on with it, or another `out`"
            )
        if found is None:
            return None
        path, state = found
        if differing := _differing_keys(state["identity"], identity, state["step"]):
            raise PConvError(
                f"the configuration does not fit {str(path)!r}:\n  "
                + "\n  ".join(differing)
                + "\ntake the checkpoint's values, or another `out`"
            )
        # another run's best is no checkpoint of this one
        return state if own else {**state, "best_step": 0, "best_score": float("inf"), "losses": [0.0, 0]}

    def save(self, state: dict[str, Any]) -> None:
        """Writes ``state`` (with "step" and "best_step"), updates the best, removes the oldest."""
        step = state["step"]
        with atomic_path(self.path_of(step)) as temporary:
            _save({"format": _FORMAT, **state}, temporary)
            append_checksum(temporary)
        self.mark_best(state)
        self.tidy(step)

    def mark_best(self, state: Mapping[str, Any]) -> None:
        """Links ``state``'s checkpoint as the best, if it is, and writes its weights.

        A resume repeats it, for a kill may have come between the checkpoint and its link.
        """
        if state["best_step"] == state["step"]:
            atomic_link(self.path_of(state["step"]), self.best_path)
            save_file(state["average"] or state["model"], state["network"], self.folder.parent / BEST, state["step"])
