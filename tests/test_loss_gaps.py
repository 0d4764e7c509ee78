"""The loss for truths that have gaps of their own."""

from __future__ import annotations

import pytest
import torch

from pconv_cuda import InpaintingLoss


@pytest.fixture
def pictures() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    truth, output = (torch.randn(2, 3, 16, 24, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, 16, 24, generator=generator) > 0.4
    known = mask | (torch.rand(2, 1, 16, 24, generator=generator) > 0.5)
    return truth, output, mask, known


@pytest.mark.parametrize("vgg", ["none", "random"])
@pytest.mark.parametrize("preset", ["paper", "bobqywei"])
def test_all_known_is_the_loss_as_it_is(pictures, vgg: str, preset: str) -> None:
    truth, output, mask, _ = pictures
    loss = InpaintingLoss(preset, vgg)
    for all_known in (torch.ones_like(mask), torch.ones(1, 16, 24)):
        found = loss(truth, mask, output, truth, all_known)
        for term, value in loss(truth, mask, output, truth).items():
            assert torch.allclose(found[term], value, rtol=1e-6)


@pytest.mark.parametrize("vgg", ["none", "random"])
@pytest.mark.parametrize("preset", ["paper", "bobqywei"])
def test_unknown_truths_have_no_influence(pictures, vgg: str, preset: str) -> None:
    truth, output, mask, known = pictures
    loss, output = InpaintingLoss(preset, vgg), output.requires_grad_()
    found = [loss(truth, mask, output, torch.where(known, truth, unknown), known) for unknown in (torch.nan, 0.0, 1e6)]
    for other in found[1:]:
        assert found[0] == other
    total = sum(found[0].values())
    assert torch.isfinite(total)
    (gradient,) = torch.autograd.grad(total, output)
    assert torch.isfinite(gradient).all()
    if vgg == "none" and preset == "paper":  # no term reaches an unknown pixel far from the hole but by its neighbours
        pixel, hole = loss.weights["valid"], loss.weights["hole"]
        found = loss(truth, mask, output, truth, known)
        distance, everywhere = (output - truth).abs(), known.expand_as(output)
        valid = mask.expand_as(output) & everywhere
        assert torch.allclose(found["valid"], pixel * distance[valid].sum() / everywhere.sum(), rtol=1e-5)
        assert torch.allclose(found["hole"], hole * distance[everywhere & ~valid].sum() / everywhere.sum(), rtol=1e-5)


def test_a_target_mask_that_does_not_fit_is_named(pictures) -> None:
    truth, output, mask, known = pictures
    loss = InpaintingLoss(vgg="none")
    with pytest.raises(ValueError, match=r"target_mask: expected \(2\|1, 1\|3, 16, 24\), got shape \(2, 1, 16, 23\)"):
        loss(truth, mask, output, truth, known[..., 1:])
    with pytest.raises(ValueError, match="target_mask: expected at least one known value, got none"):
        loss(truth, mask, output, truth, torch.zeros_like(known))
