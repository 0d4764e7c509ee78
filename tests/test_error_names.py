"""Errors name what the caller knows: the library its arguments, the command its options, the server its fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pconv_cuda
from pconv_cuda import PConvUNet, cli
from pconv_cuda.convert import convert
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation import Settings, evaluate
from pconv_cuda.evaluation.compare import compare
from pconv_cuda.grids.work import fill_file
from pconv_cuda.inpainting.batch import load_filler, plan_jobs, run_job
from pconv_cuda.inpainting.masks import MaskRule, parse_colour
from pconv_cuda.masks.files import make_masks
from pconv_cuda.masks.stats import mask_stats
from pconv_cuda.masks.video import masks_from_video
from pconv_cuda.quickstart import quickstart
from pconv_cuda.serve.settings import Limits, read_token
from pconv_cuda.text import rename_arguments
from pconv_cuda.training import load_config, train

PACKAGE = Path(pconv_cuda.__file__).parent
# A long option in a text that people read; what belongs to other programs' commands may stay.
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
FOREIGN = {"--no-build-isolation", "--force-reinstall", "--no-deps", "--shm-size", "--format", "--help", "--version"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a photograph, a mask, a mask of another size, text, and weights of a network for grey pictures."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / "photo.png")
    hole = np.zeros((40, 50), np.uint8)
    hole[10:20, 10:20] = 255
    Image.fromarray(hole).save(folder / "mask.png")
    Image.fromarray(hole[:20]).save(folder / "small.png")
    (folder / "text.pth").write_text("no weights")
    (folder / "empty").mkdir()
    PConvUNet(in_channels=1, levels=1, width=4).save_pretrained(folder / "grey")
    return folder


def restore(place: Path, mask: str = "mask.png", max_pixels: int = 10**6, **rule: Any) -> None:
    job = plan_jobs(place / "photo.png", place / mask, place / "out.png").jobs[0]
    report: Any = None
    run_job(job, load_filler("smooth", "cpu"), MaskRule(**rule), report, max_pixels=max_pixels)


INPAINT = "inpaint {0}/photo.png --weights smooth -o {0}/out.png --mask {0}/"
EVAL = "eval --images {0} --out {0}/r --weights {0}/grey "

# what it is: (the library's call, how its text begins, the command, what its text holds)
BAD: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "threshold": (lambda p: MaskRule(threshold=0), "threshold: expected 1", INPAINT + "mask.png --threshold 0",
                  "error: --threshold: expected 1"),
    "dilation": (lambda p: MaskRule(dilate=-1), "dilate: expected", INPAINT + "mask.png --dilate -1",
                 "error: --dilate: expected"),
    "colour": (lambda p: parse_colour("?"), "colour: expected", INPAINT + "mask.png --mask-color ?",
               "error: --mask-color: expected"),
    "no picture": (lambda p: plan_jobs(p / "none.png", None, p / "o.png"), "image: expected",
                   "inpaint {0}/none.png --mask alpha -o {0}/o.png", "error: IMAGE: expected"),
    "no mask": (lambda p: restore(p, "none.png"), "mask: expected", INPAINT + "none.png", "error: --mask: expected"),
    "mask size": (lambda p: restore(p, "small.png"), "mask: .*; `resize` resizes", INPAINT + "small.png",
                  "error: --mask: .*; --resize-mask resizes"),
    "mask a picture": (lambda p: restore(p, "photo.png"), "mask: .* is the picture itself", INPAINT + "photo.png",
                       "error: --mask: .* is the picture itself"),
    "pixels": (lambda p: restore(p, max_pixels=9), "image: .* and `max_pixels` allows 9", INPAINT
               + "mask.png --max-pixels 9", "error: IMAGE: .* and --max-pixels allows 9"),
    "output": (lambda p: plan_jobs(p / "photo.png", None, p / "o.gif"), "output: expected",
               "inpaint {0}/photo.png --mask alpha -o {0}/o.gif", "error: -o: expected"),
    "weights": (lambda p: load_filler("nothing", "cpu"), "weights: expected one of the names",
                INPAINT + "mask.png --weights nothing", "error: --weights: expected one of the names"),
    "weights' file": (lambda p: load_filler(str(p / "text.pth"), "cpu"), "weights: expected a folder",
                      INPAINT + "mask.png --weights {0}/text.pth", "error: --weights: expected a folder"),
    "device": (lambda p: load_filler("smooth", "gpu"), "device: expected", INPAINT + "mask.png --device gpu",
               "error: --device: expected"),
    "checkpoint": (lambda p: convert(p / "text.pth"), "file: ", "convert {0}/text.pth -o {0}/c", "error: FILE: "),
    "levels": (lambda p: convert(p / "grey/model.safetensors", format="keras"), "format: expected an .h5",
               "convert {0}/grey/model.safetensors -o {0}/c --format keras", "error: --format: expected an .h5"),
    "network's channels": (lambda p: evaluate(Settings(str(p), weights=(str(p / "grey"),)), p / "r"),
                           "weights: .* expected a network for RGB", EVAL, "error: --weights: .* a network for RGB"),
    "size": (lambda p: evaluate(Settings(str(p), size=1), p / "r"), "size: expected", EVAL + "--size 1",
             "error: --size: expected"),
    "seed": (lambda p: evaluate(Settings(str(p), seed=-1), p / "r"), "seed, resamples: expected", EVAL + "--seed -1",
             "error: --seed, --resamples: expected"),
    "baselines": (lambda p: evaluate(Settings(str(p), baselines=("x",)), p / "r"), "baselines: expected",
                  "eval --images {0} --out {0}/r --baselines x", "error: --baselines: expected"),
    "nothing to evaluate": (lambda p: evaluate(Settings(str(p), baselines=()), p / "r"), "weights: .* `baselines` to",
                            "eval --images {0} --out {0}/r --baselines none",
                            "error: --weights: .* some --baselines to"),
    "pictures to compare on": (lambda p: compare(p / "c", Settings(str(p)), data=str(p)), "images: .*not trained on",
                               "compare --data {0} --test {0} --out {0}/c", "error: --test: .*not trained on"),
    "recipe": (lambda p: load_config(recipe="big"), "recipe: expected", "train --recipe big",
               "error: --recipe: expected"),
    "configuration": (lambda p: load_config(p / "none.yaml"), "path: cannot read", "train --config {0}/none.yaml",
                      "error: --config: cannot read"),
    "setting": (lambda p: load_config(None, ["x"]), "settings: expected key=value", "train --set x",
                "error: --set: expected key=value"),
    "key": (lambda p: load_config(None, ["train.stepz=1"]), "config: .*train.stepz", "train --set train.stepz=1",
            "error: config: .*train.stepz"),
    "resume": (lambda p: train(load_config(None, ["data.images=packaged", "loss.vgg=none"]), p / "t", "x"),
               "resume: expected", "train --data packaged --out {0}/t --set loss.vgg=none --resume x",
               "error: --resume: expected"),
    "steps": (lambda p: quickstart(p / "q", 0), "steps: expected", "quickstart --out {0}/q --steps 0",
              "error: --steps: expected"),
    "masks": (lambda p: make_masks(p / "m", count=0), "count, seed: expected", "masks make --out {0}/m --count 0",
              "error: --count, --seed: expected"),
    "masks' folder": (lambda p: mask_stats(p / "empty"), "folder: ", "masks stats {0}/empty", "error: DIR: "),
    "video": (lambda p: masks_from_video(p / "none.avi", p / "v"), "video: expected",
              "masks from-video {0}/none.avi --out {0}/v", "error: VIDEO: expected"),
    "grid": (lambda p: fill_file(p / "none.nc", p / "o.nc"), "input: .* does not exist", "fill {0}/none.nc -o {0}/o.nc",
             "error: INPUT: .* does not exist"),
    "grid's kind": (lambda p: fill_file(p / "none.nc", p / "o.tif"), "output: expected a name ending in .nc",
                    "fill {0}/none.nc -o {0}/o.tif", "error: -o: expected a name ending in .nc"),
    "what goes round": (lambda p: fill_file(p / "none.nc", p / "o.nc", wrap="x"), "wrap: expected auto",
                        "fill {0}/none.nc -o {0}/o.nc --wrap x", "error: --wrap: expected auto"),
    "token": (lambda p: read_token(p / "none"), "path: ", "serve --token-file {0}/none", "error: --token-file: "),
    "megapixels": (lambda p: Limits(megapixels=0), "megapixels: expected", "serve --max-megapixels 0",
                   "error: --max-megapixels: expected"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_library_and_command_name_the_same_fault(what: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call, begins, command, holds = BAD[what]
    with pytest.raises(PConvError, match=f"(?s)^{begins}") as raised:
        call(place)
    assert not set(OPTION.findall(str(raised.value))) - FOREIGN, raised.value
    assert cli.main(command.format(place).split()) == 1
    said = capsys.readouterr().err
    assert re.search(f"(?s){holds}", said), said
    assert "`" not in said.replace("`pconv", ""), said


def options_in(text: str) -> set[str]:
    """The options that the sources' texts name, docstrings aside."""
    tree = ast.parse(text)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            found |= set(OPTION.findall(node.value)) - FOREIGN
    return found


