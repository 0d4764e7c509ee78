"""`.ci/page_tools`, which installs a browser for CI: it fails no run, and says which tests are skipped."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "page_tools"
if not SCRIPT.is_file():
    pytest.skip("a source distribution has no .ci", allow_module_level=True)

NO_BROWSER = "SKIPPED: tests/test_serve_page*.py and the page of tests/test_export_examples.py: no Chromium"
NO_RUNTIME = "SKIPPED: the page of tests/test_export_examples.py: no onnxruntime-web@"
# Stubs that install.
BROWSER = """
case "$*" in
    *--download-only*) ;;
    *install*) touch "$BIN/chromium" "$BIN/chromedriver"; chmod +x "$BIN"/c* ;;
esac
"""
RUNTIME = """
dist=$3/node_modules/onnxruntime-web/dist
mkdir -p "$dist"
touch "$dist"/ort{.wasm.min.js,-wasm-simd-threaded.{mjs,wasm}}
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """run(npm="exit 1") runs it where `npm` is that script; returns what it printed, and the calls of the stubs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "mkdir", "tail", "timeout", "cp", "rm", "touch", "chmod"):
        (programs / name).symlink_to(shutil.which(name) or "absent")

    def run(**stubs: str) -> tuple[str, str]:
        for name, script in {"id": "echo 0", **stubs}.items():
            stub = programs / name.replace("_", "-")
            stub.write_text(f'#!{programs}/bash\necho "{stub.name} $*" >>{tmp_path}/calls.txt\n{script}\n')
            stub.chmod(0o755)
        done = subprocess.run(
            [str(programs / "bash"), str(SCRIPT), str(tmp_path / "page")], capture_output=True, text=True,
            env={"PATH": str(programs), "BIN": str(programs)},
        )  # fmt: skip
        assert done.returncode == 0 and not done.stderr, done.stderr
        calls = tmp_path / "calls.txt"
        return done.stdout, calls.read_text() if calls.exists() else ""

    return run


def test_both_are_installed(run, tmp_path: Path) -> None:
    said, calls = run(apt_get=BROWSER, npm=RUNTIME)
    assert "SKIPPED" not in said and "Chromium: " in said and f"{tmp_path}/page/ort" in said
    assert sorted(path.name for path in (tmp_path / "page" / "ort").iterdir()) == [
        "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm", "ort.wasm.min.js",
    ]  # fmt: skip
    assert not (tmp_path / "page" / "node_modules").exists()
    assert "chromium chromium-driver" in calls and "--ignore-scripts" in calls


def test_a_browser_that_is_there_is_not_installed(run) -> None:
    said, calls = run(apt_get="exit 1", chromium="", chromedriver="", npm=RUNTIME)
    assert "SKIPPED" not in said and "apt-get" not in calls


@pytest.mark.parametrize(
    ("stubs", "reason"),
    [
        ({"id": "echo 1000", "apt_get": BROWSER}, "(not root)"),
        ({}, "(no apt-get)"),
        ({"apt_get": "echo no network; exit 100"}, "(apt-get failed)"),
        ({"apt_get": "exit 0"}, "(apt-get failed)"),  # it ends well, but the browser is not there
    ],
)
def test_without_a_browser_it_says_which_tests_are_skipped(run, stubs: dict[str, str], reason: str) -> None:
    said, calls = run(npm=RUNTIME, **stubs)
    assert f"{NO_BROWSER} {reason}" in said and NO_RUNTIME not in said
    assert ("no network" in said) == ("no network" in stubs.get("apt_get", ""))
    assert "apt-get" not in calls or "1000" not in stubs.get("id", "")


@pytest.mark.parametrize(
    ("stubs", "reason"),
    [
        ({}, "(no npm)"),
        ({"npm": "echo no network >&2; exit 1"}, "(npm install failed)"),
        ({"npm": ""}, "(npm install failed)"),
    ],
)
def test_without_onnxruntime_web_it_says_which_test_is_skipped(run, stubs: dict[str, str], reason: str) -> None:
    said, _ = run(apt_get=BROWSER, **stubs)
    assert NO_RUNTIME in said and reason in said and NO_BROWSER not in said
