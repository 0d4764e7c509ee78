"""Tables of a run on a GPU: its report.md, and those of the README and docs/benchmarks.md."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

Found = dict[str, Any]


def report(out: Path) -> str:
    """From whatever files lie in ``out``."""
    lines: list[str] = []
    for part in ("check", "speed"):
        if (path := out / f"{part}.json").is_file():
            found = json.loads(path.read_text())
            lines += [f"# {part}: {found.get('device')}, {found.get('date')}, torch {found.get('torch')}", ""]
            lines += ["| stage | outcome | s |", "|---|---|---|"]
            lines += [f"| {one['stage']} | {one['outcome']} | {one['seconds']} |" for one in found["stages"]] + [""]
    for name in ("layers", "networks"):
        if not (path := out / f"{name}.json").is_file():
            continue
        found = json.loads(path.read_text())
        for key in (name, f"{name}_compiled", "stages"):
            if found.get(key):
                title = f"{key}: {found['dtype']}, batch {found['batch']}, {found['size']}x{found['size']}"
                table = networks if key.startswith("networks") else stages if key == "stages" else layers
                lines += [f"## {title}", "", *table(found[key]), ""]
    if (path := out / "chosen.json").is_file():
        lines += ["## chosen by measurement", "", *chosen(json.loads(path.read_text())["chosen"]), ""]
    if (path := out / "tiles.json").is_file():
        lines += ["## every tile", "", *tiles(json.loads(path.read_text())["tiles"]), ""]
    return "\n".join(lines)


def ratios(times: Found, rivals: list[str]) -> str:
    """Ours, ours on wgmma and ours as chosen by measurement in microseconds, then the fastest over each rival."""
    median = {name: time["median_us"] for name, time in times.items()}
    names = ("ours", "ours_wgmma", "ours_chosen")
    ours = [median[name] for name in names if name in median]
    shown = [f"{median[name]:.1f}" if name in median else "" for name in names]
    shown += [f"{min(ours) / median[name]:.2f}" if name in median else "" for name in rivals]
    return " | ".join(shown)


def layers(rows: list[Found]) -> list[str]:
    rivals = ["plain", "unfused", "unfused_compiled"]
    lines = ["| layer | pass | ours us | wgmma us | chosen us | / plain | / unfused | / unfused compiled | floor us |"]
    lines += ["|---" * 9 + "|"]
    for row in rows:
        for what in ("forward", "forward_backward"):
            if what in row:
                floor = f"{max(row['floor_us'].values()):.1f}" if what == "forward" else ""
                lines.append(f"| {row['layer']} | {what} | {ratios(row[what], rivals)} | {floor} |")
    return lines


def networks(passes: Found) -> list[str]:
    """Every network's median and its peak memory."""
    lines = ["| network | pass | us | / plain | peak MiB |", "|---" * 5 + "|"]
    for what, one in passes.items():
        base = next(
            (one["times"][name]["median_us"] for name in ("plain", "plain_compiled") if name in one["times"]), 0
        )
        for name, times in one["times"].items():
            ratio = f"{times['median_us'] / base:.2f}" if base else ""
            lines.append(f"| {name} | {what} | {times['median_us']:.1f} | {ratio} | {one['peak_mib'][name]} |")
        lines += [f"| {name} | {what} | {error[:80]} | | |" for name, error in one["errors"].items()]
    return lines


def chosen(passes: Found) -> list[str]:
    """The network by the plan and by what was measured, and how many calls took which path."""
    lines = ["| pass | planned us | measured us | library | mma.sync | wgmma |", "|---" * 6 + "|"]
    for what, one in passes.items():
        times = [f"{one['times'][name]['median_us']:.1f}" for name in ("planned", "measured")]
        counts = [str(one["choices"].get(path, 0)) for path in "012"]
        lines.append(f"| {' | '.join([what, *times, *counts])} |")
    return lines


