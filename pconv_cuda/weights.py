"""Weights as safetensors with their configuration: written whole or not at all, nothing unpickled."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import atomic_path

__all__ = ["BEST", "CONFIG", "FILE", "build", "fill", "load", "save", "save_file", "saved_step"]

FILE, CONFIG = "model.safetensors", "config.json"
BEST = "best.safetensors"  # in the folder of a training: the weights of its best checkpoint
_STEP = re.compile(r"step-(\d+)\.pt")  # a checkpoint of a training, in the folder checkpoints beside the weights
Model = TypeVar("Model", bound=nn.Module)


def save(state: dict[str, Tensor], config: dict[str, Any], folder: Path, step: int | None = None) -> Path:
    """Write ``model.safetensors`` and ``config.json`` into ``folder``. Returns the weights' path.

    Each file is written under a temporary name and renamed, so that a reader never meets half of one. ``step``: see
    :func:`save_file`.
    """
    save_file(state, config, folder / FILE, step)
    with atomic_path(folder / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder / FILE


def save_file(state: dict[str, Tensor], config: dict[str, Any], path: Path, step: int | None = None) -> None:
    """Write one ``.safetensors`` file that has its configuration, and the training step that it is of, with it.

    Equal tensors, configurations and steps make equal files.
    """
    safetensors = require("safetensors.torch", "inpaint", why="saving weights")
    # safetensors stores dense row-major tensors; a channels_last weight is copied.
    dense = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    metadata = {"format": "pt", "config": json.dumps(config, indent=2)}
    metadata |= {"step": str(step)} if step is not None else {}
    content = safetensors.save(dense, metadata=metadata)
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    header["__metadata__"] = dict(sorted(metadata.items()))  # the library writes them in an order of its own each time
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    with atomic_path(path) as partial, open(partial, "wb") as file:
        # its own save_file() makes files that nobody but the user can read, whatever the umask says
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(content)[length:])


def saved_step(path: Path) -> int | None:
    """The training step that a ``.safetensors`` file is of; None where it does not say, or is no such file."""
    safetensors = require("safetensors", "inpaint", why="loading weights")
    try:
        with safetensors.safe_open(str(path), framework="pt") as reader:
            return int((reader.metadata() or {})["step"])
    except (safetensors.SafetensorError, OSError, KeyError, ValueError):
        return None


def _warn_of_newer(file: Path) -> None:
    """Weights of a run whose training went on since: they are the older ones, which nobody expects."""
    step = saved_step(file)
    steps = [
        int(found[1]) for path in file.parent.glob("checkpoints/step-*.pt") if (found := _STEP.fullmatch(path.name))
    ]
    if step is not None and steps and max(steps) > step:
        warnings.warn(
            f"weights: {file} is of step {step}, but the training in {file.parent} went on to step {max(steps)} and "
            "was not finished; the same `pconv train` goes on and writes the newer weights",
            stacklevel=3,
        )


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``(state_dict, config)`` of a folder or of one file, whose metadata or neighbour config.json has the config.

    Raises:
        PConvError: what is missing or unreadable, with the path.
    """
    safetensors = require("safetensors", "inpaint", why="loading weights")
    file = path / FILE if path.is_dir() else path
    if file.name == FILE:
        _warn_of_newer(file)
    if not file.is_file():
        raise PConvError(f"weights: expected a folder with {FILE} or a .safetensors file, found none at {file}")
    try:
        with safetensors.safe_open(str(file), framework="pt") as reader:
            text = (reader.metadata() or {}).get("config")
            state = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise PConvError(f"weights: {file} is not a readable safetensors file ({error})") from error
    beside = file.parent / CONFIG
    if text is None and beside.is_file():
        text = beside.read_text(encoding="utf-8")
    if text is None:
        raise PConvError(f"weights: {file} carries no config, and there is no {CONFIG} beside it")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise PConvError(f"weights: the config of {file} is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise PConvError(f"weights: the config of {file} is expected to be a JSON object, got {type(config).__name__}")
    return state, config


def build(kind: type[Model], config: dict[str, Any], path: str | Path) -> Model:
    """``kind(**config)``, with an error that names the file where the config does not fit."""
    try:
        return kind(**config)
    except (TypeError, ValueError) as error:
        raise PConvError(f"weights: the config of {path} does not describe a {kind.__name__}: {error}") from error


def fill(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load ``state`` strictly; the error names the keys and shapes that differ."""
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise PConvError(f"weights: the tensors of {path} do not fit its config: {error}") from error
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise PConvError(f"weights: {path} holds NaN or infinity in {', '.join(bad[:3])}")
