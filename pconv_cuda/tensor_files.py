"""Tensors from untrusted files: .safetensors and what torch.save writes.

Nothing but tensors and plain containers is unpickled, and nothing is allocated that the file cannot hold.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pconv_cuda.errors import PConvError, require

__all__ = [
    "check_size",
    "check_tensor",
    "describe",
    "load_safetensors",
    "load_tensors",
    "load_torch",
    "safetensors_shapes",
]

_GROWTH = 4  # how many times a file's size its tensors may take: some share their values
_SLACK = 2**20  # bytes, for small files
_DEPTH = 32  # of nested containers


def describe(path: Path) -> str:
    """The kind of a file by its first bytes, as text; ``""`` where it is unknown."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, which stands for the file itself: fetch it with `git lfs pull`"
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file (Keras)"
    if start.startswith(b"PK\x03\x04"):
        return "a Keras archive" if path.suffix == ".keras" else "a PyTorch checkpoint"
    if re.match(rb"\x80[\x02-\x05]", start):
        return "a PyTorch checkpoint of the old format, or another pickle"
    if re.match(rb"\s*<(!doctype|html)", start, re.IGNORECASE):
        return "a web page, perhaps the page about the file instead of the file"
    return ""


def check_size(declared: int, path: Path, argument: str) -> None:
    """PConvError where a file's tensors are said to be much larger than the file."""
    size = path.stat().st_size
    if declared > _GROWTH * size + _SLACK:
        raise PConvError(
            f"{argument}: {path} has {size:,} bytes and declares tensors of {declared:,}: it is damaged or made to harm"
        )


def check_tensor(name: str, tensor: Tensor, path: Path, argument: str) -> None:
    """PConvError for what is no dense tensor of numbers in memory."""
    dense = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_nested or tensor.is_meta)
    if not dense or tensor.dtype.is_complex or type(tensor) not in (Tensor, torch.nn.Parameter):
        kind = tensor.dtype if tensor.dtype.is_complex else f"a {tensor.layout} {type(tensor).__name__}"
        raise PConvError(f"{argument}: {path}: {name}: expected a dense tensor of real numbers, got {kind}")


# .safetensors ------------------------------------------------------------------------------------------------


def _reader(path: Path, argument: str) -> Any:
    safetensors = require("safetensors", "inpaint", why="reading .safetensors")
    try:
        return safetensors.safe_open(str(path), framework="pt")
    except safetensors.SafetensorError as error:
        what = describe(path)
        reason = f"it is {what}" if what else str(error)
        raise PConvError(f"{argument}: {path} is not a readable safetensors file ({reason})") from error


def safetensors_shapes(path: Path, argument: str) -> tuple[dict[str, tuple[int, ...]], str | None]:
    """The shape of each tensor, and the metadata's config; no tensor is read."""
    with _reader(path, argument) as reader:
        shapes = {name: tuple(reader.get_slice(name).get_shape()) for name in reader.keys()}  # noqa: SIM118 (no dict)
        return shapes, (reader.metadata() or {}).get("config")


def load_safetensors(path: Path, argument: str) -> dict[str, Tensor]:
    """All tensors of a file.

    Raises:
        PConvError: offsets or sizes that do not fit the file, or another kind of file; the message begins with
            ``argument``.
    """
    with _reader(path, argument) as reader:
        state = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 (not a dict)
    for name, tensor in state.items():
        check_tensor(name, tensor, path, argument)
    return state


# torch.save --------------------------------------------------------------------------------------------------


def load_torch(path: Path, argument: str) -> Any:
    """What ``torch.save`` wrote: tensors on the CPU in plain containers.

    Raises:
        PConvError: another kind of file, Python objects beside the tensors, tensors larger than the file; the message
            begins with ``argument``.
    """
    try:
        archive = zipfile.is_zipfile(path)
        if archive:
            _check_archive(path, argument)
        # Mapped, a tensor that is said to be larger than its record ends at the file's end instead of outside it.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except PConvError:
        raise
    except Exception as error:  # a pickle may raise anything
        raise PConvError(f"{argument}: {path} {_reason(error, path)}") from error
    declared = 0
    for name, tensor in _tensors(content, "", 0):
        check_tensor(name or "the tensor", tensor, path, argument)
        declared += tensor.numel() * tensor.element_size()
    check_size(declared, path, argument)
    return content


def load_tensors(path: Path, argument: str) -> dict[str, Any]:
    """The dictionary in a .safetensors file or in what ``torch.save`` wrote: tensors, or nested containers of them.

    Raises:
        PConvError: no such file, what :func:`load_safetensors` and :func:`load_torch` refuse, or no dictionary; the
            message begins with ``argument``.
    """
    if not path.is_file():
        raise PConvError(f"{argument}: expected a file of weights, but {path} is no file")
    if path.suffix == ".safetensors":
        return dict(load_safetensors(path, argument))
    content = load_torch(path, argument)
    if not isinstance(content, dict):
        raise PConvError(f"{argument}: expected a file of weights, but {path} holds {type(content).__name__}")
    return content


def _check_archive(path: Path, argument: str) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename.rpartition("/")[2] for entry in entries]
    if "constants.pkl" in names:
        raise PConvError(f"{argument}: {path} is a TorchScript program, not a checkpoint; save its state_dict() alone")
    if "data.pkl" not in names:
        raise PConvError(f"{argument}: {path} is a zip archive, but none of torch.save")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):  # torch.save compresses nothing
        raise PConvError(f"{argument}: {path} is compressed, which torch.save never does; unpack it first")


def _tensors(content: Any, name: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif depth < _DEPTH and isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key), depth + 1)
    elif depth < _DEPTH and isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _tensors(value, f"{name}[{index}]", depth + 1)


def _reason(error: Exception, path: Path) -> str:
    """In one sentence, without torch's advice to unpickle everything."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]{1,100})", text):
        return (
            f"holds Python objects ({found[1]}) beside its tensors, and nothing but tensors is unpickled here; where "
            "you trust it, load it with the code that it came from and save its state_dict() alone"
        )
    what = describe(path) if path.is_file() else ""
    if what and "PyTorch" not in what:
        return f"is {what}"
    first = text.strip().partition("\n")[0].partition(". ")[0]
    if not first or "weights_only" in text or "Weights only" in text:
        return "cannot be read as a checkpoint of tensors alone: it is damaged, cut short or holds Python objects"
    return f"cannot be read as a checkpoint ({first})"
