"""One whole lap on a machine with a GPU: build, check, measure, watch. Every stage writes its result as it ends.

    python -m benchmarks.gpu_lap [--budget SECONDS] [--out FOLDER]

Stages, by value: build for this GPU; every PTX wrapper against its emulated twin, bit by bit; the kernels' own
drivers; the networks' and the layers' speed on mma.sync; the test suite on the device; on sm_90 the layers' and the
networks' speed on wgmma; compute-sanitizer; ncu. Without a GPU it says "not measured" and ends well. Leaves lap.json,
lap.md, layers.json, networks.json, the same with _wgmma, and ncu.csv in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EMULATION = ROOT / "tests" / "emulation"
KERNELS = ROOT / "csrc" / "kernels"
# Names of ncu's counters that say what bounds a kernel: tensor cores, DRAM, L2, shared memory, and how full it is.
COUNTERS = (
    "gpu__time_duration.sum,sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active,"
    "dram__throughput.avg.pct_of_peak_sustained_elapsed,lts__throughput.avg.pct_of_peak_sustained_elapsed,"
    "l1tex__throughput.avg.pct_of_peak_sustained_active,sm__warps_active.avg.pct_of_peak_sustained_active"
)


class Lap:
    """Where the results go, and how much time is left."""

    def __init__(self, out: Path, budget: float) -> None:
        self.out, self.work, self.end = out, out / "work", time.monotonic() + budget
        self.work.mkdir(parents=True, exist_ok=True)
        self.report: dict[str, Any] = {"stages": []}

    def left(self) -> float:
        return self.end - time.monotonic()

    def run(self, command: list[Any], share: float = 1.0, **environment: str) -> subprocess.CompletedProcess[str]:
        """At most this share of the time that is left; a command that outlasts it counts as failed."""
        words = [str(word) for word in command]
        try:
            return subprocess.run(
                words, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, self.left() * share),
                env={**os.environ, **environment},
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            said = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else (late.stdout or "")
            return subprocess.CompletedProcess(words, 124, said, "ran out of time")
        except OSError as missing:
            return subprocess.CompletedProcess(words, 127, "", str(missing))

    def stage(self, name: str, work: Callable[[], dict[str, Any]], least: float = 10) -> None:
        start = time.monotonic()
        result = work() if self.left() > least else {"outcome": "not run: no time left"}
        result = {"stage": name, "seconds": round(time.monotonic() - start, 1), **result}
        self.report["stages"].append(result)
        print(f"{name}: {result['outcome']} ({result['seconds']} s)", flush=True)
        write(self.out / "lap.json", json.dumps(self.report, indent=1) + "\n")
        write(self.out / "lap.md", table(self.report, self.out))


def write(path: Path, text: str) -> None:
    path.with_suffix(".tmp").write_text(text)
    os.replace(path.with_suffix(".tmp"), path)


def outcome(done: subprocess.CompletedProcess[str], keep: int = 1500) -> dict[str, Any]:
    if done.returncode == 0:
        return {"outcome": "passed"}
    return {"outcome": f"failed ({done.returncode})", "output": (done.stdout + done.stderr)[-keep:]}


# Stages ---------------------------------------------------------------------------------------------------------


def architecture() -> str:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}{'a' if major >= 9 else ''}"


def nvcc(lap: Lap, name: str, sources: list[Path]) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A program of these sources. Objects are made side by side and kept: drivers share the kernels."""
    arch, target = architecture(), lap.work / name
    flags = ["-std=c++17", "-O3", "-lineinfo", "-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    flags += [f"-I{ROOT / 'csrc'}", f"-I{EMULATION}"]

    def compiled(source: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
        made = lap.work / f"{source.name}.o"
        if made.is_file():
            return made, subprocess.CompletedProcess([], 0, "", "")
        return made, lap.run(["nvcc", *flags, "-x", "cu", "-c", source, "-o", made], share=0.5)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(compiled, sources))
    failed = [done for _, done in made if done.returncode]
    if failed:
        return target, failed[0]
    return target, lap.run(["nvcc", *flags, *(path for path, _ in made), "-o", target], share=0.5)


def build(lap: Lap) -> dict[str, Any]:
    digits = architecture()
    arch = re.sub(r"(\d)(a?)$", r".\1\2", digits)
    done = lap.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], share=0.6, PCONV_CUDA="1", TORCH_CUDA_ARCH_LIST=arch
    )
    return outcome(done)