def tiles(rows: list[Found]) -> list[str]:
    """Of each product the tile that the plan takes, and the fastest one."""
    lines = ["| layer | pass | planned | us | fastest | us |", "|---" * 6 + "|"]
    for row in rows:
        times = {tile: each["median_us"] for tile, each in row["times"].items()}
        best, planned = min(times, key=lambda tile: times[tile]), row["planned"]
        found = [row["layer"], row["pass"], planned, f"{times[planned]:.1f}", best, f"{times[best]:.1f}"]
        lines.append(f"| {' | '.join(found)} |")
    return lines


def stages(rows: list[Found]) -> list[str]:
    lines = ["| stage | pass | ours us | wgmma us | chosen us | / plain | / composed | / unfused |", "|---" * 8 + "|"]
    for row in rows:
        for what in ("forward", "forward_backward"):
            if what in row:
                lines.append(
                    f"| {row['layer']} | {what} | {ratios(row[what], ['plain', 'composed', 'unfused_full'])} |"
                )
    return lines


# The README and docs/benchmarks.md ------------------------------------------------------------------------------

UNMEASURED = "**Not measured on a GPU yet**; `python -m benchmarks.gpu_lap` does it where one is."
PASSES = {"forward": "forward", "forward_backward": "forward + backward"}
KINDS = {"network": "", "stage": "decoder stage ", "layer": "layer "}
Key = tuple[str, str, str]  # kind, name ("" for the network), pass


def newest(folder: Path) -> Found | None:
    """The newest ``*_speed.json`` in ``folder``."""
    found = sorted(folder.glob("*_speed.json"), reverse=True)
    return json.loads(found[0].read_text()) if found else None


def setting_of(measured: Found) -> str:
    about, setting = measured["conditions"], measured["networks"]
    return (
        f"network of {setting['levels']} levels, {setting['size']} px, batch {setting['batch']}, "
        f"{setting['hole_share']:.0%} holes, {setting['dtype']}, networks under CUDA graphs "
        f"({about['device']}, torch {about['torch']}, {about['date']})"
    )


def cells(measured: Found) -> dict[Key, list[str]]:
    """plain, ours and the published way: the network, every decoder stage, and the encoder's layers."""
    found: dict[Key, list[str]] = {}
    for what, name in PASSES.items():
        times = measured["networks"]["networks"][what]["times"]
        if "ours_fused" in times:
            found["network", "", "inference"] = cells_of(times, "ours_fused")
        found["network", "", name] = cells_of(times, "ours")
    encoder = [row for row in measured["layers"]["layers"] if row["layer"].startswith("enc")]
    for kind, rows in (("stage", measured["networks"]["stages"]), ("layer", encoder)):
        for row in sorted(rows, key=lambda row: row["layer"]):
            for what, name in PASSES.items():
                found[kind, row["layer"], name] = cells_of(row[what], "ours")
    return found


def cells_of(times: Found, ours: str) -> list[str]:
    """Ours as it runs by default: on wgmma where the device has it."""
    median = {rival: time["median_us"] for rival, time in times.items()}
    own = median.get(f"{ours}_wgmma", median[ours])
    published = next(median[rival] for rival in ("published", "unfused_full", "unfused") if rival in median)
    plain = median["plain"]
    return [f"{plain / 1e3:.3f}", f"**{own / plain:.2f}**", f"{published / plain:.2f}"]


def page_lines(measured: Found | None) -> list[str]:
    """The section on a GPU of docs/benchmarks.md."""
    if measured is None:
        return [UNMEASURED]
    rows = ["| | plain, ms | **pconv_cuda** | published |", "|---|---|---|---|"]
    for (kind, name, which), row in cells(measured).items():
        rows.append(f"| {KINDS[kind]}{name or 'network'}, {which} | {' | '.join(row)} |")
    return [*paragraph(f"{setting_of(measured)}."), "", *rows]


def paragraph(text: str) -> list[str]:
    text = text[0].upper() + text[1:]
    return textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)
