"""Every file of examples/ is run and its results checked; the notebook is executed and compared with what is kept."""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pconv_cuda.data import packaged_images
from pconv_cuda.documents import document_pages

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "inpainting.ipynb"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Results go into the folder where one is; one thread, as other tests want the other cores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")  # train_small.py sets it where it is not set: not for other tests
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def assert_restored(
    restored: np.ndarray, truth: np.ndarray, hole: np.ndarray, given: np.ndarray, nearer: float = 0.5
) -> None:
    """The same to the bit outside the hole; in it changed, and nearer to the truth than its mean colour."""
    assert np.array_equal(restored[~hole], truth[~hole])
    assert np.mean((restored[hole] != given[hole]).any(-1)) > 0.95
    error, of_the_mean = (
        np.mean((filled - truth[hole]) ** 2) for filled in (restored[hole] * 1.0, truth[hole].mean(0))
    )
    assert error < nearer * of_the_mean, (error, of_the_mean)


def refused(name: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with one sentence instead of a traceback."""
    with pytest.raises(SystemExit) as stop:
        example(name).main(arguments)
    said = f"{stop.value.code} {capsys.readouterr().err}"
    assert stop.value.code not in (0, None) and re.search(message, said), said


# The layer ------------------------------------------------------------------------------------------------------


def test_the_layer_in_a_network_learns_and_closes_the_holes(capsys: pytest.CaptureFixture[str]) -> None:
    losses, shares = example("layer_in_your_network").main([])
    assert len(losses) == 2 and losses[1] < losses[0]
    assert 0.1 < shares[0] <= 0.3 and shares[-1] == 0
    assert all(after < before for before, after in zip(shares, shares[1:], strict=False))
    losses, _ = example("layer_in_your_network").main(["--steps", "30"])
    assert losses[-1] < 0.3 * losses[0] and np.isfinite(losses).all()
    assert f"{losses[-1]:.4f}" in capsys.readouterr().out
    refused("layer_in_your_network", ["--steps", "0"], "--steps: expected at least 1, got 0", capsys)


def test_the_layers_take_the_weights_of_plain_convolutions() -> None:
    network = example("layer_in_your_network").SmallNetwork(width=8)
    plain = torch.nn.Conv2d(3, 8, 5, padding=2)
    network.first.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 9, 9)
    inner = (..., slice(2, -2), slice(2, -2))  # the border counts as a hole
    output, _ = network.first(x, torch.ones(1, 1, 9, 9))
    torch.testing.assert_close(output[inner], plain(x)[inner])


def test_the_benchmark_times_layers_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    medians, apart = example("benchmark_layer").main(["--channels", "8", "--size", "24", "--rounds", "3"])
    names = ["plain", "PartialConv2d", "unfused, mask of one channel", "unfused, mask of every channel"]
    assert list(medians) == names and all(0 < ms < 1000 for ms in medians.values())
    assert apart < 1e-5
    lines = capsys.readouterr().out.splitlines()
    assert [line[:32].strip() for line in lines[:4]] == names
    for line, ms in zip(lines, medians.values(), strict=False):
        assert f"{ms:.2f} ms" in line and f"{ms / medians['plain']:.2f} x plain" in line
    refused("benchmark_layer", ["--rounds", "0"], "from 1 on", capsys)


def test_the_benchmarks_unfused_layer_is_checked_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("benchmark_layer")
    right = module.unfused
    monkeypatch.setattr(module, "unfused", lambda x, mask, weight: right(x, mask, weight) * 1.01)
    assert module.main(["--channels", "4", "--size", "16", "--rounds", "1"])[1] > 1e-3


# Pictures -------------------------------------------------------------------------------------------------------


def test_a_photograph_is_inpainted() -> None:
    module = example("inpaint_photo")
    module.main([])
    (cat,) = (photograph.array for photograph in packaged_images() if photograph.name == "chelsea")
    hole = np.asarray(module.example_pair()[1])
    before, finished = read("finished-before.png"), read("finished.png")
    assert 0.05 < hole.mean() <= 0.1
    assert (before[hole] == 255).all() and np.array_equal(before[~hole], cat[~hole])
    assert_restored(finished, cat, hole, before)


def test_your_own_photograph_is_inpainted_the_right_way_up() -> None:
    (cup,) = (photograph.array for photograph in packaged_images() if photograph.name == "coffee")
    truth = cup[100:180, 150:270]
    hole = np.zeros(truth.shape[:2], bool)
    hole[30:36, 20:90] = True
    given = np.where(hole[..., None], np.uint8(255), truth)
    turned = Image.fromarray(np.rot90(given))  # as a camera stores it that was held upright
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    turned.save("photo.png", exif=exif)
    Image.fromarray(hole).save("hole.png")
    example("inpaint_photo").main(["photo.png", "hole.png", "-o", "out.png", "--model", "smooth"])
    assert_restored(read("out.png"), truth, hole, given)
    assert not Path("out-before.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.png"], "expected a mask beside the photograph"),
        (["absent.png", "hole.png"], "No such file.*absent.png"),
        (["notes.txt", "hole.png"], "cannot identify image file 'notes.txt'"),
        (["photo.png", "photo.png"], "mask: expected a black and white mask, got a picture with colours"),
        (["photo.png", "fits.png", "-o", "out.xyz"], "unknown file extension: .xyz"),
        (["photo.png", "hole.png"], r"mask: expected \(H, W\) = \(20, 30\), the image's size, but got \(9, 9\)"),
        (["--model", "foto"], "expected a network or one of the words smooth, photo, document, but got 'foto'"),
    ],
)
def test_bad_photographs_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 2, (20, 30, 3), np.uint8) * 255).save("photo.png")
    Image.fromarray(rng.random((9, 9)) > 0.5).save("hole.png")
    Image.fromarray(rng.random((20, 30)) > 0.5).save("fits.png")
    Path("notes.txt").write_text("no picture")
    refused("inpaint_photo", arguments, message, capsys)
    assert not Path("finished.png").exists()


def test_a_page_is_restored(capsys: pytest.CaptureFixture[str]) -> None:
    example("restore_page").main([])
    truth = document_pages(2, 512)[1]
    both, restored = read("restored-before-after.png"), read("restored.png")
    before, after = both[:, :512], both[:, 512:]
    hole = (before == (255, 0, 255)).all(-1)
    assert 0.05 < hole.mean() <= 0.1 and np.array_equal(after, restored)
    assert_restored(restored, truth, hole, before, nearer=0.8)
    psnr = {name: float(value) for name, value in re.findall(r"hole, (\w+): ([\d.]+) dB", capsys.readouterr().out)}
    assert psnr["document"] > psnr["smooth"] + 0.2
    assert psnr["document"] == pytest.approx(
        10 * np.log10(255**2 / np.mean((restored[hole] * 1.0 - truth[hole]) ** 2)), abs=0.006
    )


def test_your_own_page_is_restored_and_unmarked_ones_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    truth = document_pages(1, 160)[0]
    hole = np.zeros((160, 160), bool)
    hole[40:44, 10:150] = hole[100:130, 70:74] = True
    given = np.where(hole[..., None], np.uint8((0, 0, 255)), truth)
    Image.fromarray(given).save("scan.png")
    example("restore_page").main(["scan.png", "--colour", "blue", "-o", "out.png"])
    assert_restored(read("out.png"), truth, hole, given)
    refused("restore_page", ["scan.png"], "no pixel is exactly #ff00ff; jpg blurs colours", capsys)
    refused("restore_page", ["scan.png", "--colour", "bleu"], "unknown color specifier: 'bleu'", capsys)
    refused("restore_page", ["absent.png"], "No such file.*absent.png", capsys)


# Training -------------------------------------------------------------------------------------------------------


def test_a_small_network_learns(capsys: pytest.CaptureFixture[str]) -> None:
    losses = example("train_small").main(["--steps", "100"])
    assert len(losses) == 10 and losses[-1] < losses[0] - 0.02, losses
    said = re.findall(r"smooth fill ([\d.]+) dB, trained network ([\d.]+) dB", capsys.readouterr().out)
    smooth, trained = np.array(said, float).T
    assert len(smooth) == 3 and trained.mean() > smooth.mean() + 0.1
    sheet = read("trained/sheet.png")
    assert sheet.shape == (3 * 256, 4 * 256, 3)
    for row, truth in zip(np.split(sheet, 3), document_pages(3, size=256), strict=True):
        before, mask, result, last = np.split(row, 4, axis=1)
        hole = mask[..., 0] == 255
        assert 0.05 < hole.mean() <= 0.15 and np.array_equal(last, truth)
        assert (before[hole] == 255).all() and np.array_equal(before[~hole], truth[~hole])
        assert_restored(result, truth, hole, before, nearer=0.9)


def test_a_training_of_no_steps_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    refused("train_small", ["--steps", "0"], "train.steps: expected at least 1, got 0", capsys)


def test_a_grid_is_filled_better_than_by_interpolation(capsys: pytest.CaptureFixture[str]) -> None:
    errors = example("grid").main(["maps.png", "--steps", "25"])
    first, second = errors["fill, tension 0"], errors["fill, tension 0.3"]
    assert first < errors["cubic"] < second < errors["linear"] < errors["nearest"]
    assert errors["network"] < 1.05 * first  # it begins as the fill to which it adds
    assert np.isnan(errors["data"]) and errors["truth"] == 0 and capsys.readouterr().out.count(" K\n") == 8
    assert read("maps.png").shape[:2] == (1000, 1000)


# What a newcomer reads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_examples_are_short_and_use_what_the_documents_name(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in text  # the docstring, which --help prints
    documents = "\n".join(file.read_text(encoding="utf-8") for file in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    names = [
        (node.module, alias.name) for node in imports if "pconv_cuda" in (node.module or "") for alias in node.names
    ]
    assert names or path.stem == "onnx_inpaint"  # which runs where this package is not
    for module, name in names:
        assert not re.search(r"(^|\.)_", f"{module}.{name}")
        assert re.search(rf"\b{name}\b", documents), f"no document names {module}.{name}"


def test_every_example_is_in_the_table_and_linked() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in [*PROGRAMS, NOTEBOOK]:
        assert f"[{path.name}]({path.name})" in table and f"examples/{path.name}" in table
    assert len(PROGRAMS) == 7
    assert "(examples/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    pages = "\n".join(file.read_text(encoding="utf-8") for file in ROOT.glob("docs/*.md"))
    for name in re.findall(r"\.\./examples/([\w.]+)", pages):
        assert (EXAMPLES / name).exists()
    assert pages.count("../examples/") >= 4


# The notebook ---------------------------------------------------------------------------------------------------


def pictures(cell: dict[str, Any]) -> list[np.ndarray]:
    found = [output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in found]


def said(cell: dict[str, Any]) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_kept_with_its_outputs() -> None:
    assert NOTEBOOK.stat().st_size < 400_000
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run it from top to bottom"
    assert all(cell["outputs"] for cell in cells[1:]), "a cell has lost its output"
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    shown = [picture for cell in cells for picture in pictures(cell)]
    assert [picture.shape for picture in shown] == [(192, 576, 3), (256, 768, 3)]
    for picture in shown:
        holed, result, truth = (part.astype(float) for part in np.split(picture, 3, axis=1))
        hole = (holed > 250).all(-1) & (truth < 245).any(-1)
        assert 0.04 < hole.mean() < 0.15
        assert np.abs(result - truth)[hole].mean() < 0.3 * np.abs(holed - truth)[hole].mean()


def test_the_notebook_runs_and_shows_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", ":".join([str(ROOT), *sys.path]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    done = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    fresh = [cell for cell in done.execute().cells if cell.cell_type == "code"]
    for new, kept in zip(fresh, code_cells(), strict=True):
        # pages are drawn with the fonts of the machine, so that figures and pictures of them differ
        assert re.sub(r"\d+", "0", said(new)) == re.sub(r"\d+", "0", said(kept))
        assert [one.shape for one in pictures(new)] == [one.shape for one in pictures(kept)]
    (photograph,), (kept,) = (
        next(found for cell in cells if (found := pictures(cell))) for cells in (fresh, code_cells())
    )
    assert np.abs(photograph.astype(float) - kept).mean() < 2, "run it again: jupyter execute --inplace"
