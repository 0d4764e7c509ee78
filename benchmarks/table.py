"""Results of pytest-benchmark as the Markdown table that the README shows.

python -m benchmarks.table benchmarks/results/FILE.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def table(path: Path) -> str:
    """One row a benchmark: every rival's median over the plain convolution's."""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [bench for bench in found["benchmarks"] if "rivals" in bench["extra_info"]]
    if not rows:
        sys.exit(f"{path}: expected results of pytest benchmarks/bench_layers.py, found none")
    names = list(rows[0]["extra_info"]["rivals"])
    lines = ["| layer | plain, ms | " + " | ".join(names[1:]) + " |", "|---" * (len(names) + 1) + "|"]
    for bench in rows:
        rivals = bench["extra_info"]["rivals"]
        ratios = " | ".join(f"{rivals[name]['ratio']:.2f}" if name in rivals else "-" for name in names[1:])
        lines.append(f"| {bench['group']} | {rivals['plain']['median_ms']:.2f} | {ratios} |")
    machine = rows[0]["extra_info"]["machine"]
    lines.append(
        f"\n{machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}, {found['datetime'][:10]}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.table RESULTS.json")
    print(table(Path(sys.argv[1])))
