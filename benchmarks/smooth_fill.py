"""The smooth fill against the usual methods without training: seconds on one core, and PSNR inside the holes.

OMP_NUM_THREADS=1 python -m benchmarks.smooth_fill > result.json
    --photos DIR   more photographs, a folder of JPEG files
    --only speed | quality
    --tensions     PSNR at other tensions too
    --figure FILE  draws hole, biharmonic, smooth and truth of one packaged photograph, and measures nothing
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from skimage.restoration import inpaint_biharmonic

from benchmarks import measure
from pconv_cuda.data.images import load_rgb
from pconv_cuda.data.packaged import packaged_images
from pconv_cuda.documents import damage_mask, document_page
from pconv_cuda.functional import smooth_fill
from pconv_cuda.masks import draw_mask

BINS = [(0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6)]
DAMAGE_BINS = [(0.02, 0.1), (0.1, 0.2), (0.2, 0.4)]
TENSIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
CROP = 128  # px, as in the design's first measurements
RADIUS = 3  # px, of OpenCV's methods
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (H, W, 3) uint8, 0 in holes, and bool valid


def smooth(holed: np.ndarray, valid: np.ndarray, **options: Any) -> np.ndarray:
    picture = torch.from_numpy(holed).permute(2, 0, 1).float()
    filled = smooth_fill(picture, torch.from_numpy(valid)[None], **options)
    return filled.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def opencv(flag: int) -> Fill:
    return lambda holed, valid: cv2.inpaint(holed, np.uint8(~valid), RADIUS, flag)


def biharmonic(holed: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.uint8((inpaint_biharmonic(holed / 255, ~valid, channel_axis=-1).clip(0, 1) * 255).round())


METHODS: dict[str, Fill] = {
    "smooth": smooth,
    "biharmonic": biharmonic,
    "telea": opencv(cv2.INPAINT_TELEA),
    "ns": opencv(cv2.INPAINT_NS),
}


# Speed ------------------------------------------------------------------------------------------------------


def enlarged(height: int, width: int) -> np.ndarray:
    picture = next(one.array for one in packaged_images() if one.scene == "astronaut")
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)


def scratches(height: int, width: int, count: int) -> np.ndarray:
    """Lines of 1 to 4 px, up to 150 px to each side, valid where True."""
    rng, mask = np.random.default_rng(0), np.ones((height, width), np.uint8)
    for _ in range(count):
        start = rng.integers(0, (width, height))
        end = start + rng.integers(-150, 151, 2)
        cv2.line(mask, start.tolist(), end.tolist(), 0, int(rng.integers(1, 5)))
    return mask.astype(bool)


def floor_ms(pixels: int, holes: int, ceilings: dict[str, float]) -> dict[str, float]:
    """The least milliseconds on this core: bytes of a picture copied once (float32, three channels) and of its mask;
    products of five iterations, each seven plates of 13 points at four thirds of the hole's pixels."""
    moved = pixels * (3 * 8 + 1)
    products = 5 * 7 * 4 / 3 * (13 + 4) * 3 * holes
    return {
        "bytes": round(1e3 * moved / ceilings["copy_bytes_per_s"], 2),
        "flops": round(1e3 * products / ceilings["product_flop_per_s"], 2),
    }


def timed(picture: np.ndarray, valid: np.ndarray, methods: dict[str, int], ceilings: dict[str, float]) -> dict:
    """Medians of alternating calls; ``methods``: how often each is called. The operator alone is `smooth_fill`."""
    holed = np.where(valid[..., None], picture, np.uint8(0))
    x = torch.from_numpy(holed).permute(2, 0, 1).float().contiguous()
    mask = torch.from_numpy(valid)[None]
    calls: measure.Rivals = {"smooth_fill": lambda: smooth_fill(x, mask)}
    calls |= {name: lambda name=name: METHODS[name](holed, valid) for name in methods}
    often = {name: call for name, call in calls.items() if methods.get(name, 9) > 4}
    result = measure.summary(measure.alternate(often, max(methods.values()), warmup=1), "smooth_fill")
    seldom = {"smooth_fill": calls["smooth_fill"], **{name: calls[name] for name in calls if name not in often}}
    if len(seldom) > 1:
        rounds = min(methods.values())
        both = measure.summary(measure.alternate(seldom, rounds, warmup=0), "smooth_fill")
        result |= {name: values for name, values in both.items() if name != "smooth_fill"}
    holes = int((~valid).sum())
    return {
        "pixels": valid.size, "hole_share": round(holes / valid.size, 4), "times": result,
        "floor_ms": floor_ms(valid.size, holes, ceilings),
    }  # fmt: skip


