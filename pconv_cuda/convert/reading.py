"""The state dict in a checkpoint, and the weights in an HDF5 file. No file can run code here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pconv_cuda.errors import PConvError, require
from pconv_cuda.tensor_files import describe, load_tensors

__all__ = ["H5_SUFFIXES", "read_h5", "read_tensors"]

H5_SUFFIXES = (".h5", ".hdf5", ".keras")
_NESTS = ("state_dict", "model_state_dict", "model", "generator", "net", "network", "ema", "params")
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_DEPTH = 3
_COMPRESSION = 64  # how many times its stored size a dataset may be


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or in a checkpoint of ``torch.save``, nested ones too.

    Raises:
        PConvError: no such file, no checkpoint, one with Python objects beside its tensors, or without tensors.
    """
    content = load_tensors(path, "file")
    if path.suffix == ".safetensors":
        return _unwrapped(content)
    content = _last_of_labels(content)
    found = list(_state_dicts(content, ()))
    if not found:
        kinds = ", ".join(map(str, list(content)[:6]))
        raise PConvError(f"file: no state_dict of convolutions in {path}; it holds {kinds}")
    # The named nests first; of several the one with the most convolutions (an EMA copy has as many: the first wins).
    _, state = min(found, key=lambda entry: (_rank(entry[0]), -_convolutions(entry[1])))
    return _unwrapped(state)


def _last_of_labels(content: dict[str, Any]) -> dict[str, Any]:
    """Of several named states, as climatereconstructionAI keeps them, the last: the one that its loader takes."""
    labels = content.get("labels")
    if isinstance(labels, list) and labels and isinstance(labels[-1], str):
        state = content.get(labels[-1])
        return state if isinstance(state, dict) else content
    return content


def _refuse_code(file: Any, path: Path) -> None:
    """A Keras model with code in a layer cannot be told by its weights."""
    config = file.attrs.get("model_config", "")
    text = config.decode("utf-8", "replace") if isinstance(config, bytes) else str(config)
    if re.search(r'"class_name":\s*"Lambda"', text):
        raise PConvError(
            f"file: {path} holds Python code (a Lambda layer), which is not run here; save the weights alone with "
            "save_weights()"
        )


def _state_dicts(content: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dictionary in ``content`` that holds weights of convolutions, with the keys that lead to it."""
    if not isinstance(content, Mapping) or len(path) > _DEPTH:
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if _convolutions(tensors):
        yield path, tensors
    for key, value in content.items():
        if isinstance(key, str):
            yield from _state_dicts(value, (*path, key))


def _convolutions(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.dim() == 4 for tensor in state.values())


def _rank(path: tuple[str, ...]) -> int:
    return _NESTS.index(path[-1]) + 1 if path and path[-1] in _NESTS else (0 if not path else len(_NESTS) + 1)


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the names of what the network was wrapped in: torch's, and one of _NESTS before all (Lightning)."""
    found = dict(state)
    while True:
        shorter = {_bare(name): tensor for name, tensor in found.items()}
        nests = {name.partition(".")[0] for name in shorter}
        if len(nests) == 1 and nests <= set(_NESTS) and all("." in name for name in shorter):
            shorter = {name.partition(".")[2]: tensor for name, tensor in shorter.items()}
        if len(shorter) < len(found):  # two names became one
            return found
        if shorter.keys() == found.keys():
            return found
        found = shorter


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def read_h5(path: Path) -> dict[str, Tensor]:
    """``layer/weight`` -> tensor, as Keras lays them out in memory, of a weights file or of a whole model's.

    Raises:
        PConvError: no such file, not HDF5, or nothing in it.
    """
    h5py = require("h5py", "convert", why="reading .h5")
    if not path.is_file():
        raise PConvError(f"file: expected a checkpoint, but {path} is no file")
    tensors: dict[str, Tensor] = {}
    size, declared = path.stat().st_size, 0

    def collect(name: str, item: Any) -> None:
        nonlocal declared
        parts = name.split("/")
        if isinstance(item, h5py.Dataset) and len(parts) >= 2 and "optimizer_weights" not in parts:
            if item.is_virtual or item.external:
                raise PConvError(f"file: {path}: {name} refers to another file; expected numbers in this one")
            if item.dtype.kind not in "fiu":
                raise PConvError(f"file: {path}: {name}: expected numbers, got {item.dtype}")
            declared += item.nbytes
            if declared > _COMPRESSION * size:
                raise PConvError(
                    f"file: {path} has {size:,} bytes and declares {declared:,} in {name} and before: it is damaged or "
                    "made to harm"
                )
            tensors[f"{parts[-2]}/{parts[-1].partition(':')[0]}"] = torch.from_numpy(item[()])

    try:
        with h5py.File(path, "r") as file:
            _refuse_code(file, path)
            file.visititems(collect)
    except (OSError, TypeError, ValueError, RuntimeError, KeyError, MemoryError) as error:
        what = describe(path)
        reason = f"it is {what}" if what and "HDF5" not in what else str(error)
        raise PConvError(f"file: {path} is not a readable HDF5 file of numbers ({reason})") from error
    if not tensors:
        raise PConvError(f"file: no weights in {path}")
    return tensors
