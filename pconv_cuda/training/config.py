"""The configuration of a training run from recipes, YAML files and overrides, with errors that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pconv_cuda.errors import PConvError, require
from pconv_cuda.text import brief
from pconv_cuda.training.options import TrainingConfig
from pconv_cuda.training.recipes import RECIPES
from pconv_cuda.training.safe_yaml import parse_yaml, read_limited

__all__ = ["RECIPES", "TrainingConfig", "flatten", "load_config", "to_yaml"]


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
    if result is None or isinstance(result, tuple):
        return result
    if limits["one_of"] and result not in limits["one_of"]:
        raise PConvError(f"config: {key}: expected one of {', '.join(limits['one_of'])}, got {brief(value)}")
    if limits["least"] is not None and not result >= limits["least"]:
        raise PConvError(f"config: {key}: expected at least {limits['least']}, got {brief(value)}")
    most = limits["most"] or (2**63 - 1 if isinstance(result, int) else None)
    if most is not None and result > most:
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
    if config.model.network == "refiner" and config.model.prefill is None:
        raise PConvError("config: model.prefill: expected smooth, to which a refiner adds, got null")
    if config.model.tension is not None and config.model.prefill is None:
        raise PConvError(
            f"config: model.tension: expected null without model.prefill, whose it is, got {config.model.tension}"
        )
    if config.loss.relative and config.model.prefill is None:
        raise PConvError(
            "config: loss.relative: expected false without model.prefill, to which it is relative, got true"
        )
    if config.loss.features:
        _check_features(config)
    if config.train.batch_size % config.train.accumulate:
        raise PConvError(
            f"config: train.batch_size: expected a multiple of train.accumulate "
            f"({config.train.accumulate}), got {config.train.batch_size}"
        )
    return config


def _check_features(config: TrainingConfig) -> None:
    loss = config.loss
    for key, fine, wanted in (
        ("relative", loss.relative, "true: both of the loss's terms are then in parts of the prefill's"),
        ("hole_steps", loss.hole_steps is not None, "a number of steps, after which it joins in"),
        ("vgg", loss.vgg != "none", "weights, whose features these are"),
    ):
        if not fine:
            value = brief(getattr(loss, key))
            raise PConvError(f"config: loss.{key}: with loss.features expected {wanted}; got {value}")


def _read_yaml(path: str | Path) -> dict[str, Any]:
    yaml = require("yaml", "train", why="reading a configuration")
    try:
        content = parse_yaml(read_limited(Path(path)))
    except OSError as error:
        raise PConvError(f"path: cannot read {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # also UnicodeDecodeError
        raise PConvError(f"path: {str(path)!r} is no valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise PConvError(f"path: expected sections such as 'train:' in {str(path)!r}, got {brief(content)}")
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
    yaml = require("yaml", "train", why="reading a setting")
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise PConvError(f"settings: {brief(text)} is no valid value for {key}: {error}") from error


def load_config(
    path: str | Path | None = None,
    settings: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
    *,
    recipe: str = "paper",
) -> TrainingConfig:
    """The configuration from a recipe, a YAML file (an empty one is valid), ``key=value`` settings and overrides.

    Args:
        path: YAML file; what it leaves out is as in the recipe.
        settings: ``["train.lr=1e-4", ...]``, numbers and lists in YAML's notation; they beat the file.
        overrides: dotted key -> value; they beat everything.
        recipe: a name of :data:`RECIPES`.

    Raises:
        PConvError: no such recipe, unreadable file, unknown key (the nearest ones are named), wrong type or value.
    """
    if recipe not in RECIPES:
        raise PConvError(f"recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}")
    flat = {**RECIPES[recipe], **(_read_yaml(path) if path is not None else {})}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise PConvError(f"settings: expected key=value, got {setting!r}")
        flat[key.strip()] = _setting_value(key.strip(), text)
    flat.update(overrides or {})
    return _from_flat({key: _checked(key, value) for key, value in flat.items()})


def to_yaml(config: TrainingConfig) -> str:
    """The configuration as YAML with a comment on each key; reading it back gives the same one."""
    yaml = require("yaml", "train", why="writing a configuration")
    fields, lines, section = _fields(), [], ""
    for key, value in flatten(config).items():
        if not key.startswith(f"{section}.") or not section:
            section = key.split(".")[0]
            lines.append(f"{section}:")
        text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
        lines.append(f"  {key.split('.')[1]}: {text}  # {fields[key][0].metadata['about']}")
    return "\n".join(lines) + "\n"