def twins(lap: Lap) -> dict[str, Any]:
    result: dict[str, Any] = {"outcome": "passed"}
    for name in ["ptx_twins", *(["ptx_twins_hopper"] if architecture() == "90a" else [])]:
        source = EMULATION / f"{name}.cu"
        program, built = nvcc(lap, name, [source])
        emulated = lap.run([sys.executable, EMULATION / "build.py", "rel", lap.work, source], share=0.3)
        if built.returncode or emulated.returncode:
            return outcome(built if built.returncode else emulated)
        outputs = []
        for where, command in (("device", program), ("emulated", emulated.stdout.split()[-1])):
            done = lap.run([command], share=0.2)
            if done.returncode:
                return outcome(done)
            outputs.append(lap.work / f"{name}_{where}.jsonl")
            outputs[-1].write_text(done.stdout)
        compared = lap.run([sys.executable, EMULATION / "compare_twins.py", outputs[1], outputs[0]])
        result[name] = compared.stdout.strip()[-1500:]
        if compared.returncode:
            result["outcome"] = "failed: wrappers and twins differ"
    return result


STAGE_DRIVERS = ("test_upcat", "test_upcat_backward")  # of the decoder's stage; they have their own cases


def drivers(lap: Lap) -> dict[str, Any]:
    """The kernels' own drivers, which know no torch; compute-sanitizer watches them later."""
    kernels = [*sorted(KERNELS.glob("*.cu")), *sorted(KERNELS.glob("*.cpp"))]
    result = {}
    for name in ("operators", *STAGE_DRIVERS):
        program, built = nvcc(lap, name, [EMULATION / f"{name}.cpp", *kernels])
        if built.returncode:
            return {**outcome(built), **result}
        for arch in architectures():
            cases = lap.work / f"cases_{arch}.txt"
            lap.run([sys.executable, EMULATION / "export_cases.py", cases, "--arch", arch])
            own = [cases] if name == "operators" else ["--quick"]
            done = lap.run([program, *own, "--arch", arch], share=0.3)
            result[f"{name}, sm_{arch} kernels"] = (done.stdout.strip().splitlines() or ["nothing was printed"])[-1]
            if done.returncode:
                return {**outcome(done), **result}
    return {"outcome": "passed", **result}


def architectures() -> list[str]:
    """Whose kernels this device runs: those of sm_80, and on sm_90 wgmma's too."""
    return ["80", *(["90"] if architecture() == "90a" else [])]


def suite(lap: Lap) -> dict[str, Any]:
    names = "operation upcat upcat_autograd fuse autograd layer regressions models cuda_device"
    files = [f"test_{name}.py" for name in names.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "cuda", *(f"tests/{name}" for name in files)]
    done = lap.run(command, share=0.35)
    lines = done.stdout.strip().splitlines() or ["nothing was printed"]
    return {**outcome(done), "summary": lines[-1]}


def speed(lap: Lap, what: str, wgmma: bool, share: float) -> dict[str, Any]:
    """``what``: layers or networks, measured by a module of that name; ``share`` of the time that is left."""
    target = lap.out / f"{what}{'_wgmma' if wgmma else ''}.json"
    command = [sys.executable, "-m", f"benchmarks.gpu_{what}", target, "--seconds", f"{lap.left() * share:.0f}"]
    return outcome(lap.run(command, share=min(1.0, 1.7 * share), PCONV_WGMMA="1" if wgmma else "0"))


def sanitizer(lap: Lap) -> dict[str, Any]:
    if shutil.which("compute-sanitizer") is None:
        return {"outcome": "not run: no compute-sanitizer"}
    result: dict[str, Any] = {"outcome": "passed"}
    cases = "no_mask,holes_on_top,last,two_blocks_of_odd_size,groups,deep,tiles_of_256"
    runs = [("operators", tool, "80", cases) for tool in ("memcheck", "racecheck", "initcheck")]
    runs += [(name, tool, "80", "ragged,last") for name in STAGE_DRIVERS for tool in ("memcheck", "racecheck")]
    wgmma = {"operators": "wgmma_256,wgmma_dilated,wgmma_four_blocks", "test_upcat": "ragged"}
    runs += [(name, "memcheck", arch, only) for arch in architectures()[1:] for name, only in wgmma.items()]
    for name, tool, arch, only in runs:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", lap.work / name]
        listed = [lap.work / f"cases_{arch}.txt"] if name == "operators" else []
        done = lap.run([*command, *listed, "--quick", "--arch", arch, "--only", only], share=0.4)
        result[f"{tool} {name} sm_{arch}"] = (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1]
        if done.returncode:
            result["outcome"] = f"failed: {tool} ({done.returncode})"
    return result


