"""Untrusted YAML, read in time and memory bounded by the file's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pconv_cuda.errors import PConvError, require

__all__ = ["parse_yaml", "read_limited"]

_MOST_BYTES, _DEEPEST = 2**20, 20  # of a file; levels of nesting


def read_limited(path: Path) -> str:
    """The text of the file ``path``, unless it is larger than any configuration.

    Raises:
        OSError, UnicodeDecodeError, PConvError: it cannot be read, is no text, or too large.
    """
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise PConvError(f"path: expected at most {_MOST_BYTES} bytes, {str(path)!r} has more")
    return data.decode("utf-8")


def parse_yaml(text: str) -> Any:
    """As ``yaml.safe_load``, but for aliases, which can stand for billions of elements, and for deep nesting.

    Raises:
        yaml.YAMLError, ValueError: of another text.
    """
    yaml = require("yaml", "train", why="the configuration")
    depth = 0
    for token in yaml.scan(text):
        kind = type(token).__name__
        if kind == "AliasToken":
            raise ValueError("expected no aliases (*name), got one; write the value out")
        depth += kind.endswith("StartToken") - kind.endswith("EndToken")
        if depth > _DEEPEST:
            raise ValueError(f"it is nested too deeply: expected at most {_DEEPEST} levels")
    return yaml.safe_load(text)
