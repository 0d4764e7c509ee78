"""Which fonts there are for Latin, Hangul and Hanja.

Nothing is downloaded. Files are looked for where systems keep fonts, and each font is asked
what it can write; on a bare machine matplotlib's or Pillow's own font is left, so that a page can always be set.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pconv_cuda.errors import PConvError, require

__all__ = ["BUILT_IN", "Fonts", "find_fonts", "load_font"]

BUILT_IN = ""  # stands for the font inside Pillow

_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/Library/Fonts",
            "/System/Library/Fonts", "C:/Windows/Fonts")  # fmt: skip
_SUFFIXES = (".ttf", ".otf", ".ttc")
# What a printer of old books had: faces with serifs. Others serve where a script has none of these.
_SERIF = re.compile(r"serif|roman|times|garamond|caslon|stixgeneral|myeongjo|batang|ming|song|cmr10", re.I)
_UNFIT = re.compile(r"sansserif|mono|symbol|emoji|icon|math|cmex|cmsy|cmmi|siz|nonuni|lastresort|stixgeneralbol|"
                    r"light|thin|display|coding|eco|italic|oblique|music", re.I)  # fmt: skip
_PROBES = {"latin": "agQR", "hangul": "한글", "hanja": "天書"}
_MOST = 8  # faces of a script: more make no page look otherwise


@dataclass(frozen=True)
class Fonts:
    """Font files by script, ``""`` for Pillow's own. Latin has one at least, the others may have none."""

    latin: tuple[str, ...]
    hangul: tuple[str, ...] = ()
    hanja: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Names the set by its files' names: the same pages come from the same set alone."""
        names = [[Path(path).name for path in faces] for faces in (self.latin, self.hangul, self.hanja)]
        return hashlib.sha256(repr(names).encode()).hexdigest()[:12]


@lru_cache(maxsize=256)
def load_font(path: str, size: int) -> Any:
    """The face at ``size`` pixels as Pillow's font object. Raises what Pillow raises."""
    image_font = require("PIL.ImageFont", "inpaint", why="rendering pages")
    if path == BUILT_IN:
        return image_font.load_default(size)
    # the basic engine everywhere: libraqm is on some machines only, and pages must not depend on it
    return image_font.truetype(path, size, layout_engine=image_font.Layout.BASIC)


def find_fonts(folders: Sequence[str | Path] | None = None) -> Fonts:
    """The fonts of this machine, or those under ``folders``, and matplotlib's for Latin with either.

    Args:
        folders: looked through at all depths; None takes the usual ones and what fontconfig knows.

    Raises:
        PConvError: a path that is not a folder.
        MissingExtra: Pillow is not installed.
    """
    if folders is None:
        return _of_this_machine()
    for folder in folders:
        if not Path(folder).is_dir():
            raise PConvError(f"fonts: expected a folder, got {str(folder)!r}, which is not one")
    return _sorted_by_script(_under(folders))


@lru_cache(maxsize=1)
def _of_this_machine() -> Fonts:
    return _sorted_by_script([*_under(_FOLDERS), *_known_to_fontconfig()])


def _under(folders: Iterable[str | Path]) -> list[Path]:
    roots = [Path(folder).expanduser() for folder in folders]
    return [path for root in roots if root.is_dir() for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES]


def _known_to_fontconfig() -> list[Path]:
    if shutil.which("fc-list") is None:
        return []
    command = ["fc-list", "--format", "%{file}\n"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # the usual folders are enough
    return [Path(line) for line in listed.splitlines() if Path(line).suffix.lower() in _SUFFIXES]


def _bundled() -> list[Path]:
    """matplotlib's fonts, without importing it."""
    spec = importlib.util.find_spec("matplotlib")
    places = spec.submodule_search_locations if spec is not None else None
    return _under([Path(place) / "mpl-data/fonts/ttf" for place in places or ()])


def _sorted_by_script(paths: Iterable[Path]) -> Fonts:
    paths = list(paths)
    latin = _able([*paths, *_bundled()], "latin") or (BUILT_IN,)
    return Fonts(latin, _able(paths, "hangul"), _able(paths, "hanja"))


def _able(paths: Iterable[Path], script: str) -> tuple[str, ...]:
    """The files that can write the script, those with serifs if there are any, in an order of names alone."""
    by_name = {path.name: str(path) for path in sorted(paths, reverse=True)}
    names = [name for name in sorted(by_name) if not _UNFIT.search(name)]
    for chosen in ([one for one in names if _SERIF.search(one)], [one for one in names if not _SERIF.search(one)]):
        able = [by_name[name] for name in chosen if _writes(by_name[name], _PROBES[script])]
        if script == "latin":  # a face made for another script has Latin letters too, but looks foreign in Latin
            able = [path for path in able if not _writes(path, _PROBES["hangul"])] or able
        if able:
            return tuple(able[:_MOST])
    return ()


@lru_cache(maxsize=4096)
def _writes(path: str, characters: str) -> bool:
    """Whether the font has the characters: a missing one is drawn as the same box as a character that nothing has."""
    try:
        font = load_font(path, 24)
        missing = bytes(font.getmask("\U0010fffd"))
        return all(bytes(mask := font.getmask(one)) != missing and mask.getbbox() is not None for one in characters)
    except Exception:  # a broken or unusual file: FreeType's errors are OSError, ValueError, SyntaxError, ...
        return False
