"""Masks from a video, the paper's own way: what is covered or uncovered between two consecutive frames.

Optical flow is estimated both ways. A pixel whose forward flow and the backward flow found there do not cancel is
seen in one of the two frames only. As with drawn occlusions, what is covered is marked as seen in the first frame,
what is uncovered as seen in the second, and pixels that leave the picture are not marked.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.data.images import MANIFEST
from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import atomic_path, remove_leftovers
from pconv_cuda.locks import folder_lock
from pconv_cuda.masks.files import FORMAT, digest, read_written, refuse_foreign, refuse_others, write_mask
from pconv_cuda.progress import Progress
from pconv_cuda.text import parse_json

__all__ = ["inconsistent_flow", "masks_from_video", "occluded", "optical_flow"]

# |forward + back|^2 > _RELATIVE (|forward|^2 + |back|^2) + _ABSOLUTE px^2: Sundaram, Brox and Keutzer, ECCV 2010
_RELATIVE, _ABSOLUTE = 0.01, 0.5
_SPECK = 1e-4  # of the picture: holes, and islands in holes, that are smaller come from noise
_CUT = 0.6  # more hole than this is a cut between scenes or a failed flow, and outside the paper's ranges
_SHORTEST = 32  # px: the flow's patches do not fit into less


def masks_from_video(
    video: str | Path, out: str | Path, *, every: int = 1, size: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Writes a mask for frames i and i + 1, i = 0, ``every``, 2 ``every``, ..., as ``out``/000000.png (its i).

    White is the hole. Pairs without a hole, and those with more than 0.6 of hole (cuts between scenes), give no file.
    ``out``/manifest.json is written last. Whole files of an earlier call with the same video and settings are kept.

    Args:
        video: any file that OpenCV decodes.
        size: the frames' middle square is resized to this side before the flow; None keeps the frames as they are.

    Returns:
        The manifest: format, settings, ``files`` (path, frame, hole_share, sha256), ``pairs`` looked at,
        ``expected_pairs`` by the video's header, ``empty`` and ``cuts`` (frame numbers left out).

    Raises:
        PConvError: no video, one without two frames, impossible settings, no mask found in it, or masks of other
            settings or other files in ``out``, or another process that writes into it.
    """
    path, root = Path(video), Path(out)
    settings = _settings(path, root, every, size)
    with folder_lock(root) as check_folder:
        # each PNG was judged above; the video itself may lie beside its masks
        refuse_foreign(root, "pconv masks from-video", lambda name: name == path.name or name.endswith(".png"), "*.png")
        return _write_masks(path, root, settings, progress, check_folder)


