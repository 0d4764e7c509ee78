"""The table of every layer and pass of a network on a GPU: what the plan chose, how it fills the device, how long it
takes by the count."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.static_model import units
from benchmarks.static_model.devices import GPUS, Gpu
from benchmarks.static_model.estimate import Estimate, Model
from benchmarks.static_model.launches import DTYPES, of_network
from benchmarks.static_model.sass import Binary, built_extension
from benchmarks.static_model.text import markdown

HEAD = [
    "layer", "pass", "tile", "blocks", "a multi- processor", "waves", "efficiency", "last wave", "steps",
    "cycles: prologue", "step (tensor)", "epilogue", "floor us", "product us", "passes us", "of the floor",
]  # fmt: skip


def cells(e: Estimate) -> list[str]:
    launch, counted = e.launch, e.cycles
    splits = f" / {launch.splits}" if launch.splits > 1 else ""
    waves = [f"{e.resident}", f"{e.waves.exact:.2f}", f"{e.waves.efficiency:.2f}", f"{e.waves.last:.2f}"]
    if counted is None:
        kernel = "last" if launch.special == "last" else "first"
        return [
            launch.layer, launch.name, f"{kernel} layer", str(launch.blocks or "-"), *["-"] * 8, f"{e.least_us:.1f}",
            "-", f"{e.sweeps_us:.1f}", "-",
        ]  # fmt: skip
    return [
        launch.layer, launch.name, launch.tile.replace(" stages", "") + splits, str(launch.blocks), *waves,
        f"{launch.steps:.1f}", f"{counted.prologue:.0f}", f"{counted.step:.0f} ({counted.tensor:.0f})",
        f"{counted.epilogue:.0f}", f"{e.least_us:.1f}", f"{e.product_us:.1f}", f"{e.sweeps_us:.1f}",
        f"{e.product_us / e.least_us:.1f}",
    ]  # fmt: skip


def sums(estimates: list[Estimate]) -> str:
    """A line under the table. Kernels that are not counted stand in it with their floor."""
    said = []
    for name, of in (("forward", [e for e in estimates if e.launch.name == "forward"]), ("both passes", estimates)):
        product, passes, floor = (
            sum(part) / 1e3 for part in zip(*((e.product_us, e.sweeps_us, e.least_us) for e in of), strict=True)
        )
        said.append(f"{name}: products {product:.2f} ms, passes {passes:.2f} ms, floor {floor:.2f} ms")
    return "; ".join(said) + " (first and last layer's own kernels with their floor)"


def parts(estimates: list[Estimate], gpu: Gpu) -> dict[str, float]:
    """Milliseconds of the counted products by what they go into, and of the passes around them. ``rounds``: slots
    that the last wave leaves empty; ``steps``: what the main loops take beyond their products."""
    found = dict.fromkeys(("products", "steps", "prologues", "epilogues", "starts", "rounds", "passes"), 0.0)
    for e in estimates:
        found["passes"] += e.sweeps_us / 1e3
        if e.cycles is None:
            continue
        filled = e.waves.exact / gpu.clock / 1e6  # milliseconds a cycle of a block's
        steps, counted = e.launch.steps, e.cycles
        known = {
            "products": counted.tensor * steps, "steps": (counted.step - counted.tensor) * steps,
            "prologues": counted.prologue, "epilogues": counted.epilogue,
        }  # fmt: skip
        known["starts"] = e.round_cycles - sum(known.values())
        for name, cycles in known.items():
            found[name] += cycles * filled
        found["rounds"] += e.round_cycles * (e.waves.rounds - e.waves.exact) / gpu.clock / 1e6
    return found


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", action="append", choices=sorted(GPUS), help="may be given again (default: h100)")
    parser.add_argument("--size", type=int, default=512, help="side of the pictures, a power of two (default 512)")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--dtype", default="bfloat16", choices=[*DTYPES])
    parser.add_argument("--mma", action="store_true", help="without the wgmma kernels, as PCONV_WGMMA=0")
    parser.add_argument("--extension", type=Path, help="instead of the package's pconv_cuda/_C_cuda*.so")


def run(args: argparse.Namespace) -> tuple[str, Any]:
    binary = Binary(args.extension or built_extension())
    said, rows, kernels, spent = [], {}, {}, {}
    for gpu in args.gpu or ["h100"]:
        model = Model(binary, GPUS[gpu])
        wgmma = model.gpu.wgmma and not args.mma
        found = [model.estimate(one) for one in of_network(args.size, args.batch, args.dtype, model.gpu, wgmma)]
        prices = units.rows(model, found)
        said.append(f"{model.gpu.title}, {args.size} px, batch {args.batch}, {args.dtype}\n")
        said.append(markdown(HEAD, map(cells, found)))
        ms = parts(found, model.gpu)
        said.append(f"\n{sums(found)}\n")
        said.append("Both passes, ms: " + ", ".join(f"{name} {value:.2f}" for name, value in ms.items()) + "\n")
        said.append(markdown(units.HEAD, map(units.cells, prices)) + "\n")
        rows[gpu], kernels[gpu] = [e.as_json() for e in found], prices
        spent[gpu] = {name: round(value, 4) for name, value in ms.items()}
    size = {"size": args.size, "batch": args.batch, "dtype": args.dtype}
    return "\n".join(said), {**size, "layers": rows, "kernels": kernels, "ms": spent}
