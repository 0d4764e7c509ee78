"""What the benchmarks make of their figures: floors, reports, verdicts. `pytest benchmarks -k smoke` runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cases import paper_layers  # noqa: E402
from cases_upcat import paper_stages  # noqa: E402

from benchmarks import compare, floors, measure, report, suites  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.gpu import table  # noqa: E402
from pconv_cuda.errors import PConvError  # noqa: E402


# size, levels, GFLOP with phases and MB in bf16, forward and both ways, at batch 6: worked out apart from this code
@pytest.mark.parametrize(
    ("size", "levels", "forward", "both"),
    [(512, 8, (334.6, 583.6), (996.5, 1754.7)), (256, 7, (83.5, 180.9), (248.5, 578.9))],
)
def test_floors_of_the_network(size: int, levels: int, forward: tuple[float, float], both: tuple[float, float]) -> None:
    once, twice = (floors.network(size, 6, levels, 2, backward) for backward in (False, True))
    assert once.flops / 1e9 == pytest.approx(forward[0], rel=0.005)
    assert once.bytes / 1e6 == pytest.approx(forward[1], rel=0.01)
    assert twice.flops / 1e9 == pytest.approx(both[0], rel=0.005)
    # The contract does not say how it counts; its totals come out, at both sizes, for two kernels: the gradient read by
    # each (but in the first layer, which has one), masks three times, the weights' gradient in fp32, none for the
    # picture that the last stage joins. A floor takes every tensor once.
    layers, stages = paper_layers(size, 6)[:levels], paper_stages(size, 6, levels)
    gradients = sum(4 * one.n * one.k * one.h * one.w for one in stages)
    gradients += sum(one.n * one.k * (one.h // 2) * (one.w // 2) for one in layers[1:])
    weights = sum(one.k * (one.low + one.skip) * 9 for one in stages)
    weights += sum(one.k * one.c * one.window[0] * one.window[1] for one in layers[1:])
    masks = sum(9 * one.n * one.h * one.w for one in stages)
    masks += sum(one.n * (one.h * one.w + (one.h // 2) * (one.w // 2)) for one in layers)
    more = 2 * gradients + 2 * weights + 2 * masks - 2 * 6 * 3 * size * size
    assert (twice.bytes + more) / 1e6 == pytest.approx(both[1], rel=2e-4)


@pytest.mark.filterwarnings("error")
def test_a_result_without_layers_is_reported_without_a_complaint(tmp_path: Path) -> None:
    report.write([result(tmp_path / "new.json", 0.9, name="training step", kind="training")], tmp_path)
    assert "training step" in (tmp_path / "report.md").read_text()


def test_the_floor_is_the_slower_of_the_two_and_a_networks_is_its_layers() -> None:
    ceilings = {"copy_bytes_per_s": 1e9, "product_flop_per_s": 1e9}
    found = floors.milliseconds(floors.Work(2e6, 3e6), ceilings)
    assert found == {"arithmetic": 2.0, "bytes": 3.0, "least": 3.0}
    both = floors.Work(4e6, 4e6, (floors.Work(1e6, 3e6), floors.Work(3e6, 1e6)))
    assert floors.milliseconds(both, ceilings)["least"] == 6.0


def result(path: Path, ratio: float, noise: float = 0.01, name: str = "enc2", kind: str = "layer", **changes) -> Path:
    """A file of pytest-benchmark's form with one case, forward and forward + backward."""
    rivals = {
        rival: {"median_ms": 10 * value, "min_ms": 9 * value, "max_ms": 12 * value, "ratio": value, "noise": noise}
        for rival, value in {"plain": 1.0, "ours": ratio, "stock": 1.3, "unfused_full": 2.6}.items()
    }
    row = {
        "kind": kind, "name": name, "size": 256, "batch": 2, "hole_share": 0.25, "dtype": "float32", "device": "cpu",
        "rivals": rivals, "floor": {"least": 7.0},
        "machine": {**measure.machine(), "vectors": "AVX512"}, **changes,
    }  # fmt: skip
    old = json.loads(path.read_text())["benchmarks"] if path.exists() else []
    new = [{"extra_info": {**row, "which": which}} for which in ("forward", "forward + backward")]
    path.write_text(json.dumps({"datetime": "2026-11-25T10:00:00", "benchmarks": [*old, *new]}))
    return path


