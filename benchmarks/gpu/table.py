"""report.md: what both parts found, as tables."""

from __future__ import annotations

import json
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
    return "\n".join(lines)


def ratios(times: Found, rivals: list[str]) -> str:
    """Ours and ours on wgmma in microseconds, then the faster of the two over each rival."""
    median = {name: time["median_us"] for name, time in times.items()}
    ours = [median[name] for name in ("ours", "ours_wgmma") if name in median]
    shown = [f"{median[name]:.1f}" if name in median else "" for name in ("ours", "ours_wgmma")]
    shown += [f"{min(ours) / median[name]:.2f}" if name in median else "" for name in rivals]
    return " | ".join(shown)


def layers(rows: list[Found]) -> list[str]:
    rivals = ["plain", "unfused", "unfused_compiled"]
    lines = ["| layer | pass | ours us | wgmma us | / plain | / unfused | / unfused compiled | floor us |"]
    lines += ["|---" * 8 + "|"]
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


def stages(rows: list[Found]) -> list[str]:
    lines = ["| stage | pass | ours us | wgmma us | / plain | / composed | / unfused |", "|---" * 7 + "|"]
    for row in rows:
        for what in ("forward", "forward_backward"):
            if what in row:
                lines.append(
                    f"| {row['layer']} | {what} | {ratios(row[what], ['plain', 'composed', 'unfused_full'])} |"
                )
    return lines
