"""fuse(): batch norm and activation inside the operators; the same network at valid pixels, and refusals."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from cases import BY_NAME, make_tensors
from torch import nn

from pconv_cuda import PConvUNet, ops, reference
from pconv_cuda.models.stage import Stage

ACTIVATED = ["plain3x3", "no_bias", "first", "first_of_two_channels", "all_valid", "no_mask", "groups"]
ACTIVATED += ["grouped_channel_mask", "last", "no_mask_no_padding"]


def network(levels: int = 3, dtype: torch.dtype = torch.float64, **changes) -> PConvUNet:
    """In eval mode, with statistics and parameters that are not the identity: negative scales, shifts of both signs."""
    torch.manual_seed(0)
    model = PConvUNet(levels=levels, width=4, **changes).to(dtype).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.2, 3.0)
    nn.init.normal_(model.decoder[-1].conv.bias)
    return model


def picture(
    size: int = 32, dtype: torch.dtype = torch.float64, share: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Holes at random, and a block so large that windows die on every level."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(2, 1, size, size, generator=generator) > share
    mask[:, :, : size * 3 // 4, : size * 3 // 4] = False
    return torch.randn(2, 3, size, size, generator=generator, dtype=dtype), mask


@pytest.mark.parametrize("negative_slope", [0.0, 0.2])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ACTIVATED)
def test_the_activation_behind_a_layers_epilogue(
    name: str, dtype: torch.dtype, channels_last: bool, negative_slope: float, device: str
) -> None:
    case = BY_NAME[name]
    t = make_tensors(case).to(dtype, torch.channels_last if channels_last else torch.contiguous_format)
    x, w = t.input.to(device), t.weight.to(device)
    mask, bias = (None if each is None else each.to(device) for each in (t.mask, t.bias))
    window = [list(case.stride), list(case.padding), list(case.dilation), case.groups]
    plain, true_mask, _ = ops.partial_conv2d(x, mask, None, None, w, bias, *window)
    output, same_mask, _ = ops.partial_conv2d(x, mask, None, None, w, bias, *window, negative_slope=negative_slope)
    expected = reference.activation(plain, negative_slope)
    # The activation of a rounded output is rounded once more; and where nothing else is to do after the convolution,
    # the library adds the bias, in an order of its own.
    tolerance = (2 if dtype.itemsize == 2 else 64) * torch.finfo(dtype).eps
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(true_mask, same_mask) and (expected < plain.abs()).any()


def test_infinities_and_nan_behind_the_activation(device: str) -> None:
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, -1.0], device=device).view(4, 1, 1, 1)
    for layout in (torch.contiguous_format, torch.channels_last):
        for filters in (1, 16):  # 16: the first layer's own kernel
            w = torch.ones(filters, 1, 1, 1, device=device).contiguous(memory_format=layout)
            wide = x.expand(4, 1, 1, 2).contiguous(memory_format=layout)
            window = ([1, 1], [0, 0], [1, 1], 1)
            found = ops.partial_conv2d(wide, None, None, None, w, None, *window, negative_slope=0.0)[0]
            expected = torch.tensor([torch.inf, 0.0, torch.nan, 0.0], device=device).view(4, 1, 1, 1).expand_as(found)
            torch.testing.assert_close(found, expected, equal_nan=True)


def stages_of(model: PConvUNet) -> list[Stage]:
    return [*model.encoder, *model.decoder]


def walk(model: PConvUNet, image: torch.Tensor, mask: torch.Tensor):
    """(stage, arguments, (features, mask)) of every level, from the unfused model."""
    features = [(image, mask)]
    for stage in model.encoder:
        features.append(stage.encode(*features[-1]))
        yield stage, (Stage.encode, *features[-2]), features[-1]
    low = features.pop()
    for stage in model.decoder:
        arguments = (Stage.decode, *low, *features.pop())
        low = stage.decode(*arguments[1:])
        yield stage, arguments, low


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_layer_is_equal_at_valid_pixels(layout: torch.memory_format) -> None:
    """The folded layer gets its inputs with NaN in every dead window, where the unfused one has act(shift)."""
    model = network()
    image, mask = picture()
    image = image.contiguous(memory_format=layout)
    folded = copy.deepcopy(model).fuse()
    dead = 0
    with torch.no_grad():
        for (stage, arguments, (expected, true_mask)), twin in zip(
            walk(model, image, mask), stages_of(folded), strict=True
        ):
            function, *given = arguments
            poisoned = []
            for features, valid in zip(given[::2], given[1::2], strict=True):
                poisoned += [torch.where(valid, features, torch.nan), valid]
            output, same_mask = function(twin, *poisoned)
            assert torch.equal(same_mask, true_mask)
            torch.testing.assert_close(
                torch.where(true_mask, output, 0), torch.where(true_mask, expected, 0), rtol=1e-10, atol=1e-10
            )
            assert (output[~true_mask.expand_as(output)] == 0).all()
            if not isinstance(stage.activation, nn.Identity) and isinstance(stage.norm, nn.BatchNorm2d):
                dead += int((expected[~true_mask.expand_as(expected)] != 0).sum())
    assert dead > 0  # the test saw windows where the two differ


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [32, 37])
def test_the_networks_output_is_equal_everywhere(levels: int, size: int, device: str) -> None:
    model = network(levels).to(device)
    image, mask = (each.to(device) for each in picture(size))
    image = torch.where(mask, image, torch.nan)
    with torch.no_grad():
        expected, true_mask = model(image, mask)
        for layout in (torch.contiguous_format, torch.channels_last):
            output, same_mask = model.fuse()(image.contiguous(memory_format=layout), mask)
            torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
            assert torch.equal(true_mask, same_mask)
            model.unfuse()
        assert torch.equal(model(image, mask)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_lower_precision(dtype: torch.dtype, device: str) -> None:
    """At most twice the unfused model's own error against float64."""
    image, mask = picture(64, share=0.2)
    truth = network(4)(image, mask)[0]
    model = network(4).to(dtype).to(device)
    with torch.no_grad():
        unfused = model(image.to(dtype).to(device), mask.to(device))[0].cpu().double()
        fused = model.fuse()(image.to(dtype).to(device), mask.to(device))[0].cpu().double()
    assert (fused - truth).abs().mean() <= 2 * (unfused - truth).abs().mean()


