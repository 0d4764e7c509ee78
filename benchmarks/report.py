"""Results as tables and plots; the tables of the README and of docs/benchmarks.md from the newest of them.

python -m benchmarks.report --readme        newest of benchmarks/results -> README.md, docs/benchmarks.md, picture
python -m benchmarks.report OUT JSON...     what `python -m benchmarks` writes
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
# Rows of the README's table: label, kind, name ("": the only one of its kind), pass.
FIVE = (
    ("layer enc3, forward", "layer", "enc3", "forward"),
    ("decoder stage dec3, forward", "stage", "dec3", "forward"),
    ("network, forward", "network", "", "forward"),
    ("network, forward + backward", "network", "", "forward + backward"),
    ("training step with VGG16", "training", "", "forward + backward"),
)


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
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    device = machine["gpu"] if row["device"] == "cuda" else f"{machine['cpu']}, {threads}"
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


# The README and docs/benchmarks.md ------------------------------------------------------------------------------


def newest(folder: Path, avx2: bool = False) -> list[Row]:
    """Rows of the newest file with layers and a network on a CPU in it; ``avx2``: on one without AVX-512."""
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            rows = read([path])
        except PConvError:
            continue  # memory, scaling, the quick start: results of another form
        on_cpu = [row for row in rows if row["device"] == "cpu"]
        narrow = any(row["machine"].get("vectors") == "AVX2" for row in on_cpu)
        if narrow == avx2 and {"layer", "network"} <= {row["kind"] for row in on_cpu}:
            return rows
    raise PConvError(f"no result of a CPU with layers and a network in {folder}")


def usual(rows: list[Row]) -> dict[str, Row]:
    """benchmark -> its row in the network's setting; a sweep measures it again, and the first time counts."""
    setting = network_of(rows)
    names = ("size", "batch", "hole_share", "dtype", "device")
    found: dict[str, Row] = {}
    for row in rows:
        if all(row[name] == setting[name] for name in names):
            found.setdefault(row["benchmark"], row)
    return found


def network_of(rows: list[Row]) -> Row:
    return next(row for row in rows if row["kind"] == "network" and row["device"] == "cpu")


def setting_of(row: Row) -> str:
    shares = f"{row['hole_share']:.0%} holes"
    return f"{row['name']}, {row['size']} px, batch {row['batch']}, {shares}, {row['dtype']} ({where(row)})"


def page_block(rows: list[Row], measured: table.Found | None, narrow: list[Row]) -> str:
    """The tables between the two marks of docs/benchmarks.md; ``measured``: a GPU's, ``narrow``: a CPU's with AVX2."""
    places = f"{setting_of(network_of(rows))}; on the right with AVX2 alone"
    lines = [BEGIN, "## On a CPU", *table.paragraph(f"{places}."), ""]
    lines.append(
        "| | plain, ms | **pconv_cuda** | stock | published | floor | AVX2: plain, ms | **pconv_cuda** | published |"
    )
    lines.append("|---" * 9 + "|")
    with_avx2 = usual(narrow)
    for name, row in usual(rows).items():
        plain, ours, _, published, _ = cells(with_avx2[name]) if name in with_avx2 else "-----"
        lines.append(f"| {name} | {' | '.join([*cells(row), plain, ours, published])} |")
    lines += ["", "![times of every layer](images/benchmarks.png)", "", "## On a GPU", *table.page_lines(measured)]
    return "\n".join([*lines, END])


def readme_block(rows: list[Row], measured: table.Found | None) -> str:
    """Five rows between the README's two marks; a dash where nothing was measured."""
    on_gpu = f"GPU: {table.setting_of(measured)}." if measured else table.UNMEASURED
    lines = [
        BEGIN,
        *table.paragraph(
            "Times over those of plain convolutions of the same shape; less is better. *Published* is the layer, "
            f"network and training step that people use today. CPU: {setting_of(network_of(rows))}. {on_gpu} A dash: "
            "not measured. All other times: [docs/benchmarks.md](docs/benchmarks.md)."
        ),
        "",
        "| | CPU: plain, ms | **pconv_cuda** | published | GPU: plain, ms | **pconv_cuda** | published |",
        "|---" * 7 + "|",
    ]
    of_gpu = table.cells(measured) if measured else {}
    for label, kind, name, which in FIVE:
        found = [
            cells(row)
            for row in usual(rows).values()
            if (row["kind"], row["which"]) == (kind, which) and row["name"].startswith(name)
        ]
        plain, ours, _, published, _ = found[0] if found else "-----"
        lines.append(
            f"| {label} | " + " | ".join([plain, ours, published, *of_gpu.get((kind, name, which), "---")]) + " |"
        )
    return "\n".join([*lines, END])


def write_readme_picture(path: Path, rows: list[Row]) -> None:
    with atomic_path(path) as temporary:
        plots.layers(rows).savefig(temporary, format="png", dpi=110, bbox_inches="tight")


def blocks(folder: Path) -> dict[Path, str]:
    """What stands between the marks of each document."""
    rows, measured = newest(folder), table.newest(folder)
    return {
        ROOT / "README.md": readme_block(rows, measured),
        ROOT / "docs" / "benchmarks.md": page_block(rows, measured, newest(folder, avx2=True)),
    }


def update_readme() -> None:
    folder = ROOT / "benchmarks" / "results"
    write_readme_picture(ROOT / "docs" / "images" / "benchmarks.png", newest(folder))
    for path, block in blocks(folder).items():
        text = path.read_text(encoding="utf-8")
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            raise PConvError(f"expected the marks {BEGIN!r} and {END!r} once each in {path}")
        head, _, rest = text.partition(BEGIN)
        with atomic_path(path) as temporary:
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
