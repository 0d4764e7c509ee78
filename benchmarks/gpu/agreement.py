"""Every tile of every product of the network at real size against the plan's own tile, on the device.

    python -m benchmarks.gpu.agreement OUT.json [--without TILE ...] [--seconds N] [--size 512] ...

The plan's tile is what benchmarks.gpu.accuracy holds against float64; here the others, which only choosing by
measurement takes, have to give the same numbers but for one rounding to the output's type: in NHWC, and the tall ones'
forward products in NCHW too. After a kernel that failed or hung nothing in its process can be trusted: the program ends
with code 3, and goes on without that tile with ``--without``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu import device, layers, tiles
from benchmarks.gpu.accuracy import Watch
from benchmarks.gpu.layers import keep

TALL = ("192x256", "256x128", "256x64", "64x256")  # wgmma tiles whose wide operand is pixels (csrc/cuda/plan/tiles.h)


def difference(ours: Any, planned: Any) -> dict[str, Any]:
    """The largest of all outputs, over what one rounding of each output's largest number allows."""
    worst = 0.0
    for a, b in zip(ours, planned, strict=True):
        if a is None or b is None or not a.numel():
            continue
        if not a.is_floating_point():  # a mask
            worst = max(worst, 0.0 if torch.equal(a, b) else float("inf"))
            continue
        allowed = torch.finfo(a.dtype).eps * b.abs().max().item()
        found = (a.float() - b.float()).abs().max().item()
        if found != found:  # NaN
            found = float("inf")
        worst = max(worst, found / allowed if allowed else float("inf") if found else 0.0)
    return {"of_allowed": worst, "passed": worst <= 1.0}


def is_tall(tile: str) -> bool:
    return tile.startswith("wgmma") and tile.endswith(TALL)


def compared(args: Any, result: dict[str, Any], watch: Watch) -> Iterator[dict[str, Any]]:
    """A row for each product, layout and tile that ``result`` does not have, as soon as it is known."""
    stop = time.monotonic() + args.seconds
    known = {tuple(row.get(key) for key in ("layer", "pass", "layout", "tile")) for row in result["rows"]}

    def run(product: tiles.Product, tile: str, choice: int) -> Any:
        result["at"] = tile
        watch.step()
        output = tiles.forced(choice, product.call)()
        torch.cuda.synchronize()
        return output

    for name, sizes, low, draw in tiles.every_product(args.size, args.batch, args.levels, getattr(torch, args.dtype)):
        for layout in ("NHWC", "NCHW"):
            for product in draw(layout == "NHWC"):
                if layout == "NCHW" and product.name != "forward":
                    continue  # the gradients' kernels know no layout but NHWC
                first, *others = tiles.choices(product, sizes, args.dtype, low).items()
                about = {"layer": name, "pass": product.name, "layout": layout}
                others = [
                    (tile, choice)
                    for tile, choice in others
                    if (layout == "NHWC" or is_tall(tile))
                    and tile not in args.without
                    and (*about.values(), tile) not in known
                ]
                planned = None
                for tile, choice in others if first[0] not in args.without else ():
                    if time.monotonic() > stop:
                        result["cut_short_before"] = f"{name}, {product.name}"
                        return
                    planned = run(product, *first) if planned is None else planned
                    ours = run(product, tile, choice)
                    yield {**about, "tile": tile, "planned": first[0], **difference(ours, planned)}


def main() -> int:
    parser = layers.options(__doc__)
    parser.add_argument("--without", action="append", default=[], metavar="TILE", help="rows of OUT.json are kept")
    args = parser.parse_args()
    if not device.is_there():
        print("not measured: torch sees no GPU")
        return 0
    known = json.loads(args.out.read_text())["rows"] if args.without and args.out.is_file() else []
    result: dict[str, Any] = {**layers.conditions(args), "at": "", "rows": known}
    device.take_wgmma(True)
    watch = Watch(args.out, result, "every tile")
    try:
        for found in compared(args, result, watch):
            result["rows"].append(found)
            if not found["passed"]:
                print(found, flush=True)
    except RuntimeError as error:  # of CUDA: the context is lost
        print(f"{result['at']}: {error}", flush=True)
        result["rows"].append({"tile": result["at"], "what": "lost", "error": str(error)[:600], "passed": False})
        return device.BROKEN
    finally:
        keep(args.out, result)
    wrong = [found for found in result["rows"] if not found["passed"]]
    tall = sum(is_tall(found["tile"]) for found in result["rows"] if "tile" in found)
    cut = f", cut short before {result['cut_short_before']}" if "cut_short_before" in result else ""
    print(f"{len(result['rows'])} comparisons, {tall} of tall tiles, {len(wrong)} failures{cut}", flush=True)
    return 1 if wrong or not result["rows"] else 0


if __name__ == "__main__":
    sys.exit(main())
