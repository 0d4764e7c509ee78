"""Inpainting by networks that add to the smooth fill: pieces against one run, wide holes, transparency, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from inpaint_support import smooth_picture, square_hole
from PIL import Image
from torch import nn

from pconv_cuda import inpaint
from pconv_cuda.cli import main
from pconv_cuda.functional import smooth_fill
from pconv_cuda.inpainting.patches import Patch, Patches
from pconv_cuda.inpainting.tiling import Box
from pconv_cuda.models import FillRefiner, InpaintingNetwork, PConvUNet


def network(kind: str, conv: str = "partial") -> InpaintingNetwork:
    torch.manual_seed(0)
    model: InpaintingNetwork
    if kind == "refiner":
        model = FillRefiner(levels=3, width=4, conv=conv)
        last = model.last
    else:
        model = PConvUNet(levels=3, width=4, conv=conv, prefill="smooth")
        last = model.decoder[-1].conv
    nn.init.normal_(last.weight, std=0.05)
    return model.eval()


def whole(model: InpaintingNetwork, picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One run on the whole picture in float64, uint8 (H, W, 3)."""
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].double() / 255
    valid = torch.from_numpy(~hole)[None, None]
    fill = smooth_fill(image.float(), valid).clamp(0, 1).double()
    model = type(model)(**{k: v for k, v in model.config.items() if k != "network"}).eval().double()
    model.load_state_dict(network_state(model))
    with torch.no_grad():
        output = model.denormalize(model(model.normalize(image), valid, model.normalize(fill))[0])
    result = (output[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return np.where(hole[..., None], result, picture)


def network_state(model: InpaintingNetwork) -> dict[str, torch.Tensor]:
    kind = "refiner" if isinstance(model, FillRefiner) else "unet"
    return network(kind, model.conv).state_dict()


@pytest.mark.parametrize("conv", ["partial", "plain"])
@pytest.mark.parametrize("kind", ["refiner", "unet"])
@pytest.mark.parametrize("tile", [None, 96, 160])
def test_pieces_give_what_one_big_run_gives(kind: str, conv: str, tile: int | None) -> None:
    """Holes are cut by windows, and others reach into them; the widest is beyond what the masks close."""
    model = network(kind, conv)
    size = (150, 170)
    picture, rng = smooth_picture(*size), np.random.default_rng(0)
    picture = (picture + rng.integers(-20, 20, picture.shape)).clip(0, 255).astype(np.uint8)
    hole = square_hole(*size, 20, 30, 70) | square_hole(*size, 100, 120, 40) | square_hole(*size, 0, 0, 5)
    hole[140, 3::9] = True
    got, expected = inpaint(model, picture, hole, tile=tile), whole(model, picture, hole)
    np.testing.assert_array_equal(got[~hole], picture[~hole])
    difference = np.abs(got.astype(int) - expected)[hole]
    assert difference.max() <= 1 and difference.mean() < 0.01  # rounding
    smooth = inpaint("smooth", picture, hole)
    assert np.abs(got.astype(int) - smooth)[hole].mean() > 3  # the network does add something


def test_every_pixel_of_a_wide_hole_has_a_colour() -> None:
    picture = smooth_picture(200, 210)
    hole = np.ones((200, 210), bool)
    hole[:, :3] = False
    got = inpaint(network("refiner"), picture, hole, tile=128)
    expected = whole(network("refiner"), picture, hole)
    assert np.abs(got.astype(int) - expected)[hole].max() <= 4  # the solver's tolerance, in so wide a hole


def test_transparent_pixels_are_neither_read_nor_painted() -> None:
    picture = np.concatenate([smooth_picture(90, 90), np.full((90, 90, 1), 255, np.uint8)], 2)
    picture[30:60, 30:60, 3] = 0
    hole = square_hole(90, 90, 40, 50, 25)
    other = picture.copy()
    other[30:60, 30:60, :3] = 255 - other[30:60, 30:60, :3]
    got, again = inpaint(network("refiner"), picture, hole), inpaint(network("refiner"), other, hole)
    np.testing.assert_array_equal(got[hole], again[hole])
    np.testing.assert_array_equal(got[~hole], picture[~hole])


def test_patches_are_found_by_where_they_lie() -> None:
    rng = np.random.default_rng(0)
    expected = torch.from_numpy(rng.random((3, 40, 50), np.float32))
    known = torch.from_numpy(rng.random((40, 50)) < 0.5)
    boxes = [Box(0, 0, 10, 20), Box(0, 20, 25, 50), Box(30, 5, 40, 50), Box(12, 3, 13, 4)]
    patches, patched = [], torch.zeros(40, 50, dtype=torch.bool)
    for box in boxes:
        patches.append(Patch(box, expected[(slice(None), *box.slices)] + 1))
        patched[box.slices] = True
    wanted = torch.where(known, expected, torch.where(patched, expected + 1, 0.0))
    for view in (Box(0, 0, 40, 50), Box(5, 7, 33, 44), Box(26, 0, 29, 50), Box(12, 3, 13, 4)):
        colours = torch.where(known, expected, torch.nan)[(slice(None), *view.slices)]
        got = Patches(patches).over(view, colours, known[view.slices])
        assert torch.equal(got, wanted[(slice(None), *view.slices)])
    assert torch.equal(
        Patches([]).over(Box(0, 0, 2, 2), torch.ones(3, 2, 2), torch.eye(2) > 0), torch.eye(2).expand(3, 2, 2)
    )


def test_the_command_and_the_table_take_a_refiner(tmp_path, capsys) -> None:
    model = network("refiner")
    model.save_pretrained(tmp_path / "net")
    picture, hole = smooth_picture(64, 80), square_hole(64, 80, 20, 30, 20)
    (tmp_path / "in").mkdir()
    Image.fromarray(picture).save(tmp_path / "in" / "a.png")
    Image.fromarray(hole).save(tmp_path / "m.png")
    words = ["--mask", str(tmp_path / "m.png"), "--weights", str(tmp_path / "net")]
    assert main(["inpaint", str(tmp_path / "in" / "a.png"), *words, "-o", str(tmp_path / "o.png")]) == 0
    got = np.asarray(Image.open(tmp_path / "o.png"))
    np.testing.assert_array_equal(got, inpaint(model, picture, hole))
    evaluate = ["eval", "--weights", str(tmp_path / "net"), "--images", str(tmp_path / "in"), "--size", "64"]
    options = ["--shares", "0.1-0.2", "--baselines", "smooth", "--resamples", "10", "--out", str(tmp_path / "r")]
    assert main([*evaluate, *options]) == 0
    assert "FillRefiner on the smooth fill, partial convolutions, 3 levels" in (tmp_path / "r/table.md").read_text()
