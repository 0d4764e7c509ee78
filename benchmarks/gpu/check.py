"""The part of the run that checks the kernels on this device."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu import device
from benchmarks.gpu.session import ROOT, Done, Result, Session, build_outcome, outcome

EMULATION = ROOT / "tests" / "emulation"
DRIVERS = ("operators", "test_upcat", "test_upcat_backward")
TESTS = [
    "cuda_device", "smooth_fill", "operation", "upcat", "layers_nd", "fuse", "upcat_autograd", "autograd", "layer",
    "regressions", "models",
]  # fmt: skip
MEMCHECKED = {
    ("operators", "80"): "no_mask,holes_on_top,last,two_blocks_of_odd_size,groups,deep,tiles_of_256",
    ("operators", "90"): "wgmma_256,wgmma_dilated,wgmma_two_blocks,wgmma_tall",
    ("test_upcat", "80"): "ragged,last",
    ("test_upcat", "90"): "ragged",
    ("test_upcat_backward", "80"): "ragged,last",
}


def architectures() -> list[str]:
    """Whose kernels this device runs: those of sm_80, and on sm_90 wgmma's too."""
    return ["80", *(["90"] if device.has_wgmma() else [])]


def build(session: Session) -> Result:
    """The extension for this device's architecture alone."""
    if session.rehearse:
        return build_outcome(session.run([sys.executable, "-c", "print('the extension stays as it is')"]))
    arch = re.sub(r"(\d)(a?)$", r".\1\2", device.architecture())
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return build_outcome(session.run(command, limit=150, PCONV_CUDA="1", TORCH_CUDA_ARCH_LIST=arch))


