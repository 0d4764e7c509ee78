"""The training loop: one process or many, any precision, resumable to the bit.

All that a step depends on is the weights, the optimiser and the step's number: its samples are
functions of (seed, step, sample), its learning rate and stage of the step. So a checkpoint is those
three, and a resumed run is the same run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_path
from pconv_cuda.locks import folder_lock
from pconv_cuda.models import InpaintingNetwork, weights
from pconv_cuda.models.prefill import filled
from pconv_cuda.progress import Progress
from pconv_cuda.training.checkpoints import CONFIGURATION, Checkpoints
from pconv_cuda.training.conditions import check_depth, make_accelerator, memory_errors
from pconv_cuda.training.config import TrainingConfig, flatten, to_yaml
from pconv_cuda.training.logs import RunLog, as_pictures, picture_grid
from pconv_cuda.training.networks import WeightAverage, build_network, build_optimizer, freeze_encoder_bn
from pconv_cuda.training.objective import HiddenErrors, Objective, mean_over_samples, mean_terms
from pconv_cuda.training.sources import Batch, RunData, loader_errors, open_data, training_batches

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """``steps`` done in all, ``first_step`` the number done before this call, ``terms`` of the last step."""

    run: Path
    steps: int
    first_step: int
    terms: dict[str, float]


def train(config: TrainingConfig, out: str | Path, resume: str = "auto") -> TrainingResult:
    """Trains by ``config`` into the folder ``out``: model.safetensors, config.json, checkpoints, logs.

    Args:
        config: what to train.
        out: folder of the run, made where it is missing.
        resume: "auto" goes on from the newest checkpoint in ``out``, if there is one; "never" starts
            afresh; anything else is a checkpoint, or the folder of a run, to go on from.

    Raises:
        PConvError: data that cannot be used, a checkpoint of another configuration, a device that
            lacks the precision, or a loss that is no longer a number (the last checkpoint is kept).
    """
    return _Run(config, Path(out), resume).execute()


class _Run:
    """One call of :func:`train`: its parts, and the steps in order."""

    def __init__(self, config: TrainingConfig, out: Path, resume: str) -> None:
        self.config, self.out, self.resume = config, out, resume
        self.accelerator = make_accelerator(config)
        self.data: RunData = open_data(config)
        self.checkpoints = Checkpoints(out, config.checkpoint.keep)
        self.identity = {**flatten(config), **self.data.identity}
        self.best_step, self.best_score = 0, float("inf")
        self.losses = [0.0, 0]  # their sum and number since the last score
        self.rmse: float | None = None  # of gridded data, of the last validation
        self._check_folder: Callable[[], None] = lambda: None
        check_depth(config, self.accelerator.num_processes)

    # ---- parts

    def _prepare(self, state: dict[str, Any] | None) -> None:
        """Network, loss and optimiser; from ``state`` where there is one."""
        config, device = self.config, self.accelerator.device
        network = build_network(config, self.data.grid)
        self.stage = config.stage_at(state["step"] if state is not None else 0)
        if self.stage == 2:
            freeze_encoder_bn(network)
        if self.data.grid is not None and config.loss.features:
            found = config.loss.features
            raise PConvError(f"config: loss.features: expected 0 for gridded data, VGG16 takes pictures, got {found}")
        self.objective = Objective(config, device, None if self.data.grid is None else "none")
        optimizer = build_optimizer(config, network, device)
        self.network = network
        self.average = WeightAverage(network.to(device), config.train.average) if config.train.average else None
        self.model, self.optimizer = self.accelerator.prepare(network, optimizer)
        if state is not None:
            try:
                network.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])
                if self.average is not None:
                    self.average.load(state["average"], state["step"])
                if self.accelerator.scaler is not None and state["scaler"] is not None:
                    self.accelerator.scaler.load_state_dict(state["scaler"])
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise PConvError(f"resume: the checkpoint of step {state['step']} does not fit: {error}") from error
            self.best_step, self.best_score = state["best_step"], state["best_score"]
            self.losses = list(state["losses"])

    def _set_stage(self, step: int) -> None:
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

    def _save(self, step: int, score: float | None) -> None:
        """A checkpoint after ``step`` steps; ``score`` decides whether it is the best so far.

        None at the end of a run that is no multiple of checkpoint.every: where a run is extended must not decide about
        its best checkpoint. Only until there is a score the last one counts as the best.
        """
        for name, value in self.network.state_dict().items():
            # a gradient may overflow where the loss did not: such weights must not replace good ones
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise PConvError(f"step {step}: the weights {name} are not finite; {self._last_good()}")
        if score is None and self.best_score == float("inf"):
            self.best_step = step
        elif score is not None and score < self.best_score:
            self.best_step, self.best_score = step, score
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            self.checkpoints.save(
                {
                    "step": step,
                    "model": self.network.state_dict(),
                    "average": None if self.average is None else self.average.network.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                    "identity": self.identity,
                    "best_step": self.best_step,
                    "best_score": self.best_score,
                    "losses": self.losses,
                    "network": self._written_config(),
                }
            )
        self.accelerator.wait_for_everyone()

    def _result(self) -> InpaintingNetwork:
        """The network that is judged and written."""
        return self.network if self.average is None else self.average.network

    def _written_config(self) -> dict[str, Any]:
        """Of crops alone a network may be trained by other padding than it is used with."""
        return {**self.network.config, **({} if self.data.grid is None else self.data.grid.written)}

    def _last_good(self) -> str:
        good = self.checkpoints.newest_good()
        return f"the last good checkpoint is {good}" if good else "there is no good checkpoint yet"

    def _write_weights(self, step: int) -> None:
        # also where the run was complete: the process before may have been killed just short of this
        if self.accelerator.is_main_process:
            self._check_folder()
            weights.save(self._result().state_dict(), self._written_config(), self.out, step)
        self.accelerator.wait_for_everyone()

    # ---- the work

    def execute(self) -> TrainingResult:
        with contextlib.ExitStack() as stack:
            if self.accelerator.is_main_process:
                self._check_folder = stack.enter_context(folder_lock(self.out))
            stack.enter_context(memory_errors(self.config))
            stack.enter_context(loader_errors())
            return self._execute()

    def _execute(self) -> TrainingResult:
        state = self.checkpoints.to_resume(self.resume, self.identity)
        first, last = (state["step"] if state else 0), self.config.train.steps
        main = self.accelerator.is_main_process
        if main:
            self.checkpoints.refuse_replacing(self.resume, self.config.checkpoint.every)
        self._prepare(state)  # all processes have read the folder when this is done
        if main:
            self.checkpoints.make_folder()
            if state is not None and self.checkpoints.path_of(first).exists():
                self.checkpoints.mark_best(state)
            self.checkpoints.tidy(first)
        terms: dict[str, float] = {}
        with Progress("step", max(last, first), first, self.config.log.every, enabled=main) as progress:
            if first >= last:
                more = f", more than the {last} of train.steps" if first > last else ""
                progress.say(f"complete: {first} steps are done in {self.out}{more}")
            else:
                progress.say(f"resumed after step {first}" if first else "started afresh")
                if (grid := self.data.grid) is not None:
                    progress.say(f"mean {grid.mean:.6g}, standard deviation {grid.std:.6g} {grid.unit}".rstrip())
                    if self.config.loss.vgg != "none" and self.config.loss.hole_steps is not None:
                        progress.say("loss.vgg: no perceptual and no style terms: VGG16 takes pictures of 3 channels")
                if main:
                    with atomic_path(self.out / CONFIGURATION) as temporary:
                        temporary.write_text(to_yaml(self.config), encoding="utf-8")
                try:
                    terms = self._steps(first, last, progress)
                except KeyboardInterrupt:
                    paths = self.checkpoints.paths()
                    progress.say(f"the newest checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet")
                    raise
            self._write_weights(max(first, last))
            progress.say(f"weights: {self.out / 'model.safetensors'}")
        self.accelerator.end_training()  # leaves the process group, where there is one
        return TrainingResult(self.out, max(first, last), first, terms)

    def _steps(self, first: int, last: int, progress: Progress) -> dict[str, float]:
        config, accelerator, main = self.config, self.accelerator, self.accelerator.is_main_process
        log = RunLog(self.out, first, config.log.tensorboard) if main else None
        micro_batches = training_batches(
            self.data.training,
            config,
            first,
            accelerator.device,
            accelerator.num_processes,
            accelerator.process_index,
        )
        terms: dict[str, float] = {}
        try:
            for step in range(first, last):
                self._set_stage(step)
                if 0 < step == config.loss.hole_steps:
                    self.losses = [0.0, 0]
                    if self.data.validation is None:  # training losses of two kinds cannot be compared
                        self.best_score = float("inf")
                terms = self._step(step, micro_batches, pictures=log)
                done, total = step + 1, sum(terms.values())
                self.losses = [self.losses[0] + total, self.losses[1] + 1]
                progress.advance(f"loss {total:.4f}")
                if log and (done % config.log.every == 0 or done == last):
                    self._check_folder()
                    speed = progress.speed * config.train.batch_size
                    numbers = {f"loss/{name}": value for name, value in terms.items()}
                    numbers |= {"loss/total": total, "lr": config.lr_at(step), "pictures_per_second": speed}
                    log.numbers(done, numbers)
                if done % config.checkpoint.every == 0 or done == last:
                    self._checkpoint(done, log)
                    if self.rmse is not None and main and done % config.checkpoint.every == 0:
                        unit = self.data.grid.unit if self.data.grid is not None else ""
                        progress.say(f"step {done}: error of hidden values {self.rmse:.4g} {unit}".rstrip())
        finally:
            micro_batches.close()  # the loader processes end now, whatever still refers to this
            if log:
                log.close()
        return terms

    def _checkpoint(self, done: int, log: RunLog | None) -> None:
        """After ``done`` steps: the score, where it is time for one, and a checkpoint."""
        if log:
            self._check_folder()  # before anything is written, since writing makes missing folders
        score = None
        if done % self.config.checkpoint.every == 0:
            # without pictures set aside the mean training loss since the last score decides
            score = self.losses[0] / self.losses[1]
            if self.data.validation is not None:
                score = self._validate(self.data.validation)
                if log:
                    unit = {} if self.rmse is None else {"validation/rmse": self.rmse}
                    log.numbers(done, {"validation/total": score, **unit})
            self.losses = [0.0, 0]
        self._save(done, score)

    def _step(self, step: int, micro_batches: Generator[Any, None, None], pictures: RunLog | None) -> dict[str, float]:
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

    def _validate(self, pairs: Dataset[Batch]) -> float:
        """Mean objective, all terms of it, over the samples set aside, the same ones each time.

        Of gridded data the root mean square error of the hidden values, in their unit, is kept beside it.
        """
        train, samples = self.config.train, self.config.data.validation_samples
        at_once = max(1, train.batch_size // (train.accumulate * self.accelerator.num_processes))
        network = self._result().eval()
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
