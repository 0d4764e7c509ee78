"""The configuration of a training run: dataclasses, YAML files, overrides.

The defaults are the paper's recipe (Liu et al. 2018, sections 3.3 and 4.1) at 512 x 512 pixels.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pconv_cuda.errors import PConvError, require
from pconv_cuda.text import brief
from pconv_cuda.training.safe_yaml import parse_yaml, read_limited

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "LogConfig",
    "LossConfig",
    "ModelConfig",
    "TrainConfig",
    "TrainingConfig",
    "flatten",
    "load_config",
    "to_yaml",
]


def _key(
    default: Any,
    about: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    one_of=(),
) -> Any:
    """A field with its line of help and its limits: ``least`` and ``most`` are allowed, ``above`` is not."""
    limits = {"least": least, "most": most, "above": above, "one_of": one_of}
    return field(default=default, metadata={"about": about, **limits})


@dataclass(frozen=True)
class ModelConfig:
    levels: int = _key(8, "depth of the network; 8 is the paper's at 512 px, 7 suits 256 px", least=1, most=16)
    width: int = _key(64, "channels of the first level", least=1)
    conv: str = _key("partial", "partial | plain (the paper's baseline)", one_of=("partial", "plain"))


@dataclass(frozen=True)
class DataConfig:
    images: str = _key("packaged", "folder, packaged (photographs in installed packages) or documents (drawn pages)")
    masks: str = _key(
        "strokes", "folder of mask files, or drawn on line: strokes | occlusion (the paper's family) | mixed | damage"
    )
    polarity: str = _key("white-hole", "of mask files: white-hole | black-hole", one_of=("white-hole", "black-hole"))
    hole_share: tuple[float, float] = _key((0.0, 0.6), "of drawn masks: above the first, at most the second")
    size: int = _key(512, "side of the square crops, pixels", least=1)
    crop_share: tuple[float, float] | None = _key(
        (0.5, 1.0), "of the short side that a crop covers, resized to data.size; null crops at native scale"
    )
    workers: int = _key(4, "loader processes for each training process; 0 loads in the loop itself", least=0)
    validation: str | None = _key(None, "folder of pictures that decide which checkpoint is the best")
    validation_samples: int = _key(24, "crops of them, the same ones each time", least=1)


@dataclass(frozen=True)
class TrainConfig:
    steps: int = _key(500_000, "optimiser steps of the whole run, both stages", least=1)
    batch_size: int = _key(6, "pictures of one step, over all processes and micro-batches", least=1)
    accumulate: int = _key(1, "micro-batches that a step is divided into, to save memory", least=1)
    lr: float = _key(2e-4, "Adam's learning rate", above=0)
    finetune_after: int | None = _key(
        450_000, "step at which stage 2 begins (encoder BatchNorm frozen), null for never", least=0
    )
    finetune_lr: float = _key(5e-5, "Adam's learning rate in stage 2", above=0)
    seed: int = _key(0, "of the first weights and every random draw", least=0, most=2**64 - 1)
    precision: str = _key("fp32", "fp32 | bf16 | fp16 (mixed precision)", one_of=("fp32", "bf16", "fp16"))
    batch_norm: str = _key(
        "process",
        "statistics while training: process (each its own) | sync (of all processes, GPUs only) | frozen",
        one_of=("process", "sync", "frozen"),
    )
    channels_last: bool = _key(True, "memory format of pictures and weights; the faster one on most devices")


@dataclass(frozen=True)
class LossConfig:
    preset: str = _key("paper", "paper | review: weights of the terms", one_of=("paper", "review"))
    vgg: str = _key("imagenet", "imagenet | PATH of VGG16 weights | random | none (no perceptual, no style)")


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = _key(1000, "steps between checkpoints", least=1)
    keep: int = _key(3, "newest checkpoints that are kept, besides the best", least=1)


@dataclass(frozen=True)
class LogConfig:
    every: int = _key(50, "steps between lines of the log", least=1)
    pictures: int = _key(1000, "steps between picture grids in TensorBoard, 0 for none", least=0)
    tensorboard: bool = _key(True, "write TensorBoard events to RUN/tensorboard")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a run depends on, but for where its results go."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    loss: LossConfig = LossConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    def stage_at(self, step: int) -> int:
        """1, or 2 for a step of the fine-tuning (encoder BatchNorm frozen)."""
        after = self.train.finetune_after
        return 2 if after is not None and step >= after else 1

    def lr_at(self, step: int) -> float:
        return self.train.lr if self.stage_at(step) == 1 else self.train.finetune_lr


def _fields() -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Dotted key -> (field, type), in the order of the file."""
    found = {}
    for section, section_type in typing.get_type_hints(TrainingConfig).items():
        hints = typing.get_type_hints(section_type)
        for one in dataclasses.fields(section_type):
            found[f"{section}.{one.name}"] = (one, hints[one.name])
    return found


def flatten(config: TrainingConfig) -> dict[str, Any]:
    """The configuration as one dict with dotted keys and plain values."""
    flat = {}
    for section, values in dataclasses.asdict(config).items():
        for name, value in values.items():
            flat[f"{section}.{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _type_name(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_type_name(part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list [low, high] of two numbers"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, "null")


