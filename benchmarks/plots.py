"""Three pictures of a result: every layer, the networks, and how times move with holes, batch and size.

Rivals differ in mark and hatch, not in colour alone, and those of one place stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pconv_cuda.errors import require

Row = dict[str, Any]


class Look(NamedTuple):
    """How a rival is called and drawn, the same in every picture: points have a mark, bars a hatch."""

    label: str
    colour: str
    mark: str
    hatch: str


LOOK = {
    "plain": Look("plain convolution", "#9e9e9e", "h", ""),
    "ours": Look("pconv_cuda", "#0a7d33", "o", "////"),
    "ours_fused": Look("pconv_cuda after fuse()", "#8fd0a5", "*", "...."),
    "composed": Look("pconv_cuda without fused stages", "#f2c94c", "D", "\\\\\\\\"),
    "stock": Look("best of torch's own operators", "#e08a00", "s", "----"),
    "unfused_single": Look("published layer, mask of one channel", "#b36ae2", "v", "+++"),
    "unfused_full": Look("published layer, mask of every channel", "#c62828", "^", "|||"),
    "published": Look("published network", "#e06666", "P", "xxx"),
    "usual": Look("usual training step", "#e06666", "X", "oo"),
}
WHICH = ("forward", "forward + backward")
TICKS = tuple(float(f"{digit}e{power}") for power in range(-4, 4) for digit in (1, 2, 5))
RATIO = "time / plain convolution"
WIDTH = 8.8  # inches; at 110 dots an inch about the width of a README, so that 9 pt are read as they are


def _figure(rows: int, columns: int, height: float, **shared: Any) -> tuple[Any, list[Any]]:
    figure_module = require("matplotlib.figure", "bench", why="plots")  # pyplot keeps state and needs a display
    figure = figure_module.Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).ravel())


def common(rows: list[Row], kinds: tuple[str, ...]) -> list[Row]:
    """Rows of these kinds in the set-up that most of them have: sweeps stand aside."""
    chosen = [row for row in rows if row["kind"] in kinds]
    settings = [(row["size"], row["batch"], row["hole_share"], row["dtype"]) for row in chosen]
    usual = max(settings, key=settings.count, default=None)
    return [row for row, setting in zip(chosen, settings, strict=True) if setting == usual]


def _first_of_each(rows: Iterable[Row], key: str) -> list[Row]:
    """A sweep measures the usual set-up again; the first time counts, as in the README's table."""
    return list({row[key]: row for row in reversed(list(rows))}.values())[::-1]


def _beside(number: int, count: int) -> float:
    """Distance from the middle of a place that ``count`` rivals share."""
    return (number - (count - 1) / 2) * 0.8 / max(count, 1)


def _ratio_axis(axis: Any, values: Iterable[float]) -> None:
    """Logarithmic, with a label at 1, 2 and 5 of each decade and nowhere else."""
    seen = [*values, 0.5, 2.0]
    low, high = min(seen) / 1.3, max(seen) * 1.3
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axis.set(yscale="log", ylim=(low, high))
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_yticks([], minor=True)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.axhline(1, color="black", linewidth=0.8, zorder=1)
    axis.set_axisbelow(True)


def layers(rows: list[Row]) -> Any:
    """Ratios to the plain convolution of every layer and stage, and the floor that the ceilings allow."""
    figure, axes = _figure(2, 1, 7.4)
    chosen = common(rows, ("layer", "stage"))
    rivals = [name for name in LOOK if name != "plain" and any(name in row["rivals"] for row in chosen)]
    values: list[float] = []
    for axis, which in zip(axes, WHICH, strict=True):
        here = _first_of_each((row for row in chosen if row["which"] == which), "name")
        for number, rival in enumerate(rivals):
            points = [
                (place + _beside(number, len(rivals)), row["rivals"][rival]["ratio"])
                for place, row in enumerate(here)
                if rival in row["rivals"]
            ]
            values += _points(axis, points, LOOK[rival])
        floors = [
            (place, row["floor"]["least"] / row["rivals"]["plain"]["median_ms"])
            for place, row in enumerate(here)
            if "floor" in row
        ]
        for place, least in floors:
            ends = [place - 0.45, place + 0.45]
            axis.plot(ends, [least, least], color="black", linewidth=1.6, label="floor of direct convolutions")
            values.append(least)
        for place in range(1, len(here), 2):  # stripes keep the rivals of a layer together
            axis.axvspan(place - 0.5, place + 0.5, color="#f3f3f3", zorder=0)
        axis.set(ylabel=RATIO, xlim=(-0.5, max(len(here), 1) - 0.5))
        axis.set_title(which, fontsize=10)
        axis.set_xticks(range(len(here)), [row["name"] for row in here], fontsize=9)
    for axis in axes:
        _ratio_axis(axis, values)  # the same for both, so that they can be compared
    _legend(figure, axes, 2)
    _title(figure, "Time of each layer over a plain convolution's", chosen)
    return figure


def _points(axis: Any, points: list[tuple[float, float]], look: Look) -> list[float]:
    """Draws a rival, and returns its ratios."""
    at, ratios = [place for place, _ in points], [ratio for _, ratio in points]
    axis.plot(
        at, ratios, look.mark, color=look.colour, label=look.label, markersize=6, markeredgecolor="black",
        markeredgewidth=0.6,
    )  # fmt: skip
    return ratios


