"""Folders of pictures and masks, and which mask belongs to which picture."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pconv_cuda.data.find import OTHER_SUFFIXES, all_files
from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.pictures import FORMATS, READ_ONLY

__all__ = ["Folder", "MaskFolder", "read_folder"]

_MASK_ENDINGS = ("_mask", "-mask", ".mask")  # behind a picture's name


@dataclass(frozen=True)
class Folder:
    """``pictures`` by name, the ``masks`` that lie beside them, and ``left_out``: pictures of other kinds."""

    pictures: list[Path]
    masks: list[Path]
    left_out: list[Path]


def read_folder(folder: Path, recursive: bool, leave_out: Iterable[Path] = ()) -> Folder:
    """The pictures of a folder; hidden ones and everything in ``leave_out`` are passed over.

    Links to files and folders are followed, each folder once. A file that is named as the mask of another one
    (``a_mask.png``, ``a-mask.png`` or ``a.mask.png`` beside ``a.jpg``) is no picture.
    """
    unwanted = {path.resolve() for path in leave_out} - {folder.resolve()}
    found: list[Path] = []
    left_out: list[Path] = []
    for path in all_files(folder, "image", recursive):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if (
            hidden
            or not path.is_file()
            or (unwanted and unwanted.intersection((real := path.resolve(), *real.parents)))
        ):
            continue
        ending = path.suffix.lower()
        if ending in FORMATS or ending in READ_ONLY:
            found.append(path)
        elif ending in OTHER_SUFFIXES:
            left_out.append(path)
    names = {(path.parent, _key(path.stem)) for path in found}
    masks = [path for path in found if any((path.parent, base) in names for base in _pictures_of_mask(path))]
    pictures = sorted(set(found).difference(masks), key=lambda path: path.relative_to(folder))
    return Folder(pictures, sorted(masks), sorted(left_out))


def _key(name: str) -> str:
    """Names are the same whatever their letters' composition (NFC, NFD) and case."""
    return unicodedata.normalize("NFC", name).casefold()


def _pictures_of_mask(path: Path) -> Iterator[str]:
    """The keys of names whose mask ``path`` could be by its ending."""
    name = _key(path.stem)
    for ending in _MASK_ENDINGS:
        if name.endswith(ending) and name != ending:
            yield name.removesuffix(ending)


class MaskFolder:
    """Finds the mask of a picture by its path below the folder, or by its name alone where that is clear.

    A mask has its picture's name, or that with ``_mask``, ``-mask`` or ``.mask`` behind it; the same file is never
    its own mask.

    Args:
        folder: of the masks; it may be that of the pictures.
        recursive: whether folders below it are searched.
        root: the pictures' folder.
        pictures: all pictures, below ``root``.
    """

    def __init__(self, folder: Path, recursive: bool, root: Path, pictures: list[Path]) -> None:
        self.folder, self.root = folder, root
        self.by_path: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        inside = read_folder(folder, recursive)
        beside = folder.resolve() == root.resolve()
        # in one folder with the pictures only what is named as a mask is one
        files = inside.masks if beside else sorted(inside.pictures + inside.masks)
        for path in files:
            below = path.relative_to(folder)
            keys = list(_pictures_of_mask(path)) + ([] if beside else [_key(path.stem)])
            for key in keys:
                self.by_path[(*map(_key, below.parts[:-1]), key)].append(path)
                self.by_name[key].append(path)
        if not files and not (beside and inside.pictures):
            kinds = ", ".join((*FORMATS, *READ_ONLY))
            raise PConvError(f"mask: no picture ({kinds}) in {folder}")
        self.beside = beside
        # pictures of one name in several folders: a mask by name alone could be meant for another of them
        self.places = Counter(_key(path.stem) for path in pictures)

    def of(self, picture: Path) -> tuple[Path | None, str]:
        """The mask of ``picture`` (below its folder), or None and the reason."""
        key = _key(picture.stem)
        found = self.by_path.get((*map(_key, picture.parts[:-1]), key), [])
        if not found and self.places[key] == 1:
            found = self.by_name.get(key, [])
        found = _exact(found, picture) if len(found) > 1 else found
        wanted = picture.with_suffix("").as_posix()
        if len(found) == 1:
            return found[0], ""
        if not found and self.beside:
            return None, (
                f"mask: expected a mask beside the picture, named {wanted}_mask.*, {wanted}-mask.* or "
                f"{wanted}.mask.*, since a picture cannot be its own mask"
            )
        if not found:
            return None, f"mask: expected a mask named {wanted}.* or {wanted}_mask.* in {self.folder}, found none"
        names = ", ".join(str(path) for path in found)
        return None, f"mask: expected one mask for {wanted}, found {len(found)}: {names}"


def _exact(found: list[Path], picture: Path) -> list[Path]:
    """Of several masks that differ by case or composition those that have the picture's very letters."""
    endings = ("", *_MASK_ENDINGS)
    same = [path for path in found if path.stem in [picture.stem + ending for ending in endings]]
    return same or found
