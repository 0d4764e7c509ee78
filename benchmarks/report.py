"""Results as tables and plots, and the README's table from the newest of them.

python -m benchmarks.report --readme        newest results in benchmarks/results -> README.md, docs/images
python -m benchmarks.report OUT JSON...     what `pconv bench` writes
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import compare, plots
from benchmarks.gpu import table
from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
BEGIN, END = "<!-- measured: python -m benchmarks.report --readme -->", "<!-- end of what was measured -->"
# Rows of the README's table: what a network spends its time in.
SHOWN = ("enc1", "enc2", "enc3", "dec3", "dec2", "dec1")


def first(rivals: dict[str, Row], *names: str) -> str:
    """The ratio of the first of these rivals that took part."""
    return next((f"{rivals[name]['ratio']:.2f}" for name in names if name in rivals), "-")


def cells(row: Row) -> list[str]:
    """plain, ours, stock operators, the published way, the floor."""
    rivals = row["rivals"]
    floor = f"{row['floor']['least'] / rivals['plain']['median_ms']:.2f}" if "floor" in row else "-"
    return [
        f"{rivals['plain']['median_ms']:.1f}", f"**{rivals['ours']['ratio']:.2f}**", first(rivals, "stock", "composed"),
        first(rivals, "unfused_full", "published", "usual"), floor,
    ]  # fmt: skip


def where(row: Row) -> str:
    machine = row["machine"]
    device = machine["gpu"] if row["device"] == "cuda" else f"{machine['cpu']}, {machine['threads']} thread(s)"
    return f"{device}, torch {machine['torch']}, {row['date']}"


def tables(rows: Iterable[Row]) -> str:
    """A table for each set-up, every rival in a column of its own."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        setting = (row["size"], row["batch"], row["hole_share"], row["dtype"], where(row))
        groups.setdefault(setting, []).append(row)
    parts = ["# Benchmarks", "Times over the plain convolution's of the same run: medians of alternating rounds."]
    for (size, batch, holes, dtype, place), members in groups.items():
        names = list(dict.fromkeys(name for row in members for name in row["rivals"] if name != "plain"))
        parts.append(f"## {size} px, batch {batch}, {holes:.0%} holes, {dtype}\n{place}\n")
        head = ["", "plain, ms", *names, "floor"]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for row in members:
            ratios = [first(row["rivals"], name) for name in names]
            lines.append("| " + " | ".join([row["benchmark"], cells(row)[0], *ratios, cells(row)[-1]]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def read(paths: Iterable[Path]) -> list[Row]:
    return [{**row, "benchmark": f"{row['name']}, {row['which']}"} for path in paths for row in compare.load(path)]


def write(paths: list[Path], out: Path) -> None:
    """report.md and the three plots in ``out``."""
    rows = read(paths)
    text = tables(rows)
    for name, drawn in plots.all_of(rows).items():
        with atomic_path(out / name) as temporary:
            drawn.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
        text += f"\n![{name}]({name})\n"
    with atomic_path(out / "report.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


# The README -----------------------------------------------------------------------------------------------------


def newest(folder: Path) -> list[Row]:
    """Rows of the newest file with layers and a network in it, a GPU's before a CPU's."""
    found = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            rows = read([path])
        except PConvError:
            continue  # memory, scaling, the quick start: results of another form
        if {"layer", "network"} <= {row["kind"] for row in rows}:
            found.append(rows)
    if not found:
        raise PConvError(f"bench: no result with layers and a network in {folder}")
    return next((rows for rows in found if rows[0]["device"] == "cuda"), found[0])


def readme_block(rows: list[Row], gpu: list[str]) -> str:
    """The tables between the README's two marks; ``gpu``: the lines of the second one."""
    base = [row for row in rows if row["kind"] in ("network", "training") or row["name"] in SHOWN]
    setting = next(row for row in base if row["kind"] == "network")
    names = ("size", "batch", "hole_share", "dtype")
    base = [row for row in base if all(row[name] == setting[name] for name in names)]
    lines = [
        BEGIN,
        f"Times over those of plain convolutions of the same shape: {setting['size']} px network, batch "
        f"{setting['batch']}, {setting['hole_share']:.0%} holes, {setting['dtype']}",
        f"({where(setting)}; medians of alternating rounds). *Stock* is the best that torch's own operators do,",
        "*published* the layer, network and training step that people use today, *floor* the least that the device's",
        "measured ceilings allow.",
        "",
        "| | plain, ms | **pconv_cuda** | stock | published | floor |",
        "|---|---|---|---|---|---|",
    ]
    seen = set()
    for row in base:
        if row["benchmark"] not in seen:
            seen.add(row["benchmark"])
            lines.append(f"| {row['benchmark']} | " + " | ".join(cells(row)) + " |")
    return "\n".join([*lines, "", *gpu, "", "![times of every layer](docs/images/benchmarks.png)", END])


def write_readme_picture(path: Path, rows: list[Row]) -> None:
    with atomic_path(path) as temporary:
        plots.layers(rows).savefig(temporary, format="png", dpi=110, bbox_inches="tight")


def update_readme() -> None:
    folder = ROOT / "benchmarks" / "results"
    rows, path = newest(folder), ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise PConvError(f"bench: expected the marks {BEGIN!r} and {END!r} once each in {path}")
    head, _, rest = text.partition(BEGIN)
    write_readme_picture(ROOT / "docs" / "images" / "benchmarks.png", rows)
    with atomic_path(path) as temporary:
        block = readme_block(rows, table.readme_lines(folder))
        temporary.write_text(head + block + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["--readme"]:
            update_readme()
        elif len(sys.argv) > 2:
            write([Path(path) for path in sys.argv[2:]], Path(sys.argv[1]))
        else:
            sys.exit(f"usage:{__doc__.partition('.')[2]}")
    except PConvError as error:
        sys.exit(f"error: {error}")