def profile(lap: Lap) -> dict[str, Any]:
    if shutil.which("ncu") is None:
        return {"outcome": "not run: no ncu"}
    code = "from benchmarks import gpu_layers as g; import torch\n" + (
        "for c in g.paper_layers():\n"
        "    if c.name in ('enc1', 'enc2', 'dec4', 'dec1'): g.calls_of(c, torch.bfloat16, True)['ours']()\n"
    )
    command = ["ncu", "--csv", "--clock-control", "none", "--kernel-name", "regex:pconv|_kernel", "--metrics", COUNTERS]
    done = lap.run([*command, sys.executable, "-c", code])
    (lap.out / "ncu.csv").write_text(done.stdout)
    return outcome(done)


# The table ------------------------------------------------------------------------------------------------------


def table(report: dict[str, Any], out: Path) -> str:
    lines = [
        f"# {report.get('device', 'GPU')}, {report.get('date', '')}",
        "",
        "| stage | outcome | s |",
        "|---|---|---|",
    ]
    lines += [f"| {stage['stage']} | {stage['outcome']} | {stage['seconds']} |" for stage in report["stages"]]
    for name in ("networks.json", "layers.json", "networks_wgmma.json", "layers_wgmma.json"):
        if (out / name).is_file():
            measured = json.loads((out / name).read_text())
            title = f"{name}: {measured['dtype']}, batch {measured['batch']}, {measured['size']}x{measured['size']}"
            lines += ["", f"## {title}", "", *(networks if "networks" in measured else layers)(measured)]
    return "\n".join(lines) + "\n"


def layers(measured: dict[str, Any]) -> list[str]:
    lines = ["| layer | pass | ours us | / plain | / unfused | / unfused compiled | floor us |", "|---" * 7 + "|"]
    for row in measured["layers"]:
        for what in ("forward", "forward_backward"):
            times = {rival: row[what][rival]["median_us"] for rival in row[what]}
            ratios = [f"{times['ours'] / times[r]:.2f}" for r in ("plain", "unfused", "unfused_compiled")]
            floor = f"{max(row['floor_us'].values()):.1f}" if what == "forward" else ""
            lines.append(f"| {row['layer']} | {what} | {times['ours']:.1f} | {' | '.join(ratios)} | {floor} |")
    return lines


def networks(measured: dict[str, Any]) -> list[str]:
    """Every network's median and its peak memory, then the decoder stages."""
    lines = ["| network | pass | us | / plain | peak MiB |", "|---" * 5 + "|"]
    for what, found in measured["networks"].items():
        plain = found["times"]["plain"]["median_us"]
        for name, times in found["times"].items():
            median, peak = times["median_us"], found["peak_mib"][name]
            lines.append(f"| {name} | {what} | {median:.1f} | {median / plain:.2f} | {peak} |")
    lines += ["", "| stage | pass | ours us | / plain | / plain compiled | / composed |", "|---" * 6 + "|"]
    for row in measured["stages"]:
        for what in ("forward", "forward_backward"):
            times = {rival: row[what][rival]["median_us"] for rival in row[what]}
            ratios = [f"{times['ours'] / times[r]:.2f}" for r in ("plain", "plain_compiled", "composed")]
            lines.append(f"| {row['layer']} | {what} | {times['ours']:.1f} | {' | '.join(ratios)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything (default 540)")
    parser.add_argument("--out", type=Path, default=Path("gpu_lap"), help="folder for the results (default gpu_lap)")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("not measured: torch sees no GPU")
        return 0
    lap = Lap(args.out.resolve(), args.budget)
    lap.report.update(
        device=torch.cuda.get_device_name(), date=time.strftime("%Y-%m-%d"), torch=torch.__version__,
        python=platform.python_version(), cuda=torch.version.cuda,
        clocks=lap.run(["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv"], 0.05).stdout,
    )  # fmt: skip
    lap.stage("build", lambda: build(lap))
    lap.stage("ptx wrappers against twins", lambda: twins(lap))
    lap.stage("kernel drivers", lambda: drivers(lap))
    lap.stage("speed of networks", lambda: speed(lap, "networks", wgmma=False, share=0.3), least=30)
    lap.stage("speed of layers", lambda: speed(lap, "layers", wgmma=False, share=0.3), least=30)
    lap.stage("test suite on cuda", lambda: suite(lap), least=20)
    if architecture() == "90a":
        for what in ("layers", "networks"):
            lap.stage(f"speed of {what} with wgmma", lambda what=what: speed(lap, what, True, 0.25), least=30)
    lap.stage("compute-sanitizer", lambda: sanitizer(lap), least=20)
    lap.stage("ncu", lambda: profile(lap), least=20)
    shutil.rmtree(lap.work, ignore_errors=True)
    failed = [stage["stage"] for stage in lap.report["stages"] if stage["outcome"].startswith("failed")]
    print(f"failed: {', '.join(failed)}" if failed else f"results in {lap.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
