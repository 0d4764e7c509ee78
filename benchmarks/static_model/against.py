"""Counted against measured: what ``python -m benchmarks.gpu_lap`` left on an H100 and an H200."""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import paper_layers
from cases_upcat import paper_stages

from benchmarks.static_model.devices import GPUS, MEASURED_CALL
from benchmarks.static_model.estimate import Model
from benchmarks.static_model.launches import Launch, of_layer, of_network, of_stage
from benchmarks.static_model.sass import Binary, built_extension, short
from benchmarks.static_model.text import markdown

DIRECTIONS = ("forward", "forward + backward")
RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True)
class Compared:
    """``counted`` in microseconds, with the passes around the products and what a measured call costs besides."""

    what: str
    direction: str
    kernels: str
    counted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.counted / self.measured


def measurements(card: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The newest ``*_speed.json`` of a card."""
    return json.loads(sorted(folder.glob(f"*_{card}_speed.json"))[-1].read_text(encoding="utf-8"))


def total(model: Model, launches: Iterable[Launch], backward: bool) -> float | None:
    """Without an estimate for one of the kernels: None."""
    estimates = [model.estimate(one) for one in launches if backward or one.name == "forward"]
    if any(one.cycles is None for one in estimates):
        return None
    calls = 2 if backward else 1  # operators: the backward pass is one of its own
    return MEASURED_CALL * calls + sum(one.total_us for one in estimates)


def compare(model: Model, result: dict[str, Any]) -> list[Compared]:
    """Every layer and stage of the measured network, forward and with its backward pass, by either kind of kernels."""
    found: list[Compared] = []
    of, dtype = result["layers"], result["layers"]["dtype"]
    cases = {case.name: case for case in paper_layers(of["size"], of["batch"])}
    stages = {one.name: one for one in paper_stages(of["size"], of["batch"], 8)}
    rows = [(row, False) for row in of["layers"]] + [(row, True) for row in result["networks"].get("stages", [])]
    for rival, wgmma in (("ours", False), ("ours_wgmma", True)):
        if wgmma and not model.gpu.wgmma:
            continue
        for row, staged in rows:
            name = row["layer"]
            made = (of_stage if staged else of_layer)((stages if staged else cases)[name], dtype, model.gpu, wgmma)
            for direction, backward in (("forward", False), ("forward_backward", True)):
                counted = total(model, made, backward)
                if counted is None or rival not in row.get(direction, {}):
                    continue
                kind = "stage " if staged else ""
                kernels = "wgmma" if wgmma else "mma.sync"
                words = direction.replace("_", " + ")
                found.append(Compared(kind + name, words, kernels, counted, row[direction][rival]["median_us"]))
    return found


PROFILED = ("enc1", "enc2", "dec4", "dec1")  # what ncu looked at, in its order


def profiled(model: Model, card: str, folder: Path = RESULTS) -> list[Compared]:
    """ncu's times of single kernels, where the plan still launches the same one with the same grid."""
    files = sorted(folder.glob(f"*_{card}_ncu.csv"))
    if not files:
        return []
    cases = {case.name: case for case in paper_layers(512, 6)}
    launches: dict[tuple[tuple[int, ...], str], Launch] = {}
    for name in PROFILED:
        for wgmma in (False, True):
            for made in of_layer(cases[name], "bfloat16", model.gpu, wgmma):
                launches[made.grid, model.binary.readable[model.symbol(made)]] = made
    found: dict[tuple[str, str], Compared] = {}
    with files[-1].open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            grid = tuple(map(int, re.findall(r"\d+", row["grid"])))
            one = launches.get((grid, short(row["kernel"])))
            if one is None or one.special:
                continue
            counted = model.estimate(one).product_us - model.gpu.launch
            kernels = "wgmma" if "wgmma" in one.tile else "mma.sync"
            measured = float(row["gpu__time_duration.sum"]) / 1e3
            found[one.layer, one.kernel] = Compared(one.layer, one.kernel, kernels, counted, measured)
    return list(found.values())


def whole(model: Model, card: str, folder: Path = RESULTS) -> list[Compared]:
    """All products of a training pass of the network, beside the profiler's sums over the kernels of the same names."""
    speed = sorted(folder.glob(f"*_{card}_speed.json"))[-1]
    file = speed.with_name(speed.name.replace("_speed", "_kernels"))  # of the same run
    kernels = json.loads(file.read_text(encoding="utf-8"))["kernels"] if file.is_file() else {}
    found = []
    for rival, wgmma in (("ours", False), ("ours_wgmma", True)):
        for direction in DIRECTIONS:
            rows = kernels.get(f"{rival}, {direction.replace(' + ', '_')}", [])
            measured = sum(row["us"] for row in rows if re.match(r"(wgmma_)?(gemm|wgrad)_kernel", row["kernel"]))
            made = [model.estimate(one) for one in of_network(512, 6, "bfloat16", model.gpu, wgmma)]
            made = [e for e in made if e.cycles and (direction != "forward" or e.launch.name == "forward")]
            counted = sum(e.product_us - model.gpu.launch for e in made)
            if measured:
                found.append(Compared("network", direction, "wgmma" if wgmma else "mma.sync", counted, measured))
    return found


def pivot(rows: list[Compared]) -> str:
    """A line a layer: counted and measured microseconds, and their ratio."""
    columns = [(kernels, direction) for kernels in ("mma.sync", "wgmma") for direction in DIRECTIONS]
    names = list(dict.fromkeys(one.what for one in rows))
    found = {(one.what, one.kernels, one.direction): one for one in rows}

    def cell(key: tuple[str, str, str]) -> str:
        one = found.get(key)
        return f"{one.counted:.0f} / {one.measured:.0f} = {one.ratio:.2f}" if one else "-"

    lines = [[name, *(cell((name, *column)) for column in columns)] for name in names]
    return markdown(["counted / measured us", *(", ".join(column) for column in columns)], lines)


def summary(rows: list[Compared]) -> list[str]:
    said = []
    for kernels in ("mma.sync", "wgmma"):
        for direction in DIRECTIONS:
            ratios = [one.ratio for one in rows if (one.kernels, one.direction) == (kernels, direction)]
            if ratios:
                said.append(
                    f"{kernels}, {direction}: counted / measured {statistics.median(ratios):.2f} in the median of "
                    f"{len(ratios)}, {min(ratios):.2f} to {max(ratios):.2f}"
                )
    return said


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--card", choices=["h100", "h200"], default="h100", help="whose measurements")
    parser.add_argument("--extension", type=Path, help="instead of the package's pconv_cuda/_C_cuda*.so")


def run(args: argparse.Namespace) -> tuple[str, Any]:
    model = Model(Binary(args.extension or built_extension()), GPUS[args.card])
    rows, single = compare(model, measurements(args.card)), profiled(model, args.card)
    sums = whole(model, args.card)

    said = [pivot([*rows, *sums]), *summary(rows)]
    if single:
        cells = [[o.what, o.direction, f"{o.counted:.0f}", f"{o.measured:.0f}", f"{o.ratio:.2f}"] for o in single]
        said.append(markdown(["layer", "kernel", "counted us", "ncu us", "ratio"], cells))
    as_json = [[{**vars(one), "ratio": round(one.ratio, 3)} for one in of] for of in ([*rows, *sums], single)]
    return "\n\n".join(said), {"card": args.card, "calls": as_json[0], "kernels": as_json[1]}
