"""Train a small network on drawn pages of old documents, in minutes on a CPU, and show what it does to unseen ones.

python examples/train_small.py [--steps 1500]     for your own pictures set "data.images" below to their folder
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # before torch is loaded: docs/threads.md says why

from pconv_cuda import PConvError, inpaint
from pconv_cuda.documents import damage_mask, document_pages
from pconv_cuda.models import load_network
from pconv_cuda.training import load_config, train


def settings(steps: int) -> dict[str, object]:
    """What differs from the recipe "small"; `pconv train --recipe small --print-config` shows all keys."""
    data = {"data.images": "documents", "data.masks": "damage", "data.hole_share": [0.01, 0.3], "data.workers": 1}
    every = max(1, steps // 10)  # steps between two measurements on pages that are set aside
    run = {"train.steps": steps, "train.warmup": every, "checkpoint.every": every, "log.every": every}
    return {**data, **run}


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="default: %(default)s")
    parser.add_argument("-o", "--out", type=Path, default=Path("trained"), help="folder of the run (default: trained)")
    args = parser.parse_args(arguments)
    try:
        train(load_config(recipe="small", overrides=settings(args.steps)), args.out)  # goes on where it was stopped
        network = load_network(args.out)
    except (PConvError, OSError) as error:
        sys.exit(f"error: {error}")
    log = map(json.loads, (args.out / "log.jsonl").read_text().splitlines())
    losses = [line["validation/total"] for line in log if "validation/total" in line]  # 1 is about the smooth fill's
    print("loss on pages that were set aside:", ", ".join(f"{loss:.3f}" for loss in losses))
    rows = []
    for number, truth in enumerate(document_pages(3, size=256)):  # (H, W, 3) uint8; no training draws these
        hole = ~damage_mask(256, 256, rng=number, hole_share=(0.05, 0.15))  # (H, W) bool
        result, smooth = (inpaint(model, truth, hole) for model in (network, "smooth"))  # the hole is not looked at
        before, mask = np.where(hole[..., None], np.uint8(255), [truth, np.zeros_like(truth)])
        rows.append(np.concatenate([before, mask, result, truth], axis=1))
        psnr = [10 * np.log10(255**2 / np.mean((each[hole] * 1.0 - truth[hole]) ** 2)) for each in (smooth, result)]
        print(f"page {number}, PSNR in the hole: smooth fill {psnr[0]:.2f} dB, trained network {psnr[1]:.2f} dB")
    Image.fromarray(np.concatenate(rows)).save(args.out / "sheet.png")
    print(f"{args.out / 'sheet.png'}: before, hole, result, truth")
    return losses


if __name__ == "__main__":
    main()
