"""Weights as safetensors with their configuration: written whole or not at all, nothing unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import atomic_path

__all__ = ["build", "fill", "load", "save"]

FILE, CONFIG = "model.safetensors", "config.json"
Model = TypeVar("Model", bound=nn.Module)


def save(state: dict[str, Tensor], config: dict[str, Any], folder: Path) -> Path:
    """Write ``model.safetensors`` and ``config.json`` into ``folder``. Returns the weights' path.

    Each file is written under a temporary name and renamed, so that a reader never meets half of one.
    """
    safetensors = require("safetensors.torch", "inpaint", why="saving weights")
    text = json.dumps(config, indent=2)
    # safetensors stores dense row-major tensors; a channels_last weight is copied.
    dense = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    with atomic_path(folder / FILE) as partial:
        # its own save_file() makes files that nobody but the user can read, whatever the umask says
        partial.write_bytes(safetensors.save(dense, metadata={"format": "pt", "config": text}))
    with atomic_path(folder / CONFIG) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return folder / FILE


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``(state_dict, config)`` of a folder or of one file, whose metadata or neighbour config.json has the config.

    Raises:
        PConvError: what is missing or unreadable, with the path.
    """
    safetensors = require("safetensors", "inpaint", why="loading weights")
    file = path / FILE if path.is_dir() else path
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
