"""The paper's central claim, run again: partial against plain convolutions, all else the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation.run import Settings, evaluate
from pconv_cuda.training.config import TrainingConfig, flatten, load_config
from pconv_cuda.training.loop import train

__all__ = ["compare"]

KINDS = ("partial", "plain")


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
        PConvError: nothing to train on, or two runs that differ in more than the convolution.
    """
    root = Path(out)
    named = {"data.images": data, **(overrides or {})}
    base = load_config(config, keys, {key: value for key, value in named.items() if value is not None})
    asked = bool(keys or config or any(value is not None for value in named.values()))
    for kind in KINDS:
        folder = root / kind
        if _is_complete(folder) and not asked:
            say(f"{folder}: complete")
            continue
        if data is None and not _is_complete(folder):
            raise PConvError(f"--data: expected training pictures, since {folder} is no complete run, got none")
        say(f"{folder}: training with {kind} convolutions")
        train(replace(base, model=replace(base.model, conv=kind)), folder)
    _check_alike(root)
    return evaluate(replace(settings, weights=tuple(f"{kind}={root / kind}" for kind in KINDS)), root / "eval")


def _is_complete(folder: Path) -> bool:
    """Weights are written when the last step is done."""
    return (folder / "model.safetensors").is_file()


def _check_alike(root: Path) -> None:
    """The two runs' configurations, where both have one, and their networks differ in the convolution alone."""
    files = [root / kind / "training.yaml" for kind in KINDS]
    sides: list[dict[str, Any]] = [{}, {}]
    if all(file.is_file() for file in files):
        sides = [_free(load_config(file)) for file in files]
    for side, kind in zip(sides, KINDS, strict=True):
        network = json.loads((root / kind / "config.json").read_text(encoding="utf-8"))
        if network.get("conv") != kind:
            raise PConvError(f"--out: {root / kind} holds a network of {network.get('conv')} convolutions")
        side |= {f"network {key}": value for key, value in network.items() if key != "conv"}
    one, two = sides
    lines = [
        f"{key}: {one.get(key)!r} and {two.get(key)!r}" for key in sorted({*one, *two}) if one.get(key) != two.get(key)
    ]
    if lines:
        raise PConvError(f"--out: the runs in {root} differ in more than model.conv:\n  " + "\n  ".join(lines))


def _free(config: TrainingConfig) -> dict[str, Any]:
    """What decides about the result; how often it is logged and where folders lie does not."""
    skipped = ("model.conv", "data.images", "data.masks", "data.validation", "data.workers")
    kept = {key: value for key, value in flatten(config).items() if key not in skipped}
    return {key: value for key, value in kept.items() if not key.startswith(("log.", "checkpoint."))}
