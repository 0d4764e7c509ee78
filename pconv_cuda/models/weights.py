"""Weights as safetensors with their configuration: written atomically, never unpickled.

What is read is compared with its configuration by shapes alone before anything of its size is allocated.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pconv_cuda import hub
from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import atomic_path
from pconv_cuda.tensor_files import describe, load_safetensors, safetensors_shapes
from pconv_cuda.text import brief

__all__ = ["BEST", "CONFIG", "FILE", "build", "fill", "find", "load", "save", "save_file", "saved_step"]

FILE, CONFIG = "model.safetensors", "config.json"
BEST = "best.safetensors"  # in the folder of a training: the weights of its best checkpoint
PRETRAINED = Path(__file__).parents[1] / "pretrained"  # weights that come with the package, by name
_STEP = re.compile(r"step-(\d+)\.pt")  # a checkpoint of a training, in the folder checkpoints beside the weights
_FOREIGN = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".h5", ".hdf5", ".keras")
_CONFIG_BYTES = 2**20
Model = TypeVar("Model", bound=nn.Module)


def save(state: dict[str, Tensor], config: dict[str, Any], folder: Path, step: int | None = None) -> Path:
    """Write ``model.safetensors`` and ``config.json`` into ``folder``. Returns the weights' path.

    Each file is written under a temporary name and renamed, so that a reader never sees half of one. ``step``: see
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
        # its save_file() makes files that only the user can read, whatever the umask
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
    """Warns where the training went on since these weights were written."""
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


def find(given: str | Path) -> Path:
    """The .safetensors file that a path means: itself, the one in a folder, of the package by name, of a hub.

    Raises:
        PConvError: what it is instead, and what to do.
    """
    if not isinstance(given, str | Path):
        raise PConvError(f"weights: expected a path or a name, got {type(given).__name__}")
    path = Path(given)
    wanted = f"expected a folder with {FILE} or a .safetensors file"
    if path.is_dir():
        if (path / FILE).is_file():
            return path / FILE
        others = sorted(each for each in path.iterdir() if each.suffix.lower() in (".safetensors", *_FOREIGN))
        if not others:
            raise PConvError(f"weights: {wanted}, found none at {path / FILE}")
        remedy = "name that file" if others[0].suffix == ".safetensors" else f"pconv convert {others[0]} -o OUT"
        raise PConvError(f"weights: {wanted}, found none at {path / FILE}, but {others[0].name} beside it: {remedy}")
    if not path.exists():
        packaged = PRETRAINED / f"{path}.safetensors"
        if len(path.parts) == 1 and packaged.is_file():
            return packaged
        if hub.is_repository(given):
            return hub.download(str(given), (FILE, CONFIG))
        raise PConvError(f"weights: {wanted}, but {path} does not exist")
    if not path.is_file():
        raise PConvError(f"weights: {wanted}, but {path} is neither a file nor a folder")
    run = path.parent.parent
    if path.parent.name == "checkpoints" and (path.name == "best.pt" or _STEP.fullmatch(path.name)):
        raise PConvError(
            f"weights: {wanted}, but {path} is a checkpoint of pconv train; {run / BEST} holds the weights of the best "
            f"one, {run / FILE} the last ones"
        )
    what = describe(path)
    if "PyTorch" in what or "Keras" in what or (not what and path.suffix.lower() in _FOREIGN):
        kind = what or f"a {path.suffix} file"
        raise PConvError(f"weights: {wanted}, but {path} is {kind}; convert it: pconv convert {path} -o OUT")
    if what:
        raise PConvError(f"weights: {wanted}, but {path} is {what}")
    return path


def load(path: str | Path, kinds: Mapping[str, type[Model]]) -> Model:
    """The model of a folder or of one file, whose metadata or neighbour config.json has the config.

    Args:
        path: folder or file.
        kinds: the classes that are wanted, by the name that the config's "network" gives them ("unet" if none).

    Raises:
        PConvError: what is missing, unreadable or does not fit, or a network of another class, with the path.
    """
    file = find(path)
    if file.name == FILE:
        _warn_of_newer(file)
    shapes, text = safetensors_shapes(file, "weights")
    config = _config(file, text)
    name = config.pop("network", "unet")
    if not isinstance(name, str) or name not in kinds:
        names = " or ".join(f"{each} ({kind.__name__})" for each, kind in kinds.items())
        raise PConvError(f"weights: expected the weights of a {names}, but {path} holds those of {brief(name)}")
    kind = kinds[name]
    try:
        with torch.device("meta"):  # no memory, however large the config says
            wanted = build(kind, config, path).state_dict()
    except (RuntimeError, OverflowError, MemoryError) as error:  # sizes beyond 64 bits
        raise PConvError(f"weights: the config of {path} describes a {kind.__name__} too large for memory") from error
    _compare(shapes, {name: tuple(tensor.shape) for name, tensor in wanted.items()}, Path(path))
    model = build(kind, config, path)
    fill(model, load_safetensors(file, "weights"), path)
    return model


def _config(file: Path, text: str | None) -> dict[str, Any]:
    beside = file.parent / CONFIG
    try:
        if text is None and beside.is_file():
            if beside.stat().st_size > _CONFIG_BYTES:
                raise PConvError(f"weights: {beside} is expected to be small, got {beside.stat().st_size:,} bytes")
            text = beside.read_text(encoding="utf-8")
        if text is None:
            raise PConvError(f"weights: {file} carries no config, and there is no {CONFIG} beside it")
        config = json.loads(text)
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8, and numbers of 5,000 digits
        raise PConvError(f"weights: the config of {file} is not valid JSON ({_short(error)})") from error
    if not isinstance(config, dict):
        raise PConvError(f"weights: the config of {file} is expected to be a JSON object, got {type(config).__name__}")
    return config


def _compare(found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], path: Path) -> None:
    """Shapes against shapes; keys that a layer drops when it loads are not looked at."""
    from pconv_cuda.layer_parts import MASK_FILTERS

    found = {name: shape for name, shape in found.items() if name.rpartition(".")[2] not in MASK_FILTERS}
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not a part of it" for name in found if name not in wanted]
    problems += [
        f"{name}: expected shape {shape}, got {found[name]}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise PConvError(f"weights: the tensors of {path} do not fit its config: {'; '.join(problems[:3])}{more}")


def build(kind: type[Model], config: dict[str, Any], path: str | Path) -> Model:
    """``kind(**config)``, with an error that names the file where the config does not fit."""
    try:
        return kind(**config)
    except (TypeError, ValueError) as error:
        raise PConvError(
            f"weights: the config of {path} does not describe a {kind.__name__}: {_short(error)}"
        ) from error


def fill(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load ``state`` strictly; the error names the keys, shapes and kinds of numbers that differ."""
    own = model.state_dict()
    odd = [name for name in own if name in state and state[name].is_floating_point() != own[name].is_floating_point()]
    if odd:
        raise PConvError(f"weights: {path}: {odd[0]}: expected {own[odd[0]].dtype}, got {state[odd[0]].dtype}")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise PConvError(f"weights: the tensors of {path} do not fit its config: {error}") from error
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise PConvError(f"weights: {path} holds NaN or infinity in {', '.join(bad[:3])}")


def _short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) < 300 else text[:300] + " ..."
