"""The two tiers (tiers.py): what is marked `full` does not run unless asked for, and the short run says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiers

PLANTED = """
import pytest

def test_usual(): pass

@pytest.mark.parametrize("n", [0, pytest.param(1, marks=pytest.mark.full("large numbers"))])
def test_numbers(n): pass

@pytest.mark.full("slow ones")
def test_slow(): pass
"""


@pytest.fixture
def run(tmp_path: Path):
    """run("--full") runs the planted tests and returns what pytest printed."""
    shutil.copy(Path(__file__).with_name("tiers.py"), tmp_path)
    # As tests/conftest.py does it, without torch.
    (tmp_path / "conftest.py").write_text("def pytest_addoption(pluginmanager): pluginmanager.import_plugin('tiers')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = full(what): as in pyproject.toml\n")
    (tmp_path / "test_planted.py").write_text(PLANTED)

    def run(*options: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "pytest", "-ra", "-v", "--strict-markers", "-p", "no:cacheprovider", *options]
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def passed(output: str) -> list[str]:
    return re.findall(r"::test_(\S+) PASSED", output)


def test_the_short_tier_deselects_and_says_what(run) -> None:
    output = run()
    assert passed(output) == ["usual", "numbers[0]"]
    assert "2 passed, 2 deselected" in output and "skipped" not in output
    last = output.strip().splitlines()[-3:-1]
    assert last == [
        "The short tier left out 2 tests: large numbers (1), slow ones (1).",
        "All tests: python -m pytest --full",
    ]
    # What another option has deselected is not counted.
    assert "left out 1 tests: large numbers (1)." in run("-k", "numbers")


def test_the_full_tier_is_everything(run) -> None:
    output = run("--full")
    assert passed(output) == ["usual", "numbers[0]", "numbers[1]", "slow"]
    assert "deselected" not in output and "left out" not in output


def test_the_short_tier_and_the_rest_are_the_full_tier(run) -> None:
    output = run("--only-full")
    assert passed(output) == ["numbers[1]", "slow"]
    assert "2 passed, 2 deselected" in output and "left out" not in output
    assert "expected one of them" in run("--full", "--only-full", code=4)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core")
def test_all_tests_go_over_several_processes(run, tmp_path: Path) -> None:
    (tmp_path / "test_more.py").write_text("def test_more(): pass\n")
    output = run("-p", "xdist")
    assert {line.split()[0] for line in re.findall(r"\[gw\d+\].* PASSED test_\w+", output)} >= {"[gw0]", "[gw1]"}
    assert "3 passed" in output and "The short tier left out 2 tests: large numbers (1), slow ones (1)." in output
    for one in (["test_more.py"], ["-k", "usual"], ["-n0"]):  # a file, a choice, or one process asked for
        assert "[gw" not in run("-p", "xdist", *one)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core")
def test_the_longest_files_come_first(run, tmp_path: Path) -> None:
    copy = tmp_path / "tiers.py"
    text = re.sub(r"_LONGEST = \(.*?\)", '_LONGEST = ("test_zoo.py",)', copy.read_text(), flags=re.DOTALL)
    copy.write_text(re.sub(r"_MOST_PROCESSES = \d+", "_MOST_PROCESSES = 2", text))
    # Behind two others by name, and by the number of tests.
    for name, text in {"pair": "def test_1(): pass\ndef test_2(): pass\n", "zoo": "def test_zoo(): pass\n"}.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    began = dict(reversed(re.findall(r"\[(gw\d+)\].* PASSED (\S+)", run("-p", "xdist"))))
    assert len(began) == 2 and "test_zoo.py::test_zoo" in began.values(), began


def test_the_longest_files_exist() -> None:
    here = Path(__file__).parent
    assert all(list(here.rglob(name)) for name in tiers._LONGEST)


MORE = pytest.mark.full("collecting in more ways")


@pytest.mark.parametrize(
    "where", [pytest.param("benchmarks", marks=MORE), "tests/test_tiers.py benchmarks/bench_layers.py"]
)
def test_the_option_full_is_known_in_every_folder(where: str) -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--full", *where.split()]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
