"""Planted mistakes: for places of csrc a mistaken text each, compiled in beside what ships.

The folder plants has a table for each driver and architecture. `#` begins a comment. A mistake is a line of fields,
then one or more edits:

    14 | gemm_kernel.cuh | gemm | wide | the stage that is being read is refilled | rel, asan, tsan
    @ loader.load(pipeline + writing
    - writing
    + reading

The fields are an id, the name of a file below csrc, the kernels, the part of the driver that shows the mistake, the
mistake, and the builds that must catch it. An edit puts `+` in the place of `-`, which must occur exactly once in the
file, or else exactly once in `@`, text around it that does. Each may have several lines. Blanks and line breaks are not
compared, because a formatter moves them.

`-` and `+` are statements if `-` ends with a semicolon or a brace; an empty `+` then leaves them out. Otherwise both
are expressions that ?: takes. Of a declaration take the expression: as a statement it would end with a block.

`plant` copies csrc and makes every place choose when it runs, `(planted != 14 ? (writing) : (reading))`, so that one
build has all mistakes; the environment variable PCONV_PLANTED has the id of the one that is awake. Places may lie
inside one another.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
TABLES = HERE / "plants"
SUFFIXES = (".h", ".cuh", ".cu", ".cpp")
FOLLOWS = {"@": ("@", "-"), "-": ("-", "+")}


@dataclass
class Edit:
    around: str = ""
    old: str = ""
    new: str = ""


@dataclass
class Mistake:
    table: str
    id: int
    file: str
    kernel: str
    part: str
    what: str
    builds: list[str]
    edits: list[Edit] = field(default_factory=list)


def read_tables(folder: Path = TABLES) -> list[Mistake]:
    return [mistake for path in sorted(folder.glob("*.txt")) for mistake in read_table(path)]


def read_table(path: Path) -> list[Mistake]:
    found: list[Mistake] = []
    before = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        mark = line[:1]
        if mark == "#":
            continue
        if before in ("@", "-") and mark not in FOLLOWS[before]:
            raise ValueError(f"{path.name}:{number}: expected one of {' '.join(FOLLOWS[before])} after {before}")
        if found and (mark in ("@", "-") or (mark == "+" and before in ("-", "+"))):
            _add_to_edits(found[-1].edits, before, mark, line[1:].strip())
        elif mark.isdigit():
            fields = [word.strip() for word in line.split("|")]
            if len(fields) != 6:
                raise ValueError(f"{path.name}:{number}: expected six fields, got {len(fields)}")
            own_id, file, kernel, part, what, builds = fields
            found.append(Mistake(path.stem, int(own_id), file, kernel, part, what, builds.split(", ")))
        elif line.strip():
            raise ValueError(f"{path.name}:{number}: expected a mistake, an edit or a comment, got {line!r}")
        before = mark
    return found


def _add_to_edits(edits: list[Edit], before: str, mark: str, text: str) -> None:
    if mark != "+" and before not in ("@", mark):
        edits.append(Edit())
    edit = edits[-1]
    if mark == "@":
        edit.around = f"{edit.around}\n{text}".strip()
    elif mark == "-":
        edit.old = f"{edit.old}\n{text}".strip()
    else:
        edit.new = f"{edit.new}\n{text}".strip()


def plant(out_dir: Path, csrc: Path = CSRC, mistakes: list[Mistake] | None = None) -> Path:
    """A copy of `csrc` with all mistakes asleep. It is made once for each text; several processes may ask at once."""
    texts = planted_texts(csrc, read_tables() if mistakes is None else mistakes)
    parts = [f"{path}\0{text}" for path, text in sorted(texts.items())]
    target = out_dir / f"csrc-{hashlib.sha256(chr(0).join([str(csrc), *parts]).encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    out_dir.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".csrc-", dir=out_dir))
    for path, text in texts.items():
        copy = unfinished / path.relative_to(csrc)
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Whatever names a line, an error of the emulator or a debugger, names the file that ships.
        copy.write_text(f'#include "planted.h"\n#line 1 "{path}"\n{text}')
    try:
        os.rename(unfinished, target)
    except OSError:  # another process was first
        shutil.rmtree(unfinished)
    return target


def planted_texts(csrc: Path, mistakes: list[Mistake]) -> dict[Path, str]:
    texts = {path: path.read_text() for path in csrc.rglob("*") if path.suffix in SUFFIXES}
    of_file: dict[Path, list[Mistake]] = defaultdict(list)
    for mistake in mistakes:
        paths = [path for path in texts if path.name == mistake.file]
        if len(paths) != 1:
            raise ValueError(f"planted mistake {mistake.id}: {len(paths)} files of csrc are named {mistake.file}")
        of_file[paths[0]].append(mistake)
    return texts | {path: _planted(texts[path], own) for path, own in of_file.items()}


def _planted(text: str, mistakes: list[Mistake]) -> str:
    places = [(_place(text, mistake, edit), mistake.id, edit) for mistake in mistakes for edit in mistake.edits]
    # The outer ones first; of two that lie in the same place, the first.
    places.sort(key=lambda place: (place[0][0], -place[0][1]))
    return _choosing(text, 0, len(text), places)


def _choosing(text: str, begin: int, end: int, places: list) -> str:
    """text[begin:end], where every one of `places` chooses; line breaks stay where they are."""
    result, at = "", begin
    while places:
        (first, last), own_id, edit = places[0]
        inner = [place for place in places[1:] if place[0][0] < last]
        for (_, inner_last), inner_id, _ in inner:
            if inner_last > last:
                raise ValueError(f"planted mistake {own_id}: its place overlaps that of {inner_id}")
        old, new = _choosing(text, first, last, inner), " ".join(edit.new.split())
        result += text[at:first] + _choice(own_id, old, new)
        at, places = last, places[1 + len(inner) :]
    return result + text[at:end]


def _choice(own_id: int, old: str, new: str) -> str:
    asleep = f"::emu::planted != {own_id}"
    if old.endswith((";", "}")):
        return f"{{ if ({asleep}) {{ {old} }}" + (f" else {{ {new} }}" if new else "") + " }"
    return f"({asleep} ? ({old}) : ({new}))"


def _place(text: str, mistake: Mistake, edit: Edit) -> tuple[int, int]:
    begin, end = 0, len(text)
    for words in filter(None, (edit.around, edit.old)):
        found = list(pattern(words).finditer(text, begin, end))
        if len(found) != 1:
            raise ValueError(
                f"planted mistake {mistake.id}: expected once in {mistake.file}"
                f"{', in ' + repr(edit.around) if end < len(text) else ''}, found {len(found)} times: {words!r}"
            )
        begin, end = found[0].span()
    return begin, end


def pattern(words: str) -> re.Pattern[str]:
    """Matches `words` with any blanks and line breaks between them; never a part of a longer name or number."""
    tokens = re.findall(r"\w+|[^\w\s]", words)
    body = re.escape(tokens[0])
    for before, token in zip(tokens, tokens[1:], strict=False):
        both_names = re.match(r"\w", before) and re.match(r"\w", token)
        body += (r"\s+" if both_names else r"\s*") + re.escape(token)
    first, last = (r"[\w.]" if re.match(r"\w", token) else "" for token in (tokens[0], tokens[-1]))
    return re.compile((f"(?<!{first})" if first else "") + body + (f"(?!{last})" if last else ""))