def _write_masks(
    path: Path, root: Path, settings: dict[str, Any], progress: bool, check_folder: Callable[[], None]
) -> dict[str, Any]:
    cv2 = require("cv2", "video", why="masks from a video")
    remove_leftovers(root)
    every, size = settings["every"], settings["size"]
    entries: list[dict[str, Any]] = []
    empty, cuts, pairs, expected = [], [], 0, 0
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise PConvError(f"video: OpenCV cannot decode {str(path)!r}")
        expected = max(0, (int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) + every - 2) // every)
        with Progress("pairs", max(1, expected), every=50, enabled=progress) as bar:
            for frame, first, second in _pairs(capture, every, size):
                name = f"{frame:06d}.png"
                hole = read_written(root / name, {**settings, "frame": frame})
                there = hole is not None
                if hole is None:
                    hole = occluded(first, second)
                pairs += 1
                share = float(hole.mean())
                if not hole.any():
                    empty.append(frame)
                elif share > _CUT:
                    cuts.append(frame)
                else:
                    if not there:
                        check_folder()
                        write_mask(root / name, hole, {**settings, "frame": frame})
                    entries.append(
                        {"path": name, "frame": frame, "hole_share": round(share, 6), "sha256": digest(hole)}
                    )
                bar.advance()
    finally:
        capture.release()
    if not pairs:
        raise PConvError(f"video: expected at least two frames, OpenCV reads fewer from {str(path)!r}")
    if pairs < expected:
        warnings.warn(
            f"video: {pairs} pairs of frames could be decoded, by its header {str(path)!r} has {expected}; "
            "it may be damaged or cut short",
            stacklevel=2,
        )
    if not entries:
        raise PConvError(
            f"video: no mask in {pairs} pairs of frames of {str(path)!r}: nothing covers or uncovers anything in "
            f"{len(empty)} of them, and {len(cuts)} are more than {_CUT:.0%} hole (cuts)"
        )
    manifest = {"format": FORMAT, "polarity": "white-hole", **settings, "expected_pairs": expected}
    manifest.update(pairs=pairs, empty=empty, cuts=cuts, files=entries)
    check_folder()
    with atomic_path(root / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def occluded(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What is covered or uncovered between two frames, (height, width) uint8 grey: (height, width) bool.

    Specks of less than 1e-4 of the picture are removed, from the holes and from what is not.
    """
    hole = inconsistent_flow(optical_flow(first, second), optical_flow(second, first))
    return ~_without_specks(~_without_specks(hole))


def optical_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(height, width, 2) float32, (x, y) in pixels: where each pixel of ``first`` is in ``second``, by OpenCV's DIS."""
    cv2 = require("cv2", "video", why="masks from a video")
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # the preset's flow of half the resolution misses strips a few pixels wide, which most occlusions are
    method.setFinestScale(0)
    method.setPatchStride(1)
    return np.asarray(method.calc(first, second, None))


def inconsistent_flow(forward: np.ndarray, back: np.ndarray) -> np.ndarray:
    """The pixels, of either frame, whose way to the other frame and back does not return to them.

    Args:
        forward, back: (height, width, 2) float32, (x, y) in pixels, of the first and of the second frame.

    Returns:
        (height, width) bool.
    """
    return _lost(forward, back) | _lost(back, forward)


def _lost(way: np.ndarray, way_back: np.ndarray) -> np.ndarray:
    cv2 = require("cv2", "video", why="masks from a video")
    height, width = way.shape[:2]
    x = way[..., 0] + np.arange(width, dtype=np.float32)
    y = way[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    there = cv2.remap(way_back, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = ((way + there) ** 2).sum(axis=2)
    bound = _RELATIVE * ((way**2).sum(axis=2) + (there**2).sum(axis=2)) + _ABSOLUTE
    within = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return np.asarray((error > bound) & within)


def _without_specks(pixels: np.ndarray) -> np.ndarray:
    """``pixels`` without its connected parts (8 neighbours) that are smaller than a speck."""
    cv2 = require("cv2", "video", why="masks from a video")
    _, labels, figures, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
    large = figures[:, cv2.CC_STAT_AREA] >= max(2, round(_SPECK * pixels.size))
    large[0] = False  # what belongs to no part
    return np.asarray(large[labels])


def _pairs(capture: Any, every: int, size: int | None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(number, frame, next frame) as grey pictures; frames between the pairs are passed over undecoded."""
    number, before = 0, None
    while True:
        wanted = number % every == 0  # the first of a pair
        if wanted or before is not None:
            there, frame = capture.read()
            if not there:
                return
            grey = _grey(frame, size)
            if before is not None:
                yield number - 1, before, grey
            before = grey if wanted else None
        elif not capture.grab():
            return
        number += 1


def _grey(frame: np.ndarray, size: int | None) -> np.ndarray:
    cv2 = require("cv2", "video", why="masks from a video")
    height, width = frame.shape[:2]
    if size is not None:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = frame[top : top + side, left : left + side]
        frame = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if size < side else cv2.INTER_CUBIC)
    elif min(height, width) < _SHORTEST:
        raise PConvError(f"video: expected frames of at least {_SHORTEST} px, got {height} x {width}; `size` enlarges")
    return np.asarray(frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))


def _settings(path: Path, root: Path, every: int, size: int | None) -> dict[str, Any]:
    """The settings that determine the masks. Raises PConvError for invalid ones, and for a folder of other files."""
    if not path.is_file():
        raise PConvError(f"video: expected a video file, got {str(path)!r}, which is no file")
    if every < 1:
        raise PConvError(f"every: expected at least 1, got {every}")
    if size is not None and size < _SHORTEST:
        raise PConvError(f"size: expected at least {_SHORTEST} px, got {size}")
    if root.exists() and not root.is_dir():
        raise PConvError(f"out: expected a folder, got {str(root)!r}, which is a file")
    video = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**22):
            video.update(chunk)
    settings = {"kind": "video", "video": path.name, "video_sha256": video.hexdigest(), "every": every, "size": size}
    if (root / MANIFEST).exists():
        try:
            there = parse_json((root / MANIFEST).read_text())
            refuse_others(root / MANIFEST, {name: there.get(name) for name in settings}, settings)
        except (OSError, ValueError, AttributeError) as error:
            raise PConvError(f"{root / MANIFEST}: no manifest of `pconv masks` ({error}); use another folder") from None
    for one in sorted(root.glob("*.png")):
        read_written(one, settings)  # refuses other files
    return settings
