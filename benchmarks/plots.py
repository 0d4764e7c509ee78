"""Three pictures of a result: every layer, the networks, and how times move with holes, batch and size."""

from __future__ import annotations

from typing import Any

from pconv_cuda.errors import require

Row = dict[str, Any]
# rival -> colour and mark; the same in every picture
LOOK = {
    "ours": ("#0a7d33", "o"), "ours_fused": ("#4fb477", "*"), "stock": ("#e08a00", "s"), "composed": ("#e08a00", "D"),
    "unfused_single": ("#b36ae2", "v"), "unfused_full": ("#c62828", "^"), "published": ("#c62828", "^"),
    "usual": ("#c62828", "^"),
}  # fmt: skip
WHICH = ("forward", "forward + backward")


def _axes(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    matplotlib = require("matplotlib", "bench", why="plots")
    matplotlib.use("Agg")
    figure = require("matplotlib.figure", "bench").Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def common(rows: list[Row], kinds: tuple[str, ...]) -> list[Row]:
    """Rows of these kinds in the set-up that most of them have: sweeps stand aside."""
    chosen = [row for row in rows if row["kind"] in kinds]
    settings = [(row["size"], row["batch"], row["hole_share"], row["dtype"]) for row in chosen]
    usual = max(settings, key=settings.count, default=None)
    return [row for row, setting in zip(chosen, settings, strict=True) if setting == usual]


def layers(rows: list[Row]) -> Any:
    """Ratios to the plain convolution of every layer and stage, and the floor that the ceilings allow."""
    figure, axes = _axes(2, 13, 4)
    chosen = common(rows, ("layer", "stage"))
    for axis, which in zip(axes, WHICH, strict=True):
        here = [row for row in chosen if row["which"] == which]
        names = list(dict.fromkeys(row["name"] for row in here))
        for rival, (colour, mark) in LOOK.items():
            points = [(names.index(r["name"]), r["rivals"][rival]["ratio"]) for r in here if rival in r["rivals"]]
            if points:
                axis.plot(*zip(*points, strict=True), mark, color=colour, label=rival)
        floors = [
            (names.index(r["name"]), r["floor"]["least"] / r["rivals"]["plain"]["median_ms"])
            for r in here
            if "floor" in r
        ]
        if floors:
            axis.plot(*zip(*floors, strict=True), "_", color="black", markersize=16, label="floor")
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(yscale="log", title=which, ylabel="time / plain convolution")
        axis.set_xticks(range(len(names)), names, rotation=60)
        axis.yaxis.set_major_formatter("{x:.1f}")
        axis.yaxis.set_minor_formatter("{x:.1f}")
    if axes[0].get_legend_handles_labels()[0]:  # a suite without layers draws none
        axes[0].legend(fontsize=8)
    _caption(figure, chosen)
    return figure


def networks(rows: list[Row]) -> Any:
    """Milliseconds of networks, training steps and photographs."""
    figure, (axis,) = _axes(1, 11, 4)
    chosen = [row for row in rows if row["kind"] in ("network", "training", "photo")]
    for place, row in enumerate(chosen):
        rivals = row["rivals"]
        for number, (name, values) in enumerate(rivals.items()):
            colour = "grey" if name.startswith("plain") else LOOK.get(name.removesuffix("_compiled"), ("#777", ""))[0]
            at = place + (number - len(rivals) / 2) * 0.8 / len(rivals)
            axis.bar(at, values["ratio"], width=0.75 / len(rivals), color=colour)
            axis.text(at, values["ratio"], f" {name}", rotation=90, fontsize=7, ha="center", va="bottom")
    axis.set(
        ylabel="time / plain convolutions",
        ylim=(0, 1.4 * max((v["ratio"] for r in chosen for v in r["rivals"].values()), default=1)),
    )
    labels = [
        f"{r['name']}\n{r['which']}, {r['size']} px, batch {r['batch']}\n"
        f"plain {r['rivals']['plain']['median_ms']:.0f} ms"
        for r in chosen
    ]
    axis.set_xticks(range(len(chosen)), labels, fontsize=7)
    _caption(figure, chosen)
    return figure


def scaling(rows: list[Row]) -> Any:
    """Our and the published layer's ratio against hole share, batch and size, the other two as in most rows."""
    figure, axes = _axes(3, 13, 4)
    singles = [row for row in rows if row["kind"] in ("layer", "stage") and row["which"] == "forward"]
    usual = common(singles, ("layer", "stage"))
    for axis, key in zip(axes, ("hole_share", "batch", "size"), strict=True):
        fixed = [name for name in ("hole_share", "batch", "size", "dtype") if name != key]
        same = [row for row in singles if usual and all(row[name] == usual[0][name] for name in fixed)]
        for name in dict.fromkeys(row["name"] for row in same):
            line = sorted((row for row in same if row["name"] == name), key=lambda row: row[key])
            if len({row[key] for row in line}) < 2:
                continue
            for rival, style in (("ours", "-o"), ("stock", ":s"), ("unfused_full", "--^")):
                values = [row["rivals"][rival]["ratio"] for row in line]
                axis.plot([row[key] for row in line], values, style, label=f"{name}, {rival}")
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(xlabel=key.replace("_", " "), ylabel="time / plain convolution, forward", ylim=(0, None))
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=7)
    _caption(figure, singles)
    return figure


def _caption(figure: Any, rows: list[Row]) -> None:
    if rows:
        machine = rows[0]["machine"]
        device = machine["gpu"] if rows[0]["device"] == "cuda" else f"{machine['cpu']}, {machine['threads']} thread(s)"
        set_up = f"{rows[0]['size']} px, batch {rows[0]['batch']}, {rows[0]['dtype']}"
        figure.suptitle(f"{device}, torch {machine['torch']}, {rows[0]['date']}; {set_up}", fontsize=9)


def all_of(rows: list[Row]) -> dict[str, Any]:
    return {"layers.png": layers(rows), "networks.png": networks(rows), "scaling.png": scaling(rows)}
