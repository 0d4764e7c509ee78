"""fuse(): a network of its own for inference, the same at valid pixels; the model stays as it is."""

from __future__ import annotations

import copy
import pickle
import platform

import numpy as np
import pytest
import torch
from cases import BY_NAME, make_tensors
from torch import nn

from pconv_cuda import PConvUNet, ops, reference
from pconv_cuda.models import FusedUNet, load_network
from pconv_cuda.models.fused import FusedStage

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
    tolerance = atol = (2 if dtype.itemsize == 2 else 64) * torch.finfo(dtype).eps
    if dtype == torch.float16 and platform.machine() in ("aarch64", "arm64"):
        # torch sums float16 in float16 there, with the bias as its first term or without it.
        double = (None if each is None else each.double() for each in (x, w, bias))
        exact = ops.partial_conv2d(next(double), mask, None, None, *double, *window)[0]
        atol = max(atol, 2 * (plain.double() - exact).abs().max().item())
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=atol)
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


def stages_of(model: FusedUNet) -> list[FusedStage]:
    return [*model.encoder, *model.decoder]


def walk(model: PConvUNet, image: torch.Tensor, mask: torch.Tensor):
    """(stage, arguments, (features, mask)) of every level, from the unfused model."""
    features = [(image, mask)]
    for stage in model.encoder:
        features.append(stage.encode(*features[-1]))
        yield stage, ("encode", *features[-2]), features[-1]
    low = features.pop()
    for stage in model.decoder:
        arguments = ("decode", *low, *features.pop())
        low = stage.decode(*arguments[1:])
        yield stage, arguments, low


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_layer_is_equal_at_valid_pixels(layout: torch.memory_format) -> None:
    """The folded layer gets its inputs with NaN in every dead window, where the unfused one has act(shift)."""
    model = network()
    image, mask = picture()
    image = image.contiguous(memory_format=layout)
    folded = model.fuse()
    dead = 0
    with torch.no_grad():
        for (stage, arguments, (expected, true_mask)), twin in zip(
            walk(model, image, mask), stages_of(folded), strict=True
        ):
            name, *given = arguments
            poisoned = []
            for features, valid in zip(given[::2], given[1::2], strict=True):
                poisoned += [torch.where(valid, features, torch.nan), valid]
            output, same_mask = getattr(twin, name)(*poisoned)
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
        fused = model.fuse()
        for mask in masks:
            true, true_mask = model(image, mask)
            output, new_mask = fused(image, mask)
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


def test_training_is_refused() -> None:
    model = network()
    with pytest.raises(RuntimeError, match="fuse: expected a model in eval mode"):
        model.train().fuse()
    with pytest.raises(RuntimeError, match="fuse: expected conv='partial', got 'plain'"):
        network(conv="plain").fuse()
    model = network()
    model.encoder[1].norm = nn.BatchNorm2d(8, track_running_stats=False, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="fuse: expected batch norms with running statistics, got one with track_r"):
        model.eval().fuse()
    fused = network().fuse()
    assert isinstance(fused, FusedUNet) and fused.fuse() is fused and not list(fused.parameters())
    with pytest.raises(RuntimeError, match="input: expected one that needs no gradient, since a fused network"):
        fused(picture()[0].requires_grad_(), picture()[1])
    assert not fused(*picture())[0].requires_grad  # no torch.no_grad() is needed


def test_train_of_a_module_around_it_leaves_it_in_eval_mode() -> None:
    around = nn.Sequential(network().fuse(), nn.BatchNorm2d(3))
    around.train()
    assert around[1].training and not any(module.training for module in around[0].modules())
    assert around[0].train() is around[0] and around[0].eval() is around[0]
    assert not any(module.training for module in around[0].modules())


def test_batch_norms_without_scale_and_shift_are_folded_too() -> None:
    model, (image, mask) = network(), picture()
    statistics = model.encoder[1].norm.running_mean, model.encoder[1].norm.running_var
    model.encoder[1].norm = nn.BatchNorm2d(8, affine=False, dtype=torch.float64).eval()
    for own, old in zip(
        (model.encoder[1].norm.running_mean, model.encoder[1].norm.running_var), statistics, strict=True
    ):
        own.copy_(old)
    torch.testing.assert_close(model.fuse()(image, mask)[0], model(image, mask)[0], rtol=1e-10, atol=1e-10)


