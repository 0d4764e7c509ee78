"""The server's work on pictures, by the functions of ``pconv inpaint``, with texts for clients."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.batch import Job, Reporter, load_filler, run_job
from pconv_cuda.inpainting.masks import MaskRule, parse_colour
from pconv_cuda.inpainting.pictures import FORMATS, READ_ONLY, Picture, PictureTooLarge, pillow, read_picture
from pconv_cuda.named import NAMED
from pconv_cuda.serve.settings import Limits, Refusal
from pconv_cuda.text import rename_arguments

if TYPE_CHECKING:
    from pconv_cuda.named import Filler
    from pconv_cuda.serve.upload import Form, Upload

__all__ = ["MASK_TEXTS", "Answer", "Fillers", "fill", "find_hole", "look", "rule_of"]

PREVIEW_PIXELS = 16_000_000  # what a phone's browser holds; larger pictures are shown shrunk
MASK_TEXTS = ("mask", "mask-color", "threshold", "dilate", "invert-mask", "resize-mask")


@dataclass
class Answer:
    """``content`` or a file at ``path``, and what there is to say about it."""

    about: dict[str, Any] = field(default_factory=dict)
    content: bytes = b""
    path: Path | None = None


class Fillers:
    """The networks that a client may choose from, by name; the first is taken where none is named.

    Args:
        weights: names, files or folders.
        device: as :func:`~pconv_cuda.devices.pick_device` takes it.

    Raises:
        PConvError: weights that cannot be read, two of one name, or no such device.
    """

    def __init__(self, weights: Sequence[str], device: str) -> None:
        self.about: dict[str, str] = {}
        self.loaded: dict[str, Filler] = {}
        for one in weights:
            name = one if one in NAMED else _name_of(Path(one))
            if name in self.loaded:
                raise PConvError(f"weights: two of them are called {name}; rename a file")
            self.loaded[name] = load_filler(one, device)
            self.about[name] = NAMED[one].about if one in NAMED else "a network that this server was started with"

    def get(self, name: str) -> Filler:
        """The one of this name; "" is the first.

        Raises:
            Refusal: there is none.
        """
        name = name or next(iter(self.loaded))
        if name not in self.loaded:
            raise Refusal(400, f"weights: expected one of {', '.join(self.loaded)}, got {name!r}")
        return self.loaded[name]


def _name_of(path: Path) -> str:
    return path.resolve().parent.name if path.name == "model.safetensors" else path.stem or path.resolve().name


def rule_of(texts: Mapping[str, str], limits: Limits) -> MaskRule:
    """The rule that a request's fields ask for; their names are those of the command's options."""
    colour = texts.get("mask-color")
    mask = texts.get("mask")
    if mask not in (None, "alpha"):
        raise Refusal(400, f"mask: expected a picture file or the word alpha, got the text {mask!r}")
    if mask and colour:
        raise Refusal(400, "mask-color: cannot be combined with mask=alpha")
    with _refusing(limits):
        return MaskRule(
            alpha=mask == "alpha",
            colour=parse_colour(colour) if colour else None,
            threshold=_number(texts, "threshold"),
            dilate=_number(texts, "dilate"),
            invert=_yes(texts, "invert-mask"),
            resize=_yes(texts, "resize-mask"),
            max_pixels=limits.pixels,
        )


def _number(texts: Mapping[str, str], name: str) -> int | None:
    text = texts.get(name, "")
    if text and not re.fullmatch(r"\d{1,3}", text, re.ASCII):
        raise Refusal(400, f"{name}: expected a whole number from 0 to 999, got {text!r}")
    return int(text) if text else None


def _yes(texts: Mapping[str, str], name: str) -> bool:
    text = texts.get(name, "").lower()
    if text not in ("", "0", "1", "false", "true", "no", "yes"):
        raise Refusal(400, f"{name}: expected true or false, got {text!r}")
    return text in ("1", "true", "yes")


def look(upload: Upload, limits: Limits) -> Answer:
    """A PNG of the upright picture for a browser, shrunk where it is large, and what the picture is."""
    with _refusing(limits, upload):
        picture = read_picture(upload.path, limits.pixels)
        colours, alpha = picture.rgb(), picture.alpha()
    if colours.dtype == np.uint16:
        colours = ((colours.astype(np.uint32) + 128) // 257).astype(np.uint8)
    bands = colours if alpha is None else np.dstack([colours, alpha])
    shown = pillow().fromarray(np.ascontiguousarray(bands))
    height, width = picture.size
    scale = min(1.0, (PREVIEW_PIXELS / (height * width)) ** 0.5)
    if scale < 1:
        size = max(1, int(width * scale)), max(1, int(height * scale))
        shown = shown.resize(size, pillow().Resampling.BOX, reducing_gap=2.0)
    # the colours of a picture with a profile are right only with it; that of inks or of grey does not fit RGB
    rgb = isinstance(picture, Picture) and picture.image.mode in ("RGB", "RGBA", "P")
    profile = picture.image.info.get("icc_profile") if isinstance(picture, Picture) and rgb else None
    written = io.BytesIO()
    shown.save(written, "PNG", compress_level=1, icc_profile=profile)
    about = {"width": width, "height": height, "format": picture.format, "notes": _texts(picture.notes, upload)}
    return Answer(about, written.getvalue())


def find_hole(form: Form, limits: Limits) -> Answer:
    """The hole that ``pconv inpaint`` would find, gzipped: rows of bits, eight pixels a byte, the first one highest."""
    upload, mask = form.files["picture"], form.files.get("mask")
    rule = rule_of(form.texts, limits)
    with _refusing(limits, upload, mask):
        picture = read_picture(upload.path, limits.pixels)
        hole = rule.hole(picture, upload.path, mask.path if mask else None)
    height, width = hole.pixels.shape
    notes = _texts([hole.about, *hole.notes], upload, mask)
    rows = np.packbits(hole.pixels, axis=1).tobytes()
    return Answer({"width": width, "height": height, "notes": notes}, gzip.compress(rows, 1))


def fill(
    form: Form,
    folder: Path,
    filler: Filler,
    limits: Limits,
    progress: Callable[[int, int], None],
    say: Callable[[str], None],
) -> Answer:
    """The picture with its hole filled, a file in ``folder``, byte for byte what ``pconv inpaint`` writes."""
    upload, mask = form.files["picture"], form.files.get("mask")
    rule = rule_of(form.texts, limits)
    ending = upload.path.suffix
    target = folder / f"filled{'.png' if ending in READ_ONLY else ending}"
    warnings: list[str] = []
    lines: list[str] = []
    report = Reporter(say=lines.append, warn=warnings.append, progress=progress, peak_memory=lambda: "not measured")
    with _refusing(limits, upload, mask):
        run_job(Job(upload.path, mask.path if mask else None, target), filler, rule, report, None, limits.pixels)
    done = lines[0].removeprefix(f"{upload.path}: ").partition(" -> ")[0].partition(", peak memory")[0]
    say(done)
    about = {"done": done, "notes": _texts(warnings, upload, mask), "format": FORMATS[target.suffix]}
    return Answer(about, path=target)


# ---- texts: no path of this machine, and what is asked of the library by the names of the request's fields

_FIELDS = {"image": "picture", "output": "picture", "colour": "mask-color", "invert": "invert-mask"}
_FIELDS |= {"resize": "resize-mask", "alpha": "mask=alpha"}


class _refusing:
    """Turns PConvError in the block into a refusal that names the client's files."""

    def __init__(self, limits: Limits, *uploads: Upload | None) -> None:
        self.limits, self.uploads = limits, uploads

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PictureTooLarge):
            limit = f"this server takes {self.limits.pixels / 1e6:g} megapixels"
            text = _fit(f"{error.place} is {error.size}, and {limit}; shrink it", *self.uploads)
            raise Refusal(413, text) from error
        if isinstance(error, PConvError):
            raise Refusal(422, _fit(str(error), *self.uploads)) from error


def _texts(texts: Sequence[str], *uploads: Upload | None) -> list[str]:
    return [_fit(text, *uploads) for text in texts[:20]]


def _fit(text: str, *uploads: Upload | None) -> str:
    for upload in uploads:
        if upload is not None:
            text = text.replace(str(upload.path), upload.name)
    return rename_arguments(text, _FIELDS)
