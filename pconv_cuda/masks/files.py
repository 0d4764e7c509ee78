"""The paper's test set as files: 1-bit PNGs in which white is the hole, a manifest, and a contact sheet.

Every file carries its settings and the digest of its own pixels, so that a run that was cut off goes on with the
files that are there and can tell them from files of another set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.contact_sheet import contact_sheet
from pconv_cuda.data.images import CONTACT_SHEET, MANIFEST
from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import atomic_path, remove_leftovers
from pconv_cuda.locks import folder_lock
from pconv_cuda.masks.drawing import KINDS, VERSION
from pconv_cuda.masks.shares import Limits
from pconv_cuda.masks.testset import PAPER_COUNT, PAPER_SHARES, PaperMask, paper_mask
from pconv_cuda.progress import Progress
from pconv_cuda.text import brief, parse_json

__all__ = ["FORMAT", "digest", "make_masks", "read_written", "refuse_foreign", "refuse_others", "write_mask"]

FORMAT = "pconv masks"  # in manifest.json, and the key of the text in each PNG
_COLUMNS = 4  # masks of each share and border on the contact sheet
_THUMB = 88  # px of a mask on the contact sheet


def make_masks(
    out: str | Path,
    *,
    size: int = 512,
    count: int = PAPER_COUNT,
    seed: int = 0,
    kind: str = "mixed",
    progress: bool = True,
) -> dict[str, Any]:
    """Writes ``count`` masks of each share and border, ``sheet.png``, and last ``manifest.json``.

    The files are those of :func:`~pconv_cuda.masks.testset.paper_masks`. What an earlier call left is kept where its
    settings and digest are right, and drawn again where the file is damaged.

    Args:
        out: folder, made where there is none.
        size: side in pixels; count, seed, kind: as for :func:`~pconv_cuda.masks.testset.paper_masks`.

    Returns:
        The manifest: format, settings, ``files`` (path, share, border, hole_share, sha256 of the hole's bits, see
        :func:`digest`), and ``kept``, the number of files that were there (not in the file).

    Raises:
        PConvError: an impossible setting, ``out`` holds a set of other settings, a sheet.png of another program or
            other files and no mask of ours, or another process is writing into it.
    """
    root = Path(out)
    settings = {"kind": kind, "seed": seed, "size": size, "generator": VERSION}
    _check(settings, count)
    if root.exists() and not root.is_dir():
        raise PConvError(f"out: expected a folder, got {str(root)!r}, which is a file")
    with folder_lock(root) as check_folder:
        return _make(root, settings, count, progress, check_folder)


def _make(
    root: Path, settings: dict[str, Any], count: int, progress: bool, check_folder: Callable[[], None]
) -> dict[str, Any]:
    known = _known(root, {**settings, "count": count})
    _refuse_foreign_sheet(root / CONTACT_SHEET)
    own = {f"{low}-{high}" for low, high in PAPER_SHARES}
    refuse_foreign(root, "pconv masks make", lambda name: name in own, "*/*/*.png")
    for share in PAPER_SHARES:
        for border in (True, False):
            remove_leftovers((root / PaperMask(share, border, 0, np.empty(0)).name).parent)
    remove_leftovers(root)
    size, seed, kind = settings["size"], settings["seed"], settings["kind"]
    entries, picked, kept = [], {}, 0
    places = [(share, border, number) for share in PAPER_SHARES for border in (True, False) for number in range(count)]
    with Progress("masks", len(places), every=500, enabled=progress) as bar:
        for share, border, number in places:
            name = PaperMask(share, border, number, np.empty(0)).name
            hole = read_written(root / name, settings)
            if hole is not None and known.get(name, digest(hole)) == digest(hole):
                kept += 1
            else:
                hole = ~paper_mask(share, border, number, size=size, seed=seed, kind=kind)
                if known.get(name, digest(hole)) != digest(hole):
                    raise PConvError(
                        f"{root / MANIFEST}: its digest of {name} is not that of the mask these settings give; "
                        "the manifest was changed, or written by a changed generator: use another folder"
                    )
                check_folder()
                write_mask(root / name, hole, settings)
            entries.append(
                {
                    "path": name,
                    "share": list(share),
                    "border": border,
                    "hole_share": round(float(hole.mean()), 6),
                    "sha256": digest(hole),
                }
            )
            if number < _COLUMNS:
                picked[share, border, number] = hole
            bar.advance()
    check_folder()
    _write_sheet(root / CONTACT_SHEET, picked)
    manifest = {"format": FORMAT, "polarity": "white-hole", **settings, "count": count, "files": entries}
    with atomic_path(root / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=1) + "\n")
    return {**manifest, "kept": kept}


def digest(hole: np.ndarray) -> str:
    """sha256 of a mask's bits: ``hole`` (height, width) bool row by row, eight pixels a byte, the first one highest."""
    return hashlib.sha256(np.packbits(hole).tobytes()).hexdigest()


def write_mask(path: Path, hole: np.ndarray, settings: dict[str, Any]) -> None:
    """``hole`` (height, width) bool as a 1-bit PNG, white where True, with ``settings`` and digest as its text."""
    pil_image = require("PIL.Image", "inpaint", why="writing masks")
    text = require("PIL.PngImagePlugin", "inpaint").PngInfo()
    text.add_text(FORMAT, json.dumps({**settings, "sha256": digest(hole)}))
    with atomic_path(path) as temporary:
        pil_image.fromarray(hole).save(temporary, format="PNG", pnginfo=text, optimize=True)


