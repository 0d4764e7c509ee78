"""What a training changes: the network, its optimiser and the average of its weights, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch
from torch.utils.data import Dataset

from pconv_cuda.errors import PConvError
from pconv_cuda.models import InpaintingNetwork
from pconv_cuda.models.prefill import filled
from pconv_cuda.training.logs import RunLog, as_pictures, picture_grid
from pconv_cuda.training.networks import WeightAverage, build_network, build_optimizer, freeze_encoder_bn
from pconv_cuda.training.objective import HiddenErrors, Objective, mean_over_samples, mean_terms
from pconv_cuda.training.options import TrainingConfig
from pconv_cuda.training.sources import Batch, RunData

__all__ = ["Learner"]


class Learner:
    """Network, loss and optimiser by ``config``; from the checkpoint ``state`` where there is one.

    ``last_good`` tells which checkpoint to go back to, for errors.

    Raises:
        PConvError: a checkpoint of other shapes, or a loss that the data do not have.
    """

    def __init__(
        self,
        config: TrainingConfig,
        data: RunData,
        accelerator: Any,
        state: dict[str, Any] | None,
        last_good: Callable[[], str],
    ) -> None:
        self.config, self.data, self.accelerator, self._last_good = config, data, accelerator, last_good
        network = build_network(config, data.grid)
        self.stage = config.stage_at(state["step"] if state is not None else 0)
        if self.stage == 2:
            freeze_encoder_bn(network)
        if data.grid is not None and config.loss.features:
            found = config.loss.features
            raise PConvError(f"config: loss.features: expected 0 for gridded data, VGG16 takes pictures, got {found}")
        self.objective = Objective(config, accelerator.device, None if data.grid is None else "none")
        optimizer = build_optimizer(config, network, accelerator.device)
        self.network = network
        average = config.train.average
        self.average = WeightAverage(network.to(accelerator.device), average) if average else None
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.rmse: float | None = None  # of gridded data, of the last validation
        if state is not None:
            self._load(state)

    def _load(self, state: dict[str, Any]) -> None:
        scaler = self.accelerator.scaler
        try:
            self.network.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load(state["average"], state["step"])
            if scaler is not None and state["scaler"] is not None:
                scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PConvError(f"resume: the checkpoint of step {state['step']} does not fit: {error}") from error

    def state(self, step: int) -> dict[str, Any]:
        """The part of a checkpoint after ``step`` steps that follows from the steps alone.

        Raises:
            PConvError: weights that are not finite: a gradient may overflow where the loss did not, and such weights
                must not replace good ones.
        """
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise PConvError(f"step {step}: the weights {name} are not finite; {self._last_good()}")
        scaler = self.accelerator.scaler
        return {
            "step": step,
            "model": self.network.state_dict(),
            "average": None if self.average is None else self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }

    def set_stage(self, step: int) -> None:
        """Learning rate and frozen parts, as functions of the step alone."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(step)
        if self.config.stage_at(step) != self.stage:
            self.stage = 2
            freeze_encoder_bn(self.network)
            if self.accelerator.num_processes > 1:
                # DistributedDataParallel waits for every gradient that existed when it was made; a new one
                # does not, and the old one has to go with its hooks and buckets
                self.accelerator._models.clear()
                self.model = self.accelerator.prepare_model(self.network)
        self.model.train()
        if self.config.train.batch_norm == "frozen":
            for module in self.network.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def result(self) -> InpaintingNetwork:
        """The network that is judged and written."""
        return self.network if self.average is None else self.average.network

    def written_config(self) -> dict[str, Any]:
        """Of crops alone a network may be trained by other padding than it is used with."""
        return {**self.network.config, **({} if self.data.grid is None else self.data.grid.written)}

    def step(self, step: int, micro_batches: Generator[Any, None, None], pictures: RunLog | None) -> dict[str, float]:
        """One optimiser step. Returns the terms, means over micro-batches and processes."""
        sums: dict[str, float] = {}
        for _ in range(self.config.train.accumulate):
            truth, mask = self._to_device(next(micro_batches))
            with self.accelerator.accumulate(self.model):
                output, terms = self._forward(self.model, truth, mask, step)
                for name, value in self._numbers(terms, step).items():
                    sums[name] = sums.get(name, 0.0) + value / self.config.train.accumulate
                self.accelerator.backward(sum(terms.values()))
                if self.config.train.clip is not None and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.train.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.network)
        every = self.config.log.pictures
        if pictures is not None and every and (step + 1) % every == 0:
            shown = output.detach().float()
            if self.data.grid is None:
                grid = picture_grid(truth, mask, self.network.denormalize(shown))
            else:
                grid = picture_grid(*as_pictures(self.network.first_answer, truth, mask, shown))
            pictures.pictures(step + 1, grid.cpu())
        return sums

    def _to_device(self, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        truth, mask = (tensor.to(self.accelerator.device, non_blocking=True) for tensor in batch)
        if self.config.train.channels_last:
            truth = truth.contiguous(memory_format=torch.channels_last)
        return truth, mask

    def _forward(
        self, model: torch.nn.Module, truth: torch.Tensor, mask: torch.Tensor, step: int | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """``truth`` (N, 3, S, S) in [0, 1], ``mask`` (N, 1, S, S) bool; or as :class:`GridPairs` has them.

        Returns (output, terms). The terms are those of training step ``step``, or all.
        """
        with self.accelerator.autocast():
            grid = self.data.grid is not None
            target = truth if grid else self.network.normalize(truth)
            holed = torch.where(mask, target, 0.0)
            # made here, for the network and the loss
            fill = filled(self.network.prefill, holed, mask, None, self.network.wraps, self.network.tension)
            output, _ = model(holed, mask) if fill is None else model(holed, mask, fill)
            if not grid:
                return output, self.objective.terms(holed, mask, output, target, fill, step)
            middle = slice(self.network.first_answer, self.network.first_answer + 1)
            holed, mask, target = holed[:, middle], mask[:, middle], target[:, middle]
            return output, self.objective.terms(holed, mask, output, target, fill, step, ~torch.isnan(target))

    def _numbers(self, terms: dict[str, torch.Tensor], step: int) -> dict[str, float]:
        """The terms as means over the processes.

        Raises:
            PConvError: one of them is NaN or infinite, in every process alike.
        """
        numbers = mean_terms(self.accelerator, terms)
        for name, value in numbers.items():
            if not abs(value) < float("inf"):
                raise PConvError(f"step {step + 1}: the loss term {name!r} is {value}; {self._last_good()}")
        return numbers

    def validate(self, pairs: Dataset[Batch]) -> float:
        """Mean objective, all terms of it, over the samples set aside, the same ones each time.

        Of gridded data the root mean square error of the hidden values, in their unit, is kept beside it.
        """
        train, samples = self.config.train, self.config.data.validation_samples
        at_once = max(1, train.batch_size // (train.accumulate * self.accelerator.num_processes))
        network = self.result().eval()
        errors = HiddenErrors(self.network.first_answer)

        def terms_of(batch: Batch) -> dict[str, torch.Tensor]:
            truth, mask = self._to_device(batch)
            output, terms = self._forward(network, truth, mask)
            if self.data.grid is not None:
                errors.add(truth, mask, output)
            return terms

        score = mean_over_samples(self.accelerator, pairs, samples, at_once, terms_of)
        self.rmse = None if self.data.grid is None else self.data.grid.std * errors.root_mean_square
        return score
