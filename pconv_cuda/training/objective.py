"""What a training minimises, step by step, and how its terms become numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from pconv_cuda.data.pairs import Pairs
from pconv_cuda.losses import InpaintingLoss
from pconv_cuda.training.options import TrainingConfig

__all__ = ["Objective", "mean_over_samples", "mean_terms"]

Terms = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


class Objective:
    """The loss of a step: the one in the hole alone for the first ``loss.hole_steps``, then every term."""

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self._hole_steps = config.loss.hole_steps
        self._all = InpaintingLoss(preset=config.loss.preset, vgg=config.loss.vgg).to(device)
        self._hole = InpaintingLoss(preset=config.loss.preset, vgg="none")

    def terms(self, holed: Tensor, mask: Tensor, output: Tensor, target: Tensor, step: int | None) -> Terms:
        """The weighted terms of training step ``step``, counted from 0, or with None all of them.

        Tensors as in :class:`pconv_cuda.InpaintingLoss`.
        """
        if step is not None and step < self._hole_steps:
            return {"hole": self._hole(holed, mask, output, target)["hole"]}
        return self._all(holed, mask, output, target)


def mean_terms(accelerator: Any, terms: Terms) -> dict[str, float]:
    """The terms as means over the processes, with one synchronisation."""
    stacked = torch.stack([value.detach().float() for value in terms.values()])
    return dict(zip(terms, accelerator.reduce(stacked, "mean").tolist(), strict=True))


@torch.no_grad()
def mean_over_samples(
    accelerator: Any, pairs: Pairs, samples: int, at_once: int, terms_of: Callable[[Batch], Terms]
) -> float:
    """The mean over ``samples`` of the sum of their terms, which ``terms_of`` tells of a batch.

    The first process works it out for all: after a step each has BatchNorm statistics of its own, and the checkpoint
    holds the first one's.
    """
    total = 0.0
    for start in range(0, samples if accelerator.is_main_process else 0, at_once):
        chunk = [pairs[0, sample] for sample in range(start, min(start + at_once, samples))]
        total += float(sum(terms_of(default_collate(chunk)).values())) * len(chunk)
    return float(accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum")) / samples
