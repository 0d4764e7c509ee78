"""The benchmarks' pictures: labels that can be read, rivals that differ without colour and do not hide each other."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import plots, report  # noqa: E402
from pconv_cuda.evaluation import figures as evaluation_figures  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
WHOLE = RESULTS / "2026-11-25_cpu-epyc-avx512.json"  # layers, stages, networks and sweeps, the same setting twice


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """The README's picture and the three of a report, laid out as they are written."""
    drawn = {"readme": plots.layers(report.newest(RESULTS)), **plots.all_of(report.read([WHOLE]))}
    for figure in drawn.values():
        FigureCanvasAgg(figure).draw()
    return drawn


def tick_labels(axis: Any) -> Iterator[list[Any]]:
    for one in (axis.xaxis, axis.yaxis):
        low, high = sorted(one.get_view_interval())
        ticks = [*one.get_major_ticks(), *one.get_minor_ticks()]
        texts = [(tick.get_loc(), text) for tick in ticks for text in (tick.label1, tick.label2)]
        yield [t for at, t in texts if t.get_visible() and t.get_text() and low - 1e-9 <= at <= high + 1e-9]


@pytest.mark.parametrize("name", ["readme", "layers.png", "networks.png", "scaling.png"])
def test_no_label_is_there_twice_or_on_top_of_another(figures: dict[str, Any], name: str) -> None:
    seen = 0
    for axis in figures[name].axes:
        for labels in tick_labels(axis):
            texts = [label.get_text() for label in labels]
            assert len(set(texts)) == len(texts), texts
            boxes = [label.get_window_extent() for label in labels]
            for number, box in enumerate(boxes):
                assert not box.count_overlaps(boxes[number + 1 :]), f"{texts[number]} overlaps one of {texts}"
            seen += len(texts)
    assert seen > 8


def test_the_readmes_axis_is_labelled_at_1_2_and_5(figures: dict[str, Any]) -> None:
    for axis in figures["readme"].axes:
        assert axis.get_yscale() == "log"
        _, vertical = tick_labels(axis)
        labels = [text.get_text() for text in vertical]
        usual = ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]
        assert {"0.1", "0.2", "0.5", "1", "2", "5"} <= set(labels)  # how far they go depends on what was measured
        assert labels == usual[usual.index(labels[0]) :][: len(labels)]


@pytest.mark.parametrize("ratios", [[1.1], [0.003, 0.9], [0.9, 480.0]])
def test_the_labels_cover_any_ratio(ratios: list[float]) -> None:
    figure, (axis,) = plots._figure(1, 1, 3)
    plots._ratio_axis(axis, ratios)
    low, high = axis.get_ylim()
    assert low < min(ratios) and max(ratios) < high
    labels = [text.get_text() for text in axis.get_yticklabels()]
    assert {"0.5", "1", "2"} <= set(labels) and len(set(labels)) == len(labels)
    assert [float(label) for label in labels] == pytest.approx(axis.get_yticks())


def test_no_two_rivals_share_a_mark_or_a_hatch() -> None:
    for field in ("label", "mark", "hatch"):
        values = [getattr(look, field) for look in plots.LOOK.values()]
        assert len(set(values)) == len(values), field


def style(line: Any) -> tuple[str, str, bool]:
    """How a line looks in grey."""
    return line.get_marker(), line.get_linestyle(), line.get_markerfacecolor() == "white"


@pytest.mark.parametrize("name", ["readme", "layers.png", "scaling.png"])
def test_lines_differ_without_colour_and_do_not_hide_each_other(figures: dict[str, Any], name: str) -> None:
    for axis in figures[name].axes:
        rivals = [line for line in axis.lines if line.get_marker() not in ("None", "")]
        assert len(rivals) > 3
        assert len({style(line) for line in rivals}) == len(rivals)
        places = [place for line in rivals for place in axis.transData.transform(line.get_xydata())]
        apart = min(abs(a[0] - b[0]) + abs(a[1] - b[1]) for i, a in enumerate(places) for b in places[:i])
        assert apart > 5  # dots of 100 an inch: a mark is about eight wide


def test_bars_differ_without_colour(figures: dict[str, Any]) -> None:
    (axis,) = figures["networks.png"].axes
    looks: dict[str, set[str]] = {}
    for bars in axis.containers:
        assert isinstance(bars, BarContainer)
        looks.setdefault(bars.get_label(), set()).add(bars.patches[0].get_hatch() or "")
    assert len(looks) == 6 and all(len(hatches) == 1 for hatches in looks.values())
    assert len(set.union(*looks.values())) == len(looks)
    edges = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bars in axis.containers for bar in bars)
    assert all(end <= start for (_, end), (start, _) in zip(edges, edges[1:], strict=False))


def test_titles_say_what_is_better_and_legends_name_every_rival(figures: dict[str, Any]) -> None:
    for name, figure in figures.items():
        assert "lower is better" in figure.get_suptitle(), name
        (legend,) = figure.legends
        named = {text.get_text() for text in legend.get_texts()}
        drawn = {label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]}
        assert named == drawn and len(named) > 4


def test_the_readmes_picture_is_that_of_the_newest_result(figures: dict[str, Any], tmp_path: Path) -> None:
    """By size alone: fonts and rasters differ between versions of matplotlib."""
    from PIL import Image

    report.write_readme_picture(tmp_path / "new.png", report.newest(RESULTS))
    with Image.open(tmp_path / "new.png") as new, Image.open(ROOT / "docs/images/benchmarks.png") as old:
        assert max(abs(a - b) for a, b in zip(new.size, old.size, strict=True)) < 40, "run: benchmarks.report --readme"
        assert 900 <= old.width <= 1100  # about a README's


def test_methods_of_an_evaluation_differ_without_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    names = ["ours", "plain", "mean", "telea", "ns"]
    rows = [
        {"metric": metric, "border": border, "method": name, "share": share, "mean": 1.0, "low": 0.5, "high": 1.5}
        for metric in ("hole_psnr", "l1", "ssim") for border in ("border", "inside") for name in names
        for share in ("0.1-0.2", "0.2-0.3")
    ]  # fmt: skip
    with contextlib.suppress(OSError):  # nothing was written
        evaluation_figures.write_plot(tmp_path / "plot.png", rows, names)
    (figure,) = kept
    for axis in figure.axes:
        lines = [container.lines[0] for container in axis.containers]
        assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == len(names)
        assert len({tuple(line.get_xdata()) for line in lines}) == len(names)  # equal means do not hide each other
        assert axis.get_title().endswith("is better")
