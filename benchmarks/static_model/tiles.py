"""Every product of a network with each tile that it could take: the plan's beside the fastest by the count."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.static_model import layers
from benchmarks.static_model.devices import GPUS
from benchmarks.static_model.estimate import Estimate, Model
from benchmarks.static_model.launches import of_network
from benchmarks.static_model.sass import Binary, built_extension
from benchmarks.static_model.text import markdown
from pconv_cuda.errors import PConvError
from pconv_cuda.ops import extension

HEAD = ["layer", "pass", "planned", "us", "fastest", "us", "saved"]
PLANNED = -1

Product = tuple[str, str]  # layer and pass


def tile_count() -> int:
    """How many tiles csrc/cuda/plan/tiles.h has."""
    return extension.load().tile_count


def by_tile(model: Model, args: argparse.Namespace, tile: int) -> dict[Product, Estimate]:
    """Estimates of the network's products where each takes the tile of this number if it can, else the plan's."""
    wgmma = model.gpu.wgmma and not args.mma
    found = of_network(args.size, args.batch, args.dtype, model.gpu, wgmma, tile)
    return {(one.layer, one.name): model.estimate(one) for one in found if not one.special}


def named(of: Estimate) -> str:
    return of.launch.tile + (f" / {of.launch.splits}" if of.launch.splits > 1 else "")


def options(parser: argparse.ArgumentParser) -> None:
    layers.options(parser)


def run(args: argparse.Namespace) -> tuple[str, Any]:
    binary = Binary(args.extension or built_extension())
    said, result = [], {}
    for gpu in args.gpu or ["h100"]:
        model = Model(binary, GPUS[gpu])
        planned = by_tile(model, args, PLANNED)
        if not planned:
            raise PConvError(f"static model: no product of a network of {args.size} px is counted")
        fastest = dict(planned)
        for tile in range(tile_count()):
            for product, one in by_tile(model, args, tile).items():
                if one.total_us < fastest[product].total_us:
                    fastest[product] = one
        rows = [
            [
                *product, named(planned[product]), f"{planned[product].total_us:.1f}",
                *((named(best), f"{best.total_us:.1f}") if best is not planned[product] else ("", "")),
                f"{1 - best.total_us / planned[product].total_us:.0%}" if best is not planned[product] else "",
            ]
            for product, best in fastest.items()
        ]  # fmt: skip
        now, then = (sum(one.total_us for one in of.values()) / 1e3 for of in (planned, fastest))
        said.append(f"{model.gpu.title}, {args.size} px, batch {args.batch}, {args.dtype}\n")
        said.append(markdown(HEAD, rows))
        said.append(f"\nproducts with their passes: {now:.2f} ms as planned, {then:.2f} by the fastest tiles")
        result[gpu] = [
            {"layer": product[0], "pass": product[1], "planned": planned[product].as_json(), "fastest": best.as_json()}
            for product, best in fastest.items()
        ]
    return "\n".join(said), result
