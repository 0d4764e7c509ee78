"""The plot by hole share, and sheets of restored pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.contact_sheet import contact_sheet
from pconv_cuda.errors import require
from pconv_cuda.evaluation.metrics import COLUMNS
from pconv_cuda.files import atomic_path
from pconv_cuda.text import printable

__all__ = ["Example", "write_plot", "write_sheet"]

Example = tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]]

_PLOTTED = ("hole_psnr", "l1", "ssim")
_LARGEST = 256  # px of a picture on the sheet
_MARKS, _LINES = "os^DvP*X<>", ("-", "--", "-.", ":")  # methods differ in them, not in colour alone


def write_plot(path: Path, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Each metric over the middle of the hole share, with its interval; holes at the border and inside side by side."""
    figure_module = require("matplotlib.figure", "eval", why="the plot")  # pyplot keeps state, needs a display
    figure = figure_module.Figure(figsize=(8.8, 3 * len(_PLOTTED)), layout="constrained")
    axes = figure.subplots(len(_PLOTTED), 2, sharex=True, sharey="row", squeeze=False)
    for line, metric in enumerate(_PLOTTED):
        for column, border in enumerate(("border", "inside")):
            axis = axes[line][column]
            for number, name in enumerate(names):
                own = [r for r in rows if (r["metric"], r["border"], r["method"]) == (metric, border, name)]
                # side by side, so that equal methods do not hide each other
                beside = (number - (len(names) - 1) / 2) * 0.06 / max(len(names), 1)
                at = [sum(map(float, row["share"].split("-"))) / 2 + beside for row in own]
                means, low, high = (np.array([row[key] for row in own], float) for key in ("mean", "low", "high"))
                errors = np.maximum(np.stack((means - low, high - means)), 0)
                axis.errorbar(
                    at, means, errors, marker=_MARKS[number % len(_MARKS)], linestyle=_LINES[number % len(_LINES)],
                    markersize=5, elinewidth=0.7, linewidth=1.1, label=_plain(name),
                )  # fmt: skip
            axis.grid(alpha=0.3)
            heading, higher, _ = COLUMNS[metric]
            where = "holes at the border" if border == "border" else "no holes at the border"
            axis.set_title(f"{heading}, {where}: {'higher' if higher else 'lower'} is better", fontsize=9)
            axis.set_xlabel("hole share")
            axis.set_ylabel(heading)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _plain(name: str) -> str:
    """A name as a label: no formula between dollars, and no underscore in front, which would hide it."""
    return "\u200b" * name.startswith("_") + printable(name, keep="").replace("$", r"\$")


def write_sheet(path: Path, examples: Sequence[Example], names: Sequence[str], labels: Sequence[str] = ()) -> None:
    """A row an example: the picture with its hole white, the hole (white), each method's picture, the truth.

    Args:
        path: of the PNG.
        examples: (truth (S, S, 3) uint8, valid (S, S) bool, each method's picture), at least one.
        names: of the methods.
        labels: of the rows.
    """
    rows = []
    for truth, valid, composites in examples:
        before = np.where(valid[..., None], truth, np.uint8(255))
        rows.append([before, np.where(valid, np.uint8(0), np.uint8(255)), *composites, truth])
    headings = ["before", "hole", *(printable(name, keep="") for name in names), "truth"]
    labels = [printable(label, keep="") for label in labels]
    sheet = contact_sheet(rows, min(_LARGEST, rows[0][0].shape[0]), headings=headings, labels=labels)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
