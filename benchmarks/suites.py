"""Suites: calls of pytest with their options, gathered in one file of pytest-benchmark's own format."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pconv_cuda.devices import pick_device
from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
_SINGLES = "bench_layers.py bench_stages.py"
_CHOSEN = "enc2 or dec2"  # a layer and a stage that are bound by arithmetic, of middling size
# suite -> calls; a call: files, then options of benchmarks/conftest.py. What a suite leaves open the user chooses.
SUITES: dict[str, list[str]] = {
    "quick": [f"{_SINGLES} --size 256", "bench_networks.py --size 256"],
    "layers": [f"{_SINGLES} --size 512"],
    "networks": ["bench_networks.py --size 256", "bench_networks.py --size 512"],
    "training": ["bench_training.py --size 256"],
    "sweeps": [
        *(f"{_SINGLES} --holes {share} -k {_CHOSEN!r}" for share in (0.0, 0.5, 0.75)),
        *(f"{_SINGLES} --batch {batch} -k {_CHOSEN!r}" for batch in (1, 6, 16)),
        *(f"{_SINGLES} --size {size} -k {_CHOSEN!r}" for size in (64, 128, 512)),
        f"{_SINGLES} --dtype bfloat16 -k {_CHOSEN!r}",
    ],
    "compiled": [f"{_SINGLES} --compiled -k 'enc1 or enc2 or dec2'"],
    "photo": ["bench_photo.py"],
    "smoke": ["bench_layers.py -k smoke"],
}
SUITES["all"] = [
    call for name in ("quick", "training", "sweeps", "compiled", "photo", "layers") for call in SUITES[name]
]
SUITES["all"].append("bench_networks.py --size 512")


def words(call: str) -> list[str]:
    """Files and options of a call; quotes hold an expression of -k together."""
    import shlex

    return [f"benchmarks/{word}" if word.endswith(".py") else word for word in shlex.split(call)]


def run(args: argparse.Namespace) -> Path:
    """Measures; what is done stands in ``args.out``/results.json after every call.

    Raises:
        PConvError: a device that is not here, or a call that failed; the message has the end of its output.
    """
    require("pytest_benchmark", "bench", why="measuring")
    args.device = pick_device(args.device).type
    target, calls = args.out / "results.json", SUITES[args.suite]
    gathered: dict[str, Any] = {}
    for number, call in enumerate(calls, 1):
        print(f"[{number}/{len(calls)}] {call}", file=sys.stderr, flush=True)
        options = words(call)
        for name in ("rounds", "threads", "device", "dtype", "batch"):
            value = getattr(args, name)
            if value is not None and f"--{name}" not in options:
                options += [f"--{name}", str(value)]
        if "-k" not in options:
            options += ["-k", "not smoke"]
        found = _measured(options)
        if gathered:
            gathered["benchmarks"] += found["benchmarks"]
        else:
            gathered = found
        with atomic_path(target) as temporary:
            temporary.write_text(json.dumps(gathered, indent=1) + "\n", encoding="utf-8")
    return target


def _measured(options: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one.json"
        command = [sys.executable, "-m", "pytest", "-q", "--benchmark-disable-gc", f"--benchmark-json={file}", *options]
        # A photograph on one core takes longer than a test may.
        done = subprocess.run([*command, "-o", "timeout=3600"], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise PConvError(f"pytest {' '.join(options)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
        found = json.loads(file.read_text(encoding="utf-8"))
    for bench in found["benchmarks"]:
        bench["stats"].pop("data", None)  # raw rounds: medians, extremes and noise are kept
    return found
