"""PartialConv1d, 3d and the transposed layers as modules: state, masks, padding modes, copies, export."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases_nd import LAYERS, partial, volume
from torch import Tensor, nn

import pconv_cuda


@pytest.mark.parametrize("name", LAYERS)
def test_state_dicts_are_torchs(name: str) -> None:
    plain, ours = getattr(nn, name)(4, 6, 3, groups=2), partial(name, 4, 6, 3, groups=2)
    assert list(ours.state_dict()) == list(plain.state_dict()) == ["weight", "bias"]
    ours.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(ours.state_dict(), strict=True)
    assert isinstance(ours, getattr(nn, name)) and "return_mask" not in repr(ours)
    with_filter = {**plain.state_dict(), "weight_maskUpdater": torch.ones(1, 1, *[3] * int(name[-2]))}
    ours.load_state_dict(with_filter, strict=True)
    with pytest.raises(RuntimeError, match="weight_maskUpdater: expected ones alone"):
        ours.load_state_dict({**with_filter, "weight_maskUpdater": torch.zeros(1)})


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"stride": 2, "dilation": 2}, {"groups": 2}], ids=str)
def test_without_holes_all_but_the_border_is_torchs(name: str, options: dict[str, Any]) -> None:
    axes = int(name[-2])
    plain, ours = getattr(nn, name)(4, 6, 3, **options), partial(name, 4, 6, 3, return_mask=True, **options)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, *[9] * axes)
    found, new_mask = ours(x)
    expected = plain(x)
    # Ordinary layers without padding have no border. Taps of a transposed layer that miss every input leave nothing.
    inside = (slice(None), slice(None), *[slice(4, -4) if "Transpose" in name else slice(None)] * axes)
    live = new_mask.expand_as(found)[inside]
    assert live.any() and torch.allclose(found[inside][live], expected[inside][live], atol=1e-5)
    assert not found[inside][~live].any()


def test_a_transposed_window_by_hand() -> None:
    # k 3, stride 2: outputs see one tap and two in turn. Of two inputs (1, hole) the second is not there: output 2,
    # which sees both, has half of what it should see.
    layer = pconv_cuda.PartialConvTranspose1d(1, 1, 3, stride=2, return_mask=True)
    nn.init.ones_(layer.weight)
    nn.init.constant_(layer.bias, 0.5)
    output, new_mask = layer(torch.tensor([[[1.0, torch.nan]]]), torch.tensor([[[1, 0]]], dtype=torch.uint8))
    #         output 0 sees input 0 and one outside; 1: input 0; 2: inputs 0 and 1; 3: input 1; 4: input 1, and outside
    assert output.tolist() == [[[2.5, 1.5, 2.5, 0.0, 0.0]]] and new_mask.tolist() == [[[1, 1, 1, 0, 0]]]
    assert new_mask.dtype == torch.uint8


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32, torch.float16])
def test_forms_of_masks(name: str, kind: torch.dtype) -> None:
    axes = int(name[-2])
    layer = partial(name, 3, 4, 3, padding=1, return_mask=True)
    x, mask = volume(axes, 2, 3)
    given = mask.to(kind)
    output, new_mask = layer(x, given)
    assert new_mask.dtype == kind and new_mask.shape == (2, 1, *output.shape[2:])
    for other in (given.expand(2, 3, *mask.shape[2:]), given.expand(2, 3, *mask.shape[2:]).contiguous()):
        again, again_mask = layer(x, other)
        assert torch.allclose(again, output, atol=1e-6) and torch.equal(again_mask, new_mask)
    shared, shared_mask = layer(x, given[:1])
    static, static_mask = layer(x, given[0])
    assert torch.equal(shared, static) and torch.equal(shared_mask, static_mask) and shared_mask.shape == new_mask.shape
    for found, expected in zip(layer(x, mask_in=given), (output, new_mask), strict=True):
        assert torch.equal(found, expected)
    one, one_mask = layer(x[0], given[0])
    assert torch.allclose(one, output[0], atol=1e-6) and torch.equal(one_mask, new_mask[0])
    if kind.is_floating_point:
        with_nan = torch.where(mask, given, torch.nan)
        assert torch.equal(layer(x, with_nan)[0], output) and torch.equal(layer(x, with_nan)[1], new_mask)
    many = copy.deepcopy(layer)
    many.multi_channel = True
    wide, wide_mask = many(x, given)
    assert torch.equal(wide, output) and wide_mask.shape == output.shape
    assert wide_mask.untyped_storage().nbytes() == new_mask.untyped_storage().nbytes()
    # A mask whose strides are no tensor's of its own.
    turned = given.transpose(-1, -2).contiguous().transpose(-1, -2) if axes > 1 else given
    cut = F.pad(given, [1, 2] * axes)[(slice(None), slice(None), *[slice(1, -2)] * axes)]
    for other in (turned, cut):
        assert torch.equal(layer(x, other)[0], output)


MODES = ["zeros", "reflect", "replicate", "circular"]


def continued(x: Tensor, mask: Tensor, modes: tuple[str, ...], by: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Both padded by hand, an axis at a time, the last one first."""
    axes = len(modes)
    for axis in reversed(range(axes)):
        sides = [0, 0] * (axes - 1 - axis) + [by[axis]] * 2 + [0, 0] * axis
        how = "constant" if modes[axis] == "zeros" else modes[axis]
        x, mask = F.pad(x, sides, mode=how), F.pad(mask.float(), sides, mode=how) > 0
    return x, mask


