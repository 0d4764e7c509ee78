"""The objective of a training at each step, and its terms as numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from pconv_cuda.losses import InpaintingLoss
from pconv_cuda.losses.vgg import VGG16Features, feature_distance
from pconv_cuda.training.options import TrainingConfig

__all__ = ["HiddenErrors", "Objective", "mean_over_samples", "mean_terms"]

_LEAST_ERROR = 0.01  # normalised units, about half a grey level, so that a perfect fill does not divide by 0
_LEAST_DISTANCE = 0.01  # likewise, of features
Terms = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


class Objective:
    """The loss of a step: the one in the hole alone for the first ``loss.hole_steps`` (None: always), then every term.

    With ``loss.relative`` the former is each picture's mean |output - truth| in the hole, in parts of the prefill's:
    holes that can be filled well then count as much as those that cannot. With ``loss.features`` the terms after these
    steps are that one and the distance of VGG16's features, in parts of the prefill's as well.
    """

    def __init__(self, config: TrainingConfig, device: torch.device, vgg: str | None = None) -> None:
        """``vgg`` replaces ``loss.vgg``."""
        self._hole_steps, self._relative = config.loss.hole_steps, config.loss.relative
        self._hole = InpaintingLoss(preset=config.loss.preset, vgg="none")
        self._all = self._hole
        self._weight, self._features = config.loss.features, None
        if self._weight:
            self._features = VGG16Features(config.loss.vgg).to(device)
        elif self._hole_steps is not None:
            self._all = InpaintingLoss(preset=config.loss.preset, vgg=vgg or config.loss.vgg).to(device)

    def terms(
        self,
        holed: Tensor,
        mask: Tensor,
        output: Tensor,
        target: Tensor,
        fill: Tensor | None,
        step: int | None,
        known: Tensor | None = None,
    ) -> Terms:
        """The weighted terms of training step ``step``, counted from 0, or with None those of the last one.

        Tensors as in :class:`pconv_cuda.InpaintingLoss`; ``fill`` is the prefill, where there is one;
        ``known`` (bool) says where a target with gaps is known, None: everywhere.
        """
        given = () if known is None else (known,)
        later = self._hole_steps is not None and (step is None or step >= self._hole_steps)
        if later and self._features is None:
            return self._all(holed, mask, output, target, *given)
        if self._relative and fill is not None:
            terms = {"hole": _relative_loss(mask, output, target, fill, known)}
            if later and self._features is not None:
                composite = torch.where(mask, target, output)
                terms["features"] = self._weight * _relative_distance(self._features, composite, target, fill)
            return terms
        return {"hole": self._hole(holed, mask, output, target, *given)["hole"]}


def _relative_loss(mask: Tensor, output: Tensor, target: Tensor, fill: Tensor, known: Tensor | None) -> Tensor:
    asked = ~mask
    if known is not None:
        asked, target = asked & known, torch.where(known, target, 0.0)
    hole = asked.to(target.dtype)
    ours, fills, count = (
        (each * hole).flatten(1).sum(1)
        for each in ((output - target).abs(), (fill - target).abs(), torch.ones_like(fill))
    )
    if known is not None:  # perhaps nothing was hidden
        count = count.clamp(min=1)
    return (ours / (fills + _LEAST_ERROR * count)).mean()


def _relative_distance(features: VGG16Features, output: Tensor, target: Tensor, fill: Tensor) -> Tensor:
    found = features(output)
    with torch.no_grad():
        true = features(target)
        of_fill = feature_distance(features(fill), true)
    return (feature_distance(found, true) / (of_fill + _LEAST_DISTANCE)).mean()


class HiddenErrors:
    """Root mean square of what is wrong at values that are known and were hidden, over batches of normalised data.

    Args:
        channel: of the truth that the output's only one answers.
    """

    def __init__(self, channel: int) -> None:
        self._channel, self._squares, self._count = channel, 0.0, 0

    def add(self, truth: Tensor, mask: Tensor, output: Tensor) -> None:
        """``(N, C, H, W)`` with NaN where nobody knows, the mask of what was seen, and ``(N, 1, H, W)``."""
        truth = truth[:, self._channel]
        hidden = ~mask[:, self._channel] & ~torch.isnan(truth)
        self._squares += float((output[:, 0].float() - truth)[hidden].double().square().sum())
        self._count += int(hidden.sum())

    @property
    def root_mean_square(self) -> float:
        """0 where nothing was hidden."""
        return (self._squares / max(1, self._count)) ** 0.5


def mean_terms(accelerator: Any, terms: Terms) -> dict[str, float]:
    """The terms as means over the processes, with one synchronisation."""
    stacked = torch.stack([value.detach().float() for value in terms.values()])
    return dict(zip(terms, accelerator.reduce(stacked, "mean").tolist(), strict=True))


@torch.no_grad()
def mean_over_samples(
    accelerator: Any, pairs: Dataset[Batch], samples: int, at_once: int, terms_of: Callable[[Batch], Terms]
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
