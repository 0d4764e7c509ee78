"""One process and two with the same global batch, on CPUs (gloo): loss curves and speed, by kind of batch norm.

python -m benchmarks.scaling > scaling.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measure

STEPS = 8
SETTINGS = {
    "data.images": "packaged", "data.size": 64, "data.workers": 0, "model.levels": 5, "model.width": 32,
    "loss.vgg": "random", "train.batch_size": 8, "log.every": 1, "log.tensorboard": False, "log.pictures": 0,
    "checkpoint.every": 100,
}  # fmt: skip


def trained(processes: int, batch_norm: str, folder: Path) -> dict[str, Any]:
    """The loss of every step and the pictures a second, one thread a process."""
    out = folder / f"{processes}-{batch_norm}"
    settings = {**SETTINGS, "train.batch_norm": batch_norm, "train.steps": STEPS}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [*launcher, "-m", "pconv_cuda", "train", "--out", str(out), *options]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "loss/total" in line]  # the others are the validation's
    speed = lines[-1]["pictures_per_second"]
    return {"losses": [line["loss/total"] for line in lines], "pictures_per_second": round(speed, 2)}


def main() -> None:
    report: dict[str, Any] = {"machine": measure.machine(), "settings": SETTINGS, "steps": STEPS}
    with tempfile.TemporaryDirectory() as folder:
        for batch_norm in ("frozen", "process"):
            one, two = (trained(processes, batch_norm, Path(folder)) for processes in (1, 2))
            apart = max(abs(a - b) / abs(a) for a, b in zip(one["losses"], two["losses"], strict=True))
            report[batch_norm] = {
                "one": one, "two": two, "largest_relative_difference_of_the_losses": apart,
                "efficiency": round(two["pictures_per_second"] / (2 * one["pictures_per_second"]), 3),
            }  # fmt: skip
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