def speed() -> dict[str, Any]:
    ceilings = measure.ceilings("cpu", torch.float32)
    found: dict[str, Any] = {"ceilings": ceilings}
    for seed in range(3):
        valid = draw_mask((1024, 1024), seed, hole_share=(0.19, 0.21))
        found[f"1 MP, mixed, seed {seed}"] = timed(
            enlarged(1024, 1024), valid, {"smooth": 9, "telea": 9, "ns": 9, "biharmonic": 3}, ceilings
        )
    found["12 MP, 1000 scratches"] = timed(
        enlarged(3000, 4000), scratches(3000, 4000, 1000), {"smooth": 5, "telea": 5, "ns": 5}, ceilings
    )
    return found


# Quality ----------------------------------------------------------------------------------------------------


def crop(picture: np.ndarray) -> np.ndarray:
    """The centre at CROP px of the picture at about twice that."""
    height, width = picture.shape[:2]
    scale = max(1, min(height, width) // (2 * CROP))
    small = cv2.resize(picture, (width // scale, height // scale), interpolation=cv2.INTER_AREA)
    top, left = ((side - CROP) // 2 for side in small.shape[:2])
    return small[top : top + CROP, left : left + CROP]


def psnr(truth: np.ndarray, filled: np.ndarray, valid: np.ndarray) -> float:
    error = np.square(truth[~valid].astype(np.float64) - filled[~valid]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


def compared(pictures: list[np.ndarray], masks: list[list[np.ndarray]], tensions: bool) -> dict[str, list[float]]:
    """Mean PSNR in the hole of each method, by bin; ``masks``: of each bin, one or more rounds of the pictures."""
    methods = dict(METHODS)
    if tensions:
        methods |= {f"tension {t}": lambda h, v, t=t: smooth(h, v, tension=t) for t in TENSIONS}
    found: dict[str, list[float]] = {name: [] for name in methods}
    for of_bin in masks:
        for name, fill in methods.items():
            values = []
            for number, valid in enumerate(of_bin):
                truth = pictures[number % len(pictures)]
                values.append(psnr(truth, fill(np.where(valid[..., None], truth, np.uint8(0)), valid), valid))
            found[name].append(round(float(np.mean(values)), 3))
    return found


def quality(photos: Path | None, tensions: bool) -> dict[str, Any]:
    groups = {"packaged photographs": [crop(one.array) for one in packaged_images() if "right" not in one.name]}
    if photos is not None:
        groups["photographs"] = [crop(load_rgb(path)) for path in sorted(photos.glob("*.jpg"))]
    found: dict[str, Any] = {}
    for name, pictures in groups.items():
        rounds = 2 if len(pictures) > 20 else 6
        masks = [
            [draw_mask((CROP, CROP), 1000 * b + i, hole_share=share) for i in range(rounds * len(pictures))]
            for b, share in enumerate(BINS)
        ]
        found[name] = {"pictures": len(pictures), "bins": BINS, "psnr": compared(pictures, masks, tensions)}
    pages = [document_page(number, 2 * CROP) for number in range(32)]
    damage = [
        [damage_mask(2 * CROP, 2 * CROP, 1000 * b + i, share) for i in range(len(pages))]
        for b, share in enumerate(DAMAGE_BINS)
    ]
    found["document pages"] = {"pictures": 32, "bins": DAMAGE_BINS, "psnr": compared(pages, damage, tensions)}
    return found


def figure(path: Path) -> None:
    picture = next(one.array for one in packaged_images() if one.scene == "chelsea")[20:276, 60:316]
    valid = draw_mask((256, 256), 11, hole_share=(0.2, 0.3))
    holed = np.where(valid[..., None], picture, np.uint8(0))
    panels = [
        np.where(valid[..., None], picture, np.uint8(255)),
        biharmonic(holed, valid),
        smooth(holed, valid),
        picture,
    ]
    Image.fromarray(np.concatenate(panels, 1)).save(path)
    print(
        *(
            f"{name} {psnr(picture, filled, valid):.2f} dB"
            for name, filled in zip(("biharmonic", "smooth"), panels[1:3], strict=True)
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--only", choices=("speed", "quality"))
    parser.add_argument("--tensions", action="store_true")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.figure is not None:
        return figure(options.figure)
    result: dict[str, Any] = {"machine": measure.machine()}
    if options.only != "quality":
        result["speed"] = speed()
    if options.only != "speed":
        result["quality"] = quality(options.photos, options.tensions)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