@pytest.mark.parametrize("mode", MODES)
def test_padding_modes_by_axis(mode: Any) -> None:
    for name, modes in (("Conv1d", (mode,)), ("Conv3d", ("zeros", mode, "circular")), ("Conv3d", (mode,) * 3)):
        axes = len(modes)
        layer = partial(name, 3, 4, 3, padding=1, padding_mode=modes, return_mask=True, dtype=torch.float64)
        x, mask = volume(axes, 2, 3)
        x = x.double()
        padded, padded_mask = continued(x, mask, modes, (1,) * axes)
        bare = partial(name, 3, 4, 3, return_mask=True, dtype=torch.float64)
        bare.load_state_dict(layer.state_dict())
        for given, expected in ((mask, bare(padded, padded_mask)), (None, None)):
            found, new_mask = layer(x, given)
            if expected is None:
                expected = layer(x, torch.ones_like(mask))
            torch.testing.assert_close(found, expected[0], rtol=1e-12, atol=1e-12)
            assert torch.equal(new_mask, expected[1])
        one, one_mask = layer(x[0], mask[0])
        torch.testing.assert_close(one, layer(x, mask)[0][0], rtol=1e-12, atol=1e-12)
        assert torch.equal(one_mask, layer(x, mask)[1][0])
        if mode != "zeros":
            word = partial(name, 3, 4, 3, padding=1, padding_mode=mode)
            plain = getattr(nn, name)(3, 4, 3, padding=1, padding_mode=mode)
            plain.load_state_dict(word.state_dict())
            assert torch.allclose(word(x.float()), plain(x.float()), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", [(4, 2, 1, 0, 1), (3, 2, 1, 1, 1), (3, 1, 0, 0, 2), (5, 3, 0, 2, 1)])
def test_transposed_layers_continue_their_input(mode: Any, window: tuple[int, ...]) -> None:
    taps, stride, padding, more, dilation = window
    for axes in (1, 2, 3):
        modes = ("zeros", "replicate", mode)[-axes:]
        name = f"ConvTranspose{axes}d"
        options = {"stride": stride, "dilation": dilation, "return_mask": True, "dtype": torch.float64}
        layer = partial(name, 2, 3, taps, padding=padding, output_padding=more, padding_mode=modes, **options)
        x, mask = volume(axes, 2, 2)
        x = x.double()
        # Continued by more than any window sees, and cut back to where the output was.
        by = tuple(0 if each == "zeros" else 4 for each in modes)
        far, far_mask = continued(x, mask, modes, by)
        bare = partial(name, 2, 3, taps, padding=padding, output_padding=more, **options)
        bare.load_state_dict(layer.state_dict())
        found, new_mask = layer(x, mask)
        where = (
            slice(None),
            slice(None),
            *(slice(b * stride, b * stride + n) for b, n in zip(by, found.shape[2:], strict=True)),
        )
        expected, expected_mask = (each[where] for each in bare(far, far_mask))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(new_mask, expected_mask)


def test_what_goes_round_has_no_seam() -> None:
    layer = pconv_cuda.PartialConvTranspose2d(2, 3, 4, stride=2, padding=1, padding_mode=("zeros", "circular"))
    x, mask = volume(2, 2, 2)
    turned = layer(x.roll(3, -1), mask.roll(3, -1))
    assert torch.allclose(turned.roll(-6, -1), layer(x, mask), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("taps", [3, 2])
@pytest.mark.parametrize("name", ["Conv1d", "Conv3d"])
def test_padding_by_name(name: str, taps: int) -> None:
    axes = int(name[-2])
    layer = partial(name, 3, 4, taps, padding="same", dilation=3, return_mask=True, dtype=torch.float64)
    x, mask = volume(axes, 2, 3)
    whole = 3 * (taps - 1)
    sides = [whole // 2, whole - whole // 2] * axes
    expected = partial(name, 3, 4, taps, dilation=3, return_mask=True, dtype=torch.float64)
    expected.load_state_dict(layer.state_dict())
    for given in (mask, None):
        found, new_mask = layer(x.double(), given)
        true, true_mask = expected(
            F.pad(x.double(), sides), F.pad((torch.ones_like(mask) if given is None else mask), sides)
        )
        torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-12)
        assert torch.equal(new_mask, true_mask) and found.shape[2:] == x.shape[2:]
    valid = partial(name, 3, 4, taps, padding="valid")
    valid.load_state_dict(layer.state_dict())
    assert valid(x).shape[2:] == tuple(size - taps + 1 for size in x.shape[2:])


@pytest.mark.parametrize("name", [name for name in LAYERS if "Transpose" in name])
def test_transposed_layers_take_no_padding_by_name(name: str) -> None:
    with pytest.raises(
        ValueError, match="^padding: expected an integer of at least 0, or one for each axis, got 'same'"
    ):
        partial(name, 2, 3, 3, padding="same")


def test_output_size_chooses_the_output_padding() -> None:
    layer = pconv_cuda.PartialConvTranspose2d(2, 3, 3, stride=2, padding=1, return_mask=True)
    x, mask = volume(2, 2, 2)
    output, new_mask = layer(x, mask, [10, 14])
    assert output.shape[2:] == new_mask.shape[2:] == (10, 14)
    fixed = pconv_cuda.PartialConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=(1, 1))
    fixed.load_state_dict(layer.state_dict())
    assert torch.equal(fixed(x, mask), output)


@pytest.mark.parametrize("name", LAYERS)
def test_copies_pickles_moves_compiles_and_learns(name: str) -> None:
    axes = int(name[-2])
    modes = ("zeros", "zeros", "circular")[-axes:]
    layer = partial(name, 3, 4, 3, padding=1, padding_mode=modes, return_mask=True)
    x, mask = volume(axes, 2, 3)
    expected = layer(x, mask)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x, mask)[0], expected[0])
    meta = copy.deepcopy(layer).to("meta")(x.to("meta"), mask.to("meta"))
    assert meta[0].shape == expected[0].shape and meta[1].shape == expected[1].shape
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = compiled(x, mask)
    assert torch.allclose(found[0], expected[0], atol=1e-6) and torch.equal(found[1], expected[1])
    found[0].square().sum().backward()
    by_graph = layer.weight.grad.clone()
    layer.zero_grad()
    layer(x, mask)[0].square().sum().backward()
    assert torch.allclose(layer.weight.grad, by_graph, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, mask)[0]
    assert half.dtype == torch.bfloat16 and (half.float() - expected[0]).abs().max() < 0.05 * expected[0].abs().max()
    with pytest.raises(AttributeError, match="last_size: this layer keeps nothing of a call"):
        _ = layer.last_size


@pytest.mark.parametrize(
    ("name", "layout"), [("Conv3d", torch.channels_last_3d), ("ConvTranspose2d", torch.channels_last)]
)
def test_gradients_of_an_empty_batch_keep_the_weights_layout(name: str, layout: torch.memory_format) -> None:
    layer = partial(name, 4, 4, 3, padding=1).to(memory_format=layout)
    x, mask = (t[:0].contiguous(memory_format=layout) for t in volume(int(name[-2]), 2, 4))
    layer(x, mask).sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride() and not layer.weight.grad.any()
    layer.zero_grad()
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x, mask).sum().backward()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("name", ["Conv1d", "Conv3d", "ConvTranspose2d"])
def test_exported_programs_take_any_batch(name: str) -> None:
    layer = partial(name, 3, 4, 3, padding=1, return_mask=True)
    x, mask = volume(int(name[-2]), 2, 3)
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(layer, (x, mask), dynamic_shapes=({0: batch}, {0: batch})).module()
    for given in ((x, mask), (x.repeat_interleave(2, 0).flip(0), mask.repeat_interleave(2, 0))):
        for found, expected in zip(program(*given), layer(*given), strict=True):
            assert torch.allclose(found, expected, atol=1e-6)
