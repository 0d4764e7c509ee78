"""``pconv quickstart``: from nothing to restored pictures in minutes."""

from __future__ import annotations

import argparse

from pconv_cuda.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", metavar="DIR", default="quickstart", help="folder of the results (default: quickstart)")
    add("--steps", metavar="N", type=int, help="training steps (default: as many as a few minutes allow)")
    add("--seed", metavar="S", type=int, default=0, help="of weights, crops and masks (default: 0)")
    add(
        "--vgg",
        metavar="imagenet|FILE|none",
        default="none",
        help="weights of VGG16: with them the last steps have the perceptual and style terms too (default: none)",
    )
    add(
        "--preset",
        metavar="photographs|document",
        default="photographs",
        help="photographs with strokes (default), or drawn pages of documents with the damage of old ones",
    )


def _say(text: str) -> None:
    print(printable(text), flush=True)


def run(args: argparse.Namespace) -> int:
    from pconv_cuda.quickstart import quickstart

    quickstart(args.out, args.steps, args.seed, args.vgg, say=_say, preset=args.preset)
    return 0
