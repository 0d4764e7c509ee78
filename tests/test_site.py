"""The documentation's site: built strictly, complete, without a link that leads nowhere."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from site_support import Contents, broken_links, left_over, read_site

import pconv_cuda
from pconv_cuda import cli

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / ".github").is_dir():
    pytest.skip("a source distribution has no benchmarks/results, to which pages lead", allow_module_level=True)
REPOSITORY = "https://github.com/someone/pconv"
MODULES = ["nn", "functional", "models", "losses", "masks", "data", "documents", "training", "evaluation"]
MODULES += ["evaluation.compare", "convert", "export", "hub", "errors"]
INTERNAL = {"functional.is_transformed"}


def build(root: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "REPOSITORY_URL": REPOSITORY, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out), *options]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "built"
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Contents]:
    return {path.relative_to(site).as_posix(): page for path, page in read_site(site).items()}


@pytest.fixture
def copy(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site, tmp_path / "copy"))


def missing_names(pages: dict[str, Contents]) -> list[str]:
    ids = set().union(*(page.ids for page in pages.values()))
    wanted = list(pconv_cuda.__all__)
    for name in MODULES:
        public = importlib.import_module(f"pconv_cuda.{name}").__all__
        wanted += [f"{name}.{one}" for one in public if one not in pconv_cuda.__all__]
    wanted = [name for name in wanted if name not in INTERNAL]
    return [name for name in wanted if f"pconv_cuda.{name}" not in ids]


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield sub
                yield from commands(sub)


# Complete -----------------------------------------------------------------------------------------------------------


def test_every_page_of_the_documents_is_on_the_site(pages: dict[str, Contents]) -> None:
    for path in ROOT.glob("docs/**/*.md"):
        name = path.relative_to(ROOT / "docs").with_suffix("")
        built = f"{name.parent if name.name == 'index' else name}/index.html"
        assert built in pages, path
        (title,) = re.findall(r"\A# (.+)$", path.read_text(encoding="utf-8"), re.M)
        assert title.replace("`", "") in pages[built].text
    for page in ("index.html", "examples/index.html", "contributing/index.html", "changelog/index.html"):
        assert len(pages[page].text) > 1000


def test_every_public_name_has_an_entry(pages: dict[str, Contents]) -> None:
    assert not missing_names(pages)


def test_every_command_and_option_has_an_entry(pages: dict[str, Contents]) -> None:
    sections = pages["reference/command-line/index.html"].sections
    parsers = list(commands(cli.build_parser()))
    assert {parser.prog for parser in parsers} >= {f"pconv {verb}" for verb in cli.VERBS}
    for parser in parsers:
        shown = sections[parser.prog.replace(" ", "-")]
        for action in parser._actions:
            for option in set(action.option_strings) - {"-h", "--help"}:
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown), (parser.prog, option)
        assert " ".join((parser.epilog or "").split()).replace("`", "") in " ".join(shown.split())


def test_nothing_is_left_unrendered(pages: dict[str, Contents]) -> None:
    assert not {name: found for name, page in pages.items() if (found := left_over(page))}


def test_every_link_and_picture_leads_somewhere(site: Path) -> None:
    assert not broken_links(site, REPOSITORY, ROOT)


def test_links_out_of_the_documents_lead_to_the_repository(pages: dict[str, Contents]) -> None:
    assert f"{REPOSITORY}/blob/main/examples/inpaint_photo.py" in pages["photographs/index.html"].links
    assert f"{REPOSITORY}/blob/main/benchmarks/results/README.md" in pages["benchmarks/index.html"].links
    assert "../layers/" in pages["your-network/index.html"].links


def test_a_reader_asks_no_other_server(site: Path, pages: dict[str, Contents]) -> None:
    for path in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\"> ]*)", path.read_text(encoding="utf-8"))
        loaded += re.findall(r"<link[^>]* href=\"?(https?:[^\"> ]*)", path.read_text(encoding="utf-8"))
        assert not loaded, path


def test_the_formula_is_mathml(site: Path) -> None:
    text = (site / "design" / "index.html").read_text(encoding="utf-8")
    assert text.count("<math") == 1 and "<mfrac>" in text


# The checks see what is wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "old", "new"),
    [
        ("photographs/index.html", 'href="../serve/"', 'href="../server/"'),
        ("photographs/index.html", 'href="../models/#photo"', 'href="../models/#photos"'),
        ("photographs/index.html", 'src="../images/photographs.png"', 'src="../images/photograph.png"'),
        ("photographs/index.html", "/blob/main/examples/inpaint_photo.py", "/blob/main/examples/inpaint.py"),
        ("models/index.html", ' id="photo"', ""),
    ],
)
def test_a_planted_link_is_found(copy: Path, page: str, old: str, new: str) -> None:
    text = (copy / page).read_text(encoding="utf-8")
    assert old in text
    (copy / page).write_text(text.replace(old, new), encoding="utf-8")
    assert broken_links(copy, REPOSITORY, ROOT)


def test_a_missing_name_is_found(copy: Path) -> None:
    (copy / "reference" / "losses" / "index.html").unlink()
    gone = missing_names({path.name: page for path, page in enumerate_pages(copy)})
    assert "InpaintingLoss" in gone and "losses.gram_matrix" in gone and "PConvUNet" not in gone


def enumerate_pages(folder: Path) -> Iterator[tuple[Path, Contents]]:
    return ((path.with_name(f"{number}.html"), page) for number, (path, page) in enumerate(read_site(folder).items()))


@pytest.mark.parametrize(
    "text", ["a\n- b", "a\n| b | c |", "see :func:`x`", "[a](b.md)", "$$x$$", "a **b**", "<blockquote>b</blockquote>"]
)
def test_what_is_left_unrendered_is_found(text: str) -> None:
    page = Contents()
    page.feed(f"<article><p>{text}</p><code>- [a](b)</code></article>")
    assert left_over(page)


@pytest.mark.full("sites of broken documents")
@pytest.mark.parametrize(
    ("page", "line", "said"),
    [
        ("docs/threads.md", "[a](nowhere.md)", "docs/threads.md: a link to docs/nowhere.md, which is not there"),
        ("docs/threads.md", "[a](../csrc/nowhere.cpp)", "a link to csrc/nowhere.cpp, which is not there"),
        ("docs/threads.md", "[a](gpu.md#nowhere)", "does not contain an anchor '#nowhere'"),
        ("docs/reference/hub.md", "::: pconv_cuda.hub.nowhere", "pconv_cuda.hub.nowhere could not be found"),
        ("docs/new.md", "# New", 'not included in the "nav" configuration:\n  - new.md'),
    ],
)
def test_broken_documents_are_not_built(tmp_path: Path, page: str, line: str, said: str) -> None:
    ignored = shutil.ignore_patterns("*.so", "__pycache__", ".*", "build")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=ignored)
    with (tmp_path / "copy" / page).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = build(tmp_path / "copy", tmp_path / "out")
    assert done.returncode != 0 and said in done.stderr, done.stderr


# What the pages tell ------------------------------------------------------------------------------------------------


def test_the_page_on_the_layer_runs() -> None:
    text = (ROOT / "docs" / "your-network.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)), names)
    assert names["output"].shape == names["image"].shape  # type: ignore[attr-defined]
    assert set(names["terms"]) == {"valid", "hole", "tv"}  # type: ignore[call-overload]


def test_the_page_on_photographs_runs(tmp_path: Path) -> None:
    from benchmarks import photographs_picture

    photographs_picture.inputs(tmp_path)
    psnr = photographs_picture.run(tmp_path)
    text = (ROOT / "docs" / "photographs.md").read_text(encoding="utf-8")
    assert psnr == pytest.approx(float(re.findall(r"with ([\d.]+) dB in them", text)[0]), abs=0.06)
    before, after = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("photo", "without"))
    hole = np.asarray(Image.open(tmp_path / "mast.png"))
    assert np.array_equal(before[~hole], after[~hole]) and not np.array_equal(before[hole], after[hole])


def test_the_workflow_builds_strictly_and_publishes_from_main_alone() -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8"))
    assert workflow[True] == {"push": {"branches": ["main"]}, "pull_request": None}  # YAML 1.1 reads `on` as true
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert [step for step in build["steps"] if step.get("run") == "mkdocs build --strict"]
    assert publish["if"] == "github.event_name == 'push'" and publish["needs"] == "build"
    assert workflow["permissions"] == {"contents": "read"} and "contents" not in publish["permissions"]
