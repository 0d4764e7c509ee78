"""The refiner of the smooth fill, and the U-Net with a prefill: against the reference, any size, files."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda import PConvUNet, reference
from pconv_cuda.errors import PConvError
from pconv_cuda.functional import smooth_fill
from pconv_cuda.models import FillRefiner, load_network

SLOPE = 0.1


def tiny(**changes) -> FillRefiner:
    """A refiner whose last layer is random too."""
    torch.manual_seed(0)
    model = FillRefiner(**{"levels": 3, "width": 4, **changes})
    nn.init.normal_(model.last.weight, std=0.1)
    return model.eval()


def picture(*size: int, batch: int = 2, seed: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A random batch and a mask with a wide hole and single missing pixels."""
    draw = torch.Generator().manual_seed(seed)
    height, width = size
    mask = torch.rand(batch, 1, height, width, generator=draw) > 0.2
    mask[:, :, height // 4 : height // 4 + height // 2, width // 3 : width // 3 + width // 2] = False
    mask[:, :, -1, -1] = True
    return torch.randn(batch, 3, height, width, generator=draw, dtype=dtype), mask


def box_mean(x: Tensor, radius: int) -> Tensor:
    """The mean over what lies in the picture of a square around each pixel, by sums over its rows and columns."""
    height, width = x.shape[2:]
    result = torch.empty_like(x)
    for row in range(height):
        for column in range(width):
            rows, columns = (
                slice(max(0, row - radius), row + radius + 1),
                slice(max(0, column - radius), column + radius + 1),
            )
            result[:, :, row, column] = x[:, :, rows, columns].mean((2, 3))
    return result


def straightforward(model: FillRefiner, image: Tensor, mask: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same network by the reference operations in ``dtype``, on an exact fill."""
    state = {name: value.to(dtype) for name, value in model.state_dict().items()}
    step = 2 ** (model.levels - 1)
    extra = (0, -image.shape[3] % step, 0, -image.shape[2] % step)
    fill = smooth_fill(image.double(), mask, tolerance=0.0).to(dtype)
    low = fill
    for _ in range(2):
        low = box_mean(low, model.blur)
    x, m = F.pad(fill - low, extra), F.pad(mask, extra)
    if model.conv == "partial":
        joined = torch.cat([torch.where(m, x, 0), x], 1)
        full = torch.cat([m.expand_as(x), torch.ones_like(x, dtype=torch.bool)], 1)
        one = (1, 1), (1, 1), (1, 1), 1
        x, _ = reference.partial_conv2d(joined, full.to(dtype), state["down.0.0.weight"], None, *one)
        x = F.leaky_relu(x, SLOPE)
    else:
        x = F.leaky_relu(F.conv2d(torch.cat([x, m.to(dtype)], 1), state["down.0.0.weight"], padding=1), SLOPE)

    def layer(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.leaky_relu(F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=1), SLOPE)

    skips = []
    for level in range(model.levels):
        x = layer(x, f"down.{level}.0", stride=2) if level else x
        for number in range(1, model.layers):
            x = x + layer(x, f"down.{level}.{number}")
        skips.append(x)
    skips.pop()
    for stage in range(model.levels - 1):
        doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = layer(torch.cat([doubled, skips.pop()], 1), f"up.{stage}.0")
        for number in range(1, model.layers):
            x = x + layer(x, f"up.{stage}.{number}")
    answer = F.conv2d(x, state["last.weight"], padding=1)
    return torch.where(mask, image.to(dtype), fill + answer[..., : image.shape[2], : image.shape[3]])


@pytest.mark.parametrize("options", [{}, {"levels": 1}, {"levels": 4, "layers": 1}, {"levels": 2, "layers": 3}])
@pytest.mark.parametrize("size", [(24, 40), (17, 9)])
@pytest.mark.parametrize("conv", ["partial", "plain"])
def test_against_the_reference(options: dict[str, int], size: tuple[int, int], conv: str) -> None:
    model = tiny(conv=conv, **options).double()
    image, mask = picture(*size, dtype=torch.float64)
    expected = straightforward(model, image, mask)
    fill = smooth_fill(image, mask, tolerance=0.0)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            output, new_mask = model(torch.where(mask, image, torch.nan), mask, fill)
        assert (output - expected).abs().max() < 1e-12
        assert new_mask.dtype == torch.bool and new_mask.shape == (2, 1, *size) and new_mask.all()
    assert (expected - fill)[~mask.expand_as(image)].abs().max() > 1e-3  # else nothing was compared


@pytest.mark.parametrize("conv", ["partial", "plain"])
def test_untrained_it_is_the_smooth_fill(conv: str) -> None:
    model = FillRefiner(levels=3, width=4, conv=conv)
    image, mask = picture(21, 30)
    output, _ = model(image, mask)
    assert torch.equal(output, smooth_fill(image, mask))


@pytest.mark.parametrize("conv", ["partial", "plain"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3), (5, 8)])
def test_any_size(conv: str, size: tuple[int, int]) -> None:
    model = tiny(conv=conv)
    image, mask = picture(*size)
    mask[..., 0, 0] = True
    output, new_mask = model(torch.where(mask, image, torch.nan), mask)
    assert output.shape == image.shape and torch.isfinite(output).all() and new_mask.all()
    assert torch.equal(torch.where(mask, output, 0), torch.where(mask, image, 0))
    one_mask = model(image, mask[:1])[0]
    assert torch.allclose(one_mask[:1], output[:1], atol=1e-5)
    assert torch.equal(model(image, None)[0], image)


@pytest.mark.parametrize("conv", ["partial", "plain"])
@pytest.mark.parametrize(("levels", "layers"), [(1, 2), (2, 1), (3, 2), (4, 2)])
def test_context_is_how_far_a_pixel_has_influence(conv: str, levels: int, layers: int) -> None:
    model = tiny(conv=conv, levels=levels, layers=layers).double()
    nn.init.normal_(model.last.weight)
    step = model.grid
    height, width = 4, (2 * model.context + 40) // step * step + step
    farthest = 0
    for offset in range(step):
        at = model.context + 10 + offset
        image = torch.randn(1, 3, height, width, dtype=torch.float64)
        mask = torch.ones(1, 1, height, width, dtype=torch.bool)
        mask[..., at] = False  # the answer is added to nothing else
        fill = torch.randn_like(image).requires_grad_()
        output, _ = model(image, mask, fill)
        (gradient,) = torch.autograd.grad(output[..., at].sum() - fill[..., at].sum(), fill)
        columns = gradient.abs().sum((0, 1, 2)).nonzero()
        farthest = max(farthest, at - int(columns.min()), int(columns.max()) - at)
    assert farthest == model.context


def test_brightness_and_contrast_need_not_be_learned() -> None:
    model = tiny(levels=2, conv="partial").double()
    image, mask = picture(20, 30, dtype=torch.float64)
    fill = smooth_fill(image, mask, tolerance=0.0)
    answer = model(image, mask, fill)[0] - fill
    other = model(3 * image + 7, mask, 3 * fill + 7)[0] - (3 * fill + 7)
    assert torch.allclose(other, 3 * answer, rtol=1e-9, atol=1e-9) and answer.abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_precisions(dtype: torch.dtype) -> None:
    model = tiny(width=8).to(dtype)
    image, mask = picture(24, 33)
    image = image.to(dtype)
    fill = smooth_fill(image.double(), mask, tolerance=0.0).to(dtype)
    expected = straightforward(model, image, mask)
    own = (straightforward(model, image, mask, dtype).double() - expected).abs().max()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            output, _ = model(image, mask, fill)
        assert output.dtype == dtype
        assert (output.double() - expected).abs().max() <= 2 * own


def test_autocast_trains_in_lower_precision() -> None:
    model = tiny().train()
    image, mask = picture(16, 24)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = model(image, mask)
        with torch.no_grad():
            inferred, _ = model(image, mask)
    exact, _ = model(image, mask)
    for result in (output, inferred):
        assert 1e-4 < (result - exact).abs().max() / exact.abs().max() < 0.05
    (output - image).abs().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_gradients_against_the_reference() -> None:
    model = tiny(levels=2).double()
    image, mask = picture(9, 12, dtype=torch.float64)
    fill = smooth_fill(image, mask, tolerance=0.0)
    model(image, mask, fill)[0].square().sum().backward()
    got = [parameter.grad for parameter in model.parameters()]
    delta, name = 1e-6, "down.1.0.weight"
    weight = model.get_parameter(name)
    direction = torch.randn_like(weight)
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * delta * direction
            values.append(float(straightforward(model, image, mask).square().sum()))
            weight -= sign * delta * direction
    number = [each for each, _ in model.named_parameters()].index(name)
    assert float((got[number] * direction).sum()) == pytest.approx((values[0] - values[1]) / (2 * delta), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(1, 4, 8, 8)}, r"image: expected \(N, 3, H, W\)"),
        ({"image": torch.zeros(3, 8, 8)}, r"image: expected \(N, 3, H, W\)"),
        ({"mask": torch.ones(1, 3, 8, 8)}, r"mask: expected \(1\|1, 1, 8, 8\), got \(1, 3, 8, 8\)"),
        ({"mask": torch.ones(1, 1, 8, 7)}, r"mask: expected .* got \(1, 1, 8, 7\)"),
        ({"fill": torch.zeros(1, 3, 8, 7)}, r"fill: expected the image's \(1, 3, 8, 8\)"),
        ({"fill": torch.zeros(1, 3, 8, 8).double()}, r"fill: expected .* got .*float64"),
        ({"mask": torch.zeros(1, 1, 8, 8)}, r"mask: .*valid"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    given = {"image": torch.zeros(1, 3, 8, 8), "mask": torch.ones(1, 1, 8, 8), "fill": None, **change}
    with pytest.raises(ValueError, match=message):
        tiny()(**given)
    with pytest.raises(TypeError, match="image: expected the parameters' dtype"):
        tiny()(torch.zeros(1, 3, 8, 8).double(), None)


@pytest.mark.parametrize(
    "options", [{"conv": "full"}, {"prefill": "telea"}, {"prefill": None}, {"layers": 0}, {"width": 0}, {"levels": 99}]
)
def test_wrong_options_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
        FillRefiner(**options)


def test_files(tmp_path) -> None:
    model = tiny(width=8, layers=1)
    model.save_pretrained(tmp_path / "refiner")
    assert json.loads((tmp_path / "refiner" / "config.json").read_text())["network"] == "refiner"
    image, mask = picture(12, 12)
    for path in (tmp_path / "refiner", tmp_path / "refiner" / "model.safetensors"):
        for again in (FillRefiner.from_pretrained(path), load_network(path)):
            assert isinstance(again, FillRefiner) and not again.training and again.config == model.config
            assert torch.equal(again(image, mask)[0], model(image, mask)[0])
    with pytest.raises(PConvError, match=r"expected the weights of a unet \(PConvUNet\), but .* those of 'refiner'"):
        PConvUNet.from_pretrained(tmp_path / "refiner")
    unet = PConvUNet(levels=2, width=4, prefill="smooth")
    unet.save_pretrained(tmp_path / "unet")
    again = load_network(tmp_path / "unet")
    assert isinstance(again, PConvUNet) and again.prefill == "smooth"
    with pytest.raises(PConvError, match=r"expected the weights of a refiner"):
        FillRefiner.from_pretrained(tmp_path / "unet")


@pytest.mark.parametrize("name", ["diffusion", ["refiner"], None, 3])
def test_unknown_networks_are_refused(name: object, tmp_path) -> None:
    tiny().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    from safetensors.torch import load_file, save_file

    state = load_file(tmp_path / "model.safetensors")
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**tiny().config, "network": name}))
    with pytest.raises(PConvError, match=r"expected the weights of a unet \(PConvUNet\) or refiner \(FillRefiner\)"):
        load_network(tmp_path)


@pytest.mark.parametrize("conv", ["partial", "plain"])
def test_a_unet_adds_to_its_prefill(conv: str) -> None:
    torch.manual_seed(0)
    model = PConvUNet(levels=2, width=4, conv=conv, prefill="smooth").eval()
    image, mask = picture(83, 80)
    fill = smooth_fill(image, mask)
    assert torch.equal(model(image, mask)[0], fill)  # untrained
    last = model.decoder[-1].conv
    nn.init.normal_(last.weight)
    nn.init.normal_(last.bias)
    without = PConvUNet(levels=2, width=4, conv=conv).eval()
    without.load_state_dict(model.state_dict())
    output, new_mask = model(torch.where(mask, image, torch.nan), mask)
    answer, reached = without(fill if conv == "plain" else image, None if conv == "plain" else mask)
    assert new_mask.all() and (conv == "plain" or not reached.all())  # the hole is too wide for two levels
    assert torch.equal(output, fill + answer)
    assert torch.equal(model(image, mask, fill + 1)[0], fill + 1 + answer) or conv == "plain"


def test_a_unet_without_a_prefill_takes_no_fill() -> None:
    model = PConvUNet(levels=2, width=4)
    with pytest.raises(ValueError, match="fill: expected None, as this network has no prefill"):
        model(torch.zeros(1, 3, 8, 8), None, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="prefill: expected None or 'smooth', got 'telea'"):
        PConvUNet(levels=2, width=4, prefill="telea")
    with pytest.raises(ValueError, match="head: expected None with a prefill"):
        PConvUNet(levels=2, width=4, prefill="smooth", head="sigmoid")
    assert "prefill" not in model.config


def test_a_channel_with_a_mask_of_its_own_is_filled_by_itself() -> None:
    model = PConvUNet(levels=2, width=4, prefill="smooth").eval()
    image, _ = picture(16, 16)
    mask = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)) > 0.3
    assert torch.equal(model(image, mask)[0], smooth_fill(image, mask))


@pytest.mark.full("compiled layers")
def test_compiled() -> None:
    model = tiny()
    image, mask = picture(24, 16)
    with torch.no_grad():
        output = torch.compile(model, fullgraph=True)(image, mask)[0]
        assert torch.allclose(output, model(image, mask)[0], atol=1e-5)