def networks(rows: list[Row]) -> Any:
    """Ratios of networks, training steps and photographs, a group of bars each."""
    chosen = [row for row in rows if row["kind"] in ("network", "training", "photo")]
    figure, (axis,) = _figure(1, 1, 1.6 + 0.24 * sum(len(row["rivals"]) + 1 for row in chosen))
    most = max((times["ratio"] for row in chosen for times in row["rivals"].values()), default=1)
    at, places, labels = 0.0, [], []
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # of a number that would stand on a line
    for row in chosen:
        count = len(row["rivals"])
        for number, (name, times) in enumerate(row["rivals"].items()):
            base = name.removesuffix("_compiled")
            look = LOOK.get(base, Look(base, "#cccccc", ".", "**"))
            compiled = name != base  # by a white bar
            axis.barh(
                at + number, times["ratio"], 0.9, color="white" if compiled else look.colour, edgecolor="black",
                hatch=look.hatch, linewidth=0.6, label=look.label + " under torch.compile" * compiled,
            )  # fmt: skip
            beside = times["ratio"] + 0.01 * most
            axis.text(beside, at + number, f"{times['ratio']:.2f}", fontsize=8, va="center", bbox=paper)
        places.append(at + (count - 1) / 2)
        set_up = "" if row["kind"] == "photo" else f"{row['size']} px, batch {row['batch']}\n"
        labels.append(f"{row['name']}\n{row['which']}\n{set_up}plain: {_duration(row['rivals']['plain']['median_ms'])}")
        at += count + 1
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set(xlabel="time / plain convolutions", xlim=(0, 1.1 * most), ylim=(at - 1, -1))
    axis.set_yticks(places, labels, fontsize=8)
    _legend(figure, [axis], 3)
    _title(figure, "Time of networks and training steps over that with plain convolutions", chosen, set_up=False)
    return figure


def scaling(rows: list[Row]) -> Any:
    """Three rivals' ratios against hole share, batch and size, the other two as in most rows."""
    keys = {"hole_share": "hole share", "batch": "batch", "size": "network's size, px"}
    figure, axes = _figure(1, len(keys), 4.4, sharey=True)
    singles = [row for row in rows if row["kind"] in ("layer", "stage") and row["which"] == "forward"]
    sweeps, values = {key: _sweep(singles, key) for key in keys}, []
    names = list(dict.fromkeys(name for lines in sweeps.values() for name in lines))
    for axis, (key, lines) in zip(axes, sweeps.items(), strict=True):
        places = sorted({row[key] for line in lines.values() for row in line})
        drawn = [(name, rival) for name in lines for rival in ("ours", "stock", "unfused_full")]
        for number, (name, rival) in enumerate(drawn):
            look, which = LOOK[rival], names.index(name)
            at = [places.index(row[key]) + _beside(number, len(drawn)) / 2 for row in lines[name]]
            ratios = [row["rivals"][rival]["ratio"] for row in lines[name]]
            axis.plot(
                at, ratios, look.mark, color=look.colour, linestyle=("-", "--", ":", "-.")[which % 4], linewidth=1.2,
                markersize=6, markerfacecolor="white" if which else look.colour, label=f"{name}, {look.label}",
            )  # fmt: skip
            values += ratios
        axis.set_xlabel(keys[key])
        axis.set_xticks(range(len(places)), [f"{place:.0%}" if key == "hole_share" else str(place) for place in places])
    for axis in axes:
        _ratio_axis(axis, values)
    axes[0].set_ylabel(RATIO)
    _legend(figure, axes, 2)
    _title(figure, "Time, forward, over a plain convolution's", singles)
    return figure


def _sweep(singles: list[Row], key: str) -> dict[str, list[Row]]:
    """The rows of each layer that differ in ``key`` alone, by its value."""
    usual = common(singles, ("layer", "stage"))
    fixed = [name for name in ("hole_share", "batch", "size", "dtype") if name != key]
    same = [row for row in singles if usual and all(row[name] == usual[0][name] for name in fixed)]
    lines = {
        name: sorted(_first_of_each((row for row in same if row["name"] == name), key), key=lambda row: row[key])
        for name in dict.fromkeys(row["name"] for row in same)
    }
    return {name: line for name, line in lines.items() if len(line) > 1}


def _duration(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.0f} s"


def _legend(figure: Any, axes: list[Any], columns: int) -> None:
    once = {label: one for axis in axes for one, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if once:  # a suite without layers draws none
        figure.legend(once.values(), once, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def _title(figure: Any, text: str, rows: list[Row], set_up: bool = True) -> None:
    said = f"{text}: lower is better"
    if rows:
        machine = rows[0]["machine"]
        device = machine["gpu"] if rows[0]["device"] == "cuda" else f"{machine['cpu']}, {machine['threads']} thread(s)"
        said += f"\n{device}, torch {machine['torch']}, {rows[0]['date']}"
        said += f"; {rows[0]['size']} px, batch {rows[0]['batch']}, {rows[0]['dtype']}" if set_up else ""
    figure.suptitle(said, fontsize=11)


def all_of(rows: list[Row]) -> dict[str, Any]:
    return {"layers.png": layers(rows), "networks.png": networks(rows), "scaling.png": scaling(rows)}
