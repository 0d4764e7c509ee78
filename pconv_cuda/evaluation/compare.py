"""Partial against plain convolutions, all else the same: the paper's central claim."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pconv_cuda.data.images import find_files
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation.run import Settings, evaluate
from pconv_cuda.locks import folder_lock
from pconv_cuda.models.weights import FILE, saved_step
from pconv_cuda.text import brief, parse_json
from pconv_cuda.training.checkpoints import CONFIGURATION, Checkpoints
from pconv_cuda.training.config import TrainingConfig, flatten, load_config
from pconv_cuda.training.loop import train

__all__ = ["compare"]

KINDS = ("partial", "plain")
_CONTENT = "content of "  # such keys of a run's identity are digests of its data


def compare(
    out: str | Path,
    settings: Settings,
    *,
    data: str | None = None,
    keys: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    config: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains R/partial and R/plain with one configuration, evaluates both into R/eval.

    Each stage goes on where it was stopped. A run that is complete (its weights are there) is not trained again, so
    that both may come from ``pconv train`` elsewhere; they must then differ in ``model.conv`` alone.

    Args:
        out: R.
        settings: of the evaluation; its ``weights`` are set here.
        data: training pictures, where something is to be trained.
        keys, overrides, config: of the training, as in :func:`pconv_cuda.training.load_config`.

    Returns:
        What R/eval/results.json holds.

    Raises:
        PConvError: nothing to train on, a picture that stands in the training and in the test folder, two runs
            that differ in more than the convolution, or another process that writes into R.
    """
    root = Path(out)
    named = {"data.images": data, **(overrides or {})}
    base = load_config(config, keys, {key: value for key, value in named.items() if value is not None})
    asked = bool(keys or config or any(value is not None for value in named.values()))
    if data is not None:
        _check_apart(data, settings.images)
    with folder_lock(root):
        for kind in KINDS:
            folder = root / kind
            if _is_complete(folder) and not asked:
                say(f"{folder}: complete")
                continue
            if data is None and not _is_complete(folder):
                raise PConvError(
                    f"data: expected training pictures, since {folder} is no complete run{_state(folder)}, got none"
                )
            say(f"{folder}: training with {kind} convolutions")
            train(replace(base, model=replace(base.model, conv=kind)), folder)
        _check_alike(root, settings.images)
        return evaluate(replace(settings, weights=tuple(f"{kind}={root / kind}" for kind in KINDS)), root / "eval")


def _is_complete(folder: Path) -> bool:
    """Weights are written when the last step is done: whether they are of the last step that was asked for.

    A run that was extended and then stopped still has the weights of its earlier end. Of weights without a step, which
    no training wrote, nothing more is known than that they are there.
    """
    file = folder / FILE
    if not file.is_file():
        return False
    step, config = saved_step(file), folder / CONFIGURATION
    if step is None:
        return True
    wanted = load_config(config).train.steps if config.is_file() else step
    newest = Checkpoints(folder, 1).paths()[-1:]
    return step >= wanted and all(path.name <= f"step-{step:08d}.pt" for path in newest)


def _state(folder: Path) -> str:
    step = saved_step(folder / FILE) if (folder / FILE).is_file() else None
    return f" (its weights are of step {step}, and its training went on)" if step is not None else ""


def _check_apart(training: str, test: str) -> None:
    """PConvError where a file of the training folder, under whatever name, is in the test folder too."""
    if not (Path(training).is_dir() and Path(test).is_dir()):
        return  # drawn or packaged pictures, or a folder that is elsewhere by now
    tested = find_files(test, "images")
    sizes = {path.stat().st_size for path in tested}
    # files of another size need not be read: training folders may hold millions
    seen = {_digest(path): path for path in find_files(training, "data") if path.stat().st_size in sizes}
    both = [(seen[digest], path) for path in tested if seen and (digest := _digest(path)) in seen]
    if both:
        lines = [f"{one} and {other}" for one, other in both[:5]] + ["..."] * (len(both) > 5)
        raise PConvError(
            f"images: expected pictures that were not trained on, got {len(both)} that were:\n  " + "\n  ".join(lines)
        )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_alike(root: Path, test: str) -> None:
    """The two runs' configurations, where both have one, and their networks differ in the convolution alone.

    So do their data, as far as their checkpoints still tell.
    """
    files = [root / kind / "training.yaml" for kind in KINDS]
    sides: list[dict[str, Any]] = [{}, {}]
    if all(file.is_file() for file in files):
        configs = [load_config(file) for file in files]
        for folder in {config.data.images for config in configs}:
            _check_apart(folder, test)
        sides = [_free(config) for config in configs]
        contents = [_content(root / kind) for kind in KINDS]
        if all(contents):
            sides = [side | content for side, content in zip(sides, contents, strict=True)]
    for side, kind in zip(sides, KINDS, strict=True):
        file = root / kind / "config.json"
        try:
            network = dict(parse_json(file.read_bytes()))
        except (ValueError, TypeError) as error:
            raise PConvError(f"out: {file} is not the configuration of a network ({error})") from error
        if network.get("conv") != kind:
            raise PConvError(f"out: {root / kind} holds a network of {network.get('conv')} convolutions")
        side |= {f"network {key}": value for key, value in network.items() if key != "conv"}
    one, two = sides
    lines = [
        f"{key}: {brief(one.get(key))} and {brief(two.get(key))}"
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key)
    ]
    if lines:
        raise PConvError(f"out: the runs in {root} differ in more than model.conv:\n  " + "\n  ".join(lines))


def _content(run: Path) -> dict[str, Any]:
    """Digests of the pictures and masks that a run saw."""
    newest = Checkpoints(run, 1).newest()
    identity = newest[1]["identity"] if newest else {}
    return {key: value for key, value in identity.items() if key.startswith(_CONTENT)}


def _free(config: TrainingConfig) -> dict[str, Any]:
    """The keys that affect the result; logging and the folders' paths do not."""
    skipped = ("model.conv", "data.images", "data.masks", "data.validation", "data.workers")
    kept = {key: value for key, value in flatten(config).items() if key not in skipped}
    return {key: value for key, value in kept.items() if not key.startswith(("log.", "checkpoint."))}
