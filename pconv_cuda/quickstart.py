"""The quick start: the smooth fill and the packaged network at once, then a small one that learns to add to the fill.

It runs the same loop as ``pconv train`` with the configuration of :func:`quickstart_config`, restores pictures that the
network never saw, and measures the result against the others and two baselines, inside the holes only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pconv_cuda.data.images import centre_square
from pconv_cuda.data.packaged import packaged_images, split
from pconv_cuda.documents import damage_mask, document_pages
from pconv_cuda.errors import PConvError, require
from pconv_cuda.evaluation.figures import write_sheet
from pconv_cuda.evaluation.methods import Method, baselines, networks
from pconv_cuda.evaluation.metrics import measure
from pconv_cuda.files import atomic_path
from pconv_cuda.masks import draw_mask
from pconv_cuda.models.weights import PRETRAINED
from pconv_cuda.rng import Stream, generator
from pconv_cuda.training.config import TrainingConfig, load_config
from pconv_cuda.training.loop import train

__all__ = [
    "PRESETS",
    "Case",
    "held_out_cases",
    "hole_psnr",
    "packaged_network",
    "quickstart",
    "quickstart_config",
    "restore_all",
    "write_cases",
]

Results = dict[str, list[np.ndarray]]  # name of a method -> its picture (H, W, 3) uint8 of each case
PRESETS = {"photographs": "photo", "document": "document"}  # and the packaged network for it

STEPS = 3000  # measured on two cores: 24 a second without VGG16's terms, so 2 minutes
STEPS_WITH_VGG = 1500

_PICTURE = 192  # side of the pictures to restore, pixels
_HOLES = ((0.02, 0.1), (0.1, 0.3))  # a mask for each range of hole shares


@dataclass(frozen=True)
class Case:
    """A picture to restore: ``truth`` (H, W, 3) uint8, ``valid`` (H, W) bool."""

    name: str
    truth: np.ndarray
    valid: np.ndarray


def quickstart_config(
    steps: int | None = None, seed: int = 0, vgg: str = "none", preset: str = "photographs"
) -> TrainingConfig:
    """What the quick start trains: the recipe "small" with fewer steps, minutes on two cores.

    Args:
        steps: None takes as many as fit into the time.
        seed: of weights and draws.
        vgg: as ``loss.vgg``; with weights the last fifth of the steps has all six terms.
        preset: "photographs", or "document" for drawn pages with the damage of old ones.

    Raises:
        PConvError: another preset.
    """
    if preset not in PRESETS:
        raise PConvError(f"preset: expected {' or '.join(PRESETS)}, got {preset!r}")
    if steps is None:
        steps = STEPS if vgg == "none" else STEPS_WITH_VGG
    return load_config(
        recipe="small",
        overrides={
            "data.images": "packaged" if preset == "photographs" else "documents",
            "data.masks": "mixed" if preset == "photographs" else "damage",
            "data.hole_share": [0.01, 0.5],
            "data.workers": 1,
            "data.validation_samples": 12,
            "train.steps": steps,
            "train.warmup": min(100, steps // 10),
            "train.seed": seed,
            "loss.vgg": vgg,
            "loss.hole_steps": None if vgg == "none" else steps * 4 // 5,
            "checkpoint.every": max(1, steps // 2),
            "checkpoint.keep": 1,
            "log.every": max(1, steps // 20),
        },
    )


def held_out_cases(seed: int = 0, size: int = _PICTURE, preset: str = "photographs") -> list[Case]:
    """What :func:`quickstart` does not train on, ``size`` px square: photographs with irregular holes, or drawn pages
    with damage.
    """
    if preset == "document":
        return _page_cases(seed, size)
    _, held_out = split(packaged_images())
    cases = []
    for number, photograph in enumerate(held_out):
        truth = centre_square(photograph.array, size)
        for one, share in enumerate(_HOLES):
            # step index outside training, so test masks are disjoint
            rng = generator(seed, Stream.MASK, 2**31, number, one)
            cases.append(Case(f"{photograph.name}-{one + 1}", truth, draw_mask(size, rng, "mixed", share)))
    return cases


def _page_cases(seed: int, size: int) -> list[Case]:
    cases = []
    for number, truth in enumerate(document_pages(3, size, seed)):
        for one, share in enumerate(_HOLES):
            rng = generator(seed, Stream.MASK, 2**31, number, one)
            cases.append(Case(f"page-{number}-{one + 1}", truth, damage_mask(size, size, rng, share)))
    return cases


def packaged_network(name: str) -> list[Method]:
    """The method of the packaged network of this name."""
    return networks([f"{name}={PRETRAINED / name}.safetensors"])  # a name alone could be a file here


def restore_all(methods: Sequence[Method], cases: Sequence[Case]) -> Results:
    """Each method's name -> its picture of every case."""
    return {method.name: [method.restore(case.truth, case.valid) for case in cases] for method in methods}


