"""Untrusted text, such as names of files, made safe for a terminal, Markdown, CSV and messages."""

from __future__ import annotations

import html
import json
import pickle
import re
import reprlib
import unicodedata
from collections.abc import Mapping
from typing import Any

__all__ = [
    "between_commas",
    "brief",
    "csv_text",
    "load_error_text",
    "markdown",
    "parse_json",
    "printable",
    "rename_arguments",
]

_UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are no text, ends of lines
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they reorder a line


def between_commas(text: str) -> list[str]:
    """What stands between commas, without blanks around it; empty where nothing does."""
    return [part.strip() for part in text.split(",")]


def printable(text: str, keep: str = "\n\t") -> str:
    """``text`` with what could command a terminal, or cannot be encoded, as escapes such as ``\\x1b``.

    Args:
        text: anything.
        keep: control characters that stay; "" for a name within a line.
    """
    if text.isprintable():
        return text
    return "".join(
        _escaped(one) if one not in keep and (one in _DIRECTIONS or unicodedata.category(one) in _UNSAFE) else one
        for one in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


_HEAD = re.compile(r"[a-z_]+(?:, [a-z_]+)*(?=:)")
_MENTIONED = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")


def rename_arguments(text: str, names: Mapping[str, str]) -> str:
    """An error's text with its arguments under other names, such as options.

    The text begins with the arguments that it is about ("seed, size: expected ..."), and has others in backticks,
    with a value where one is advised (`` `threshold=200` ``). What ``names`` does not hold stays as it is.

    Args:
        text: of a PConvError or of a warning.
        names: argument -> its name there. One that begins with a dash is followed by a space and the value.
    """

    def mentioned(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name not in names:
            return match[0]
        shown = names[name]
        if value in (None, "True"):
            return shown
        return f"{shown} {value}" if shown.startswith("-") else f"{shown}={value}"

    if head := _HEAD.match(text):
        text = ", ".join(names.get(one, one) for one in head[0].split(", ")) + text[head.end() :]
    return _MENTIONED.sub(mentioned, text)


def markdown(text: str) -> str:
    """``text`` as one line of Markdown that shows it: no HTML, no cell of a table, no code."""
    safe = html.escape(printable(text, keep=""), quote=False)
    return safe.replace("|", "&#124;").replace("`", "&#96;")


def csv_text(text: str) -> str:
    """``text`` as a cell of a CSV file that no spreadsheet takes for a formula."""
    safe = printable(text, keep="")
    return "'" + safe if safe.startswith(("=", "+", "-", "@")) else safe


def parse_json(text: str | bytes) -> Any:
    """As ``json.loads``.

    Raises:
        ValueError: no JSON, or nested more deeply than it can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxstring, self.maxother = 3, 4, 6, 120, 120

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"a number of {x.bit_length()} bits"


def brief(value: Any) -> str:
    """``repr(value)``, shortened where it is long or deep: YAML's aliases can stand for billions of elements."""
    return _Brief().repr(value)


def load_error_text(error: BaseException) -> str:
    """Why ``torch.load`` refused a file, without its advice to load it as a program."""
    if not isinstance(error, pickle.UnpicklingError):
        return str(error) or type(error).__name__
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"it asks for {named[1]}, and nothing but tensors is loaded" if named else "it is no file of tensors"
