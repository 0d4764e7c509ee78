"""Every term of the loss against values worked out by hand or by formulas written down again in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pconv_cuda import InpaintingLoss
from pconv_cuda.errors import PConvError
from pconv_cuda.losses import PRESETS, gram_matrix, total_variation
from pconv_cuda.losses.vgg import VGG16Features

TERMS = ["valid", "hole", "perceptual", "style_out", "style_comp", "tv"]


def problem(n: int = 2, h: int = 24, w: int = 19, channels: int = 1):
    generator = torch.Generator().manual_seed(5)
    truth, output = (torch.randn(n, 3, h, w, generator=generator) for _ in range(2))
    mask = torch.rand(n, channels, h, w, generator=generator) > 0.3
    return torch.where(mask, truth, 0.0), mask, output, truth


def psi(image: torch.Tensor, source: VGG16Features) -> list[torch.Tensor]:
    """VGG16 to pool3 in float64, layer by layer, from the weights alone."""
    state = {key: value.double() for key, value in source.state_dict().items()}
    found, x = [], image.double()
    for index in range(17):
        if f"features.{index}.weight" in state:
            x = F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1).relu()
        elif index in (4, 9, 16):
            x = F.max_pool2d(x, 2)
            found.append(x)
    return found


def gram64(features: torch.Tensor) -> torch.Tensor:
    n, c, h, w = features.shape
    return torch.einsum("nahw,nbhw->nab", features, features) / (c * h * w)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_term_in_float64(preset: str, channels: int) -> None:
    given, mask, output, truth = problem(channels=channels)
    loss = InpaintingLoss(preset, vgg="random")
    terms = loss(given, mask, output, truth)
    assert list(terms) == TERMS
    m = mask.expand_as(output).double()
    out, gt = output.double(), truth.double()
    comp = m * gt + (1 - m) * out
    weights = {"paper": (1, 6, 0.05, 120, 120, 0.1), "bobqywei": (1, 6, 0.05, 240, 240, 2)}[preset]
    features = [psi(image, loss.features) for image in (output, comp.float(), truth)]

    def l1(a, b):
        return (a - b).abs().mean().item()

    expected = {
        "valid": (m * (out - gt)).abs().sum().item() / out.numel(),
        "hole": ((1 - m) * (out - gt)).abs().sum().item() / out.numel(),
        "perceptual": sum(l1(o, t) + l1(c, t) for o, c, t in zip(*features, strict=True)),
        "style_out": sum(l1(gram64(o), gram64(t)) for o, _, t in zip(*features, strict=True)),
        "style_comp": sum(l1(gram64(c), gram64(t)) for _, c, t in zip(*features, strict=True)),
        "tv": tv_by_loops(comp.numpy(), m.numpy()) if preset == "paper" else tv_everywhere(comp.numpy()),
    }
    for (name, value), weight in zip(expected.items(), weights, strict=True):
        assert terms[name].item() == pytest.approx(weight * value, rel=2e-5), name


def tv_by_loops(image: np.ndarray, mask: np.ndarray) -> float:
    n, c, h, w = image.shape
    total = 0.0
    for i, j in np.ndindex(n, c):
        hole = np.pad(mask[i, j] == 0, 1)
        region = np.zeros((h, w), bool)
        for y, x in np.ndindex(h, w):
            region[y, x] = hole[y : y + 3, x : x + 3].any()
        for y, x in np.ndindex(h, w):
            for yy, xx in ((y + 1, x), (y, x + 1)):
                if yy < h and xx < w and region[y, x] and region[yy, xx]:
                    total += abs(image[i, j, y, x] - image[i, j, yy, xx])
    return total / image.size


def tv_everywhere(image: np.ndarray) -> float:
    return np.abs(np.diff(image, axis=3)).mean() + np.abs(np.diff(image, axis=2)).mean()


def test_terms_by_hand() -> None:
    # Half of the picture is a hole; out is 1 too high everywhere; the truth is flat.
    truth = torch.zeros(1, 1, 4, 4)
    mask = torch.ones(1, 1, 4, 4)
    mask[..., :2] = 0
    terms = InpaintingLoss(vgg="none")(truth, mask, truth + 1, truth)
    assert list(terms) == ["valid", "hole", "tv"]
    assert terms["valid"].item() == 0.5
    assert terms["hole"].item() == pytest.approx(6 * 0.5)
    # The composite steps from 1 to 0 between columns 1 and 2, both inside the dilated hole: 4 pairs of 16 pixels.
    assert terms["tv"].item() == pytest.approx(0.1 * 4 / 16)


def test_a_perfect_output_costs_nothing() -> None:
    _, mask, _, truth = problem()
    terms = InpaintingLoss("paper", vgg="random")(truth, mask, truth, truth)
    assert all(terms[name].item() == 0 for name in TERMS if name != "tv")


def test_one_batched_pass_gives_the_gradient_of_separate_passes() -> None:
    given, mask, output, truth = problem()
    loss = InpaintingLoss(vgg="random")
    output.requires_grad_()
    (gradient,) = torch.autograd.grad(sum(loss(given, mask, output, truth).values()), output)
    comp = torch.where(mask, truth, output)
    total = (torch.where(mask, output - truth, 0).abs().mean()) + 6 * torch.where(mask, 0, output - truth).abs().mean()
    total = total + 0.1 * total_variation(comp, ~mask)
    for image, style in ((output, 120), (comp, 120)):
        for a, b in zip(loss.features(image), loss.features(truth), strict=True):
            total = total + 0.05 * F.l1_loss(a, b) + style * F.l1_loss(gram_matrix(a), gram_matrix(b))
    (expected,) = torch.autograd.grad(total, output)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_gradients_flow_to_the_output_alone() -> None:
    given, mask, output, truth = problem()
    loss = InpaintingLoss(vgg="random")
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not loss.train().features.training
    terms = loss(given, mask, output.requires_grad_(), truth.requires_grad_())
    sum(terms.values()).backward()
    assert truth.grad is None
    assert torch.isfinite(output.grad).all() and output.grad.abs().max() > 0


def test_half_precision_under_autocast_stays_finite() -> None:
    given, mask, output, truth = problem()
    loss = InpaintingLoss(vgg="random")
    expected = loss(given, mask, output, truth)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = loss(given, mask, output, truth)
    for name in TERMS:
        assert terms[name].item() == pytest.approx(expected[name].item(), rel=0.05, abs=1e-3), name
    assert gram_matrix(torch.ones(1, 2, 3, 3, dtype=torch.float16)).dtype == torch.float32
    rough = torch.randn(1, 3, 256, 256).half()  # the sum of its differences is no fp16 number, their mean is
    assert 1 < total_variation(rough, torch.ones(1, 1, 256, 256, dtype=torch.bool)).item() < 4


def test_weights_can_be_replaced() -> None:
    given, mask, output, truth = problem()
    base = InpaintingLoss(vgg="none")(given, mask, output, truth)
    other = InpaintingLoss(vgg="none", weights={"hole": 3})(given, mask, output, truth)
    assert other["hole"] == base["hole"] / 2 and other["valid"] == base["valid"]
    with pytest.raises(ValueError, match="weights: expected terms out of"):
        InpaintingLoss(vgg="none", weights={"holes": 3})
    with pytest.raises(ValueError, match="preset: expected one of paper, bobqywei"):
        InpaintingLoss("best", vgg="none")


def test_review_is_an_alias_of_the_preset_bobqywei() -> None:
    old, new = (InpaintingLoss(name, vgg="none") for name in ("review", "bobqywei"))
    given, mask, output, truth = problem()
    assert old(given, mask, output, truth) == new(given, mask, output, truth)


def test_vgg_agrees_with_torchvision_and_reads_its_files(tmp_path) -> None:
    from torchvision.models import vgg16

    torch.manual_seed(0)
    whole = vgg16(weights=None)
    keep = {key: value for key, value in whole.state_dict().items() if key.startswith("features.")}
    image = torch.randn(1, 3, 24, 32)
    with torch.no_grad():
        expected = [whole.features[:stop](image) for stop in (5, 10, 17)]
    torch.save(keep, tmp_path / "vgg.pth")
    import safetensors.torch

    safetensors.torch.save_file({key: value.contiguous() for key, value in keep.items()}, tmp_path / "vgg.safetensors")
    for name in ("vgg.pth", "vgg.safetensors"):
        for ours, theirs in zip(VGG16Features(tmp_path / name)(image), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    del keep["features.7.bias"]
    torch.save(keep, tmp_path / "short.pth")
    with pytest.raises(PConvError, match=r"lacks features.7.bias"):
        VGG16Features(tmp_path / "short.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(PConvError, match="broken.pth"):
        VGG16Features(tmp_path / "broken.pth")
    with pytest.raises(PConvError, match="found no file"):
        VGG16Features(tmp_path / "absent.pth")


def test_weights_that_cannot_be_downloaded_are_an_error_with_both_ways(monkeypatch, tmp_path) -> None:
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(PConvError) as caught:
        InpaintingLoss()
    assert "vgg16-" in str(caught.value) and "checkpoints" in str(caught.value) and "vgg=PATH" in str(caught.value)


def test_errors_name_the_argument() -> None:
    given, mask, output, truth = problem()
    loss = InpaintingLoss(vgg="none")
    with pytest.raises(ValueError, match="ground_truth: expected the output's shape"):
        loss(given, mask, output, truth[..., :5])
    with pytest.raises(ValueError, match="mask: expected"):
        loss(given, mask[..., :5], output, truth)
    with pytest.raises(ValueError, match="image: expected .* of at least 8 x 8"):
        VGG16Features("random")(truth[..., :5])
    with pytest.raises(ValueError, match="output: VGG16 needs .* of at least 8 x 8"):
        InpaintingLoss(vgg="random")(*(tensor[..., :5] for tensor in (given, mask, output, truth)))
