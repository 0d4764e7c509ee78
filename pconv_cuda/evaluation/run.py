"""The evaluation: every method on every pair, resumable, then the report."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.errors import PConvError, require
from pconv_cuda.evaluation.interruptible import interruptible
from pconv_cuda.evaluation.learned import find_features, find_inception, find_perceptual
from pconv_cuda.evaluation.methods import BASELINES, Method, baselines, networks
from pconv_cuda.evaluation.metrics import SSIM_WINDOW, measure
from pconv_cuda.evaluation.pairs import ALL_CELLS, MaskSet, Pages, Pair, Pictures, open_masks, open_pictures, plan_pairs
from pconv_cuda.evaluation.report import write_report
from pconv_cuda.evaluation.store import Store
from pconv_cuda.locks import folder_lock
from pconv_cuda.progress import Progress

__all__ = ["Settings", "evaluate"]


@dataclass(frozen=True)
class Settings:
    """What ``pconv eval`` takes; see its help."""

    images: str
    masks: str = "paper"
    weights: Sequence[str] = ()
    baselines: Sequence[str] = tuple(BASELINES)
    count: int | None = None
    size: int = 512
    seed: int = 0
    shares: Sequence[str] = ()
    polarity: str = "white-hole"
    lpips: str = "auto"
    fid: str = "auto"
    vgg: str = "auto"
    resamples: int = 1000
    device: str = "auto"


def evaluate(settings: Settings, out: str | Path) -> dict[str, Any]:
    """Restores every picture by every method, measures, and writes the report into ``out``.

    Killed at any moment, the same call goes on and gives the same files. What cannot be read is left out, reported and
    marked.

    Returns:
        What results.json holds.

    Raises:
        PConvError: no pictures or masks, an unknown method, an ``out`` with results of other settings or with files of
            another program, or another process that writes into it.
    """
    for module in ("torchmetrics", "matplotlib", "PIL"):
        require(module, "eval", why="evaluating")  # before hours of work
    if settings.size < SSIM_WINDOW:
        raise PConvError(f"size: expected at least {SSIM_WINDOW} px, SSIM's window, got {settings.size}")
    if settings.seed < 0 or settings.resamples < 1:
        raise PConvError(f"seed, resamples: expected >= 0, >= 1, got {settings.seed}, {settings.resamples}")
    cells = [cell for cell in ALL_CELLS if not settings.shares or cell.key.split("/")[0] in settings.shares]
    names = {cell.key.split("/")[0] for cell in ALL_CELLS}
    if unknown := [share for share in settings.shares if share not in names]:
        raise PConvError(f"shares: expected some of {', '.join(sorted(names))}, got {', '.join(unknown)}")
    methods = networks(settings.weights, settings.device) + baselines(settings.baselines)
    if not methods:
        raise PConvError("weights: expected a network or some `baselines` to evaluate, got neither")
    pictures = open_pictures(settings.images, settings.size, settings.seed)
    masks = open_masks(settings.masks, settings.size, settings.seed, settings.polarity, cells)
    perceptual, about_lpips = find_perceptual(settings.lpips)
    inception, about_fid = find_inception(settings.fid)
    features, about_vgg = find_features(settings.vgg)
    identity = {
        "images": pictures.identity,
        "masks": masks.identity,
        "size": settings.size,
        "seed": settings.seed,
        "lpips": perceptual.identity if perceptual else None,
        "fid": inception.identity if inception else None,
        "vgg": features.identity if features else None,
    }
    pairs = plan_pairs(len(pictures), masks, settings.count or pictures.usual_count)
    notes = [about_lpips, about_fid, about_vgg, *masks.notes]
    with folder_lock(Path(out)) as check_folder:
        store = Store(Path(out), identity, {method.name: method.identity for method in methods}, check_folder)
        work = _Work(pictures, masks, methods, store, {"lpips": perceptual, "features": features}, inception)
        work.check_contents(pairs)
        failed: dict[str, str] = {}
        complete = False
        try:
            failed = work.do(pairs)
            complete = True
        finally:  # an interrupted evaluation leaves a table marked as partial, and no new pictures
            check_folder()
            restored = work.restored if complete else None
            report = write_report(store, pairs, methods, settings, identity, notes, failed, restored, work.broken)
    return report


class _Work:
    """The loop over pairs, and what it needs again for the sheet of pictures."""

    def __init__(
        self,
        pictures: Pictures | Pages,
        masks: MaskSet,
        methods: list[Method],
        store: Store,
        distances: Mapping[str, Any],
        inception: Any,
    ) -> None:
        self.pictures, self.masks, self.methods, self.store = pictures, masks, methods, store
        self.distances = {name: distance for name, distance in distances.items() if distance is not None}
        self.inception = inception
        self.broken: dict[str, str] = {}  # what cannot be read -> why

    def _mask_number(self, pair: Pair) -> int:
        available = self.masks.counts[pair.cell]
        return pair.number % available if available else pair.number

    def _content(self, pair: Pair) -> list[str]:
        return [self.pictures.content(pair.image), self.masks.content(pair.cell, self._mask_number(pair))]

    def check_contents(self, pairs: Sequence[Pair]) -> None:
        """Raises PConvError where a picture or mask that was measured has been replaced under its name since."""
        replaced: dict[str, str] = {}
        for pair in pairs:
            for method in self.methods:
                record = self.store.records.get((pair.key, method.name))
                if record is None or record.get("content") == self._content(pair):
                    continue
                there, now = record.get("content") or ["", ""], self._content(pair)
                name = f"picture {self.pictures.name(pair.image)}"
                if there[0] == now[0]:
                    name = f"mask {self._mask_number(pair)} of {pair.cell.key}"
                replaced[name] = name
        if replaced:
            names = [*list(replaced)[:5], *["..."] * (len(replaced) > 5)]
            raise PConvError(
                f"out: {self.store.folder} holds results of files with other content: {', '.join(names)}; take "
                "another `out`"
            )

    def _load(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        number = self._mask_number(pair)
        valid = self.masks.load(pair.cell, number)
        if valid.all():
            raise PConvError(f"mask {number} of {pair.cell.key} has no hole")
        return self.pictures.load(pair.image), valid

    def restored(self, pair: Pair) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """(truth, valid, each method's composite)"""
        truth, valid = self._load(pair)
        return truth, valid, [method.restore(truth, valid) for method in self.methods]

    def _is_done(self, pair: Pair, method: str) -> bool:
        done = (pair.key, method) in self.store.records
        return done and (self.inception is None or self.store.feature_path(method, pair.key).is_file())

    def do(self, pairs: Sequence[Pair]) -> dict[str, str]:
        """Fills the store. Returns ``pair/method`` -> why, for what could not be measured."""
        failed: dict[str, str] = {}
        missing = [(pair, [one for one in self.methods if not self._is_done(pair, one.name)]) for pair in pairs]
        missing = [(pair, methods) for pair, methods in missing if methods]
        done = len(pairs) - len(missing)
        with Progress("picture", len(pairs), done, every=max(1, len(pairs) // 50)) as progress:
            if done:
                progress.say(f"{done} of {len(pairs)} pictures are done in {self.store.folder}")
            for pair, methods in missing:
                try:
                    truth, valid = self._load(pair)
                except PConvError as error:
                    failed |= {f"{pair.key} {method.name}": str(error) for method in methods}
                    self._report_once(str(error), progress)
                    progress.advance()
                    continue
                if self.inception is not None and not self.store.feature_path("truth", pair.key).is_file():
                    feature = interruptible(lambda truth=truth: self.inception(truth))  # type: ignore[misc]
                    self.store.add_feature("truth", pair.key, feature)
                for method in methods:
                    try:
                        self._measure(pair, method, truth, valid)
                    except (PConvError, MemoryError, RuntimeError, ValueError, ArithmeticError) as error:
                        why = f"{method.name} on {pair.key}: {error or type(error).__name__}"
                        failed[f"{pair.key} {method.name}"] = why
                        self._report_once(why, progress)
                progress.advance(self.pictures.name(pair.image))
        return failed

    def _report_once(self, why: str, progress: Progress) -> None:
        if why not in self.broken:
            self.broken[why] = why
            progress.say(f"left out: {why}")

    def _measure(self, pair: Pair, method: Method, truth: np.ndarray, valid: np.ndarray) -> None:
        values, feature = interruptible(lambda: self._values(method, truth, valid))
        if feature is not None:
            self.store.add_feature(method.name, pair.key, feature)
        image, share = self.pictures.name(pair.image), round(float(1 - valid.mean()), 6)
        about = {"pair": pair.key, "method": method.name, "image": image, "share": share}
        self.store.add({**about, **values, "content": self._content(pair)})

    def _values(
        self, method: Method, truth: np.ndarray, valid: np.ndarray
    ) -> tuple[dict[str, float], np.ndarray | None]:
        """The metrics of a method's picture, and its features for FID, where that is asked for."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            restored = method.restore(truth, valid)
        values = measure(restored, truth, valid)
        values |= {name: distance(restored, truth) for name, distance in self.distances.items()}
        return values, self.inception(restored) if self.inception is not None else None
