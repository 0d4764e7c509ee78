"""The lap on a machine with a GPU, as far as a machine without one can see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import paper_layers

from benchmarks import floors, gpu_lap, gpu_networks
from pconv_cuda import PConvUNet

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "arguments",
    [["benchmarks.gpu_lap"], ["benchmarks.gpu_layers", "unused.json"], ["benchmarks.gpu_networks", "unused.json"]],
)
def test_without_a_gpu_it_says_so_and_ends_well(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "not measured" in done.stdout


def test_every_stage_leaves_its_result(tmp_path: Path) -> None:
    lap = gpu_lap.Lap(tmp_path, budget=60)
    lap.stage("first", lambda: {"outcome": "passed"})
    lap.stage("second", lambda: gpu_lap.outcome(lap.run([sys.executable, "-c", "print('why'); raise SystemExit(3)"])))
    lap.end = 0.0
    lap.stage("third", lambda: {"outcome": "never"})
    stages = json.loads((tmp_path / "lap.json").read_text())["stages"]
    assert [stage["outcome"] for stage in stages] == ["passed", "failed (3)", "not run: no time left"]
    assert "why" in stages[1]["output"] and "| second | failed (3) |" in (tmp_path / "lap.md").read_text()


def test_a_command_that_outlasts_the_lap_or_is_missing_is_a_failure(tmp_path: Path) -> None:
    lap = gpu_lap.Lap(tmp_path, budget=1.5)
    assert lap.run([sys.executable, "-c", "import time; time.sleep(60)"]).returncode == 124
    assert lap.run(["no-such-program"]).returncode == 127


def test_the_table_compares_with_every_rival(tmp_path: Path) -> None:
    times = {name: {"median_us": value} for name, value in
             {"ours": 50.0, "plain": 40.0, "unfused": 200.0, "unfused_compiled": 100.0}.items()}  # fmt: skip
    layer = {
        "layer": "enc2",
        "floor_us": {"arithmetic": 45.0, "bytes": 20.0},
        "forward": times,
        "forward_backward": times,
    }
    (tmp_path / "layers.json").write_text(json.dumps({"dtype": "bfloat16", "batch": 6, "size": 512, "layers": [layer]}))
    text = gpu_lap.table({"stages": []}, tmp_path)
    assert "| enc2 | forward | 50.0 | 1.25 | 0.25 | 0.50 | 45.0 |" in text


def test_the_table_of_networks(tmp_path: Path) -> None:
    times = {name: {"median_us": value} for name, value in
             {"ours": 30.0, "plain": 40.0, "plain_compiled": 37.5, "composed": 60.0}.items()}  # fmt: skip
    measured = {
        "dtype": "bfloat16", "batch": 6, "size": 512,
        "networks": {"forward": {"times": times, "peak_mib": dict.fromkeys(times, 7.0)}},
        "stages": [{"layer": "dec2", "forward": times, "forward_backward": times}],
    }  # fmt: skip
    (tmp_path / "networks.json").write_text(json.dumps(measured))
    text = gpu_lap.table({"stages": []}, tmp_path)
    assert "| ours | forward | 30.0 | 0.75 | 7.0 |" in text
    assert "| dec2 | forward_backward | 30.0 | 0.75 | 0.80 | 0.50 |" in text


def test_the_stages_are_the_networks() -> None:
    """The sizes of the benchmark's stages are those of the model's decoder."""
    stages = gpu_networks.paper_stages(512, 6, 8)
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
