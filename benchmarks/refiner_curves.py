"""What small networks add to the smooth fill, by CPU time: one curve a call, as JSON lines.

    python -m benchmarks.refiner_curves --train PHOTOS --test OTHERS --set model.conv=partial > curve.jsonl

Configurations are those of ``pconv train --recipe small``. One thread; the learning rate falls to 0 over the time, not
over steps, so that cheap and costly networks are compared by what they cost. The gain is that of PSNR in the hole over
the smooth fill, dB, with its standard error over the test pictures: middle squares of 128 px, two `mixed` masks in each
bin of hole shares.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pconv_cuda.data.images import load_rgb
from pconv_cuda.functional import smooth_fill
from pconv_cuda.masks import draw_mask
from pconv_cuda.models import InpaintingNetwork
from pconv_cuda.training import TrainingConfig, load_config
from pconv_cuda.training.networks import WeightAverage, build_network, build_optimizer
from pconv_cuda.training.objective import Objective
from pconv_cuda.training.sources import open_data

SIZE, MASKS = 128, 2
BINS = [(0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6)]


def test_pictures(folder: Path) -> Iterator[Tensor]:
    """(1, 3, SIZE, SIZE) in [0, 1]."""
    from PIL import Image

    for path in sorted(folder.iterdir()):
        picture = load_rgb(path)
        height, width = picture.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(picture[top : top + side, left : left + side]).resize((SIZE, SIZE), Image.LANCZOS)
        yield torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)[None].float() / 255


def psnr(output: Tensor, truth: Tensor, hole: Tensor) -> float:
    return -10 * math.log10(float((output - truth)[hole].square().mean()) + 1e-10)


@torch.no_grad()
def gains(network: InpaintingNetwork, pictures: list[Tensor]) -> list[tuple[float, float]]:
    """(mean, standard error) of the gain in each bin."""
    found = []
    for number, share in enumerate(BINS):
        values = []
        for index, truth in enumerate(pictures):
            for repeat in range(MASKS):
                valid = torch.from_numpy(
                    draw_mask(SIZE, np.random.default_rng([99, number, index, repeat]), "mixed", share)
                )
                mask = valid.clone()[None, None]
                hole, fill = ~mask.expand_as(truth), smooth_fill(truth, mask)
                output = network.denormalize(network(network.normalize(truth), mask, network.normalize(fill))[0])
                values.append(psnr(output, truth, hole) - psnr(fill.clamp(0, 1), truth, hole))
        found.append((round(float(np.mean(values)), 3), round(float(np.std(values) / math.sqrt(len(values))), 3)))
    return found


def curve(config: TrainingConfig, seconds: float, every: float, pictures: list[Tensor]) -> Iterator[dict[str, object]]:
    """A point each ``every`` CPU seconds of training; what measuring takes does not count."""
    network = build_network(config).train()
    average = WeightAverage(network, config.train.average)
    optimizer = build_optimizer(config, network, torch.device("cpu"))
    objective, pairs = Objective(config, torch.device("cpu")), open_data(config).training
    used, step, following = 0.0, 0, every
    start = time.process_time()
    while used < seconds:
        samples = [pairs[step, sample] for sample in range(config.train.batch_size)]
        truth, mask = (torch.stack(each).contiguous() for each in zip(*samples, strict=True))
        target = network.normalize(truth)
        fill = smooth_fill(target, mask)
        rate = (
            config.train.lr
            * min(1, (step + 1) / (config.train.warmup + 1))
            * math.cos(math.pi / 2 * used / seconds) ** 2
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        output, _ = network(target, mask, fill)
        loss = torch.stack(list(objective.terms(target, mask, output, target, fill, step).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.clip or math.inf)
        optimizer.step()
        average.update(network)
        step += 1
        used = time.process_time() - start
        if used >= following or used >= seconds:
            paused = time.process_time()
            yield {"steps": step, "cpu_s": round(used), "gain": gains(average.network.eval(), pictures)}
            start += time.process_time() - paused
            following += every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, metavar="DIR|packaged", help="pictures to train on")
    parser.add_argument("--test", required=True, type=Path, metavar="DIR", help="other pictures")
    parser.add_argument("--seconds", type=float, default=300, help="CPU seconds of training (default: %(default)s)")
    parser.add_argument("--every", type=float, default=75, help="CPU seconds between points (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the configuration")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(settings=args.set, overrides={"data.images": args.train}, recipe="small")
    pictures = list(test_pictures(args.test))
    parameters = sum(each.numel() for each in build_network(config).parameters())
    print(json.dumps({"set": args.set, "parameters": parameters, "pictures": len(pictures)}), flush=True)
    for point in curve(config, args.seconds, args.every, pictures):
        print(json.dumps(point), flush=True)


if __name__ == "__main__":
    main()
