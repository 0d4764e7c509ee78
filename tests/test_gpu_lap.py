"""The run on a machine with a GPU, as far as it can be tested without one."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cases import paper_layers

from benchmarks import floors
from benchmarks.gpu import agreement, check, device, networks, session, speed, table
from pconv_cuda import PConvUNet

ROOT = Path(__file__).parents[1]


@pytest.fixture
def part(tmp_path: Path) -> session.Session:
    (tmp_path / "work").mkdir()
    return session.Session("check", tmp_path / "out", tmp_path / "work", seconds=60)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "module", ["gpu_lap", "gpu.layers", "gpu.networks", "gpu.chosen", "gpu.tiles", "gpu.accuracy", "gpu.agreement"]
)
def test_without_a_gpu_it_says_so_and_ends_well(module: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [module, *([] if module == "gpu_lap" else ["unused.json"])])
    assert importlib.import_module(f"benchmarks.{module}").main() == 0
    assert "not measured" in capsys.readouterr().out


def test_the_gpu_run_starts_before_the_extension_is_built() -> None:
    """A fresh checkout has no pconv_cuda._C, and importing the package fails."""
    code = (
        "import sys; sys.modules['pconv_cuda'] = None\n"
        "from benchmarks.gpu import check, device, rehearsal, session, speed, table\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_stage_that_raises_or_fails_does_not_end_the_run(part: session.Session) -> None:
    def raises() -> session.Result:
        raise ValueError("planted")

    part.stage("first", lambda: {"outcome": "passed"})
    part.stage("second", raises)
    command = [sys.executable, "-c", "print('why'); raise SystemExit(3)"]
    part.stage("third", lambda: session.outcome(part.run(command)))
    part.end = 0.0
    part.stage("fourth", lambda: {"outcome": "never"})
    stages = json.loads((part.out / "check.json").read_text())["stages"]
    outcomes = ["passed", "failed: ValueError: planted", "failed (3)", "not run: no time left"]
    assert [stage["outcome"] for stage in stages] == outcomes
    assert "raise ValueError" in stages[1]["output"] and "why" in stages[2]["output"]
    assert part.failed() == ["second", "third"]


def test_a_command_that_is_missing_is_a_failure(part: session.Session) -> None:
    assert part.run(["no-such-program"]).code == 127


def test_a_command_out_of_time_ends_with_all_its_children(part: session.Session, tmp_path: Path) -> None:
    """The child ignores the interrupt and keeps the standard output open, as compilers' workers do."""
    alive = tmp_path / "alive"
    child = f"import signal, time; signal.signal(2, signal.SIG_IGN)\nwhile 1: open({str(alive)!r}, 'a').write('x')"
    parent = f"import subprocess, sys; print('started', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    done = part.run([sys.executable, "-c", parent], limit=2)
    assert done.code == 124 and "started" in done.output and done.last_line == "ran out of time"
    size = alive.stat().st_size
    time.sleep(0.3)
    assert size > 0 and alive.stat().st_size == size


def test_a_failed_build_shows_the_first_error_and_ends_the_part(part: session.Session, monkeypatch) -> None:
    said = "".join(f"[{i}/90] nvcc ...\n" for i in range(99))
    said += "a.cu(3): error: first\n" + "a.cu(9): error: later\n" * 999
    found = session.build_outcome(session.Done(1, said))
    assert found["outcome"] == "failed (1)" and "error: first" in found["output"] and len(found["output"]) <= 2000
    monkeypatch.setattr(check, "build", lambda part: found)
    check.check(part)
    assert [stage["stage"] for stage in part.report["stages"]] == ["build"]


def test_a_driver_that_fails_does_not_skip_the_other_architecture(part: session.Session, monkeypatch) -> None:
    script = part.work / "driver"
    script.write_text('#!/bin/sh\ncase "$*" in *"arch 80"*) echo "MISMATCH y[7]"; exit 1;; esac\necho "0 failures"\n')
    script.chmod(0o755)
    monkeypatch.setattr(check, "program", lambda part, name: (script, session.Done(0, "")))
    monkeypatch.setattr(check, "architectures", lambda: ["80", "90"])
    monkeypatch.setattr(check, "EMULATION", part.work)
    (part.work / "export_cases.py").touch()  # the drivers' own takes torch, for seconds
    found = check.drivers(part)
    assert found["outcome"] == "failed"
    assert found["operators, sm_80 kernels, output"] == "MISMATCH y[7]"
    assert found["operators, sm_90 kernels"] == "0 failures"


