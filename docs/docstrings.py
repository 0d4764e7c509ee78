"""Docstrings as mkdocstrings wants them: roles of Sphinx become links, and each argument gets an entry of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

PACKAGE = "pconv_cuda"
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`")
LONG = 160  # characters
ENTRY = re.compile(r"(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*)")


class Docstrings(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        for found in objects(pkg):
            if found.docstring:
                text = re.sub(r"::$", ":", found.docstring.value, flags=re.M)
                text = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
                text = arguments_apart(re.sub(r"(^\s*|: )>(?=[= ])", r"\1\>", text, flags=re.M))  # no quotation
                found.docstring.value = ROLE.sub(lambda role, found=found: reference(found, *role.groups()), text)


def objects(parent: griffe.Object) -> Iterator[griffe.Object]:
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from objects(member)  # type: ignore[arg-type]


def reference(found: griffe.Object, short: str, name: str) -> str:
    """A link where the site has an entry of that name, else the name."""
    shown = f"<code>{name.rpartition('.')[2] if short else name}</code>"
    first, _, rest = name.partition(".")
    try:
        path = name if first == PACKAGE else ".".join([found.resolve(first), rest]).rstrip(".")
    except griffe.NameResolutionError:
        return shown
    return f'<autoref identifier="{path}" optional>{shown}</autoref>' if path.startswith(PACKAGE) else shown


def arguments_apart(text: str) -> str:
    """``a, b: as there`` below ``Args:`` as ``a: as there`` and ``b: as there``; a long text stands at ``a`` alone."""
    lines = text.split("\n")
    done: list[str] = []
    at, within = 0, False
    while at < len(lines):
        line = lines[at]
        within = line.strip() == "Args:" or (within and (not line.strip() or line.startswith("    ")))
        entry = ENTRY.fullmatch(line) if within else None
        at += 1
        if not entry or len(entry["indent"]) != 4:
            done.append(line)
            continue
        rest = []
        while at < len(lines) and lines[at].startswith("     "):
            rest.append(lines[at])
            at += 1
        first, *others = entry["names"].split(", ")
        is_long = len(entry["text"]) + sum(map(len, rest)) > LONG
        which = f"with {' and '.join(f'`{name}`' for name in others)}, in this order: " if is_long else ""
        done += [f"    {first}: {which}{entry['text']}", *rest]
        for name in others:
            done += [f"    {name}: see `{first}`."] if is_long else [f"    {name}: {entry['text']}", *rest]
    return "\n".join(done)