def _check(settings: dict[str, Any], count: int) -> None:
    """All checks before the first file is written."""
    if count < 1 or settings["seed"] < 0:
        raise PConvError(f"count, seed: expected at least 1 and 0, got {count} and {settings['seed']}")
    if settings["kind"] not in KINDS:
        raise PConvError(f"kind: expected one of {', '.join(KINDS)}, got {settings['kind']!r}")
    for share in PAPER_SHARES:
        for border in (True, False):
            try:
                Limits.of(settings["size"], settings["size"], share, border)
            except PConvError as error:
                raise PConvError(f"size: no test set of {settings['size']} x {settings['size']} px: {error}") from None


def _known(root: Path, settings: dict[str, Any]) -> dict[str, str]:
    """path -> digest, from the manifest of a finished set with the same settings; empty where there is none."""
    path = root / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = parse_json(path.read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}")
        files = {one["path"]: one["sha256"] for one in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PConvError(f"{path}: no manifest of `pconv masks make` ({error}); use another folder") from None
    refuse_others(path, {name: manifest.get(name) for name in settings}, settings)
    return files


def read_written(path: Path, settings: dict[str, Any]) -> np.ndarray | None:
    """The hole of a file that an earlier call wrote; None where there is none, or it is damaged.

    Raises:
        PConvError: it is a mask of other settings, or no mask of this package: nothing of that is overwritten.
    """
    if not path.exists():
        return None
    pil_image = require("PIL.Image", "inpaint", why="reading masks")
    try:
        with pil_image.open(path) as picture:
            picture.load()
            hole = np.array(picture) if picture.mode == "1" else None
            text = getattr(picture, "text", {}).get(FORMAT)  # of a PNG alone
    except Exception:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        return None
    try:
        text = dict(parse_json(text or ""))
    except (ValueError, TypeError):
        raise PConvError(
            f"{path}: not written by `pconv masks`, and it is not overwritten; use another folder"
        ) from None
    refuse_others(path, {name: text.get(name) for name in settings}, settings)
    return hole if hole is not None and digest(hole) == text.get("sha256") else None


def refuse_others(path: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """An error that names the settings ``asked`` for that differ from those ``there``, if any do."""
    differing = [
        f"{name} {brief(there[name])} there, {asked[name]!r} asked for" for name in asked if there[name] != asked[name]
    ]
    if differing:
        raise PConvError(f"{path}: the folder holds masks of other settings ({'; '.join(differing)}); use another one")


def refuse_foreign(root: Path, command: str, is_own: Callable[[str], bool], masks: str) -> None:
    """PConvError for a folder that holds other files, such as photographs or a training, and no masks of ours.

    Args:
        command: that writes into ``root``.
        is_own: whether a name in ``root`` is one that the command uses. Each file there is judged where it is read.
        masks: pattern of its masks: where one of ours lies, or a manifest, an earlier call was here.
    """
    ours = (MANIFEST, CONTACT_SHEET)  # both were checked; what begins with a dot is a lock, or left by an editor
    foreign = sorted(
        name for name in os.listdir(root) if not name.startswith(".") and name not in ours and not is_own(name)
    )
    if not foreign or (root / MANIFEST).exists() or any(map(_is_ours, root.glob(masks))):
        return
    named = ", ".join([*map(brief, foreign[:3]), *["..."] * (len(foreign) > 3)])
    raise PConvError(
        f"out: expected a new or empty folder, or one with masks of `{command}`, got {str(root)!r} with {named}; "
        "use another folder"
    )


def _is_ours(path: Path) -> bool:
    """Whether a PNG carries our text."""
    pil_image = require("PIL.Image", "inpaint", why="reading pictures")
    try:
        with pil_image.open(path) as picture:
            picture.load()
            return FORMAT in getattr(picture, "text", {})
    except Exception:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        return False


def _refuse_foreign_sheet(path: Path) -> None:
    """PConvError for a sheet.png without our text: the sheet is replaced in every call."""
    if path.exists() and not _is_ours(path):
        raise PConvError(
            f"out: {path} was not written by `pconv masks make`, and it is not replaced; use another folder"
        )


def _write_sheet(path: Path, picked: dict[tuple[tuple[float, float], bool, int], np.ndarray]) -> None:
    """The first masks of each share (rows), with and without holes near the border (columns)."""
    columns = 1 + max(number for _, _, number in picked)
    empty = [""] * (columns - 1)
    sheet = contact_sheet(
        [
            [
                picked[share, border, number].astype(np.uint8) * 255
                for border in (True, False)
                for number in range(columns)
            ]
            for share in PAPER_SHARES
        ],
        _THUMB,
        headings=["holes near the border", *empty, "border free of holes", *empty],
        labels=[f"({low}, {high}]" for low, high in PAPER_SHARES],
        gap=4,
        background="grey",
    )
    text = require("PIL.PngImagePlugin", "inpaint").PngInfo()
    text.add_text(FORMAT, json.dumps({"contact_sheet": True}))  # by which a later call knows it
    with atomic_path(path) as temporary:
        sheet.convert("L").quantize(16).save(temporary, format="PNG", pnginfo=text, optimize=True)
