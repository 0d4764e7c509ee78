"""What a training needs: a device with the precision, enough pixels for batch normalisation, memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import is_out_of_memory
from pconv_cuda.training.options import TrainingConfig

__all__ = ["check_depth", "loader_count", "make_accelerator", "memory_errors"]

_MOST_LOADERS = 4
_ACCELERATE_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(config: TrainingConfig) -> Any:
    accelerate = require("accelerate", "train", why="training")
    # a second training in one process may ask for another precision
    accelerate.state.AcceleratorState._reset_state()
    accelerate.state.GradientState._reset_state()
    accelerator = accelerate.Accelerator(
        cpu=not torch.accelerator.is_available(),  # without this torchrun on CPUs trains N separate networks
        mixed_precision=_ACCELERATE_PRECISION[config.train.precision],
        gradient_accumulation_steps=config.train.accumulate,
    )
    if config.train.precision == "fp16" and accelerator.device.type == "cpu":
        raise PConvError("train.precision: fp16 needs a GPU, and this is a CPU; expected fp32 or bf16 here")
    if config.train.batch_norm == "sync" and accelerator.device.type == "cpu":
        raise PConvError(
            "train.batch_norm: sync needs GPUs, for torch's SyncBatchNorm has no CPU kernels; expected process or "
            "frozen here"
        )
    return accelerator


def check_depth(config: TrainingConfig, processes: int) -> None:
    """Batch normalisation needs two values a channel: one picture at a time needs more than one pixel.

    Raises:
        PConvError: the deepest feature map has one pixel, and there is one picture.
    """
    if config.model.network != "unet":  # no batch normalisation
        return
    levels = config.model.levels
    at_once = max(1, config.train.batch_size // (config.train.accumulate * processes))
    if config.train.batch_norm == "sync":
        at_once *= processes
    trained = config.train.batch_norm != "frozen" and config.stage_at(0) == 1  # the first level has no norm
    if trained and levels > 1 and at_once == 1 and config.data.size <= 2**levels:
        raise PConvError(
            f"model.levels: {levels} levels leave one pixel of data.size {config.data.size}, and one pixel of one "
            f"picture at a time is too little for batch normalisation: expected data.size above 2^{levels} = "
            f"{2**levels}, fewer levels, or train.batch_size of at least {2 * config.train.accumulate * processes}"
        )


@contextlib.contextmanager
def memory_errors(config: TrainingConfig) -> Iterator[None]:
    """Where memory runs out, on a GPU or not, the error names what needs less."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        train, data = config.train, config.data
        raise PConvError(
            "out of memory: fewer pictures at a time (train.accumulate divides a step of train.batch_size "
            f"{train.batch_size} into parts; it is {train.accumulate}), smaller ones (data.size, {data.size}), a "
            f"narrower network (model.width, {config.model.width}) or fewer loader processes (data.workers, "
            f"{loader_count(data.workers)}) need less"
        ) from error


def loader_count(asked: int | None) -> int:
    """``data.workers``; where it is None one loader for each core that this process may use, at most four.

    More loaders than cores only take turns, and torch warns of them.
    """
    if asked is not None:
        return asked
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST_LOADERS)