def test_no_text_of_the_library_or_the_server_names_an_option() -> None:
    assert options_in('"""--x-y"""\ndef f(): raise ValueError(f"--mask: {1}; add --dilate")') == {"--mask", "--dilate"}
    files = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "cli"]
    found = {str(path): options for path in files if (options := options_in(path.read_text(encoding="utf-8")))}
    found.pop(str(PACKAGE / "documents/__main__.py"), None)  # a command itself
    assert found.pop(str(PACKAGE / "hub.py")) == {
        "--mask",
        "--weights",
        "--var",
    }  # the cards of a repository show the commands
    assert not found


def test_renaming_touches_arguments_alone() -> None:
    names = {"mask": "--mask", "threshold": "--threshold", "invert": "--invert-mask", "folder": "DIR"}
    assert rename_arguments("mask: a mask: b", names) == "--mask: a mask: b"
    assert rename_arguments("mask, other: x", names) == "--mask, other: x"
    assert rename_arguments("folder: x (`threshold=T`, `invert=True`)", names) == (
        "DIR: x (--threshold T, --invert-mask)"
    )
    assert rename_arguments("the mask: `pconv masks` and `other`", names) == "the mask: `pconv masks` and `other`"
    assert rename_arguments("`threshold=9`", {"threshold": "threshold"}) == "threshold=9"