def _coerce(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``; TypeError or ValueError where it is something else."""
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        return _coerce(value, next(part for part in typing.get_args(kind) if part is not types.NoneType))
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        if not isinstance(value, (list, tuple)) or len(value) != len(parts):
            raise TypeError
        return tuple(_coerce(one, part) for one, part in zip(value, parts, strict=True))
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return float(value)  # also from text: YAML reads 2e-4, without a point, as a string
    if kind is str and isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)  # a folder may be called 2024
    if type(value) is not kind:
        raise TypeError
    return value


def _checked(key: str, value: Any) -> Any:
    fields = _fields()
    if key not in fields:
        near = difflib.get_close_matches(key[:100], fields, n=3, cutoff=0.5)
        # the right name in the wrong section is the other common slip
        near += [known for known in fields if known.split(".")[1] == key.split(".")[-1] and known not in near]
        hint = f"; the nearest: {', '.join(near)}" if near else f"; sections are {', '.join(_sections())}"
        raise PConvError(f"config: unknown key {brief(key)}{hint}")
    one, kind = fields[key]
    try:
        result = _coerce(value, kind)
    except (TypeError, ValueError, OverflowError):
        raise PConvError(f"config: {key}: expected {_type_name(kind)}, got {brief(value)}") from None
    limits = one.metadata
    if limits["one_of"] and result not in limits["one_of"]:
        raise PConvError(f"config: {key}: expected one of {', '.join(limits['one_of'])}, got {brief(value)}")
    if result is None or isinstance(result, tuple):
        return result
    if limits["least"] is not None and not result >= limits["least"]:
        raise PConvError(f"config: {key}: expected at least {limits['least']}, got {brief(value)}")
    most = limits["most"] or 2**63 - 1
    if isinstance(result, int) and result > most:
        raise PConvError(f"config: {key}: expected at most {most}, got {brief(value)}")
    if limits["above"] is not None and not limits["above"] < result < float("inf"):
        raise PConvError(f"config: {key}: expected a number above {limits['above']}, got {brief(value)}")
    return result


def _sections() -> list[str]:
    return [one.name for one in dataclasses.fields(TrainingConfig)]


def _from_flat(flat: Mapping[str, Any]) -> TrainingConfig:
    sections: dict[str, Any] = {}
    for name, section_type in typing.get_type_hints(TrainingConfig).items():
        own = {key.split(".")[1]: value for key, value in flat.items() if key.startswith(f"{name}.")}
        sections[name] = section_type(**own)
    config = TrainingConfig(**sections)
    low, high = config.data.hole_share
    if not 0 <= low < high <= 1:
        raise PConvError(f"config: data.hole_share: expected 0 <= low < high <= 1, got [{low}, {high}]")
    share = config.data.crop_share
    if share is not None and not 0 < share[0] <= share[1] <= 1:
        raise PConvError(f"config: data.crop_share: expected 0 < low <= high <= 1, got {list(share)}")
    if config.train.batch_size % config.train.accumulate:
        raise PConvError(
            f"config: train.batch_size: expected a multiple of train.accumulate "
            f"({config.train.accumulate}), got {config.train.batch_size}"
        )
    return config


def _read_yaml(path: str | Path) -> dict[str, Any]:
    yaml = require("yaml", "train", why="--config")
    try:
        content = parse_yaml(read_limited(Path(path)))
    except OSError as error:
        raise PConvError(f"--config: cannot read {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # also UnicodeDecodeError
        raise PConvError(f"--config: {str(path)!r} is no valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise PConvError(f"--config: expected sections such as 'train:' in {str(path)!r}, got {brief(content)}")
    flat = {}
    for section, values in content.items():
        if section not in _sections():
            # `train.lr: 1` at the top level means what it says; anything else is reported by _checked
            flat[str(section)] = values
        elif isinstance(values, dict):
            flat.update({f"{section}.{name}": value for name, value in values.items()})
        elif values is not None:
            raise PConvError(f"config: {section}: expected keys such as '{section}.KEY', got {brief(values)}")
    return flat


def _setting_value(key: str, text: str) -> Any:
    if key in _fields() and _fields()[key][1] is str:
        return text  # a folder's name may look like YAML: 'a: b', '[x]', '#1'
    yaml = require("yaml", "train", why="--set")
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise PConvError(f"--set: {brief(text)} is no valid value for {key}: {error}") from error


def load_config(
    path: str | Path | None = None, settings: Iterable[str] = (), overrides: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """The configuration from a YAML file (an empty one is valid), ``key=value`` settings and overrides.

    Args:
        path: YAML file; what it leaves out has its default.
        settings: ``["train.lr=1e-4", ...]``, numbers and lists in YAML's notation; they beat the file.
        overrides: dotted key -> value; they beat everything.

    Raises:
        PConvError: unreadable file, unknown key (the nearest ones are named), wrong type or value.
    """
    flat = _read_yaml(path) if path is not None else {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise PConvError(f"--set: expected key=value, got {setting!r}")
        flat[key.strip()] = _setting_value(key.strip(), text)
    flat.update(overrides or {})
    return _from_flat({key: _checked(key, value) for key, value in flat.items()})


def to_yaml(config: TrainingConfig) -> str:
    """The configuration as YAML with a comment on each key; reading it back gives the same one."""
    yaml = require("yaml", "train", why="--print-config")
    fields, lines, section = _fields(), [], ""
    for key, value in flatten(config).items():
        if not key.startswith(f"{section}.") or not section:
            section = key.split(".")[0]
            lines.append(f"{section}:")
        text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
        lines.append(f"  {key.split('.')[1]}: {text}  # {fields[key][0].metadata['about']}")
    return "\n".join(lines) + "\n"
