"""Many pictures: which file goes with which mask to which output, and the loop over them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.api import restore
from pconv_cuda.inpainting.fill import Progress
from pconv_cuda.inpainting.masks import MaskRule
from pconv_cuda.inpainting.pictures import FORMATS, read_picture

if TYPE_CHECKING:
    from pconv_cuda.models import PConvUNet

__all__ = ["Job", "Reporter", "plan_jobs", "run_job"]

_MUCH = 0.6  # a hole's share from which an inverted mask is more likely than such a hole
_LARGE = 8_000_000  # pixels from which the memory that was used is worth a word


@dataclass(frozen=True)
class Job:
    """One picture: ``mask`` is None where none is needed; ``problem`` says why there is nothing to do."""

    image: Path
    mask: Path | None
    output: Path
    problem: str = ""


@dataclass(frozen=True)
class Reporter:
    """Where sentences go: what was done, what to be careful about, and how far the work is."""

    say: Callable[[str], None]
    warn: Callable[[str], None]
    progress: Progress
    peak_memory: Callable[[], str]


def plan_jobs(image: Path, mask: Path | None, output: Path, *, recursive: bool = False) -> list[Job]:
    """What is to be done for IMAGE (a file or a folder), in the order of the names.

    Masks of a folder belong to the picture with the same path below it, endings aside, or the same name. A
    picture whose mask is missing or ambiguous becomes a job with a problem, so that the others are done.

    Raises:
        PConvError: a path that does not exist, no picture at all, or an output that is none.
    """
    if not image.exists():
        raise PConvError(f"IMAGE: expected a picture or a folder, but {image} does not exist")
    if mask is not None and not mask.exists():
        raise PConvError(f"--mask: expected a picture, a folder or the word alpha, but {mask} does not exist")
    if image.is_dir():
        if output.is_file():
            raise PConvError(f"-o: IMAGE is a folder, so expected a folder, but {output} is a file")
        inputs = _pictures_in(image, recursive, leave_out=[output, *([mask] if mask else [])])
        outputs = [output / path.relative_to(image) for path in inputs]
        if not inputs:
            below = "" if recursive else " (its subfolders are searched with --recursive)"
            raise PConvError(f"IMAGE: no picture ({', '.join(FORMATS)}) in {image}{below}")
    else:
        inputs = [image]
        outputs = [output / image.name if output.is_dir() else output]
        if outputs[0].suffix.lower() not in FORMATS:
            raise PConvError(f"-o: expected an existing folder or a name ending in {', '.join(FORMATS)}, got {output}")
    root = image if image.is_dir() else image.parent
    names = [path.relative_to(root) for path in inputs]
    masks = _MaskFolder(mask, recursive, names) if mask is not None and mask.is_dir() else None
    jobs = []
    for path, name, target in zip(inputs, names, outputs, strict=True):
        found, problem = masks.of(name) if masks else (mask, "")
        if target.resolve() in (path.resolve(), found.resolve() if found else None):
            problem = f"-o: {target} would overwrite its own input"
        jobs.append(Job(path, found, target, problem and f"{problem} (for {path})"))
    return jobs


def run_job(job: Job, model: PConvUNet, rule: MaskRule, report: Reporter, tile: int | None = None) -> None:
    """Restore one picture and write it, whole or not at all; say what was done in one line.

    Raises:
        PConvError: for everything that the user can put right; nothing has been written then.
    """
    if job.problem:
        raise PConvError(job.problem)
    started = time.perf_counter()
    picture = read_picture(job.image)
    hole = rule.hole(picture, job.image, job.mask)
    share = float(hole.mean())
    height, width = picture.size
    line = f"{job.image}: {rule.describe()}, {_percent(share)} of {width} x {height} px"
    for note in picture.notes:
        report.warn(f"{job.image}: {note}")
    if share > _MUCH:
        report.warn(
            f"{job.image}: {_percent(share)} of the picture is hole; is the mask inverted? Then add or leave "
            "out --invert-mask"
        )
    if share > 0:
        restore(
            model,
            picture,
            hole,
            opaque=rule.alpha,
            tile=tile,
            notify=lambda text: report.warn(f"{job.image}: {text}"),
            progress=report.progress,
        )
    else:
        report.warn(f"{job.image}: the mask has no hole (threshold {rule.threshold}); the picture is copied")
    # the same ending keeps the format that the content has, even where the ending is wrong about it
    same = job.output.suffix.lower() == job.image.suffix.lower()
    picture.save(job.output, picture.format if same else FORMATS[job.output.suffix.lower()])
    memory = f", peak memory {report.peak_memory()}" if height * width >= _LARGE else ""
    report.say(f"{line}; {time.perf_counter() - started:.1f} s{memory} -> {job.output}")


def _percent(share: float) -> str:
    """A share with one digit, and never 0.0 % or 100.0 % where it is not."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{share * 100:.1f} %" if share in (0.0, 1.0) else f"{min(share * 100, 99.9):.1f} %"


def _pictures_in(folder: Path, recursive: bool, leave_out: list[Path]) -> list[Path]:
    """Picture files of a folder by name; hidden ones and everything in ``leave_out`` are passed over."""
    unwanted = {path.resolve() for path in leave_out} - {folder.resolve()}
    return sorted(
        path
        for path in (folder.rglob("*") if recursive else folder.iterdir())
        if path.suffix.lower() in FORMATS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not unwanted.intersection((path.resolve(), *path.resolve().parents))
    )


class _MaskFolder:
    """Finds the mask of a picture by its path below the folder, or by its name alone where that is clear."""

    def __init__(self, folder: Path, recursive: bool, pictures: list[Path]) -> None:
        self.folder = folder
        self.by_path: dict[Path, list[Path]] = defaultdict(list)
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for path in _pictures_in(folder, recursive, []):
            self.by_path[path.relative_to(folder).with_suffix("")].append(path)
            self.by_name[path.stem].append(path)
        if not self.by_path:
            raise PConvError(f"--mask: no picture ({', '.join(FORMATS)}) in {folder}")
        # pictures of one name in several folders: a mask by name alone could be meant for another of them
        self.places = Counter(path.stem for path in {picture.with_suffix("") for picture in pictures})

    def of(self, picture: Path) -> tuple[Path | None, str]:
        """The mask of ``picture`` (relative to its folder), or None and the reason."""
        found = self.by_path.get(picture.with_suffix(""), [])
        if not found and self.places[picture.stem] == 1:
            found = self.by_name.get(picture.stem, [])
        if len(found) == 1:
            return found[0], ""
        wanted = picture.with_suffix("").as_posix()
        if not found:
            return None, f"--mask: expected a mask named {wanted}.* in {self.folder}, but there is none"
        names = ", ".join(str(path) for path in found)
        return None, f"--mask: expected one mask named {wanted}.*, but there are {len(found)}: {names}"