@pytest.mark.parametrize(
    ("new", "noise", "meaning"),
    [(1.25, 0.01, "slower"), (0.9, 0.01, "faster"), (1.25, 0.1, "no difference"), (1.05, 0.01, "no difference")],
)
def test_a_verdict_only_beyond_the_noise(tmp_path: Path, new: float, noise: float, meaning: str) -> None:
    text = compare.table(result(tmp_path / "old.json", 1.04, noise), result(tmp_path / "new.json", new, noise))
    assert text.count(f"| {meaning} |") == 2


def test_comparisons_that_cannot_be_made(tmp_path: Path) -> None:
    old = result(tmp_path / "old.json", 1.0)
    with pytest.raises(PConvError, match="no case in common"):
        compare.table(old, result(tmp_path / "other.json", 1.0, batch=6))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "foreign.json").write_text('{"benchmarks": [{"extra_info": {}}]}')
    for name, pattern in {"broken": "no result", "foreign": "found none with rivals", "absent": "no result"}.items():
        with pytest.raises(PConvError, match=pattern):
            compare.table(old, tmp_path / f"{name}.json")


def test_noise_of_constant_times_is_none_and_of_wild_ones_large() -> None:
    assert measure.summary({"plain": [1.0] * 9, "ours": [2.0] * 9}, "plain")["ours"]["noise"] == 0
    wild = measure.summary({"plain": [1.0] * 9, "ours": [1, 2, 3, 4, 5, 6, 7, 8, 9]}, "plain")["ours"]
    assert wild["ratio"] == 5 and wild["noise"] > 0.4


