"""From the configuration to the pictures and masks of a run."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

import torch
from torch.utils.data import Dataset

from pconv_cuda.data.images import FolderImages, ImageSource, MemoryImages
from pconv_cuda.data.packaged import packaged_images, split
from pconv_cuda.documents import DamageMasks, DocumentPages
from pconv_cuda.errors import PConvError
from pconv_cuda.files import system_error_text
from pconv_cuda.masks import KINDS, DrawnMasks, FolderMasks, MaskSource
from pconv_cuda.signals import outlive_signals, shield_fork_server
from pconv_cuda.training.conditions import loader_count
from pconv_cuda.training.grids import GridFacts, GridPairs, GridSteps, facts_of, is_grid, open_steps, split_steps
from pconv_cuda.training.options import TrainingConfig
from pconv_cuda.training.pairs import Pairs, StepBatches

__all__ = ["RunData", "is_loader_error", "loader_errors", "open_data", "training_batches"]


# pictures (N, 3, S, S) float32 in [0, 1], masks (N, 1, S, S) bool; of gridded data as GridPairs has them
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class RunData:
    """``validation`` is None where no pictures were set aside; ``identity`` says what the data are."""

    training: Dataset[Batch]
    validation: Dataset[Batch] | None
    identity: dict[str, str]
    grid: GridFacts | None = None


def _masks(config: TrainingConfig) -> MaskSource:
    if config.data.masks == "damage":
        return DamageMasks(config.data.hole_share)
    if config.data.masks in KINDS:
        return DrawnMasks(config.data.masks, config.data.hole_share)
    return FolderMasks(config.data.masks, config.data.polarity)


def open_data(config: TrainingConfig) -> RunData:
    """Finds the pictures and masks that ``config.data`` names.

    Raises:
        PConvError: a folder that is missing or empty; the message says what was looked for.
    """
    data, train = config.data, config.train
    if is_grid(data.images):
        return _open_grid(config)
    ours = {"data.variable": data.variable, "data.time_steps": data.time_steps, "data.wrap": data.wrap}
    for key, value in {**ours, "model.tension": config.model.tension}.items():
        if value is not None:
            raise PConvError(f"config: {key}: expected null but for a file of gridded data, got {value!r}")
    if data.masks == "observed":
        raise PConvError(f"config: data.masks: observed is for a file of gridded data, got data.images {data.images!r}")
    validation: ImageSource | None = None
    images: ImageSource
    if data.images == "packaged":
        seen, unseen = split(packaged_images())
        images = MemoryImages([one.array for one in seen], [one.name for one in seen])
        validation = MemoryImages([one.array for one in unseen], [one.name for one in unseen])
    elif data.images == "documents":
        # crops cover three quarters of a page on average: at this size they are about at its own scale
        page = max(1, round(data.size * 4 / 3))
        images = DocumentPages(page, train.seed)
        validation = DocumentPages(page, train.seed + 1, data.validation_samples)
    else:
        images = FolderImages(data.images)
    if data.validation is not None:
        validation = FolderImages(data.validation, "data.validation")
    masks = _masks(config)
    identity = {"content of data.images": images.fingerprint, "content of data.masks": masks.fingerprint}
    if validation is not None:
        identity["content of data.validation"] = validation.fingerprint
    set_aside = None
    if validation is not None:
        # a seed apart, so that no training step ever sees the validation's masks
        set_aside = Pairs(validation, masks, data.size, data.validation_samples, train.seed + 1, data.crop_share)
    training = Pairs(images, masks, data.size, train.batch_size, train.seed, data.crop_share)
    return RunData(training, set_aside, identity)


def _open_grid(config: TrainingConfig) -> RunData:
    data, train = config.data, config.train
    steps = open_steps(data.images, data.variable, data.wrap)
    if data.validation is not None:
        seen: GridSteps = steps
        unseen: GridSteps | None = open_steps(
            data.validation, data.variable, data.wrap, "data.validation", like=steps.name
        )
    else:
        seen, unseen = split_steps(steps)
    facts = facts_of(seen, config)
    gaps, masks, masks_name = seen, None, "observed"
    if is_grid(data.masks):
        gaps = open_steps(data.masks, None, data.wrap, "data.masks", like=steps.name)
        masks_name = gaps.fingerprint
    elif data.masks != "observed":
        masks = _masks(config)
        masks_name = masks.fingerprint
    identity = {"content of data.images": steps.fingerprint, "content of data.masks": masks_name}
    set_aside = None
    if unseen is not None:
        identity["content of data.validation"] = unseen.fingerprint
        set_aside = GridPairs(unseen, facts, masks, gaps, data.size, data.validation_samples, train.seed + 1)
    training = GridPairs(seen, facts, masks, gaps, data.size, train.batch_size, train.seed)
    return RunData(training, set_aside, identity, facts)


def _prepare_loader(worker: int) -> None:
    outlive_signals()
    torch.set_num_threads(1)  # the loaders must not compete with the training for every core
    sys.excepthook = _report_in_loader


def _report_in_loader(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    """A training that is interrupted drops its connections, of which multiprocessing's thread makes a traceback."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, value, trace)


def training_batches(
    pairs: Dataset[Batch], config: TrainingConfig, first: int, device: torch.device, processes: int = 1, rank: int = 0
) -> Generator[Batch, None, None]:
    """Micro-batches of this process from step ``first`` to the end: (picture, mask) as in :class:`Pairs`.

    Raises:
        PConvError: the batch cannot be divided evenly.
    """
    train = config.train
    if train.batch_size % (train.accumulate * processes):
        raise PConvError(
            f"train.batch_size: expected a multiple of {processes} processes x train.accumulate "
            f"({train.accumulate}), got {train.batch_size}; it counts the pictures of a step over all of them"
        )
    workers = loader_count(config.data.workers)
    if workers:
        shield_fork_server()
    steps = StepBatches(first, train.steps, train.batch_size, train.accumulate, processes, rank)
    loader = torch.utils.data.DataLoader(
        pairs,
        batch_sampler=steps,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_prepare_loader,
    )
    return _errors_without_traceback(loader)


def _errors_without_traceback(batches: Iterable[Batch]) -> Generator[Batch, None, None]:
    """A loader process puts its traceback into the message of our errors: the last line is for people."""
    try:
        yield from batches
    except PConvError as error:
        message = str(error).strip().splitlines()[-1]
        raise PConvError(message.removeprefix("pconv_cuda.errors.PConvError: ")) from None
    except (ConnectionError, EOFError) as error:  # a process ended while it was handing a batch over
        raise RuntimeError(f"DataLoader worker ended: {error}") from error


def is_loader_error(error: BaseException) -> bool:
    """Whether a loader process has died."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


@contextlib.contextmanager
def loader_errors() -> Iterator[None]:
    """A loader process that died is an error with its remedies; torch tells it wherever the training then is."""
    try:
        yield
    except RuntimeError as error:
        if not is_loader_error(error):
            raise
        time.sleep(0.5)  # a signal to all processes of the command reaches this one too, and is the better reason
        raise PConvError(system_error_text(error)) from error
