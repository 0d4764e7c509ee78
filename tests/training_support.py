"""Settings of the smallest useful training run, and such a run as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from process_support import default_signals

import pconv_cuda

__all__ = ["TINY_RUN", "start_training", "write_noise"]

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


def write_noise(folder: Path, count: int) -> Path:
    """``folder``, made, with ``count`` pictures of 24 x 24 pixels."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def start_training(
    settings: Iterable[str], out: Path, launcher: Iterable[str] = (), **process: Any
) -> subprocess.Popen[str]:
    """``pconv train`` with ``settings`` (``key=value``) into ``out``, through the modules of ``launcher``."""
    words = [word for one in settings for word in ("--set", one)]
    root = str(Path(pconv_cuda.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **process.pop("env", {})}
    command = [sys.executable, *launcher, "-m", "pconv_cuda", "train", "--out", str(out), *words]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=default_signals, **process)
