"""results.json, table.csv and table.md of an evaluation; the pictures are :mod:`~pconv_cuda.evaluation.figures`'s."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation.figures import write_plot, write_sheet
from pconv_cuda.evaluation.learned import frechet_distance
from pconv_cuda.evaluation.methods import BASELINES, Method
from pconv_cuda.evaluation.metrics import ABOUT, COLUMNS
from pconv_cuda.evaluation.pairs import PAIRING, Pair
from pconv_cuda.evaluation.statistics import LEVEL, interval
from pconv_cuda.evaluation.store import Store
from pconv_cuda.files import atomic_path
from pconv_cuda.text import csv_text, markdown

__all__ = ["write_report"]

Row = dict[str, Any]


def write_report(
    store: Store,
    pairs: Sequence[Pair],
    methods: Sequence[Method],
    settings: Any,
    identity: Mapping[str, Any],
    notes: Sequence[str],
    failed: Mapping[str, str],
    restored: Callable[[Pair], Any] | None,
    broken: Mapping[str, str],
) -> dict[str, Any]:
    """Writes the report of a complete or partial store. Returns what results.json holds.

    Without ``restored``, which gives a pair's pictures, plot and sheet are not written: an interruption does not wait.
    """
    rows = _rows(store, pairs, methods, settings)
    wanted = len(pairs) * len(methods)
    done = sum((pair.key, method.name) in store.records for pair in pairs for method in methods)
    results: dict[str, Any] = {
        "complete": done == wanted,
        "measured": done,
        "wanted": wanted,
        "left_out": dict(sorted(failed.items())),
        "settings": {**identity, "resamples": settings.resamples, "pairing": PAIRING, "about": ABOUT},
        "methods": {method.name: method.about for method in methods},
        "notes": list(notes),
        "rows": rows,
        "differences": _differences(store, pairs, methods, settings),
        "pictures": [_public(store.records[key]) for pair in pairs for key in _keys(store, pair, methods)],
    }
    folder = store.folder
    _write(folder / "results.json", json.dumps(results, indent=1) + "\n")
    _write(folder / "table.csv", _csv(rows))
    _write(folder / "table.md", _markdown(results, methods, broken))
    if done and restored:
        write_plot(folder / "plot.png", rows, [method.name for method in methods])
        _write_sheet(folder / "sheet.png", _examples(store, pairs, methods[0].name), methods, restored)
    return results


def _keys(store: Store, pair: Pair, methods: Sequence[Method]) -> list[tuple[str, str]]:
    return [(pair.key, method.name) for method in methods if (pair.key, method.name) in store.records]


def _public(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "content"}


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _cells(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair.cell.key, []).append(pair)
    return found


def _rows(store: Store, pairs: Sequence[Pair], methods: Sequence[Method], settings: Any) -> list[Row]:
    """One for each cell, method and metric that has a value."""
    rows = []
    for cell, own in _cells(pairs).items():
        for method in methods:
            records = [store.records[key] for pair in own if (key := (pair.key, method.name)) in store.records]
            for metric in COLUMNS:
                if records and metric in records[0]:
                    values = [record[metric] for record in records]
                    images = [record["image"] for record in records]
                    mean, low, high = interval(values, images, settings.seed, settings.resamples)
                    rows.append(_row(cell, method.name, metric, mean, low, high, len(records), len(own)))
            features = [
                (store.feature_path(method.name, pair.key), store.feature_path("truth", pair.key)) for pair in own
            ]
            features = [both for both in features if both[0].is_file() and both[1].is_file()]
            if len(features) > 1:
                distance = frechet_distance(*([np.load(path) for path in side] for side in zip(*features, strict=True)))
                rows.append(_row(cell, method.name, "fid", distance, None, None, len(features), len(own)))
    return rows


def _row(cell: str, method: str, metric: str, mean: float, low: Any, high: Any, count: int, wanted: int) -> Row:
    share, _, border = cell.partition("/")
    place = {"share": share, "border": border, "method": method, "metric": metric}
    return {**place, "mean": mean, "low": low, "high": high, "pictures": count, "wanted": wanted}


def _differences(store: Store, pairs: Sequence[Pair], methods: Sequence[Method], settings: Any) -> list[Row]:
    """The first network less each other one and less the smooth fill, picture by picture: hard pictures cancel."""
    networks = [method.name for method in methods if method.name not in BASELINES]
    rows = []
    for other in networks[1:] + [method.name for method in methods if networks and method.name == "smooth"]:
        for cell, own in _cells(pairs).items():
            both = [(store.records.get((pair.key, networks[0])), store.records.get((pair.key, other))) for pair in own]
            common = [(one, two) for one, two in both if one and two]
            for metric in COLUMNS:
                if common and metric in common[0][0]:
                    values = [one[metric] - two[metric] for one, two in common]
                    images = [one["image"] for one, _ in common]
                    numbers = interval(values, images, settings.seed, settings.resamples)
                    rows.append(_row(cell, f"{networks[0]} - {other}", metric, *numbers, len(common), len(own)))
    return rows


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    names = ["share", "border", "method", "metric", "mean", "low", "high", "pictures", "wanted"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: csv_text(value) if isinstance(value, str) else value for key, value in row.items()})
    return text.getvalue()


def _markdown(results: Mapping[str, Any], methods: Sequence[Method], broken: Mapping[str, str]) -> str:
    settings = results["settings"]
    lines = ["# Evaluation", ""]
    if not results["complete"]:
        lines += [
            f"**Partial: {results['measured']} of {results['wanted']} values.** Cells marked * lack pictures.",
            "",
        ]
        lines += [f"- left out: {markdown(why)}" for why in broken] + [""] * bool(broken)
    lines += [ABOUT, ""]
    lines += [
        f"Brackets: {LEVEL:.0%} bootstrap interval over pictures (not of one), {settings['resamples']} resamples.",
        "",
    ]
    lines += [
        f"Pictures ({settings['images']}): the middle square, resized to {settings['size']} px. Masks: "
        f"{settings['masks']}. Seed {settings['seed']}; {PAIRING}.",
        "",
    ]
    lines += [f"- {markdown(name)}: {markdown(about)}" for name, about in results["methods"].items()] + [""]
    lines += [f"- {markdown(note)}" for note in results["notes"]] + [""]
    names = [method.name for method in methods]
    lines += _tables(results["rows"], names)
    differences = results["differences"]
    if differences:
        lines += ["# Differences, picture by picture", ""]
        lines += _tables(differences, list(dict.fromkeys(row["method"] for row in differences)), signed=True)
    return "\n".join(lines).rstrip() + "\n"


def _tables(rows: Sequence[Row], names: Sequence[str], signed: bool = False) -> list[str]:
    by_place = {(row["metric"], row["border"], row["method"], row["share"]): row for row in rows}
    lines = []
    for metric, (heading, higher, digits) in COLUMNS.items():
        for border, words in (("border", "holes at the border"), ("inside", "no holes at the border")):
            shares = list(dict.fromkeys(r["share"] for r in rows if (r["metric"], r["border"]) == (metric, border)))
            if not shares:
                continue
            lines += [f"## {heading}, {words} ({'higher' if higher else 'lower'} is better)", ""]
            spans = [f"({low}, {high}]" for low, high in (share.split("-") for share in shares)]
            lines += ["| method | " + " | ".join(spans) + " |", "|---|" + "---|" * len(shares)]
            for name in names:
                texts = [_cell(by_place.get((metric, border, name, share)), digits, signed) for share in shares]
                lines.append(f"| {markdown(name)} | " + " | ".join(texts) + " |")
            lines.append("")
    return lines


def _cell(row: Row | None, digits: int, signed: bool) -> str:
    if row is None:
        return "-"
    sign = "+" if signed else ""
    text = f"{row['mean']:{sign}.{digits}f}"
    if row["low"] is not None:
        text += f" [{row['low']:{sign}.{digits}f}, {row['high']:{sign}.{digits}f}]"
    return text + ("*" if row["pictures"] < row["wanted"] else "")


def _write_sheet(
    path: Path, examples: Sequence[tuple[str, Pair]], methods: Sequence[Method], restored: Callable[[Pair], Any]
) -> None:
    rows, labels = [], []
    for label, pair in examples:
        with contextlib.suppress(PConvError):  # the file is gone since it was measured
            rows.append(restored(pair))
            labels.append(f"{label} of {methods[0].name} ({pair.cell.key})")
    if rows:
        write_sheet(path, rows, [method.name for method in methods], labels)


def _examples(store: Store, pairs: Sequence[Pair], first: str) -> list[tuple[str, Pair]]:
    """The best, the median and the worst picture of the first method, by PSNR in the hole."""
    own = [pair for pair in pairs if (pair.key, first) in store.records]
    own.sort(key=lambda pair: (store.records[pair.key, first]["hole_psnr"], pair.key))
    if not own:
        return []
    return [("best", own[-1]), ("median", own[len(own) // 2]), ("worst", own[0])]
