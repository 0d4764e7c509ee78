"""What a folder of masks holds: hole shares, holes near the border, grey pixels, sizes, and which colour is hole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.data.images import MANIFEST, find_files, load_rgb
from pconv_cuda.errors import MissingExtra, PConvError
from pconv_cuda.files import is_out_of_memory
from pconv_cuda.masks.files import FORMAT
from pconv_cuda.masks.polarity import POLARITIES, check_polarity
from pconv_cuda.masks.shares import Limits
from pconv_cuda.masks.testset import PAPER_SHARES
from pconv_cuda.masks.values import THRESHOLD, mask_grey
from pconv_cuda.progress import Progress
from pconv_cuda.text import parse_json

__all__ = ["MaskStats", "decide_polarity", "mask_stats", "table"]

_CLEAR = 0.05  # mean shares this near to a half are ambiguous


@dataclass(frozen=True)
class _File:
    """What is measured of one file; ``frame`` is the white share of its outermost pixels."""

    height: int
    width: int
    white: float
    frame: float
    grey: int
    white_near: bool  # a white pixel lies in the border band
    black_near: bool
    scaled: bool  # values 0 and 1 were read as 0 and 255


@dataclass
class MaskStats:
    """The answer of :func:`mask_stats`.

    ``cells`` has a row for each range of the paper, and "below" and "above" them: [touching the border band, not].
    """

    folder: str
    masks: int
    polarity: str
    decided: str
    unsure: bool
    cells: dict[str, list[int]]
    mean_hole_share: float
    grey_files: int
    grey_pixels: int
    sizes: dict[str, int]
    zero_one_files: int = 0
    unreadable: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def mask_stats(folder: str | Path, polarity: str = "auto", progress: bool = True) -> MaskStats:
    """Reads every picture of ``folder``, at any depth, as a mask: grey value 128 and above is white.

    Args:
        polarity: "white-hole", "black-hole", or "auto": see :func:`decide_polarity`.

    Raises:
        PConvError: an unknown polarity, no folder, no picture in it, or not one that can be read.
    """
    check_polarity(polarity, also=("auto",))
    root = Path(folder)
    paths = find_files(root, "folder")
    manifest = _manifest(root)
    files, unreadable = [], []
    with Progress("masks", len(paths), every=1000, enabled=progress and len(paths) >= 1000) as bar:
        for path in paths:
            try:
                files.append(_measure(load_rgb(path)))
            except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
                if isinstance(error, MissingExtra) or is_out_of_memory(error):
                    raise
                unreadable.append(f"{path.relative_to(root).as_posix()}: {error or type(error).__name__}")
            bar.advance()
    if not files:
        raise PConvError(
            f"folder: no mask in {str(root)!r}: not one of {len(paths)} pictures can be read; {unreadable[0]}"
        )
    unsure, decided = False, "asked for"
    if polarity == "auto":
        if manifest is not None:
            polarity, decided = manifest["polarity"], f"{MANIFEST} says so"
        else:
            polarity, unsure, decided = decide_polarity([one.white for one in files], [one.frame for one in files])
    return _summary(root, files, polarity, decided, unsure, unreadable, _missing(root, manifest))


def decide_polarity(white: Sequence[float], frame: Sequence[float]) -> tuple[str, bool, str]:
    """Which colour is the hole, by three signs; the majority decides.

    The hole is the colour that covers less on the average, that is rarer among the outermost pixels (holes are mostly
    within), and that is above the paper's greatest share (0.6) in fewer files.

    Args:
        white: the white share of each mask, 0 to 1.
        frame: the white share of its outermost pixels.

    Returns:
        The polarity; whether to doubt it (the signs differ, or the mean is within 0.05 of a half); how it was decided.
    """
    mean, outermost = float(np.mean(white)), float(np.mean(frame))
    most = PAPER_SHARES[-1][1]
    as_white, as_black = sum(one > most for one in white), sum(1 - one > most for one in white)
    # positive: white is the hole
    signs = [np.sign(0.5 - mean), np.sign(0.5 - outermost), np.sign(as_black - as_white)]
    polarity = POLARITIES[0] if sum(signs) >= 0 else POLARITIES[1]
    against = sum(1 for sign in signs if sign * sum(signs) < 0)
    unsure = abs(mean - 0.5) < _CLEAR or against > 0 or sum(signs) == 0
    how = (
        f"white covers {mean:.1%} on the average and {outermost:.1%} of the outermost pixels; the hole share is above "
        f"{most} in {as_white} files read as white-hole, in {as_black} read as black-hole"
    )
    return polarity, bool(unsure), how


def table(stats: MaskStats) -> str:
    """The stats as lines of text, for people."""
    lines = [
        f"{stats.masks} masks in {stats.folder}",
        f"polarity: {stats.polarity} ({stats.decided})",
        f"mean hole share: {stats.mean_hole_share:.4f}",
        "",
        f"{'hole share':<12}{'at border':>11}{'not':>8}{'all':>8}",
    ]
    for name, (near, off) in stats.cells.items():
        lines.append(f"{name:<12}{near:>11}{off:>8}{near + off:>8}")
    near, off = (sum(pair[k] for pair in stats.cells.values()) for k in (0, 1))
    lines.append(f"{'all':<12}{near:>11}{off:>8}{near + off:>8}")
    lines.append("at border: a hole pixel within 50 px of the border at 512, in proportion elsewhere")
    lines.append("")
    grey = f"{stats.grey_pixels} pixels in {stats.grey_files} files" if stats.grey_files else "none"
    lines.append(f"grey (neither black nor white): {grey}")
    if stats.zero_one_files:
        lines.append(f"values 0 and 1, read as 0 and 255: {stats.zero_one_files} files")
    sizes = list(stats.sizes.items())
    shown = ", ".join(f"{size} ({count})" for size, count in sizes[:6])
    lines.append(f"sizes, height x width: {shown}" + (f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""))
    for name, ones in (("unreadable", stats.unreadable), ("missing", stats.missing)):
        lines += [f"{name}: {one}" for one in ones[:20]]
        if len(ones) > 20:
            lines.append(f"{name}: {len(ones) - 20} more")
    return "\n".join(lines)


def _measure(rgb: np.ndarray) -> _File:
    grey, scaled = mask_grey(rgb)
    white = grey >= THRESHOLD
    height, width = white.shape
    limits = Limits.of(height, width, (0.0, 1.0), None)
    outermost = np.concatenate([white[0], white[-1], white[1:-1, 0], white[1:-1, -1]])
    return _File(
        height,
        width,
        float(white.mean()),
        float(outermost.mean()),
        int(np.count_nonzero((grey != 0) & (grey != 255))),
        limits.in_band(white),
        limits.in_band(~white),
        scaled,
    )


def _summary(
    root: Path,
    files: list[_File],
    polarity: str,
    decided: str,
    unsure: bool,
    unreadable: list[str],
    missing: list[str],
) -> MaskStats:
    names = ["below", *(f"{low}-{high}" for low, high in PAPER_SHARES), "above"]
    edges = [PAPER_SHARES[0][0], *(high for _, high in PAPER_SHARES)]
    cells = {name: [0, 0] for name in names}
    shares = []
    for one in files:
        is_white = polarity == "white-hole"
        share = one.white if is_white else 1 - one.white
        near = one.white_near if is_white else one.black_near
        shares.append(share)
        # open below and closed above; 1 - white is rounded, and 0.3 is no exact binary number
        cells[names[int(np.searchsorted(edges, share - 1e-9, side="left"))]][0 if near else 1] += 1
    sizes = Counter(f"{one.height} x {one.width}" for one in files)
    return MaskStats(
        folder=str(root),
        masks=len(files),
        polarity=polarity,
        decided=decided,
        unsure=unsure,
        cells=cells,
        mean_hole_share=float(np.mean(shares)),
        grey_files=sum(one.grey > 0 for one in files),
        grey_pixels=sum(one.grey for one in files),
        sizes=dict(sizes.most_common()),
        zero_one_files=sum(one.scaled for one in files),
        unreadable=unreadable,
        missing=missing,
    )


def _manifest(root: Path) -> dict[str, Any] | None:
    """The manifest of this package, or None; another program's file of that name is ignored."""
    try:
        found = parse_json((root / MANIFEST).read_text())
        ours = found["format"] == FORMAT and found["polarity"] in POLARITIES
        ours = ours and all(isinstance(one["path"], str) for one in found["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if ours else None


def _missing(root: Path, manifest: dict[str, Any] | None) -> list[str]:
    """Files of the manifest that the folder lacks; paths outside the folder are ignored."""
    names = [] if manifest is None else [one["path"] for one in manifest["files"]]
    return [name for name in names if not _is_below(name) or not (root / name).is_file()]


def _is_below(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
