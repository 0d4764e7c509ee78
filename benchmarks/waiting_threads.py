"""What OpenMP threads that wait cost: the quick start's training step under several settings, which take turns.

python -m benchmarks.waiting_threads > result.json                 on an idle machine
python -m benchmarks.waiting_threads --busy 1 > result.json        with one other busy process beside it
    --threads N   of each process (default: the cores)
    --rounds N    turns of each setting (default: 15)
    --steps N     steps a turn (default: 5)

Each setting is a process of its own, since libgomp reads the environment when torch is loaded; one works at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from pconv_cuda.cli.threads import SETTINGS, SPINS

RIVALS = {
    "default": {},
    **{f"GOMP_SPINCOUNT={spins}": {"GOMP_SPINCOUNT": str(spins)} for spins in (100_000, 10_000, 3_000, 1_000, 0)},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = "while True: pass"


def child() -> None:
    """Makes a turn for each line that comes in, which says of how many steps, and prints the seconds of each."""
    import torch

    from pconv_cuda import InpaintingLoss, PConvUNet

    torch.manual_seed(0)
    model = PConvUNet(levels=5, width=16).to(memory_format=torch.channels_last).train()
    loss = InpaintingLoss(vgg="none")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    truth = torch.randn(6, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    mask = torch.rand(6, 1, 128, 128) > 0.25
    image = torch.where(mask, truth, 0.0)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(loss(image, mask, model(image, mask)[0], truth).values())).sum().backward()
        optimizer.step()
        return time.perf_counter() - started

    for line in sys.stdin:
        print(json.dumps([step() for _ in range(int(line))]), flush=True)


def processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")


def ask(worker: subprocess.Popen[str], steps: int) -> list[float]:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def measured(threads: int, rounds: int, steps: int, busy: int) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if name not in (*SETTINGS, "OMP_NUM_THREADS")}
    command = [sys.executable, "-m", "benchmarks.waiting_threads", "--child"]
    workers: dict[str, subprocess.Popen[str]] = {}
    others: list[subprocess.Popen[bytes]] = []
    times: dict[str, list[float]] = {name: [] for name in RIVALS}
    load = [os.getloadavg()[0]]
    try:
        for name, setting in RIVALS.items():
            environment = {**clean, "OMP_NUM_THREADS": str(threads), **setting}
            workers[name] = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            ask(workers[name], 3)  # warm-up
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        names = list(RIVALS)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times[name] += ask(workers[name], steps)
        load.append(os.getloadavg()[0])
    finally:
        for process in (*workers.values(), *others):
            process.kill()
            process.wait()
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in times.items()}
    return {
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "load before and after": load},
        "threads": threads, "busy processes started": busy, "turns": rounds, "steps a turn": steps,
        "chosen": f"GOMP_SPINCOUNT={SPINS}",
        "seconds a step": {
            name: {"median": round(q[1], 4), "quartiles": [round(q[0], 4), round(q[2], 4)], "least": round(min(v), 4)}
            for (name, v), q in zip(times.items(), quartiles.values(), strict=True)
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child()
    print(json.dumps(measured(options.threads, options.rounds, options.steps, options.busy), indent=1))


if __name__ == "__main__":
    main()
