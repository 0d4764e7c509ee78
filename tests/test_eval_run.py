"""The evaluation: the table, its resumption, and what it does with bad input."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch
from inpaint_support import small_network, smooth_picture
from PIL import Image

from pconv_cuda.cli import build_parser, main
from pconv_cuda.cli.eval import common
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation import Settings, evaluate
from pconv_cuda.evaluation import run as run_module
from pconv_cuda.evaluation.pairs import ALL_CELLS, Cell, cell_of, open_masks, plan_pairs
from pconv_cuda.evaluation.statistics import interval
from pconv_cuda.masks.files import make_masks
from pconv_cuda.models import PConvUNet

SIZE = 32


@pytest.fixture
def material(tmp_path):
    """Three pictures, two masks of one cell without and one with holes at the border, a small network."""
    for number in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(smooth_picture(40, 36, number)).save(tmp_path / f"images/{number}.png")
    (tmp_path / "masks").mkdir()
    for number, (top, side) in enumerate(((8, 12), (10, 11), (0, 12))):
        hole = np.zeros((SIZE, SIZE), np.uint8)
        hole[top : top + side, 8 : 8 + side] = 255
        Image.fromarray(hole).save(tmp_path / f"masks/{number}.png")
    small_network(2).save_pretrained(tmp_path / "net")
    return tmp_path


def settings(material, **changes):
    usual = {
        "images": str(material / "images"),
        "masks": str(material / "masks"),
        "weights": [f"net={material / 'net'}"],
    }
    usual |= {"size": SIZE, "baselines": ("mean", "telea", "ns", "biharmonic"), "resamples": 50}
    return Settings(**{**usual, **changes})


def texts(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.filterwarnings("ignore:masks:")
def test_the_verb_writes_the_table(material, capsys):
    words = ["eval", "--weights", f"net={material / 'net'}", "--images", str(material / "images"), "--masks"]
    words += [str(material / "masks"), "--out", str(material / "r"), "--size", str(SIZE), "--resamples", "50"]
    assert main(words) == 0
    assert {"table.md", "table.csv", "results.json", "plot.png", "sheet.png"} <= set(texts(material / "r"))
    text = (material / "r/table.md").read_text()
    for word in ("data range 255", "Gaussian window of 11 px", "PSNR in the hole, holes at the border", "biharmonic"):
        assert word in text
    assert "LPIPS left out" in text and "FID left out" in text
    assert "Partial" not in text
    results = json.loads((material / "r/results.json").read_text())
    # three pictures in the cell of two masks and in that of one, six methods
    assert results["complete"] and results["measured"] == 6 * 6 == len(results["pictures"])
    row = next(r for r in results["rows"] if (r["method"], r["metric"], r["border"]) == ("net", "psnr", "inside"))
    values = [p["psnr"] for p in results["pictures"] if p["method"] == "net" and p["pair"].startswith("0.1-0.2/inside")]
    assert row["mean"] == pytest.approx(np.mean(values)) and row["low"] <= row["mean"] <= row["high"]
    assert Image.open(material / "r/sheet.png").width > 7 * SIZE


@pytest.mark.filterwarnings("ignore:masks:")
@pytest.mark.parametrize("stops", [(7,), pytest.param((0, 1, 29), marks=pytest.mark.full("kill and resume"))])
def test_interrupted_anywhere_it_ends_the_same(material, monkeypatch, stops):
    evaluate(settings(material), material / "whole")
    whole = texts(material / "whole")
    for stop in stops:
        calls = iter(range(100))
        measure = run_module.measure

        def interrupting(*args, measure=measure, calls=calls, stop=stop):
            if next(calls) == stop:
                raise KeyboardInterrupt
            return measure(*args)

        monkeypatch.setattr(run_module, "measure", interrupting)
        out = material / f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            evaluate(settings(material), out)
        assert f"Partial: {stop} of 30" in (out / "table.md").read_text()
        monkeypatch.setattr(run_module, "measure", measure)
        with open(out / "records.jsonl", "a") as file:
            file.write('{"pair": "0.1-0.2/ins')  # half a line, as a kill leaves it
        evaluate(settings(material), out)
        assert texts(out) == whole


@pytest.mark.filterwarnings("ignore:masks:")
def test_a_kill_loses_one_record_at_most(material):
    whole = material / "whole"
    evaluate(settings(material), whole)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        calls = iter(range(100))
        measure = run_module.measure

        def killing(*args):
            if next(calls) == 11:
                os.kill(os.getpid(), signal.SIGKILL)
            return measure(*args)

        run_module.measure = killing
        evaluate(settings(material), material / "killed")
        os._exit(0)
    os.waitpid(child, 0)
    assert len((material / "killed/records.jsonl").read_text().splitlines()) == 11
    evaluate(settings(material), material / "killed")
    assert texts(material / "killed") == texts(whole)


@pytest.mark.filterwarnings("ignore:masks:")
def test_results_of_other_settings_are_refused(material):
    one = settings(material, baselines=("mean",))
    evaluate(one, material / "r")
    before = texts(material / "r")
    for change, words in (({"size": 33}, "size: 32 there, 33 now"), ({"seed": 3}, "seed: 0 there, 3 now")):
        with pytest.raises(PConvError, match=words):
            evaluate(settings(material, baselines=("mean",), **change), material / "r")
    small_network(2, seed=1).save_pretrained(material / "net")
    with pytest.raises(PConvError, match="weights of net: "):
        evaluate(one, material / "r")
    assert texts(material / "r") == before
    # another method may be added
    report = evaluate(settings(material, weights=(), baselines=("mean", "ns")), material / "r")
    assert report["complete"] and set(report["methods"]) == {"mean", "ns"}


@pytest.mark.filterwarnings("ignore:masks:")
@pytest.mark.parametrize("name", ["results.json", "table.csv", "table.md", "plot.png", "sheet.png", "records.jsonl"])
def test_files_of_another_program_are_not_replaced(material, name):
    (material / "r").mkdir()
    (material / "r" / name).write_text("mine")
    with pytest.raises(PConvError, match=f"out: .* holds {name} and no settings.json"):
        evaluate(settings(material, weights=(), baselines=("mean",)), material / "r")
    assert texts(material / "r") == {name: b"mine"}


@pytest.mark.filterwarnings("ignore:masks:")
def test_a_corrupt_picture_is_left_out_and_marked(material, capsys):
    (material / "images/1.png").write_bytes(b"no picture")
    report = evaluate(settings(material, baselines=("mean",)), material / "r")
    assert not report["complete"] and report["measured"] == 8 and len(report["left_out"]) == 4
    text = (material / "r/table.md").read_text()
    assert "**Partial: 8 of 12 values.**" in text and "1.png cannot be read" in text and "]*" in text
    Image.fromarray(smooth_picture(40, 36, 1)).save(material / "images/1.png")
    assert evaluate(settings(material, baselines=("mean",)), material / "r")["complete"]


def test_masks_that_do_not_fit(material):
    Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8)).save(material / "masks/all.png")
    (material / "masks/bad.png").write_bytes(b"x")
    with pytest.warns(UserWarning) as seen:
        masks = open_masks(str(material / "masks"), 2 * SIZE, 0, "white-hole", [Cell((0.1, 0.2), False)])
    text = "\n".join(str(one.message) for one in seen)
    assert "resized to the nearest pixel" in text and "1 of 5 masks belong to no cell" in text and "bad.png" in text
    assert masks.counts == {Cell((0.1, 0.2), False): 2}
    valid = masks.load(Cell((0.1, 0.2), False), 0)
    assert valid.shape == (2 * SIZE, 2 * SIZE) and (~valid).sum() == 24 * 24
    with pytest.warns(UserWarning, match="add `polarity=white-hole`"), pytest.raises(PConvError, match="no mask in"):
        open_masks(str(material / "masks"), SIZE, 0, "black-hole", [Cell((0.1, 0.2), False)])


def test_empty_folders_and_unknown_names(material):
    (material / "empty").mkdir()
    for change, words in (
        ({"images": str(material / "empty")}, "images: no picture"),
        ({"masks": str(material / "empty")}, "masks: no picture"),
        ({"baselines": ("median",)}, "baselines: expected some of"),
        ({"weights": [str(material / "none")]}, "weights: expected a folder"),
        ({"weights": [f"mean={material / 'net'}"]}, "is taken or empty"),
        ({"shares": ("0.1-0.3",)}, "shares: expected some of"),
        ({"size": 8}, "size: expected at least 11"),
        ({"weights": (), "baselines": ()}, "got neither"),
    ):
        with pytest.raises(PConvError, match=words):
            evaluate(settings(material, **change), material / "r")
    assert not (material / "r").exists()


def test_cells_of_masks():
    valid = np.ones((512, 512), bool)
    assert cell_of(valid) is None
    valid[50:150, 50:150] = False  # 3.8 %
    assert cell_of(valid) == Cell((0.01, 0.1), False)
    valid[49, 100] = False
    assert cell_of(valid) == Cell((0.01, 0.1), True)
    valid[:] = True
    valid[:256] = False
    assert cell_of(valid) == Cell((0.4, 0.5), True)  # closed above
    valid[256, 0] = False
    assert cell_of(valid) == Cell((0.5, 0.6), True)


@pytest.mark.parametrize(("images", "available", "count", "expected"), [(3, 5, None, 5), (5, 2, None, 5), (3, 5, 2, 2)])
def test_pairs(images, available, count, expected):
    cell = Cell((0.1, 0.2), True)
    masks = type("Masks", (), {"counts": {cell: available, Cell((0.1, 0.2), False): 0}})
    pairs = plan_pairs(images, masks, count)
    assert [pair.number for pair in pairs] == list(range(expected))
    assert [pair.image for pair in pairs] == [number % images for number in range(expected)]


def test_intervals():
    rng = np.random.default_rng(0)
    values = rng.normal(20, 3, 200)
    mean, low, high = interval(values, [str(k) for k in range(200)], 0, 2000)
    assert mean == pytest.approx(values.mean())
    assert (high - low) == pytest.approx(2 * 1.96 * values.std() / 200**0.5, rel=0.1)
    assert interval(values, [str(k) for k in range(200)], 0, 2000) == (mean, low, high)
    # ten values of the same picture count as one
    repeated = interval(np.repeat(values, 10), np.repeat(np.arange(200), 10).astype(str), 0, 2000)
    assert repeated[2] - repeated[1] == pytest.approx(high - low, rel=0.1)
    assert interval([1.0, 4.0, 4.0], ["a", "b", "b"], 0, 100)[0] == 3.0
    assert interval([1.0, 4.0], ["a", "a"], 0, 100) == (2.5, None, None)


@pytest.mark.filterwarnings("ignore:masks:")
def test_two_networks_are_compared_picture_by_picture(material):
    torch.manual_seed(1)
    PConvUNet(levels=2, width=4, conv="plain").eval().save_pretrained(material / "plain")
    weights = [f"partial={material / 'net'}", f"plain={material / 'plain'}"]
    report = evaluate(settings(material, weights=weights, baselines=()), material / "r")
    row = next(r for r in report["differences"] if r["metric"] == "psnr" and r["border"] == "border")
    by = {(p["pair"], p["method"]): p["psnr"] for p in report["pictures"]}
    gaps = [by[pair, "partial"] - by[pair, "plain"] for pair, m in by if m == "plain" and "border" in pair]
    assert row["method"] == "partial - plain" and row["mean"] == pytest.approx(np.mean(gaps))
    assert "Differences, picture by picture" in (material / "r/table.md").read_text()


@pytest.mark.filterwarnings("ignore:masks:")
def test_a_network_is_compared_with_the_smooth_fill(material):
    """By the distance of features too, of random weights here."""
    from pconv_cuda.losses.vgg import VGG16Features

    torch.save(VGG16Features("random").state_dict(), material / "vgg.pth")
    options = {
        "weights": [f"net={material / 'net'}"],
        "baselines": ("mean", "smooth"),
        "vgg": str(material / "vgg.pth"),
    }
    report = evaluate(settings(material, **options), material / "r")
    by = {(p["pair"], p["method"]): p for p in report["pictures"]}
    for metric in ("hole_psnr", "features"):
        row = next(r for r in report["differences"] if r["metric"] == metric and r["border"] == "border")
        gaps = [
            by[pair, "net"][metric] - by[pair, "smooth"][metric] for pair, m in by if m == "net" and "border" in pair
        ]
        assert row["method"] == "net - smooth" and row["mean"] == pytest.approx(np.mean(gaps))
    assert "VGG16 feature distance" in (material / "r/table.md").read_text()


def test_the_papers_masks_are_drawn_by_number(material):
    """Twelve cells, each mask within its share, inside ones away from the border; the same again from files."""
    one = settings(material, masks="paper", weights=(), baselines=("mean",), count=2, size=64)
    report = evaluate(one, material / "r")
    assert report["complete"] and report["measured"] == 24
    for record in report["pictures"]:
        low, high = map(float, record["pair"].split("/")[0].split("-"))
        assert low < record["share"] <= high
    masks = open_masks("paper", 64, 0, "white-hole", [Cell((0.2, 0.3), False), Cell((0.2, 0.3), True)])
    for cell in masks.counts:
        assert cell_of(masks.load(cell, 1)) == cell
        folder = material / "made" / cell.key
        folder.mkdir(parents=True)
        for number in range(2):
            white = np.uint8(~masks.load(cell, number)) * 255
            Image.fromarray(white).save(folder / f"{number:05d}.png")
    from_files = settings(material, masks=str(material / "made"), weights=(), baselines=("mean",), count=2, size=64)
    with pytest.warns(UserWarning, match="no mask for"):
        again = evaluate(from_files, material / "files")
    drawn = [record for record in report["pictures"] if record["pair"].startswith("0.2-0.3")]
    assert sorted(again["pictures"], key=str) == sorted(drawn, key=str)


def test_a_hole_share_that_cannot_be_met_is_an_error(material):
    with pytest.raises(PConvError, match="hole_share|size"):
        open_masks("paper", 2, 0, "white-hole", [Cell((0.01, 0.1), True)]).load(Cell((0.01, 0.1), True), 0)


def test_blanks_in_lists_of_the_command_are_left_out() -> None:
    command = ["eval", "--images", "x", "--out", "y", "--baselines", "telea, ns,", "--shares", " 0.1-0.2 ,0.2-0.3"]
    found = common(build_parser().parse_args(command))
    assert found["baselines"] == ("telea", "ns") and found["shares"] == ("0.1-0.2", "0.2-0.3")


def test_masks_of_masks_make_keep_their_cells_at_another_size(tmp_path):
    """Resizing moves a share across a bound; the names hold, in a folder of few files too."""
    make_masks(tmp_path / "set", size=64, count=2, seed=0, progress=False)
    for size in (50, 512):
        with pytest.warns(UserWarning, match="were resized") as said:
            masks = open_masks(str(tmp_path / "set"), size, 0, "white-hole", ALL_CELLS)
        assert len(said) == 1 and masks.counts == dict.fromkeys(ALL_CELLS, 2)
        cells = [cell_of(masks.load(cell, number)) == cell for cell in ALL_CELLS for number in range(2)]
        assert not all(cells)  # measured again they would be elsewhere


def test_a_small_folder_that_is_laid_out_is_still_looked_at(tmp_path):
    make_masks(tmp_path / "set", size=64, count=1, progress=False)
    with pytest.warns(UserWarning, match="polarity"):
        open_masks(str(tmp_path / "set"), 64, 0, "black-hole", ALL_CELLS)
    for path in (tmp_path / "set").glob("*/*/*.png"):
        Image.new("1", (64, 64)).save(path)
    with pytest.raises(PConvError, match="hole"):
        open_masks(str(tmp_path / "set"), 64, 0, "white-hole", ALL_CELLS)
