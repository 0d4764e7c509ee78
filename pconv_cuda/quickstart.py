"""The quick start: train a narrow network on packaged photographs, restore pictures that it never saw.

It runs the same loop as ``pconv train`` with the configuration of :func:`quickstart_config`, and
measures the result against two baselines, inside the holes only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pconv_cuda.data.documents import damage_mask, document_pages
from pconv_cuda.data.draws import Stream, generator
from pconv_cuda.data.masks import irregular_mask
from pconv_cuda.data.packaged import packaged_images, split
from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import atomic_path
from pconv_cuda.models import InpaintingNetwork, load_network
from pconv_cuda.training.config import TrainingConfig, load_config
from pconv_cuda.training.loop import train
from pconv_cuda.training.networks import build_network

__all__ = ["PRESETS", "Case", "held_out_cases", "hole_psnr", "quickstart", "quickstart_config", "restore"]

PRESETS = ("photographs", "document")

# Measured on two cores: 0.18 s a step without VGG16's terms (2.6 minutes in all); with them about eight times that.
STEPS = 800
STEPS_WITH_VGG = 100

_PICTURE = 192  # side of the pictures to restore, pixels
_HOLES = (0.1, 0.4)  # range of their hole shares
_MASKS = 2  # masks for each picture


@dataclass(frozen=True)
class Case:
    """A picture to restore: ``truth`` (H, W, 3) uint8, ``valid`` (H, W) bool."""

    name: str
    truth: np.ndarray
    valid: np.ndarray


def quickstart_config(
    steps: int | None = None, seed: int = 0, vgg: str | None = None, preset: str = "photographs"
) -> TrainingConfig:
    """What the quick start trains: the paper's recipe, made small enough for minutes on two cores.

    Args:
        steps: None takes as many as fit into the time.
        seed: of weights and draws.
        vgg: as ``loss.vgg``; None takes the ImageNet weights where they lie in torch's cache already,
            and else trains without the terms that need them.
        preset: "photographs", or "document" for drawn pages with the damage of old ones.

    Raises:
        PConvError: another preset.
    """
    if preset not in PRESETS:
        raise PConvError(f"--preset: expected {' or '.join(PRESETS)}, got {preset!r}")
    if vgg is None:
        vgg = "imagenet" if _cached_vgg() else "none"
    if steps is None:
        steps = STEPS if vgg == "none" else STEPS_WITH_VGG
    return load_config(
        overrides={
            "model.levels": 5,  # fills holes up to 136 px wide
            "model.width": 16,
            "data.images": "packaged" if preset == "photographs" else "documents",
            "data.masks": "strokes" if preset == "photographs" else "damage",
            "data.hole_share": [0.05, 0.5],
            "data.size": 128 if vgg == "none" else 96,
            "data.workers": 1,
            "data.validation_samples": 12,
            "train.steps": steps,
            "train.batch_size": 6,
            "train.lr": 1e-3,  # a narrow network on few pictures stands more than the paper's 2e-4
            "train.finetune_after": steps * 4 // 5,
            "train.finetune_lr": 2e-4,
            "train.seed": seed,
            "loss.vgg": vgg,
            "checkpoint.every": max(1, steps // 2),
            "checkpoint.keep": 1,
            "log.every": max(1, steps // 20),
            "log.pictures": max(1, steps // 4),
        }
    )


def _cached_vgg() -> bool:
    from torchvision.models import VGG16_Weights

    file = VGG16_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    return (Path(torch.hub.get_dir()) / "checkpoints" / file).is_file()


def held_out_cases(seed: int = 0, size: int = _PICTURE, preset: str = "photographs") -> list[Case]:
    """What :func:`quickstart` does not train on, ``size`` px square: photographs with irregular holes, or drawn pages
    with damage.
    """
    if preset == "document":
        return _page_cases(seed, size)
    pil_image = require("PIL.Image", "quickstart", why="the quick start")
    _, held_out = split(packaged_images())
    cases = []
    for number, photograph in enumerate(held_out):
        height, width = photograph.array.shape[:2]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        picture = pil_image.fromarray(photograph.array[top : top + side, left : left + side])
        truth = np.asarray(picture.resize((size, size), pil_image.Resampling.LANCZOS))
        for one in range(_MASKS):
            # a step that no training reaches: these masks are nobody's training masks
            rng = generator(seed, Stream.MASK, 2**31, number, one)
            cases.append(Case(f"{photograph.name}-{one + 1}", truth, irregular_mask(size, size, rng, _HOLES)))
    return cases


def _page_cases(seed: int, size: int) -> list[Case]:
    cases = []
    for number, truth in enumerate(document_pages(3, size, seed)):
        for one in range(_MASKS):
            rng = generator(seed, Stream.MASK, 2**31, number, one)
            cases.append(Case(f"page-{number}-{one + 1}", truth, damage_mask(size, size, rng, _HOLES)))
    return cases


@torch.no_grad()
def restore(network: InpaintingNetwork, case: Case) -> np.ndarray:
    """The composite, (H, W, 3) uint8: the network's output in the holes, the picture elsewhere."""
    network.eval()
    image = torch.from_numpy(case.truth.copy()).permute(2, 0, 1)[None].float() / 255
    mask = torch.from_numpy(case.valid)[None, None]
    holed = torch.where(mask, network.normalize(image), 0.0)  # the network cannot see what it has to guess
    filled = network.denormalize(network(holed, mask)[0])
    output = (filled[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return np.where(case.valid[..., None], case.truth, output)


def _fill_with_mean(case: Case) -> np.ndarray:
    mean = case.truth[case.valid].mean(axis=0).round().astype(np.uint8)
    return np.where(case.valid[..., None], case.truth, mean)


def _fill_biharmonic(case: Case) -> np.ndarray:
    restoration = require("skimage.restoration", "quickstart", why="the biharmonic baseline")
    holed = np.where(case.valid[..., None], case.truth / 255.0, 0.0)
    filled = restoration.inpaint_biharmonic(holed, ~case.valid, channel_axis=-1)
    output = (filled.clip(0, 1) * 255).round().astype(np.uint8)
    return np.where(case.valid[..., None], case.truth, output)


def hole_psnr(restored: np.ndarray, case: Case) -> float:
    """Peak signal-to-noise ratio over the hole's pixels alone, in dB (peak 255)."""
    difference = restored[~case.valid].astype(np.float64) - case.truth[~case.valid]
    return float(10 * np.log10(255.0**2 / max(np.mean(difference**2), 1e-10)))


def quickstart(
    out: str | Path = "quickstart",
    steps: int | None = None,
    seed: int = 0,
    vgg: str | None = None,
    say: Callable[[str], None] = print,
    preset: str = "photographs",
) -> dict[str, float]:
    """Trains, restores, compares; writes sheet.png, report.json, model.safetensors, config.json, log.jsonl.

    Args:
        out: folder of the results.
        steps, seed, vgg, preset: see :func:`quickstart_config`.
        say: takes each line of the report.

    Returns:
        What report.json holds: psnr_hole_before, psnr_hole_after, psnr_hole_mean, psnr_hole_biharmonic in
        dB (means over the held-out pictures), and what was trained how long.

    Raises:
        PConvError: a missing extra, or a folder that holds a run of other settings.
    """
    for module in ("accelerate", "tensorboard", "skimage", "sklearn", "PIL"):
        require(module, "quickstart", why="the quick start")  # now, not after minutes of training
    if steps is not None and steps < 1:
        raise PConvError(f"--steps: expected at least 1, got {steps}")
    config, out = quickstart_config(steps, seed, vgg, preset), Path(out)
    cases = held_out_cases(seed, preset=preset)
    if config.loss.vgg == "none":
        say("training with the terms valid, hole, tv; perceptual and style need ImageNet weights of VGG16")
        say("(none at hand: give them with --vgg FILE, or --vgg imagenet to download them)")
    else:
        say(f"training with all six terms (VGG16: {config.loss.vgg})")

    untrained = build_network(config)
    train(config, out)
    trained = load_network(out)
    fillers: dict[str, Callable[[Case], np.ndarray]] = {
        "before": lambda case: restore(untrained, case),
        "after": lambda case: restore(trained, case),
        "mean": _fill_with_mean,
        "biharmonic": _fill_biharmonic,
    }
    results = {name: [fill(case) for case in cases] for name, fill in fillers.items()}
    report = {
        f"psnr_hole_{name}": float(np.mean([hole_psnr(one, case) for one, case in zip(filled, cases, strict=True)]))
        for name, filled in results.items()
    }
    _write_sheet(out / "sheet.png", cases, results["after"])
    with atomic_path(out / "report.json") as temporary:
        about = {"pictures": len(cases), "steps": config.train.steps, "seed": seed, "vgg": config.loss.vgg}
        about |= {} if preset == "photographs" else {"preset": preset}
        temporary.write_text(json.dumps({**report, **about}, indent=2) + "\n")
    for line in _report_lines(report, len(cases)):
        say(line)
    say(f"{out / 'sheet.png'}: before, mask, after, truth of each picture")
    return report


def _report_lines(report: dict[str, float], count: int) -> list[str]:
    after = report["psnr_hole_after"]
    rows = [
        ("before training", report["psnr_hole_before"]),
        ("after training", after),
        ("mean colour of the picture", report["psnr_hole_mean"]),
        ("biharmonic (scikit-image)", report["psnr_hole_biharmonic"]),
    ]
    lines = [f"PSNR inside the holes, mean over {count} pictures that were not trained on:"]
    lines += [f"  {name:<28}{value:6.2f} dB" for name, value in rows]
    for name, key in (("mean colour", "psnr_hole_mean"), ("biharmonic baseline", "psnr_hole_biharmonic")):
        gain = after - report[key]
        lines.append(f"the trained network is {abs(gain):.2f} dB {'above' if gain >= 0 else 'below'} the {name}")
    return lines


def _write_sheet(path: Path, cases: Sequence[Case], restored: Sequence[np.ndarray]) -> None:
    """One row a picture: before (holes white), mask (white is the hole), after, truth."""
    pil_image, draw = require("PIL.Image", "quickstart"), require("PIL.ImageDraw", "quickstart")
    size, gap, head = cases[0].truth.shape[0], 6, 22
    columns = ("before", "mask", "after", "truth")
    sheet = pil_image.new("RGB", (gap + len(columns) * (size + gap), head + len(cases) * (size + gap)), "white")
    pen = draw.Draw(sheet)
    for column, label in enumerate(columns):
        pen.text((gap + column * (size + gap), 5), label, fill="black")
    for row, (case, after) in enumerate(zip(cases, restored, strict=True)):
        hole = ~case.valid[..., None]
        white_hole = np.broadcast_to(np.where(hole, 255, 0), case.truth.shape).astype(np.uint8)
        pictures = (np.where(hole, np.uint8(255), case.truth), white_hole, after, case.truth)
        for column, picture in enumerate(pictures):
            sheet.paste(pil_image.fromarray(picture), (gap + column * (size + gap), head + row * (size + gap)))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
