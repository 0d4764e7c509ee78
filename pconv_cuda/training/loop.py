"""The training loop: one process or many, any precision, resumable to the bit.

All that a step depends on is the weights, the optimiser and the step's number: its samples are
functions of (seed, step, sample), its learning rate and stage of the step. So a checkpoint is those
three, and a resumed run is the same run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pconv_cuda.files import atomic_path
from pconv_cuda.locks import folder_lock
from pconv_cuda.models import weights
from pconv_cuda.progress import Progress
from pconv_cuda.signals import Postponed, postponed_signals
from pconv_cuda.training.checkpoints import CONFIGURATION, Checkpoints
from pconv_cuda.training.conditions import check_depth, make_accelerator, memory_errors
from pconv_cuda.training.config import TrainingConfig, flatten, to_yaml
from pconv_cuda.training.learner import Learner
from pconv_cuda.training.logs import RunLog
from pconv_cuda.training.sources import RunData, is_loader_error, loader_errors, open_data, training_batches

__all__ = ["TrainingResult", "train"]

_ENDING = "interrupted: a checkpoint follows when this step is done; another signal ends the training at once"


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
        self._check_folder: Callable[[], None] = lambda: None
        check_depth(config, self.accelerator.num_processes)

    # ---- parts

    def _save(self, step: int, score: float | None) -> None:
        """A checkpoint after ``step`` steps; ``score`` decides whether it is the best so far.

        None at the end of a run that is no multiple of checkpoint.every: where a run is extended must not decide about
        its best checkpoint. Only until there is a score the last one counts as the best.
        """
        state = self.learner.state(step)
        if score is None and self.best_score == float("inf"):
            self.best_step = step
        elif score is not None and score < self.best_score:
            self.best_step, self.best_score = step, score
        if self.accelerator.is_main_process:
            self.checkpoints.save(
                {
                    **state,
                    "identity": self.identity,
                    "best_step": self.best_step,
                    "best_score": self.best_score,
                    "losses": self.losses,
                    "network": self.learner.written_config(),
                }
            )
        self.accelerator.wait_for_everyone()

    def _write_weights(self, step: int) -> None:
        # also where the run was complete: the process before may have been killed just short of this
        if self.accelerator.is_main_process:
            self._check_folder()
            weights.save(self.learner.result().state_dict(), self.learner.written_config(), self.out, step)
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
        self.learner = Learner(self.config, self.data, self.accelerator, state, self.checkpoints.last_good)
        if state is not None:
            self.best_step, self.best_score = state["best_step"], state["best_score"]
            self.losses = list(state["losses"])
        # all processes have read the folder when this is done
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
                    terms = self._interruptible_steps(first, last, progress)
                except KeyboardInterrupt:
                    paths = self.checkpoints.paths()
                    progress.say(f"the newest checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet")
                    raise
            self._write_weights(max(first, last))
            progress.say(f"weights: {self.out / 'model.safetensors'}")
        self.accelerator.end_training()  # leaves the process group, where there is one
        return TrainingResult(self.out, max(first, last), first, terms)

    def _interruptible_steps(self, first: int, last: int, progress: Progress) -> dict[str, float]:
        with postponed_signals(lambda: progress.say(_ENDING)) as signals:
            try:
                return self._steps(first, last, progress, signals)
            except Exception as error:
                # a loader process that the same signal has ended is no news
                if signals.number and not is_loader_error(error):
                    progress.say(f"the step or its checkpoint failed: {type(error).__name__}: {error}")
                raise

    def _steps(self, first: int, last: int, progress: Progress, signals: Postponed) -> dict[str, float]:
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
                self.learner.set_stage(step)
                if 0 < step == config.loss.hole_steps:
                    self.losses = [0.0, 0]
                    if self.data.validation is None:  # training losses of two kinds cannot be compared
                        self.best_score = float("inf")
                terms = self.learner.step(step, micro_batches, pictures=log)
                done, total = step + 1, sum(terms.values())
                self.losses = [self.losses[0] + total, self.losses[1] + 1]
                progress.advance(f"loss {total:.4f}")
                if log and (done % config.log.every == 0 or done == last):
                    self._check_folder()
                    speed = progress.speed * config.train.batch_size
                    numbers = {f"loss/{name}": value for name, value in terms.items()}
                    numbers |= {"loss/total": total, "lr": config.lr_at(step), "pictures_per_second": speed}
                    log.numbers(done, numbers)
                number = self._asked_to_end(signals)
                if done % config.checkpoint.every == 0 or done == last or number:
                    self._checkpoint(done, log, asked=number != 0)
                    if self.learner.rmse is not None and main and done % config.checkpoint.every == 0:
                        unit = self.data.grid.unit if self.data.grid is not None else ""
                        progress.say(f"step {done}: error of hidden values {self.learner.rmse:.4g} {unit}".rstrip())
                if number:
                    signals.answer(number)
        finally:
            micro_batches.close()  # the loader processes end now, whatever still refers to this
            if log:
                log.close()
        return terms

    def _asked_to_end(self, signals: Postponed) -> int:
        """Number of a signal that this process or another one of the training got, 0 for none.

        A launcher's processes get theirs in different steps, and all of them have to end after the same one.
        """
        if self.accelerator.num_processes == 1:
            return signals.number
        own = torch.tensor([signals.number], device=self.accelerator.device)
        return int(self.accelerator.gather(own).max())

    def _checkpoint(self, done: int, log: RunLog | None, asked: bool) -> None:
        """After ``done`` steps: the score, where it is time for one, and a checkpoint; ``asked``: by a signal."""
        if log:
            self._check_folder()  # before anything is written, since writing makes missing folders
        score = None
        if done % self.config.checkpoint.every == 0:
            # without pictures set aside the mean training loss since the last score decides
            score = self.losses[0] / self.losses[1]
            self.losses = [0.0, 0]
            if self.data.validation is not None:
                if asked:  # pictures set aside may take longer than the signal waits
                    self._save(done, None)
                score = self.learner.validate(self.data.validation)
                if log:
                    unit = {} if self.learner.rmse is None else {"validation/rmse": self.learner.rmse}
                    log.numbers(done, {"validation/total": score, **unit})
        self._save(done, score)