def test_the_model_stays_as_it_is() -> None:
    model, (image, mask) = network(), picture()
    before = {name: (tensor.clone(), tensor._version) for name, tensor in model.state_dict().items()}
    requires = [parameter.requires_grad for parameter in model.parameters()]
    fused = model.fuse()
    assert [parameter.requires_grad for parameter in model.parameters()] == requires and all(requires)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor._version == before[name][1], name
    own = {tensor.data_ptr() for tensor in fused.buffers()}
    assert not own & {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    model.train()
    model(image, mask)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    fused(image, mask)  # whatever mode the model is in


def _step(model: PConvUNet) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


EDITS = {
    "in place": lambda m: nn.init.ones_(m.decoder[0].conv.weight),
    "of a batch norm": lambda m: nn.init.ones_(m.encoder[1].norm.weight),
    "of a statistic": lambda m: m.encoder[2].norm.running_var.mul_(2),
    "of the last bias": lambda m: nn.init.ones_(m.decoder[-1].conv.bias),
    "of the first weight": lambda m: nn.init.ones_(m.encoder[0].conv.weight),
    "through .data": lambda m: m.decoder[1].conv.weight.data.mul_(2),
    "by an optimiser": _step,
    "through numpy": lambda m: np.copyto(m.decoder[0].conv.weight.detach().numpy(), 0.25),
    "in channels_last": lambda m: m.to(memory_format=torch.channels_last).decoder[0].conv.weight.data.neg_(),
    "by loading": lambda m: m.load_state_dict({name: 0 * value for name, value in m.state_dict().items()}),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("edit", EDITS)
def test_edits_of_the_model_do_not_reach_the_fused_network(edit: str, inference: bool) -> None:
    with torch.inference_mode(inference), torch.set_grad_enabled(False):
        model, (image, mask) = network(), picture()
        fused = model.fuse()
        expected = fused(image, mask)[0]
        EDITS[edit](model)
        assert torch.equal(fused(image, mask)[0], expected)
        again = model.fuse()(image, mask)[0]
        torch.testing.assert_close(again, model(image, mask)[0], rtol=1e-10, atol=1e-10, equal_nan=True)
        assert not torch.equal(again, expected)


def test_copies_moves_and_state_dicts() -> None:
    """Without special cases: it is an ordinary module."""
    model, (image, mask) = network(), picture()
    with torch.no_grad():
        expected, fused = model(image, mask)[0], model.fuse()
        loaded = network(levels=3).fuse()
        for buffer in loaded.buffers():
            buffer.zero_()
        assert not loaded.load_state_dict(fused.state_dict()).missing_keys
        copies = [copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), loaded]
        copies.append(copy.deepcopy(fused).to(torch.float32).to(torch.float64))
        copies.append(copy.deepcopy(fused).to(memory_format=torch.channels_last))
        for each, tolerance in zip(copies, (1e-10, 1e-10, 1e-10, 1e-4, 1e-10), strict=True):
            torch.testing.assert_close(each(image, mask)[0], expected, rtol=tolerance, atol=tolerance)
            assert each.state_dict().keys() == fused.state_dict().keys()
    with pytest.raises(RuntimeError, match=r"Missing key.*encoder.0.weight"):
        fused.load_state_dict(model.state_dict())
    assert (fused.device, fused.dtype) == (torch.device("cpu"), torch.float64)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float64)


def test_the_model_is_what_is_saved(tmp_path) -> None:
    model, (image, mask) = network(dtype=torch.float32), picture(dtype=torch.float32)
    fused = model.fuse()
    with pytest.raises(RuntimeError, match="save_pretrained: a fused network cannot be saved; save the model"):
        fused.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = load_network(tmp_path).fuse()(image, mask)[0]
        torch.testing.assert_close(again, fused(image, mask)[0], rtol=0, atol=0)


def test_exported() -> None:
    fused = network(2, torch.float32).fuse()
    image, mask = picture(16, torch.float32)
    program = torch.export.export(fused, (image, mask)).module()
    torch.testing.assert_close(program(image, mask)[0], fused(image, mask)[0], rtol=1e-4, atol=1e-4)


def test_synchronised_batch_norms_are_folded_too() -> None:
    model, (image, mask) = network(), picture()
    expected = model(image, mask)[0].detach()
    fused = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval().fuse()
    torch.testing.assert_close(fused(image, mask)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "options", [{"head": "sigmoid"}, {"prefill": "smooth"}, {"windows": (5, 3, 7)}, {"first_bias": True}]
)
def test_every_option_is_taken_over(options: dict) -> None:
    model, (image, mask) = network(**options), picture(40)
    fused = model.fuse()
    expected, output = model(image, mask), fused(image, mask)
    torch.testing.assert_close(output[0], expected[0], rtol=1e-10, atol=1e-10)
    assert torch.equal(output[1], expected[1])
    for name in ("config", "reach", "grid", "context", "bytes_per_pixel", "prefill", "mean", "std"):
        assert getattr(fused, name) == getattr(model, name), name
    assert "prefill" not in options or output[0].shape == fused(image, mask, fill=expected[0].detach())[0].shape


# The check has to catch what folding could get wrong.
def _forgot_epsilon(stage: FusedStage) -> None:
    stage.weight.mul_(1.01)


def _shift_in_dead_windows(stage: FusedStage) -> None:
    stage.bias.add_(0.01)


def _wrong_activation(stage: FusedStage) -> None:
    stage.negative_slope = 0.21


def _old_phases(stage: FusedStage) -> None:
    if stage.phases is not None:
        stage.phases.mul_(0.9)


@pytest.mark.parametrize("wrong", [_forgot_epsilon, _shift_in_dead_windows, _wrong_activation, _old_phases])
def test_the_check_catches(wrong) -> None:
    model = network(3)
    image, mask = picture(64)
    with torch.no_grad():
        expected, fused = model(image, mask)[0], model.fuse()
        for stage in stages_of(fused)[1:-1]:
            wrong(stage)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(fused(image, mask)[0], expected, rtol=1e-10, atol=1e-10)


def test_both_paths_of_the_decoder_agree(device: str) -> None:
    image, mask = (each.to(device) for each in picture(64))
    fused, composed = network().to(device), network(composed=True).to(device)
    outputs = []
    for model in (fused, composed):
        output, true_mask = model(image, mask)
        gradients = torch.autograd.grad((output * image).square().sum(), list(model.parameters()))
        outputs.append([output, true_mask, *gradients])
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
