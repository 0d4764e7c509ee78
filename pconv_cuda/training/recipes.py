"""Named sets of values for a training's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["RECIPES"]

# docs/training.md says what chose each figure
_SMALL: Mapping[str, Any] = {
    "model.network": "refiner",
    "model.prefill": "smooth",
    "model.conv": "plain",
    "model.levels": 3,
    "model.width": 12,
    "data.masks": "mixed",
    "data.hole_share": [0.01, 0.6],
    "data.size": 96,
    "data.crop_share": [0.25, 1.0],
    "train.steps": 14_000,
    "train.batch_size": 2,
    "train.lr": 2e-3,
    "train.finetune_after": None,
    "train.schedule": "cosine",
    "train.warmup": 300,
    "train.weight_decay": 1e-4,
    "train.clip": 1.0,
    "train.average": 0.999,
    "loss.hole_steps": None,
    "loss.relative": True,
    "log.pictures": 0,
}

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},  # the defaults
    "small": _SMALL,
    # of one channel a step costs half; crops at the data's own scale
    "grid": {
        **_SMALL,
        "data.masks": "observed",
        "data.size": 128,
        "data.crop_share": None,
        "data.workers": 0,
        "train.steps": 3000,
        "train.warmup": 100,
        "checkpoint.every": 500,
    },
}
