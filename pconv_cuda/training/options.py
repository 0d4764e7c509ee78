"""The keys of a training's configuration, each with its default, its limits and a line of help.

The defaults are the paper's recipe (Liu et al. 2018, sections 3.3 and 4.1) at 512 x 512 pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "LogConfig",
    "LossConfig",
    "ModelConfig",
    "TrainConfig",
    "TrainingConfig",
]


def _key(
    default: Any,
    about: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    one_of=(),
) -> Any:
    """A field with its line of help and its limits: ``least`` and ``most`` are allowed, ``above`` is not."""
    limits = {"least": least, "most": most, "above": above, "one_of": one_of}
    return field(default=default, metadata={"about": about, **limits})


@dataclass(frozen=True)
class ModelConfig:
    network: str = _key("unet", "unet (the paper's) | refiner (small, adds to a prefill)", one_of=("unet", "refiner"))
    prefill: str | None = _key(
        None, "smooth: the network adds to the smooth fill; null for none (unet only)", one_of=("smooth",)
    )
    tension: float | None = _key(
        None, "of the smooth fill to which a network for gridded data adds, 0 to 1; null for 0.3", least=0, most=1
    )
    levels: int = _key(8, "depth of the network; 8 is the paper's at 512 px, 7 suits 256 px", least=1, most=16)
    width: int = _key(64, "channels of the first level", least=1)
    conv: str = _key("partial", "partial | plain (the paper's baseline)", one_of=("partial", "plain"))
    weights: str | None = _key(None, "a packaged network's name, a file or a folder to begin from; null begins afresh")


@dataclass(frozen=True)
class DataConfig:
    images: str = _key(
        "packaged",
        "folder, packaged (photographs in installed packages), documents (drawn pages), or a file of gridded data: "
        ".nc, .zarr, .tif, .npy",
    )
    variable: str | None = _key(None, "of a file of gridded data; null for the only one that is a grid")
    time_steps: int | None = _key(
        None,
        "of gridded data: the network sees so many steps, an odd number, and fills the middle one; null for 1",
        least=1,
        most=255,
    )
    wrap: str | None = _key(
        None,
        "of gridded data: auto (null: longitudes that span 360 degrees go round) | none | columns | rows | both",
        one_of=("auto", "none", "columns", "rows", "both"),
    )
    masks: str = _key(
        "strokes",
        "folder of mask files, or drawn on line: strokes | occlusion (the paper's family) | mixed | damage; observed: "
        "the gaps that other steps of gridded data have; a file of gridded data: the gaps that its steps have",
    )
    polarity: str = _key("white-hole", "of mask files: white-hole | black-hole", one_of=("white-hole", "black-hole"))
    hole_share: tuple[float, float] = _key((0.0, 0.6), "of drawn masks: above the first, at most the second")
    size: int = _key(512, "side of the square crops, pixels; of a smaller grid all of it", least=1)
    crop_share: tuple[float, float] | None = _key(
        (0.5, 1.0), "of the short side that a crop covers, resized to data.size; null crops at native scale"
    )
    workers: int | None = _key(
        None,
        "loader processes for each training process; 0 loads in the loop itself, null: as many as there are usable "
        "cores, at most 4",
        least=0,
    )
    validation: str | None = _key(
        None,
        "folder of pictures, or file of gridded data, that decide which checkpoint is the best; gridded data of ten "
        "steps or more set their last tenth aside where it is null",
    )
    validation_samples: int = _key(24, "crops of them, the same ones each time", least=1)


@dataclass(frozen=True)
class TrainConfig:
    steps: int = _key(500_000, "optimiser steps of the whole run, both stages", least=1)
    batch_size: int = _key(6, "pictures of one step, over all processes and micro-batches", least=1)
    accumulate: int = _key(1, "micro-batches that a step is divided into, to save memory", least=1)
    lr: float = _key(2e-4, "Adam's learning rate", above=0)
    finetune_after: int | None = _key(
        450_000, "step at which stage 2 begins (encoder BatchNorm frozen), null for never", least=0
    )
    finetune_lr: float = _key(5e-5, "Adam's learning rate in stage 2", above=0)
    schedule: str = _key(
        "constant",
        "of the learning rate: constant | cosine, falling to 0 at train.steps",
        one_of=("constant", "cosine"),
    )
    warmup: int = _key(0, "steps over which the learning rate rises from 0", least=0)
    weight_decay: float = _key(0.0, "decoupled from the gradient, as AdamW's", least=0)
    clip: float | None = _key(None, "largest norm of a step's gradient, null for no limit", above=0)
    average: float = _key(
        0.0,
        "decay of an exponential average of the weights, which is what is written; 0 for none",
        least=0,
        most=0.999999,
    )
    seed: int = _key(0, "of the first weights and every random draw", least=0, most=2**64 - 1)
    precision: str = _key("fp32", "fp32 | bf16 | fp16 (mixed precision)", one_of=("fp32", "bf16", "fp16"))
    batch_norm: str = _key(
        "process",
        "statistics while training: process (each its own) | sync (of all processes, GPUs only) | frozen",
        one_of=("process", "sync", "frozen"),
    )
    channels_last: bool = _key(True, "memory format of pictures and weights; the faster one on most devices")


@dataclass(frozen=True)
class LossConfig:
    preset: str = _key(
        "paper", "paper | bobqywei (that repository's): weights of the terms", one_of=("paper", "bobqywei", "review")
    )
    vgg: str = _key("imagenet", "imagenet | PATH of VGG16 weights | random | none (no perceptual, no style)")
    hole_steps: int | None = _key(
        0, "steps at the start with the loss in the hole alone, then all terms; null for all of them", least=0
    )
    relative: bool = _key(False, "in these steps: each picture's loss in parts of its prefill's")
    features: float = _key(
        0.0,
        "after these steps, beside the relative loss in the hole: weight of the distance of VGG16's features, in parts "
        "of the prefill's too; 0 for the paper's terms instead",
        least=0,
        most=1e6,
    )


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = _key(1000, "steps between checkpoints", least=1)
    keep: int = _key(3, "newest checkpoints that are kept, besides the best", least=1)


@dataclass(frozen=True)
class LogConfig:
    every: int = _key(50, "steps between lines of the log", least=1)
    pictures: int = _key(1000, "steps between picture grids in TensorBoard, 0 for none", least=0)
    tensorboard: bool = _key(True, "write TensorBoard events to RUN/tensorboard")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a run depends on, but for where its results go."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    loss: LossConfig = LossConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    def stage_at(self, step: int) -> int:
        """1, or 2 for a step of the fine-tuning (encoder BatchNorm frozen)."""
        after = self.train.finetune_after
        return 2 if after is not None and step >= after else 1

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        train = self.train
        rate = train.lr if self.stage_at(step) == 1 else train.finetune_lr
        if train.schedule == "cosine":
            rate *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / train.steps))
        return rate * min(1.0, (step + 1) / (train.warmup + 1))
