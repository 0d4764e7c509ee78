"""Pictures with masks, and their assignment to steps, processes and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Dataset, Sampler

from pconv_cuda.data.images import ImageSource, RandomCrops
from pconv_cuda.masks import MaskSource
from pconv_cuda.rng import Stream, generator

__all__ = ["Pairs", "StepBatches"]


class Pairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A crop and a mask for each (step, sample); both are functions of (seed, step, sample) alone."""

    def __init__(
        self,
        images: ImageSource,
        masks: MaskSource,
        size: int,
        batch_size: int,
        seed: int,
        crop_share: tuple[float, float] | None = None,
    ) -> None:
        self.crops = RandomCrops(images, size, batch_size, seed, crop_share)
        self.masks = masks

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the picture, float32 (3, S, S) in [0, 1], and its mask, bool (1, S, S), True = valid."""
        step, sample = key
        rng = generator(self.crops.seed, Stream.MASK, step, sample)
        mask = self.masks.draw(self.crops.size, rng)
        return self.crops[key], torch.from_numpy(mask.copy())[None]


class StepBatches(Sampler[list[tuple[int, int]]]):
    """This process's micro-batches of the steps ``first`` to ``last - 1``, as lists of (step, sample).

    The ``batch_size`` samples of a step are dealt out over micro-batches and processes, so that a step
    sees the same samples however many of either there are.
    """

    def __init__(
        self, first: int, last: int, batch_size: int, accumulate: int = 1, processes: int = 1, rank: int = 0
    ) -> None:
        if batch_size % (accumulate * processes):
            raise ValueError(f"batch_size {batch_size} is no multiple of {accumulate} x {processes}")
        self.first, self.last = first, last
        self.accumulate, self.processes, self.rank = accumulate, processes, rank
        self.share = batch_size // (accumulate * processes)

    def __len__(self) -> int:
        return max(0, self.last - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first, self.last):
            for micro in range(self.accumulate):
                start = (micro * self.processes + self.rank) * self.share
                yield [(step, sample) for sample in range(start, start + self.share)]