def test_masks_of_every_channel_and_none() -> None:
    model, (image, _) = network(), picture()
    masks = [None, torch.rand(2, 3, 32, 32) > 0.5, torch.rand(1, 1, 32, 32) > 0.5]
    with torch.no_grad():
        expected = [model(image, mask) for mask in masks]
        model.fuse()
        for mask, (true, true_mask) in zip(masks, expected, strict=True):
            output, new_mask = model(image, mask)
            torch.testing.assert_close(output, true, rtol=1e-10, atol=1e-10)
            assert torch.equal(new_mask, true_mask)


def test_inference_mode_and_tensors_born_there() -> None:
    image, mask = picture()
    expected = network()(image, mask)[0].detach()
    with torch.inference_mode():
        model = network().fuse()
        torch.testing.assert_close(model(image, mask)[0], expected, rtol=1e-10, atol=1e-10)


def test_compiled(device: str) -> None:
    torch._dynamo.reset()
    model = network(2, torch.float32).to(device).fuse()
    image, mask = (each.to(device) for each in picture(16, torch.float32))
    with torch.no_grad():
        expected = model(image, mask)[0]
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(image, mask)[0], expected, rtol=1e-4, atol=1e-4)


def test_training_is_refused_until_unfused() -> None:
    model = network()
    model.train()
    with pytest.raises(RuntimeError, match="fuse: expected a model in eval mode"):
        model.fuse()
    model.eval().fuse()
    with pytest.raises(RuntimeError, match=r"train: the model is fused .* unfuse\(\) first"):
        model.train()
    with pytest.raises(RuntimeError, match="load_state_dict: the model is fused"):
        model.load_state_dict(network().state_dict())
    with pytest.raises(RuntimeError, match="have no derivative|has no derivative"):
        model(picture()[0].requires_grad_(), picture()[1])
    with pytest.raises(RuntimeError, match="fuse: expected conv='partial', got 'plain'"):
        network(conv="plain").fuse()
    model.unfuse().train()
    image, mask = picture()
    model(image, mask)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def _step(model: PConvUNet) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