def hole_psnr(restored: Sequence[np.ndarray], cases: Sequence[Case]) -> list[float]:
    """PSNR over the hole's pixels of each case, dB (peak 255)."""
    both = zip(restored, cases, strict=True)
    return [measure(picture, case.truth, case.valid)["hole_psnr"] for picture, case in both]


def write_cases(path: Path, cases: Sequence[Case], results: Results) -> None:
    """The sheet: before, hole, a column for each of ``results``, truth."""
    columns = zip(*results.values(), strict=True)
    examples = [(case.truth, case.valid, fills) for case, fills in zip(cases, columns, strict=True)]
    write_sheet(path, examples, list(results))


def quickstart(
    out: str | Path = "quickstart",
    steps: int | None = None,
    seed: int = 0,
    vgg: str = "none",
    say: Callable[[str], None] = print,
    preset: str = "photographs",
) -> dict[str, float]:
    """Fills, trains, fills again, compares; writes sheet.png, report.json, model.safetensors, config.json, log.jsonl.

    Args:
        out: folder of the results.
        steps, seed, vgg, preset: see :func:`quickstart_config`.
        say: takes each line of the report.

    Returns:
        What report.json holds: psnr_hole_smooth, psnr_hole_packaged, psnr_hole_after, psnr_hole_mean,
        psnr_hole_biharmonic in dB (means over the held-out pictures), and what was trained how long.

    Raises:
        PConvError: a missing extra, or a folder that holds a run of other settings.
    """
    for module in ("accelerate", "tensorboard", "skimage", "sklearn", "PIL", "torchmetrics"):
        require(module, "quickstart", why="the quick start")  # before minutes of training
    if steps is not None and steps < 1:
        raise PConvError(f"steps: expected at least 1, got {steps}")
    config, out = quickstart_config(steps, seed, vgg, preset), Path(out)
    cases = held_out_cases(seed, preset=preset)
    packaged = PRESETS[preset]
    results = restore_all([*baselines(("smooth",)), *packaged_network(packaged)], cases)
    out.mkdir(parents=True, exist_ok=True)
    write_cases(out / "sheet.png", cases, results)
    say(f"{out / 'sheet.png'}: {len(cases)} pictures, by the smooth fill, which needs no weights, and by {packaged}")
    say(f"{packaged} comes with the package; now a small network learns the same")
    train(config, out)
    results |= restore_all(networks([f"result={out}"]), cases)
    write_cases(out / "sheet.png", cases, results)
    results |= restore_all(baselines(("mean", "biharmonic")), cases)
    names = {"smooth": "smooth", "packaged": packaged, "after": "result", "mean": "mean", "biharmonic": "biharmonic"}
    report = {f"psnr_hole_{key}": float(np.mean(hole_psnr(results[name], cases))) for key, name in names.items()}
    with atomic_path(out / "report.json") as temporary:
        about = {"pictures": len(cases), "steps": config.train.steps, "seed": seed, "vgg": config.loss.vgg}
        about |= {} if preset == "photographs" else {"preset": preset}
        temporary.write_text(json.dumps({**report, **about}, indent=2) + "\n")
    for line in _report_lines(report, packaged, len(cases)):
        say(line)
    say(f"{out / 'sheet.png'}: before, hole, smooth, {packaged}, result, truth of each picture")
    return report


def _report_lines(report: dict[str, float], packaged: str, count: int) -> list[str]:
    after, smooth = report["psnr_hole_after"], report["psnr_hole_smooth"]
    rows = [
        ("mean colour of the picture", report["psnr_hole_mean"]),
        ("biharmonic (scikit-image)", report["psnr_hole_biharmonic"]),
        ("smooth fill, without training", smooth),
        ("with the network trained here", after),
        (f"with the packaged one, {packaged}", report["psnr_hole_packaged"]),
    ]
    lines = [f"PSNR inside the holes, mean over {count} pictures that were not trained on:"]
    lines += [f"  {name:<30}{value:6.2f} dB" for name, value in rows]
    gain, above = after - smooth, after - report["psnr_hole_biharmonic"]
    lines.append(f"training added {gain:+.2f} dB to the smooth fill")
    lines.append(f"the result is {abs(above):.2f} dB {'above' if above >= 0 else 'below'} biharmonic filling")
    return lines