def compile_program(session: Session, name: str, sources: list[Path], objects: list[Path]) -> tuple[Path, Done]:
    arch, target = device.architecture(), session.work / name
    flags = ["-std=c++17", "-O3", "-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    flags += [f"-I{ROOT / 'csrc'}", f"-I{EMULATION}"]
    made = session.work / f"{name}.o"
    compiled = session.run(["nvcc", *flags, "-x", "cu", "-c", *sources, "-o", made], limit=90)
    if compiled.code:
        return target, compiled
    return target, session.run(["nvcc", *flags, made, *objects, "-o", target], limit=60)


def emulated(session: Session, sources: list[Path]) -> tuple[Path, Done]:
    """The same program on the emulator."""
    folder = os.environ.get("PCONV_EMULATION_BUILD") or session.work / "emulated"
    # Planted mistakes sleep in these builds; the tests build them so, and objects are shared by their hash.
    planted = [] if "twins" in sources[0].name else ["--planted"]
    done = session.run([sys.executable, EMULATION / "build.py", "rel", folder, *sources, *planted], limit=600)
    return Path(done.last_line), done


def program(session: Session, name: str) -> tuple[Path, Done]:
    """A driver for the device. It shares the kernels' objects with the extension, which has just been built."""
    if session.rehearse:
        kernels = sorted((ROOT / "csrc" / "cuda").rglob("*.c[up]*"))
        return emulated(session, [EMULATION / f"{name}.cpp", *(path for path in kernels if path.suffix != ".cuh")])
    objects = sorted((ROOT / "build").glob("temp*/csrc/cuda/**/*.o"))
    return compile_program(session, name, [EMULATION / f"{name}.cpp"], objects)


def twins(session: Session) -> Result:
    """Every PTX wrapper against its emulated twin, bit by bit."""
    result: Result = {"outcome": "passed"}
    for name in ["ptx_twins", *(["ptx_twins_hopper"] if device.has_wgmma() else [])]:
        source, outputs = EMULATION / f"{name}.cu", []
        for where in ("emulated", "device"):
            made, built = (
                emulated(session, [source])
                if where == "emulated" or session.rehearse
                else compile_program(session, name, [source], [])
            )
            done = built if built.code else session.run([made], limit=30)
            if done.code:
                result |= {"outcome": f"failed: {name}", f"{name}, {where}": build_outcome(done)["output"]}
            outputs.append(session.work / f"{name}_{where}.jsonl")
            lines = [line for line in done.output.splitlines() if line.startswith("{")]
            outputs[-1].write_text("\n".join(lines) + "\n")
        compared = session.run([sys.executable, EMULATION / "compare_twins.py", *outputs], limit=30)
        result[name] = compared.output.strip()[-2000:]
        if compared.code:
            result["outcome"] = "failed: wrappers and twins differ"
    return result


def drivers(session: Session) -> Result:
    """The kernels' own drivers, which know no torch, on the kernels of each architecture."""
    result: Result = {"outcome": "passed"}
    with ThreadPoolExecutor(1 if session.rehearse else 3) as pool:
        programs = dict(zip(DRIVERS, pool.map(lambda name: program(session, name), DRIVERS), strict=True))
    for arch in architectures():
        cases = session.work / f"cases_{arch}.txt"
        session.run([sys.executable, EMULATION / "export_cases.py", cases, "--arch", arch], limit=60)
        for name, (path, built) in programs.items():
            own = [cases] if name == "operators" else []
            quick = ["--quick", "--only", "plain3x3,ragged,wgmma_pointwise"] if session.rehearse else ["--quick"]
            done = built if built.code else session.run([path, *own, *quick, "--arch", arch], limit=60)
            result[f"{name}, sm_{arch} kernels"] = done.last_line
            if done.code:
                result["outcome"] = "failed"
                found = build_outcome(built) if built.code else {"output": "\n".join(mismatches(done))}
                result[f"{name}, sm_{arch} kernels, output"] = found["output"]
    return result


def mismatches(done: Done, most: int = 15) -> list[str]:
    """A driver's first errors: a fault of one kernel shows in hundreds of cases."""
    lines = [line for line in done.output.splitlines() if "MISMATCH" in line or "FAILED" in line]
    return (lines or done.output.splitlines()[-most:])[:most]


def restarted(session: Session, command: list[Any], out: Path, option: str, limit: float) -> Done:
    """``command``, again with ``option`` and what it was at after each fault that broke the device's context."""
    size = ["--size", 32, "--batch", 1, "--levels", 3] if session.rehearse else []
    start, more, done = session.left(), [], Done(0, "")
    for _ in range(6):
        seconds = limit - (start - session.left())
        whole = [*command, *more, *size, "--seconds", f"{seconds:.0f}"]
        done = session.run(whole, limit=seconds + device.PATIENCE)
        if done.code != device.BROKEN:
            break
        more += [option, json.loads(out.read_text())["at"]]
    return done


def judged(done: Done, rows: list[dict[str, Any]]) -> Result:
    wrong = [row for row in rows if not row["passed"]]
    found: Result = {"summary": done.last_line, "comparisons": len(rows), "failures": wrong[:40]}
    if wrong or done.code or not rows:
        found |= {"outcome": f"failed: {len(wrong)} of {len(rows)}", "output": done.output[-2000:]}
    return {"outcome": "passed", **found}


def rows_of(out: Path) -> list[dict[str, Any]]:
    return json.loads(out.read_text())["rows"] if out.is_file() else []


def numbers(session: Session, kernels: str, limit: float) -> Result:
    """benchmarks.gpu.accuracy, again behind each layer that broke the device's context."""
    out = session.out / "accuracy.json"
    command = [sys.executable, "-m", "benchmarks.gpu.accuracy", out, "--kernels", kernels]
    done = restarted(session, command, out, "--after", limit)
    return judged(done, [row for row in rows_of(out) if row["kernels"] == kernels])


def agreement(session: Session, limit: float) -> Result:
    """benchmarks.gpu.agreement, again without each tile that broke the device's context."""
    out = session.out / "agreement.json"
    done = restarted(session, [sys.executable, "-m", "benchmarks.gpu.agreement", out], out, "--without", limit)
    return judged(done, rows_of(out))


def suite(session: Session) -> Result:
    files = [ROOT / "tests" / f"test_{name}.py" for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-v", "--full", "--maxfail=50", "-k", "cuda"]
    command += ["-p", "no:cacheprovider", *files]
    if session.rehearse:
        command = [sys.executable, "-m", "pytest", "-q", "-k", "mask_dtypes", ROOT / "tests" / "test_operation.py"]
    elif shutil.which("pytest") and session.run([sys.executable, "-c", "import xdist"]).code == 0:
        command += ["-n", str(min(12, os.cpu_count() or 1))]
    # Otherwise every worker computes its references on all cores.
    done = session.run(command, limit=125, OMP_NUM_THREADS="1")
    failures = [line for line in done.output.splitlines() if re.search(r"\b(FAILED|ERROR)\b", line)]
    found = {**outcome(done), "summary": done.last_line, "failures": [line[:300] for line in failures[:60]]}
    return {**found, "output": done.output[-100_000:]} if done.code else found


def memcheck(session: Session) -> Result:
    if shutil.which("compute-sanitizer") is None:
        return {"outcome": "not run: no compute-sanitizer"}
    result: Result = {"outcome": "passed"}
    for (name, arch), cases in MEMCHECKED.items():
        if arch not in architectures():
            continue
        path, built = program(session, name) if session.rehearse else (session.work / name, Done(0, ""))
        own = [session.work / f"cases_{arch}.txt"] if name == "operators" else []
        command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", path, *own]
        done = built if built.code else session.run([*command, "--quick", "--arch", arch, "--only", cases], limit=40)
        result[f"{name}, sm_{arch} kernels"] = done.last_line
        if done.code == 124:
            result[f"{name}, sm_{arch} kernels"] = "not finished: no time left"
        elif done.code:
            result |= {"outcome": f"failed ({done.code})", f"{name}, sm_{arch} output": done.output[:2000]}
    return result


def check(session: Session) -> None:
    if session.stage("build", lambda: build(session))["outcome"] != "passed":
        return  # everything else would test what was built before
    session.stage("PTX wrappers against twins", lambda: twins(session))
    session.stage("kernel drivers", lambda: drivers(session))
    session.stage("numbers at real sizes, mma.sync", lambda: numbers(session, "mma.sync", 60))
    if device.has_wgmma():
        session.stage("numbers at real sizes, wgmma", lambda: numbers(session, "wgmma", 40))
        session.stage("every tile at real sizes", lambda: agreement(session, 20))
    session.stage("test suite on cuda", lambda: suite(session), least=10)
    session.stage("memcheck", lambda: memcheck(session), least=10)
