"""Many pictures: jobs of picture, mask and output, and running one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pconv_cuda.devices import pick_device
from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.api import check_for_pictures, restore
from pconv_cuda.inpainting.folders import MaskFolder, read_folder
from pconv_cuda.inpainting.masks import MaskRule
from pconv_cuda.inpainting.patches import Progress
from pconv_cuda.inpainting.pictures import FORMATS, MAX_PIXELS, READ_ONLY, read_picture, save_picture
from pconv_cuda.inpainting.smooth_holes import SmoothFiller
from pconv_cuda.masks.polarity import INVERTED_SHARE
from pconv_cuda.named import load

if TYPE_CHECKING:
    from pconv_cuda.named import Filler

__all__ = ["Job", "Plan", "Reporter", "load_filler", "plan_jobs", "run_job"]

_LARGE = 8_000_000  # pixels from which peak memory is reported


@dataclass(frozen=True)
class Job:
    """One picture: ``mask`` is None where none is needed; ``problem`` says why there is nothing to do."""

    image: Path
    mask: Path | None
    output: Path
    problem: str = ""


@dataclass(frozen=True)
class Plan:
    """``jobs`` in the order of the names; ``notes``: what of a folder is left out."""

    jobs: list[Job]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reporter:
    """Callbacks for results, warnings and progress."""

    say: Callable[[str], None]
    warn: Callable[[str], None]
    progress: Progress
    peak_memory: Callable[[], str]


def plan_jobs(image: Path, mask: Path | None, output: str | Path, *, recursive: bool = False) -> Plan:
    """What is to be done for ``image``, a file or a folder.

    ``output`` of one picture is a file, or a folder: one that exists, or text that ends in a slash.

    Masks of a folder are found by :class:`~pconv_cuda.inpainting.folders.MaskFolder`. A picture whose mask is missing
    or ambiguous becomes a job with a problem, so that the others are done.

    Raises:
        PConvError: a path that does not exist, no picture at all, or an invalid output.
    """
    if not image.exists():
        raise PConvError(f"image: expected a picture or a folder, but {image} does not exist")
    if mask is not None and not mask.exists():
        raise PConvError(f"mask: expected a picture, a folder or the word alpha, but {mask} does not exist")
    notes = []
    ends_in_slash = str(output).endswith(("/", os.sep))
    output = Path(output)
    if output.is_file() and ends_in_slash:
        raise PConvError(f"output: expected a folder, for its name ends in a slash, but {output} is a file")
    if image.is_dir():
        if output.is_file():
            raise PConvError(f"output: the pictures are in a folder, so expected a folder, but {output} is a file")
        found = read_folder(image, recursive, leave_out=[output, *([mask] if mask else [])])
        inputs, outputs = found.pictures, [_target(output / path.relative_to(image)) for path in found.pictures]
        if found.left_out:
            notes.append(f"left out, since they are not read here: {_names(found.left_out)}")
        if found.masks and (mask is None or not mask.is_dir() or mask.resolve() != image.resolve()):
            notes.append(f"left out, since they are named as masks of other pictures: {_names(found.masks)}")
        if not inputs:
            below = "" if recursive else " (its subfolders are searched with `recursive=True`)"
            notes.insert(0, f"image: no picture ({', '.join((*FORMATS, *READ_ONLY))}) in {image}{below}")
            raise PConvError("; ".join(notes))
    else:
        inputs = [image]
        outputs = [_target(output / image.name) if output.is_dir() or ends_in_slash else output]
        if outputs[0].suffix.lower() not in FORMATS:
            raise PConvError(
                f"output: expected a folder that exists or ends in a slash, or a name ending in {', '.join(FORMATS)}, "
                f"got {output}"
            )
    root = image if image.is_dir() else image.parent
    names = [path.relative_to(root) for path in inputs]
    masks = MaskFolder(mask, recursive, root, names) if mask is not None and mask.is_dir() else None
    taken: dict[Path, Path] = {}
    jobs = []
    for path, name, target in zip(inputs, names, outputs, strict=True):
        one, problem = masks.of(name) if masks else (mask, "")
        if target.resolve() in (path.resolve(), one.resolve() if one else None):
            problem = f"output: {target} would overwrite its own input"
        elif target in taken:
            problem = f"output: {target} is written for {taken[target]} already"
        taken.setdefault(target, path)
        jobs.append(Job(path, one, target, problem and f"{problem} (for {path})"))
    return Plan(jobs, notes)


def _target(path: Path) -> Path:
    """Formats that are only read become png."""
    return path.with_suffix(".png") if path.suffix.lower() in READ_ONLY else path


def _names(paths: list[Path]) -> str:
    """How many, and the first of them."""
    shown = ", ".join(str(path) for path in paths[:5])
    return f"{len(paths)} ({shown}{', ...' if len(paths) > 5 else ''})"


def load_filler(weights: str, device: str) -> Filler:
    """What fills holes, by name or path and device, made ready for inference.

    Raises:
        PConvError: no such weights or device, or weights for other than RGB pictures.
    """
    filler = load(weights, pick_device(device))
    if isinstance(filler, SmoothFiller):
        return filler
    check_for_pictures(filler, "weights")
    if filler.conv != "partial":
        return filler
    return filler.fuse()


def run_job(
    job: Job,
    filler: Filler,
    rule: MaskRule,
    report: Reporter,
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Restore one picture, write it atomically, and report it in one line.

    Raises:
        PConvError: for everything that the user can put right; nothing has been written then.
    """
    if job.problem:
        raise PConvError(job.problem)
    started = time.perf_counter()
    picture = read_picture(job.image, max_pixels)
    hole = rule.hole(picture, job.image, job.mask)
    share = float(hole.pixels.mean())
    height, width = picture.size
    line = f"{job.image}: {hole.about}, {_percent(share)} of {width} x {height} px"
    told = len(picture.notes)
    for note in picture.notes:
        report.warn(f"{job.image}: {note}")
    for note in hole.notes:
        report.warn(note)
    if share > INVERTED_SHARE:
        report.warn(
            f"{job.image}: {_percent(share)} of the picture is hole; is the mask inverted? Then add or leave "
            "out `invert=True`"
        )
    if share > 0:
        restore(
            filler,
            picture,
            hole.pixels,
            opaque=rule.alpha,
            tile=tile,
            notify=lambda text: report.warn(f"{job.image}: {text}"),
            progress=report.progress,
        )
    else:
        report.warn(f"{job.image}: the mask has no hole ({rule.why_empty()}); the picture is copied")
    # with the same ending the format of the content is kept, even where the ending is wrong
    ending = job.output.suffix.lower()
    same = ending == job.image.suffix.lower() and picture.format in FORMATS.values()
    save_picture(picture, job.output, picture.format if same else FORMATS[ending])
    for note in picture.notes[told:]:
        report.warn(f"{job.image}: {note}")
    memory = f", peak memory {report.peak_memory()}" if height * width >= _LARGE else ""
    report.say(f"{line}; {time.perf_counter() - started:.1f} s{memory} -> {job.output}")


def _percent(share: float) -> str:
    """A share with one digit; only exact values give 0.0 % and 100.0 %."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{share * 100:.1f} %" if share in (0.0, 1.0) else f"{min(share * 100, 99.9):.1f} %"