def test_a_tile_that_breaks_the_context_is_left_out_and_the_others_go_on(part: session.Session, monkeypatch) -> None:
    program = """
import json, sys
out, without = sys.argv[1], [word for before, word in zip(sys.argv, sys.argv[1:]) if before == "--without"]
rows = json.load(open(out))["rows"] if without else []
for tile in ("a", "bad", "b", "worse", "c"):
    if tile in without or any(row["tile"] == tile for row in rows):
        continue
    broken = tile in ("bad", "worse")
    rows.append({"tile": tile, "passed": not broken})
    json.dump({"at": tile, "rows": rows}, open(out, "w"))
    if broken:
        sys.exit(3)
"""
    out = part.out / "agreement.json"
    part.out.mkdir(exist_ok=True)
    done = check.restarted(part, [sys.executable, "-c", program, out], out, "--without", 30)
    rows = check.rows_of(out)
    assert done.code == 0 and [row["tile"] for row in rows] == ["a", "bad", "b", "worse", "c"]
    assert check.judged(done, rows)["outcome"] == "failed: 2 of 5"
    assert check.judged(done, rows[:1])["outcome"] == "passed"


_BROKEN_TILE = """
import json, sys, torch
from benchmarks.gpu import agreement, tiles
torch.set_num_threads(1)
out, broken = sys.argv.pop(1), sys.argv.pop(1)
names, choices, forced = {}, tiles.choices, tiles.forced

def named(*arguments):
    found = choices(*arguments)
    names.update({choice: tile for tile, choice in found.items()})
    return found

def breaking(choice, call):
    if names[choice] == broken and "--without" not in sys.argv:
        raise RuntimeError("CUDA error: an illegal memory access")
    return forced(choice, call)

tiles.choices, tiles.forced = named, breaking
sys.argv[1:] = [out, "--size", "32", "--batch", "1", "--levels", "3", "--seconds", "100", *sys.argv[1:]]
sys.exit(agreement.main())
"""


