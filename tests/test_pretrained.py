"""The networks that come with the package: small, readable by name, and better than the fill that they add to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from inpaint_support import smooth_picture, square_hole
from PIL import Image

from pconv_cuda import FillRefiner, PConvUNet, inpaint
from pconv_cuda.cli import main
from pconv_cuda.data.packaged import packaged_images, split
from pconv_cuda.documents import damage_mask, document_pages
from pconv_cuda.errors import PConvError
from pconv_cuda.masks import draw_mask
from pconv_cuda.models import load_network
from pconv_cuda.models.weights import PRETRAINED
from pconv_cuda.tensor_files import load_safetensors

NAMES = sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))


def hole_psnr(restored: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    error = (restored.astype(float) - truth)[hole]
    return 10 * math.log10(255**2 / np.mean(error**2))


def test_packaged_networks_are_small() -> None:
    assert NAMES == ["document", "photo"]
    for name in NAMES:
        path = PRETRAINED / f"{name}.safetensors"
        assert path.stat().st_size < 10 * 2**20
        assert {tensor.dtype for tensor in load_safetensors(path, "weights").values()} == {torch.float16}


@pytest.mark.parametrize("name", NAMES)
def test_packaged_networks_load_by_name_and_by_path(name: str, tmp_path, monkeypatch) -> None:
    model = load_network(name)
    assert isinstance(model, FillRefiner) and not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert FillRefiner.from_pretrained(name).config == model.config
    with pytest.raises(PConvError, match="expected the weights of a unet"):
        PConvUNet.from_pretrained(name)
    monkeypatch.chdir(tmp_path)
    FillRefiner(width=4).save_pretrained(tmp_path / name)  # a folder of that name is what is meant then
    assert load_network(name).width == 4


def test_photographs_are_filled_better_than_by_the_smooth_fill() -> None:
    """Three scenes that the network was not trained on, in the thinnest and the widest holes of the paper's table."""
    _, held_out = split(packaged_images())
    for share in ((0.01, 0.1), (0.3, 0.4)):
        gains = []
        for number, photograph in enumerate(held_out):
            side = min(photograph.array.shape[:2])
            truth = np.asarray(Image.fromarray(photograph.array[:side, :side]).resize((192, 192), Image.LANCZOS))
            hole = ~draw_mask(192, np.random.default_rng([7, number]), "mixed", share)
            ours, smooth = inpaint("photo", truth, hole), inpaint("smooth", truth, hole)
            gains.append(hole_psnr(ours, truth, hole) - hole_psnr(smooth, truth, hole))
        assert np.mean(gains) > 0.05, gains


def test_pages_are_filled_better_than_by_the_smooth_fill_or_for_photographs() -> None:
    """Pages that were not trained on, with their kind of damage."""
    pages = document_pages(6, 192, seed=4321)
    for share in ((0.01, 0.1), (0.2, 0.3)):
        found: dict[str, list[float]] = {"document": [], "photo": [], "smooth": []}
        for number, page in enumerate(pages):
            hole = ~damage_mask(192, 192, np.random.default_rng([8, number]), share)
            for name, values in found.items():
                values.append(hole_psnr(inpaint(name, page, hole), page, hole))
        means = {name: np.mean(values) for name, values in found.items()}
        assert means["document"] > means["smooth"] + 0.5 and means["document"] > means["photo"] + 0.2, means


@pytest.mark.parametrize("name", NAMES)
def test_the_command_takes_the_name(name: str, tmp_path, capsys) -> None:
    picture, hole = smooth_picture(48, 64), square_hole(48, 64, 12, 20, 14)
    Image.fromarray(picture).save(tmp_path / "p.png")
    Image.fromarray(hole).save(tmp_path / "m.png")
    words = ["inpaint", str(tmp_path / "p.png"), "--mask", str(tmp_path / "m.png"), "-o", str(tmp_path / "o.png")]
    assert main([*words, "--weights", name]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "o.png")), inpaint(name, picture, hole))
    assert main(["info"]) == 0 and name in capsys.readouterr().out