EDITS = {
    "in place": lambda m: nn.init.ones_(m.decoder[0].conv.weight),
    "of a batch norm": lambda m: nn.init.ones_(m.encoder[1].norm.weight),
    "of a statistic": lambda m: m.encoder[2].norm.running_var.mul_(2),
    "of the last bias": lambda m: nn.init.ones_(m.decoder[-1].conv.bias),
    "through .data": lambda m: m.decoder[1].conv.weight.data.mul_(2),
    "a new .data": lambda m: setattr(m.encoder[0].conv.weight, "data", m.encoder[0].conv.weight.data.clone()),
    "by an optimiser": _step,
    "through numpy": lambda m: np.copyto(m.decoder[0].conv.weight.detach().numpy(), 0.25),
    "in channels_last": lambda m: m.to(memory_format=torch.channels_last).decoder[0].conv.weight.data.neg_(),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("edit", EDITS)
def test_edited_weights_are_refused(edit: str, inference: bool) -> None:
    model, (image, mask) = network().fuse(), picture()
    with torch.inference_mode(inference), torch.set_grad_enabled(False):
        model(image, mask)
        EDITS[edit](model)
        with pytest.raises(RuntimeError, match=r"changed after fuse\(\); call unfuse\(\), or fuse\(\) again"):
            model(image, mask)
        again = model.fuse()(image, mask)[0]
        torch.testing.assert_close(again, model.unfuse()(image, mask)[0], rtol=1e-10, atol=1e-10)


def test_copies_moves_and_saving(tmp_path) -> None:
    model, (image, mask) = network(), picture()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(image, mask)[0]
        model.fuse()
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert len(model.state_dict()) == len(state)
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to(torch.float32).to(torch.float64)]
        for each, tolerance in zip(copies, (1e-10, 1e-10, 1e-4), strict=True):
            assert stages_of(each)[0].folded is not None
            torch.testing.assert_close(each(image, mask)[0], expected, rtol=tolerance, atol=tolerance)
        model.save_pretrained(tmp_path)
        loaded = PConvUNet.from_pretrained(tmp_path).double()
        torch.testing.assert_close(loaded(image, mask)[0], expected, rtol=1e-4, atol=1e-4)


# The check has to catch what folding could get wrong.
def _forgot_epsilon(stage: Stage, folded) -> None:
    folded.weight.mul_(1.01)


def _shift_in_dead_windows(stage: Stage, folded) -> None:
    folded.bias.add_(0.01)


def _wrong_activation(stage: Stage, folded) -> None:
    folded.negative_slope = 0.21


def _old_phases(stage: Stage, folded) -> None:
    if folded.phases is not None:
        folded.phases.mul_(0.9)


@pytest.mark.parametrize("wrong", [_forgot_epsilon, _shift_in_dead_windows, _wrong_activation, _old_phases])
def test_the_check_catches(wrong) -> None:
    model = network(3)
    image, mask = picture(64)
    with torch.no_grad():
        expected = model(image, mask)[0]
        model.fuse()
        for stage in stages_of(model)[1:-1]:
            wrong(stage, stage.folded)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(model(image, mask)[0], expected, rtol=1e-10, atol=1e-10)


def test_both_paths_of_the_decoder_agree(device: str) -> None:
    image, mask = (each.to(device) for each in picture(64))
    fused, composed = network().to(device), network(fused=False).to(device)
    outputs = []
    for model in (fused, composed):
        output, true_mask = model(image, mask)
        gradients = torch.autograd.grad((output * image).square().sum(), list(model.parameters()))
        outputs.append([output, true_mask, *gradients])
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
