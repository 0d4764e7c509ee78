"""The part of the run that measures, the most important first, since it may be cut short."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from benchmarks.gpu import check
from benchmarks.gpu.session import Result, Session, outcome, write

PROFILED = ("enc1", "enc2", "dec4", "dec1")
# What bounds a kernel: tensor cores, DRAM, L2, shared memory, occupancy. Names that a device's ncu lacks are left out.
COUNTERS = (
    "gpu__time_duration.sum",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1tex__throughput.avg.pct_of_peak_sustained_active",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
)


def measured(session: Session, what: str, seconds: float, *options: Any) -> Result:
    """``what``: layers, networks, chosen, tiles or kernels, by the module of that name."""
    size = ["--size", 32, "--batch", 1, "--levels", 3, "--rounds", 2, "--dtype", "float32"] if session.rehearse else []
    seconds = min(seconds, session.left() - 5)
    command = [sys.executable, "-m", f"benchmarks.gpu.{what}", session.out / f"{what}.json"]
    return outcome(session.run([*command, *size, *options, "--seconds", f"{seconds:.0f}"], limit=seconds + 40))


def pictures(session: Session) -> Result:
    done = session.run([sys.executable, "-m", "benchmarks.gpu.pictures", *["--quick"] * session.rehearse], limit=60)
    return {**outcome(done), **({} if done.code else {"pictures": json.loads(done.last_line)})}


def counters(session: Session) -> list[str]:
    """Of COUNTERS those that ncu knows on this device."""
    known = session.run(["ncu", "--query-metrics-mode", "suffix", "--query-metrics"], limit=30).output
    listed = session.run(["ncu", "--query-metrics"], limit=30).output + known
    return [name for name in COUNTERS if name.split(".")[0] in listed]


def profile(session: Session) -> Result:
    if shutil.which("ncu") is None:
        return {"outcome": "not run: no ncu"}
    metrics = counters(session)
    code = (
        "import torch\n"
        "from benchmarks.gpu import device, layers\n"
        "for case in layers.paper_layers(32 if device.REHEARSED else 512, 1 if device.REHEARSED else 6):\n"
        f"    if case.name in {PROFILED}:\n"
        "        calls = layers.calls_of(case, torch.float32 if device.REHEARSED else torch.bfloat16, True)\n"
        "        for name in calls:\n"
        "            if name.startswith('ours'): calls[name]()\n"
        "torch.cuda.synchronize()\n"
    )
    command = ["ncu", "--csv", "--clock-control", "none", "--kernel-name", "regex:.*_kernel|.*pconv.*"]
    command += ["--metrics", ",".join(metrics)] if metrics else []
    done = session.run([*command, sys.executable, "-c", code])
    write(session.out / "ncu.csv", done.output[-(8 << 20) :])
    return {**outcome(done), "metrics": metrics}


def speed(session: Session) -> None:
    if session.stage("build", lambda: check.build(session))["outcome"] != "passed":
        return
    session.stage("layers", lambda: measured(session, "layers", 45), least=15)
    session.stage("networks and stages", lambda: measured(session, "networks", 60), least=15)
    session.stage("chosen by measurement", lambda: measured(session, "chosen", 20), least=15)
    session.stage("every tile", lambda: measured(session, "tiles", 45), least=20)
    session.stage("pictures", lambda: pictures(session), least=15)
    session.stage("ncu", lambda: profile(session), least=15)
    session.stage("networks compiled", lambda: measured(session, "networks", 70, "--compiled"), least=20)
    session.stage("kernels of a network", lambda: measured(session, "kernels", 25), least=15)
    session.stage("layers compiled", lambda: measured(session, "layers", 60, "--compiled"), least=20)
