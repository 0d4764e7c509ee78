"""Twins of plain operators beside the networks and the smooth fill that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from export_support import NETWORKS, network

import pconv_cuda
from pconv_cuda.errors import PConvError
from pconv_cuda.export.api import _prepared
from pconv_cuda.export.check import check_sizes, compare, tolerance_of
from pconv_cuda.export.plain_fill import PlainSmoothFill
from pconv_cuda.export.plain_network import PlainNetwork, _Partial, plain_twin
from pconv_cuda.functional import smooth_fill
from pconv_cuda.inpainting import inpaint
from pconv_cuda.models import InpaintingNetwork
from pconv_cuda.named import load_named


def runner(twin: PlainNetwork):
    def run(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            output, new_mask = twin(torch.from_numpy(image), torch.from_numpy(mask))
        return output.numpy(), new_mask.numpy()

    return run


def checked(model: InpaintingNetwork | None, half: bool = False) -> float:
    channels = 3 if model is None else model.in_channels
    return compare(runner(plain_twin(model, half).eval()), model, channels, half).largest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: pconv_cuda.export_onnx(None, p / "o.onnx"), "model: expected a PConvUNet, .* got NoneType"),
        (lambda p: pconv_cuda.export_onnx("smooth", p), "path: expected a name ending in .onnx, got the folder"),
        (lambda p: pconv_cuda.export_onnx("smooth", p / "o.pt2"), "path: expected .* in .onnx, got .*o.pt2"),
        (lambda p: pconv_cuda.export_program("smooth", p / "o.onnx"), "path: expected .* in .pt2, got .*o.onnx"),
    ],
)
def test_other_models_and_names_are_refused(call, message: str, tmp_path) -> None:
    with pytest.raises(PConvError, match=message):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NETWORKS)
def test_twins_agree_with_their_networks(name: str) -> None:
    model = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert checked(model) <= tolerance_of(model, half=False) / 2
    assert 1e-6 < checked(model, half=True) < 0.03
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("name", ["photo", "document"])
def test_twins_agree_with_the_packaged_networks(name: str) -> None:
    model = load_named(name, torch.device("cpu"))
    assert isinstance(model, InpaintingNetwork)
    assert checked(model) < 2e-4


@pytest.mark.parametrize("name", ["photo", "refiner", "plain-prefill"])
def test_twins_give_what_inpaint_gives_where_the_fill_overshoots(name: str) -> None:
    model = load_named(name, torch.device("cpu")) if name == "photo" else network(name)
    assert isinstance(model, InpaintingNetwork)
    draw = torch.Generator().manual_seed(1)
    image, mask = (torch.rand((1, 3, 75, 110), generator=draw) > 0.5).float(), torch.ones(1, 1, 75, 110)
    mask[..., 20:50, 30:80] = 0
    fill = smooth_fill(image, mask)
    assert fill.min() < -0.02 and fill.max() > 1.02
    output, _ = runner(plain_twin(model).eval())(image.numpy(), mask.numpy())
    # the operator stops at a thousandth of the first error, which of such noise is large
    assert np.abs(output - inpaint(model, image, mask).numpy()).max() < 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_a_file_have_no_gradients(name: str) -> None:
    model = network(name)
    _, twin, channels = _prepared(model, fp16=False)
    assert not any(output.requires_grad for output in twin(torch.rand(1, channels, 9, 8), torch.ones(1, 1, 9, 8)))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_ten_sizes_with_ragged_ones() -> None:
    sizes = check_sizes(256)
    assert len(set(sizes)) == 10
    assert sum(height % 256 != 0 or width % 256 != 0 for _, height, width in sizes) >= 8
    assert {n for n, _, _ in sizes} > {1}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 90), (33, 1), (2, 2), (5, 300), (64, 64), (257, 129)])
def test_the_plain_fill_solves_the_same_equation(height: int, width: int) -> None:
    image = torch.rand(2, 3, height, width).cumsum(-1) / width
    mask = (torch.rand(2, 1, height, width) > 0.7).float()
    mask[..., height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 0  # as wide as half the picture
    mask[..., 0, 0] = 1
    exact = smooth_fill(image.double(), mask, tolerance=1e-8, max_iterations=60)
    filled = PlainSmoothFill(3)(torch.where(mask > 0, image, torch.nan), mask)
    assert (filled - exact).abs().max() < 1e-3
    assert torch.equal(filled[mask.expand_as(filled) > 0], image[mask.expand_as(image) > 0])


def test_the_fill_of_no_pixel_is_finite() -> None:
    assert not PlainSmoothFill(1)(torch.full((1, 1, 9, 9), torch.nan), torch.zeros(1, 1, 9, 9)).any()


# A check that has to fail ---------------------------------------------------------------------------------------


def test_a_twin_with_a_wrong_ratio_is_refused() -> None:
    model = network("unet")
    twin = plain_twin(model).eval()
    stage = next(module for module in twin.modules() if isinstance(module, _Partial))
    stage.full *= 1.01
    with pytest.raises(PConvError, match=r"within 0.0001 of .*, got a difference of .* no file"):
        compare(runner(twin), model, 3, False)


def test_a_twin_with_a_wrong_count_of_a_source_is_refused() -> None:
    model = network("unet")
    twin = plain_twin(model).eval()
    last = [module for module in twin.modules() if isinstance(module, _Partial)][-1]
    last.weigh.data[0, 1] += 1
    with pytest.raises(PConvError, match="got a difference of"):
        compare(runner(twin), model, 3, False)


def test_another_new_mask_another_shape_and_nan_are_refused() -> None:
    model = network("unet")
    run = runner(plain_twin(model).eval())
    with pytest.raises(PConvError, match=r"expected the network's new mask, got another in \d+ pixels at 1 x 3 x 1"):
        compare(lambda image, mask: (run(image, mask)[0], 1 - run(image, mask)[1]), model, 3, False)
    with pytest.raises(PConvError, match=r"expected an output of shape \(1, 3, 1, 1\) .* got \(1, 3, 1, 0\)"):
        compare(lambda image, mask: (run(image, mask)[0][..., 1:], run(image, mask)[1]), model, 3, False)
    with pytest.raises(PConvError, match="got a difference of nan"):
        compare(lambda image, mask: (run(image, mask)[0] * np.nan, run(image, mask)[1]), model, 3, False)


def test_a_fill_that_is_its_start_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainSmoothFill, "_solve", lambda self, start, levels: torch.zeros_like(start))
    with pytest.raises(PConvError, match="got a difference of"):
        checked(None)


def test_large_values_are_allowed_their_rounding() -> None:
    model = network("unet")
    with torch.no_grad():
        model.decoder[-1].conv.weight.mul_(1e4)  # type: ignore[union-attr]
    run = runner(plain_twin(model).eval())
    assert compare(run, model, 3, False).largest < 1e-4
    with pytest.raises(
        PConvError, match=r"within 0.0001 of its largest value, [\de.+]+ before it is cut to 0 to 1, got"
    ):
        compare(lambda image, mask: (run(image, mask)[0] + 10, run(image, mask)[1]), model, 3, False)


def test_other_networks_are_refused() -> None:
    with pytest.raises(PConvError, match="expected a PConvUNet or a FillRefiner, got Linear"):
        plain_twin(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