def test_each_tile_is_compared_once_and_the_one_that_breaks_is_blamed(tmp_path: Path) -> None:
    out = tmp_path / "agreement.json"

    def run(broken: str, *without: str) -> tuple[int, list[dict]]:
        command = [sys.executable, "-c", _BROKEN_TILE, str(out), broken, *without]
        env = {**os.environ, "PCONV_REHEARSE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, check.rows_of(out)

    def key(row: dict) -> tuple:
        return tuple(row[name] for name in ("layer", "pass", "layout", "tile"))

    code, rows = run("")
    assert code == 0 and len(set(map(key, rows))) == len(rows) > 20 and all(row["passed"] for row in rows)
    assert {row["pass"] for row in rows if row["layout"] == "NCHW"} == {"forward"}
    # the tile of a comparison, and the plan's own, which is run before all others of its product
    for broken in (rows[len(rows) // 2]["tile"], rows[0]["planned"]):
        out.unlink()
        code, before = run(broken)
        assert code == device.BROKEN and (before[-1]["tile"], before[-1]["what"]) == (broken, "lost")
        code, after = run(broken, "--without", broken)
        assert code == 1 and after[: len(before)] == before and len(after) > len(before)
        compared = [key(row) for row in after if "layer" in row]
        assert len(set(compared)) == len(compared) and set(compared) < set(map(key, rows))
        assert {key(row) for row in rows if broken not in (row["tile"], row["planned"])} <= set(compared)


def test_outputs_of_two_tiles_may_differ_by_one_rounding() -> None:
    planned = [torch.tensor([1.0, -64.0]).bfloat16(), torch.tensor([True]), None, torch.zeros(0)]
    rounding = torch.finfo(torch.bfloat16).eps * 64
    for shift, passed in ((0.0, True), (rounding, True), (1.5 * rounding, False), (float("nan"), False)):
        ours = [planned[0].float().add(torch.tensor([shift, 0.0])).bfloat16(), *planned[1:]]
        assert agreement.difference(ours, planned)["passed"] is passed, shift
    other_mask = [planned[0], torch.tensor([False]), *planned[2:]]
    assert not agreement.difference(other_mask, planned)["passed"]
    zeros = [torch.zeros(2)]
    assert agreement.difference(zeros, zeros)["passed"] and not agreement.difference([torch.ones(2)], zeros)["passed"]


def test_counters_that_ncu_lacks_are_left_out(part: session.Session, monkeypatch) -> None:
    tool = part.work / "ncu"
    tool.write_text("#!/bin/sh\necho 'gpu__time_duration  Duration'\necho 'lts__throughput  L2'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{part.work}{os.pathsep}{os.environ['PATH']}")
    assert speed.counters(part) == ["gpu__time_duration.sum", "lts__throughput.avg.pct_of_peak_sustained_elapsed"]


@pytest.mark.full("rehearsals of the run on a GPU")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["check", "speed"])
def test_every_stage_is_rehearsed(name: str, tmp_path: Path, build_folder: Path) -> None:
    """Each line of the run has run before it meets a device; numbers at these sizes on a CPU mean nothing."""
    command = [sys.executable, "-m", "benchmarks.gpu_lap", "--part", name, "--rehearse", "--out", str(tmp_path)]
    environment = {**os.environ, "PCONV_EMULATION_BUILD": str(build_folder)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    stages = json.loads((tmp_path / f"{name}.json").read_text())["stages"]
    outcomes = {stage["stage"]: stage["outcome"] for stage in stages}
    expected = {"check": 8, "speed": 10}[name]
    assert len(outcomes) == expected and "not run" not in str(outcomes), (outcomes, done.stdout, done.stderr)
    # Sums in fp32 on a CPU are now and then a little more than twice as far off as the library's.
    numbers = outcomes.pop("numbers at real sizes, mma.sync", "passed")
    assert numbers == "passed" or numbers.startswith("failed: 1 of"), done.stdout
    assert set(outcomes.values()) == {"passed"}, json.dumps(stages, indent=1)[:6000]
    files = list(tmp_path.rglob("*"))
    assert len(files) <= 8 and all(path.is_file() and path.stat().st_size < 16 << 20 for path in files), files
    assert f"# {name}: rehearsed device" in (tmp_path / "report.md").read_text()


def test_the_table_compares_with_every_rival(tmp_path: Path) -> None:
    medians = {"ours": 50.0, "ours_wgmma": 45.0, "ours_chosen": 40.0, "plain": 40.0, "unfused": 200.0}
    times = {name: {"median_us": value} for name, value in medians.items()}
    row = {"layer": "enc2", "floor_us": {"arithmetic": 45.0, "bytes": 20.0}, "forward": times}
    about = {"dtype": "bfloat16", "batch": 6, "size": 512}
    stage = {"layer": "dec2", "forward_backward": times}
    passes = {"forward": {"times": times, "peak_mib": dict.fromkeys(times, 7.0), "errors": {"published": "no memory"}}}
    (tmp_path / "layers.json").write_text(json.dumps({**about, "layers": [row]}))
    (tmp_path / "networks.json").write_text(json.dumps({**about, "networks": passes, "stages": [stage]}))
    text = table.report(tmp_path)
    assert "| enc2 | forward | 50.0 | 45.0 | 40.0 | 1.00 | 0.20 |  | 45.0 |" in text
    assert "| ours | forward | 50.0 | 1.25 | 7.0 |" in text and "| published | forward | no memory | | |" in text
    assert "| dec2 | forward_backward | 50.0 | 45.0 | 40.0 | 1.00 |" in text


def test_the_stages_are_the_networks() -> None:
    """The sizes of the benchmark's stages are those of the model's decoder."""
    stages = networks.paper_stages(512, 6, 8)
    with torch.device("meta"):
        decoder = PConvUNet(levels=8).decoder
    for stage, layer in zip(reversed(stages), decoder, strict=True):
        assert (stage.low, stage.skip) == (layer.conv.low_channels, layer.conv.skip_channels)
        assert tuple(layer.conv.weight.shape) == (stage.k, stage.low + stage.skip, 3, 3)
    assert (stages[0].h, stages[-1].h) == (256, 2) and stages[0].bias


def test_the_papers_layers_are_those_of_the_floors() -> None:
    """FLOPs and floors of csrc's plan and of the benchmark agree with the sum over the network, 455.7 GFLOP."""
    layers = {case.name: case for case in paper_layers()}
    assert list(layers)[:2] == ["enc1", "enc2"] and list(layers)[-1] == "dec1" and len(layers) == 16
    work = {name: floors.layer(case, 2, False) for name, case in layers.items()}
    assert abs(sum(one.flops for one in work.values()) / 1e9 - 455.7) < 0.1
    assert abs(work["enc1"].bytes / 1e6 - 61.754) < 0.5
