"""Two results of the same cases: how our time moved, with a verdict only beyond the runs' own noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pconv_cuda.errors import PConvError

KEY = ("kind", "name", "which", "size", "batch", "hole_share", "dtype", "device")


def load(path: Path) -> list[dict[str, Any]]:
    """``extra_info`` of every benchmark in a file that has rivals.

    Raises:
        PConvError: no such file, no JSON, or none of our results in it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [bench["extra_info"] for bench in found["benchmarks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PConvError(f"{path} is no result of pytest-benchmark ({type(error).__name__}: {error})") from None
    rows = [{**row, "date": found.get("datetime", "")[:10]} for row in rows if {"rivals", *KEY} <= set(row)]
    if not rows:
        raise PConvError(f"{path}: expected results of `python -m benchmarks`, found none with rivals in it")
    return rows


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def verdict(old: dict[str, float], new: dict[str, float]) -> tuple[float, float, str]:
    """Change of our time over the plain convolution's in the same run, the noise of it, and what that means.

    Both runs' noise together, doubled: the notch rule holds within a run, and runs differ.
    """
    change = new["ratio"] / old["ratio"]
    noise = 2 * (old["noise"] ** 2 + new["noise"] ** 2) ** 0.5
    if abs(change - 1) <= noise:
        return change, noise, "no difference"
    return change, noise, "slower" if change > 1 else "faster"


def table(old_path: Path, new_path: Path) -> str:
    """Markdown: a row for each case of both files."""
    old, new = ({key(row): row for row in load(path)} for path in (old_path, new_path))
    shared = [one for one in new if one in old]
    if not shared:
        raise PConvError(f"{old_path} and {new_path} have no case in common (same size, batch, holes, dtype)")
    lines = ["| case | old, ms | new, ms | times plain, old -> new | change | noise | verdict |", "|---" * 7 + "|"]
    for one in shared:
        before, after = old[one]["rivals"]["ours"], new[one]["rivals"]["ours"]
        change, noise, meaning = verdict(before, after)
        _, name, which, size, batch, holes, dtype, _ = one
        lines.append(
            f"| {name}, {which}, {size} px, batch {batch}, {holes:.0%} holes, {dtype} | {before['median_ms']:.2f} | "
            f"{after['median_ms']:.2f} | {before['ratio']:.2f} -> {after['ratio']:.2f} | {change - 1:+.1%} | "
            f"{noise:.1%} | {meaning} |"
        )
    alone = len(old) + len(new) - 2 * len(shared)
    machines = [
        {rows[one]["machine"]["cpu"] + ", " + rows[one]["machine"]["gpu"] for one in rows} for rows in (old, new)
    ]
    if machines[0] != machines[1]:
        lines.append(f"\nDifferent machines ({machines[0]}, {machines[1]}): only the ratios can be compared.")
    if alone:
        lines.append(f"\n{alone} cases stand in one of the files alone.")
    return "\n".join(lines)
