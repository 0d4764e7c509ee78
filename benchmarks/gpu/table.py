"""What a run on a GPU found, as tables: its report.md, and the README's."""

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
    if (path := out / "chosen.json").is_file():
        lines += ["## chosen by measurement", "", *chosen(json.loads(path.read_text())["chosen"]), ""]
    if (path := out / "tiles.json").is_file():
        lines += ["## every tile", "", *tiles(json.loads(path.read_text())["tiles"]), ""]
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
    lines = ["| stage | pass | ours us | wgmma us | / plain | / composed | / unfused |", "|---" * 7 + "|"]
    for row in rows:
        for what in ("forward", "forward_backward"):
            if what in row:
                lines.append(
                    f"| {row['layer']} | {what} | {ratios(row[what], ['plain', 'composed', 'unfused_full'])} |"
                )
    return lines


# The README's table ----------------------------------------------------------------------------------------------

SHOWN = {"layers": ("enc2", "enc3"), "stages": ("dec5", "dec3", "dec2", "dec1")}
PASSES = {"forward": "forward", "forward_backward": "forward + backward"}


def readme_lines(folder: Path) -> list[str]:
    """From the newest ``*_speed.json`` in ``folder``; where there is none, that nothing was measured."""
    found = sorted(folder.glob("*_speed.json"), reverse=True)
    if not found:
        return ["**Not measured on a GPU yet**; `python -m benchmarks.gpu_lap` does it where one is."]
    measured = json.loads(found[0].read_text())
    about, setting = measured["conditions"], measured["networks"]
    lines = [
        f"On a GPU ({about['device']}, torch {about['torch']}, {about['date']}): {setting['size']} px network, batch "
        f"{setting['batch']},",
        f"{setting['hole_share']:.0%} holes, {setting['dtype']}, medians of alternating rounds, networks under CUDA "
        "graphs.",
        "",
        "| | plain, ms | **pconv_cuda** | published |",
        "|---|---|---|---|",
    ]
    for what, name in PASSES.items():
        times = setting["networks"][what]["times"]
        if "ours_fused" in times:
            lines.append(readme_row(f"network of {setting['levels']} levels, inference", times, "ours_fused"))
        lines.append(readme_row(f"network of {setting['levels']} levels, {name}", times, "ours"))
    for key, rows in (("stages", setting["stages"]), ("layers", measured["layers"]["layers"])):
        for layer in SHOWN[key]:
            row = next(row for row in rows if row["layer"] == layer)
            kind = "decoder stage" if key == "stages" else "layer"
            lines += [readme_row(f"{kind} {layer}, {name}", row[what], "ours") for what, name in PASSES.items()]
    return [*lines, "", "Every layer, and where we still lose to cuDNN: [docs/gpu.md](docs/gpu.md)."]


def readme_row(name: str, times: Found, ours: str) -> str:
    """Ours as it runs by default: on wgmma where the device has it."""
    median = {rival: time["median_us"] for rival, time in times.items()}
    own = median.get(f"{ours}_wgmma", median[ours])
    published = next(median[rival] for rival in ("published", "unfused_full", "unfused") if rival in median)
    plain = median["plain"]
    return f"| {name} | {plain / 1e3:.3f} | **{own / plain:.2f}** | {published / plain:.2f} |"
