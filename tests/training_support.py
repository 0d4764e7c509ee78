"""Settings of the smallest useful training run."""

from __future__ import annotations

from typing import Any

__all__ = ["TINY_RUN"]

TINY_RUN: dict[str, Any] = {
    "model.levels": 2,
    "model.width": 2,
    "data.size": 16,
    "data.workers": 0,
    "train.batch_size": 2,
    "loss.vgg": "none",
    "log.every": 1,
    "log.tensorboard": False,
}