def test_report_and_readme_block(tmp_path: Path) -> None:
    path = result(tmp_path / "a.json", 1.07)
    result(path, 0.73, name="network of 7 levels", kind="network")
    for changes in ({"batch": 6}, {"hole_share": 0.5}, {"size": 128}):
        result(path, 1.1, **changes)
    report.write([path], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| enc2, forward | 10.0 | 1.07 | 1.30 | 2.60 | 0.70 |" in text
    for name in ("layers.png", "networks.png", "scaling.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    rows, measured = report.newest(tmp_path), table.newest(tmp_path)
    narrow = [{**row, "rivals": {**row["rivals"], "ours": {"ratio": 0.6}}} for row in rows]
    page, readme = report.page_block(rows, measured, narrow), report.readme_block(rows, measured)
    assert "| enc2, forward | 10.0 | **1.07** | 1.30 | 2.60 | 0.70 | 10.0 | **0.60** | 2.60 |" in page
    assert page.count("enc2, forward |") == 1
    assert "| network, forward | 10.0 | **0.73** | 2.60 | - | - | - |" in readme
    assert "| layer enc3, forward | - | - | - | - | - | - |" in readme
    for text in (page, readme):
        assert "Not measured on a GPU yet" in " ".join(text.split())


def test_a_result_of_a_gpu_is_not_shown_as_a_cpus(tmp_path: Path) -> None:
    path = result(tmp_path / "a.json", 0.9)
    result(path, 0.7, name="network of 7 levels", kind="network")
    on_gpu = result(tmp_path / "b.json", 0.5, device="cuda")
    result(on_gpu, 0.5, name="network of 7 levels", kind="network", device="cuda")
    assert report.network_of(report.newest(tmp_path))["rivals"]["ours"]["ratio"] == 0.7
    with pytest.raises(PConvError, match="no result of a CPU"):
        report.newest(tmp_path, avx2=True)
    path.unlink()
    with pytest.raises(PConvError, match="no result of a CPU"):
        report.newest(tmp_path)


def test_documents_show_the_newest_results() -> None:
    for path, block in report.blocks(ROOT / "benchmarks" / "results").items():
        assert block in path.read_text(encoding="utf-8"), f"{path}: run python -m benchmarks.report --readme"


def test_the_readmes_five_rows_are_the_newest_run_on_a_gpu(tmp_path: Path) -> None:
    def times(plain: float, ours: float, wgmma: float, published: float) -> dict[str, dict[str, float]]:
        named = {"plain": plain, "ours": ours, "ours_wgmma": wgmma, "unfused_full": published}
        return {name: {"median_us": value} for name, value in named.items()}

    each = {"forward": times(1000, 600, 500, 3000), "forward_backward": times(2000, 1500, 1800, 5000)}
    networks = {"levels": 8, "size": 512, "batch": 6, "hole_share": 0.25, "dtype": "bfloat16"}
    networks |= {
        "networks": {what: {"times": one} for what, one in each.items()},
        "stages": [{"layer": "dec3", **each}],
    }
    about = {"device": "a GPU", "torch": "2.11", "date": "2026-11-27"}
    found = {"conditions": about, "networks": networks, "layers": {"layers": [{"layer": "enc3", **each}]}}
    (tmp_path / "2_speed.json").write_text(json.dumps(found))
    (tmp_path / "1_speed.json").write_text("{}")
    path = result(tmp_path / "a.json", 0.9, name="enc3")
    result(path, 0.7, name="network of 7 levels", kind="network")
    result(path, 0.8, name="training step with VGG16", kind="training")
    rows, measured = report.newest(tmp_path), table.newest(tmp_path)
    block = report.readme_block(rows, measured)
    assert block.splitlines()[-6:-1] == [
        "| layer enc3, forward | 10.0 | **0.90** | 2.60 | 1.000 | **0.50** | 3.00 |",
        "| decoder stage dec3, forward | - | - | - | 1.000 | **0.50** | 3.00 |",
        "| network, forward | 10.0 | **0.70** | 2.60 | 1.000 | **0.50** | 3.00 |",
        "| network, forward + backward | 10.0 | **0.70** | 2.60 | 2.000 | **0.90** | 2.50 |",
        "| training step with VGG16 | 10.0 | **0.80** | 2.60 | - | - | - |",
    ]
    assert max(map(len, block.splitlines())) <= 100
    assert "| decoder stage dec3, forward + backward | 2.000 | **0.90** | 2.50 |" in report.page_block(
        rows, measured, rows
    )


def test_suites_name_files_and_options_that_exist() -> None:
    for calls in suites.SUITES.values():
        for call in calls:
            files = [word for word in suites.words(call) if word.endswith(".py")]
            assert files and all((ROOT / file).is_file() for file in files)
    assert suites.words("a.py -k 'one or two'") == ["benchmarks/a.py", "-k", "one or two"]


@pytest.mark.parametrize("option", ["--rounds", "--threads", "--batch"])
def test_counts_below_one_are_refused(option: str, capsys) -> None:
    assert main([option, "0"]) == 1
    assert f"error: {option}: expected at least 1, got 0" in capsys.readouterr().err


@pytest.mark.full("benchmarks from end to end")
def test_the_command_from_end_to_end(tmp_path: Path, capsys) -> None:
    command = [sys.executable, "-m", "benchmarks"]
    # of a test process of many: by these pytest-benchmark would take its runs for such processes too, and not measure
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    suite = [*command, "--suite", "smoke", "--out", tmp_path]
    done = subprocess.run(suite, capture_output=True, text=True, cwd=ROOT, timeout=300, env=own)
    assert done.returncode == 0, done.stderr
    assert "smoke, forward + backward" in (tmp_path / "report.md").read_text()
    same = str(tmp_path / "results.json")
    assert main(["--compare", same, same]) == 0
    assert capsys.readouterr().out.count("no difference") == 2
