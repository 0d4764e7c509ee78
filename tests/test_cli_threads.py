"""How the commands let torch's threads wait: set before torch is loaded, and never over a user's own choice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pconv_cuda import cli
from pconv_cuda.cli.threads import SETTINGS, SPINS

ROOT = Path(cli.__file__).parents[2]
# Runs a program; prints the settings at the first import of torch, which then fails.
PROBE = """
import json, os, sys
class Probe:
    def find_spec(self, name, *_):
        if name == "torch":
            os.write(1, json.dumps({one: os.environ.get(one) for one in %r}).encode())
            os._exit(0)
sys.meta_path.insert(0, Probe())
%s
print("no torch")
"""


COMMAND = "from pconv_cuda.cli import main; main(['info'])"


def settings_when_torch_is_loaded(program: str = COMMAND, **given: str) -> dict[str, str | None]:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    run = subprocess.run(
        [sys.executable, "-c", PROBE % (SETTINGS, program)],
        env={**environment, "PYTHONPATH": str(ROOT), **given},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return json.loads(run.stdout)


def test_threads_spin_briefly_in_a_command() -> None:
    assert settings_when_torch_is_loaded() == {**dict.fromkeys(SETTINGS), "GOMP_SPINCOUNT": str(SPINS)}


@pytest.mark.parametrize(
    ("name", "value"),
    [("GOMP_SPINCOUNT", "77"), ("OMP_WAIT_POLICY", "ACTIVE"), ("KMP_BLOCKTIME", "0"), ("KMP_LIBRARY", "throughput"),
     ("GOMP_SPINCOUNT", "")],
)  # fmt: skip
def test_a_users_own_setting_is_kept(name: str, value: str) -> None:
    assert settings_when_torch_is_loaded(**{name: value}) == {**dict.fromkeys(SETTINGS), name: value}


def test_benchmarks_measure_what_a_python_program_has() -> None:
    assert settings_when_torch_is_loaded("import benchmarks.conftest") == dict.fromkeys(SETTINGS)


def test_a_program_that_has_loaded_torch_keeps_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it would only change what child processes inherit."""
    assert "torch" in sys.modules
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    assert cli.main(["masks", "stats", "nowhere"]) == 1
    assert dict(os.environ) == before
