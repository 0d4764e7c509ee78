"""From a checkpoint file to a folder that ``PConvUNet.from_pretrained`` takes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pconv_cuda.convert.folding import fold
from pconv_cuda.convert.formats import FORMATS, recognise
from pconv_cuda.convert.keras import read_keras
from pconv_cuda.convert.reading import H5_SUFFIXES, read_h5, read_tensors
from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_path, os_error_text
from pconv_cuda.models import PConvUNet, weights
from pconv_cuda.models.wrap import Mode, padding_mode_of
from pconv_cuda.text import brief

__all__ = ["Conversion", "convert"]

_NOTE = "conversion.json"


@dataclass(frozen=True)
class Conversion:
    """``source``: the format; ``config``, ``state`` (float64) of the PConvUNet; ``notes``: sentences for people."""

    source: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    notes: list[str]


def convert(
    file: str | Path,
    out: str | Path | None = None,
    *,
    format: str = "auto",
    levels: int | None = None,
    padding_mode: Mode = "zeros",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Conversion:
    """Read a checkpoint of another implementation; write model.safetensors, config.json and conversion.json.

    Args:
        file: of ``torch.save`` (a state dict, or one nested in a checkpoint), .safetensors, or Keras's .h5.
        out: folder to write to: one that holds no network yet, or an earlier conversion of the same file, which is
            replaced; None writes nothing.
        format: one of :data:`FORMATS`, or ``"auto"``: recognised by key names.
        levels: of tanimutomo's network, whose files hold levels that are not in use.
        padding_mode: of the network, which no file tells: :class:`pconv_cuda.PConvUNet`'s, ``("zeros", "circular")``
            for one that was trained with longitudes that go round.
        mean, std: of each channel of the data that climatereconstructionAI's network was trained with, where it
            normalised them. Default: 0 and 1.

    Raises:
        PConvError: a file that cannot be read without running its code, of no known network, or of a topology that
            PConvUNet does not have; a folder that holds another network. Nothing is written then.
    """
    path = Path(file)
    if format not in ("auto", *FORMATS):
        raise PConvError(f"format: expected auto or one of {', '.join(FORMATS)}, got {format!r}")
    try:
        padding_mode = padding_mode_of(padding_mode)
    except ValueError as error:
        raise PConvError(str(error)) from None
    if out is not None:
        _refuse_replacing(Path(out), path)
    h5 = path.suffix.lower() in H5_SUFFIXES
    if h5 and format not in ("auto", "keras") or not h5 and format == "keras":
        wanted = "expected auto or keras for an .h5 file" if h5 else "expected an .h5 file for keras"
        raise PConvError(f"format: {wanted}, got {format!r} and {path}")
    network = read_keras(read_h5(path)) if h5 else recognise(read_tensors(path), format, levels)
    if levels is not None and network.source != "tanimutomo":
        raise PConvError(f"levels: the file tells how many levels {network.source}'s network has; leave it out")
    for name, given in (("mean", mean), ("std", std)):
        if given is None:
            continue
        if network.values != "data":
            raise PConvError(f"{name}: {network.source}'s networks have their own; leave it out")
        values = tuple(float(value) for value in given)
        if len(values) != network.encoder[0].weight.shape[1] or not all(map(math.isfinite, values)):
            channels = network.encoder[0].weight.shape[1]
            raise PConvError(f"{name}: expected {channels} finite numbers, one a channel, got {values}")
        setattr(network, name, values)
    network.padding_mode = padding_mode
    config, state = fold(network)
    bad = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise PConvError(f"file: {path} holds NaN or infinity in {', '.join(bad[:3])}")
    negative = [name for name, tensor in state.items() if name.endswith("running_var") and bool((tensor < 0).any())]
    if negative:
        raise PConvError(f"file: {path} has a negative variance in {', '.join(negative[:3])}")
    if out is not None:
        _write(Path(out), path, network.source, config, state, network.notes)
    return Conversion(network.source, config, state, network.notes)


def _refuse_replacing(out: Path, file: Path) -> None:
    """A training run, or another file's conversion, would be lost."""
    of_run = [name for name in (weights.BEST, "checkpoints") if (out / name).exists()]
    there = [name for name in (weights.FILE, weights.CONFIG) if (out / name).exists()] + of_run
    expected = f"out: expected a folder without a network, or one with a conversion of {file.name}, got {out}"
    if there and (of_run or not (out / _NOTE).exists()):
        raise PConvError(f"{expected}, which holds {', '.join(there)}")
    if (out / _NOTE).exists() and (converted := _converted(out / _NOTE)) != file.name:
        raise PConvError(f"{expected}, which holds that of {brief(converted)}")


def _converted(note: Path) -> Any:
    """Which file a conversion.json is of; None where it does not say."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(
    out: Path, file: Path, source: str, config: dict[str, Any], state: dict[str, Tensor], notes: list[str]
) -> None:
    model = PConvUNet(**config)
    weights.fill(model, state, file)  # rounds to float32, once
    try:
        model.save_pretrained(out)
        with atomic_path(out / _NOTE) as partial:
            text = json.dumps({"file": file.name, "format": source, "notes": notes}, indent=2)
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise PConvError(f"out: {out} cannot be written ({os_error_text(error)})") from error
