"""Arguments of the loss that users try: what is taken, and how the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pconv_cuda import InpaintingLoss
from pconv_cuda.errors import PConvError


def test_vgg_takes_what_a_file_holds(tmp_path) -> None:
    random = InpaintingLoss(vgg="random")
    state = {name.removeprefix("features."): value for name, value in random.state_dict().items()}
    torch.save(state, tmp_path / "vgg.pth")
    picture, mask = torch.rand(2, 1, 3, 16, 16).unbind(1)[0], torch.rand(2, 1, 16, 16) > 0.5
    output = torch.rand(2, 3, 16, 16)
    expected = random(picture, mask, output, picture)
    for vgg in (state, tmp_path / "vgg.pth", str(tmp_path / "vgg.pth")):
        assert InpaintingLoss(vgg=vgg)(picture, mask, output, picture) == expected
    with pytest.raises(PConvError, match="vgg: the state dict lacks features.0.weight"):
        InpaintingLoss(vgg={"a": torch.ones(1)})
    numbers = {name: value.numpy() for name, value in state.items()}
    with pytest.raises(PConvError, match="vgg: the state dict: features.0.weight: expected a tensor, got ndarray"):
        InpaintingLoss(vgg=numbers)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="vgg: expected 'imagenet', .* a file or its state dict, got NoneType"):
        InpaintingLoss(vgg=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1, "x", "1", None, 10**400, torch.ones(2), [1]])
def test_invalid_weights_are_refused(weight) -> None:
    with pytest.raises(ValueError, match="weights: expected finite numbers of at least 0, got .* for 'hole'"):
        InpaintingLoss(vgg="none", weights={"hole": weight})


@pytest.mark.parametrize("weight", [2, np.float32(2), np.array(2), torch.tensor(2.0)], ids=repr)
def test_numbers_of_every_kind_are_weights(weight) -> None:
    found = InpaintingLoss(vgg="none", weights={"hole": weight, "tv": 0}).weights
    assert found["hole"] == 2.0 and type(found["hole"]) is float and found["tv"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pictures_of_another_dtype_than_vgg_are_named(dtype) -> None:
    loss, mask = InpaintingLoss(vgg="random"), torch.ones(1, 1, 16, 16)
    picture = torch.rand(1, 3, 16, 16, dtype=dtype)
    with pytest.raises(TypeError, match=f"output: expected torch.float32, the dtype of VGG16's weights .* got {dtype}"):
        loss(picture, mask, picture, picture)
    with pytest.raises(TypeError, match="image: expected torch.float32"):
        loss.features(picture)
    loss.to(dtype)(picture, mask, picture, picture)
    mixed = InpaintingLoss(vgg="random")(picture.float(), mask, picture.bfloat16(), picture.float())
    assert all(value.isfinite() for value in mixed.values())
    with torch.autocast("cpu", torch.bfloat16):
        InpaintingLoss(vgg="random")(picture.bfloat16(), mask, picture.bfloat16(), picture.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_truth_of_another_dtype_is_named(dtype) -> None:
    loss, mask, picture = InpaintingLoss(vgg="random"), torch.ones(1, 1, 16, 16), torch.rand(1, 3, 16, 16)
    with pytest.raises(TypeError, match=f"^ground_truth: expected torch.float32, .* got {dtype}"):
        loss(picture, mask, picture, picture.to(dtype))
    with pytest.raises(TypeError, match="^output: expected torch.float32, .* got torch.float64"):
        loss(picture, mask, picture.double(), picture)


def test_autocast_does_not_cast_float64() -> None:
    loss, mask, picture = InpaintingLoss(vgg="random"), torch.ones(1, 1, 16, 16), torch.rand(1, 3, 16, 16).double()
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(TypeError, match="^output: expected torch.float32, .* got torch.float64"):
            loss(picture, mask, picture, picture)
        assert all(value.isfinite() for value in loss.double()(picture, mask, picture, picture).values())


def test_a_mask_that_is_no_tensor_is_named() -> None:
    picture = torch.rand(1, 3, 16, 16)
    with pytest.raises(TypeError, match="mask: expected a torch.Tensor, got NoneType"):
        InpaintingLoss(vgg="none")(picture, None, picture, picture)  # type: ignore[arg-type]


def test_gradients_of_each_sample() -> None:
    loss, mask = InpaintingLoss(vgg="random"), torch.rand(2, 1, 1, 16, 16) > 0.4
    output, truth = torch.rand(2, 1, 3, 16, 16), torch.rand(2, 1, 3, 16, 16)

    def total(output, mask, truth):
        return sum(loss(truth, mask, output, truth).values())

    found = torch.func.vmap(torch.func.grad(total))(output, mask, truth)
    for i in range(2):
        leaf = output[i].clone().requires_grad_()
        (expected,) = torch.autograd.grad(total(leaf, mask[i], truth[i]), leaf)
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-5)
