"""Networks in every precision, and batches of no picture."""

from __future__ import annotations

import copy

import pytest
import torch

from pconv_cuda import PConvUNet

DTYPES = [torch.float64, torch.bfloat16, torch.float16]
FORMS = ["partial", "plain", "fused", "head"]


def network(form: str) -> PConvUNet:
    torch.manual_seed(0)
    options = {"conv": "plain"} if form == "plain" else {"head": "sigmoid"} if form == "head" else {}
    return PConvUNet(levels=2, width=8, **options).eval()


def picture(n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    image, mask = torch.rand(n, 3, 13, 10), torch.ones(1, 1, 13, 10, dtype=torch.bool)
    mask[..., 4:8, 3:7] = False
    return image, mask


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("form", FORMS)
def test_in_other_precisions(form: str, dtype: torch.dtype) -> None:
    exact = network(form)
    image, mask = picture()
    expected = exact.denormalize(exact(exact.normalize(image), mask)[0])
    model = copy.deepcopy(exact).to(dtype)
    if form == "fused":
        model = model.fuse()
    normalised = model.normalize(image.to(dtype))
    output, closed = model(normalised, mask)
    restored = model.denormalize(output)
    assert normalised.dtype == output.dtype == restored.dtype == dtype
    assert closed.all() and torch.isfinite(output).all()
    tolerance = {torch.float64: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.02}[dtype]
    torch.testing.assert_close(restored.float(), expected, rtol=0, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_a_picture_of_another_precision_is_refused(form: str) -> None:
    model, (image, mask) = network(form).half(), picture()
    if form == "fused":
        model = model.fuse()
    with pytest.raises(TypeError, match=r"image: expected the parameters' dtype torch\.float16, got torch\.float32"):
        model(model.normalize(image), mask)
    with pytest.raises(TypeError, match=r"image: expected .* got torch\.uint8"):
        model((image * 255).to(torch.uint8), mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(form)(image.bfloat16(), mask)[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="image: expected the parameters' device meta, got cpu"):
        network("plain").to("meta")(image, None)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES], ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("form", FORMS)
def test_no_pictures(form: str, dtype: torch.dtype) -> None:
    model = network(form).to(dtype)
    if form == "fused":
        model = model.fuse()
    image, _ = picture(0)
    image = model.normalize(image.to(dtype))
    for mask in (None, torch.ones(1, 1, 13, 10), torch.ones(0, 3, 13, 10, dtype=torch.bool)):
        output, closed = model(image, mask)
        assert output.shape == (0, 3, 13, 10) and output.dtype == dtype
        assert closed.shape == (0, 1, 13, 10) and closed.dtype == torch.bool
        assert model.denormalize(output).shape == output.shape
