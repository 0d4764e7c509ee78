"""climatereconstructionAI's checkpoints compute with us what they compute with it: float64, data and holes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from climate_network import Climate, random_climate

import pconv_cuda
from pconv_cuda import PConvUNet
from pconv_cuda.cli import main
from pconv_cuda.convert import convert
from pconv_cuda.errors import PConvError

CLOSE = 1e-10


def saved(tmp_path, network: Climate, **more):
    """As its save_ckpt writes it."""
    state = {
        "n_iter": 7,
        "model": network.checkpoint(),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2, 3, 3)}}},
    }
    path = tmp_path / "net.pth"
    torch.save({"labels": ["7"], "train_stats": None, "7": state, **more}, path)
    return path


def fields(levels: int, channels: int, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    height, width = 2 * 2**levels, 3 * 2**levels
    mask = torch.rand(2, 1, height, width, generator=rng) > 0.5
    mask[0, :, height // 3 :, : width // 2] = False
    mask[1, :, : height // 2, width // 3 :] = False
    x = torch.randn(2, channels, height, width, generator=rng, dtype=torch.float64)
    return torch.where(mask, x, torch.nan), mask


def gap_of(network: Climate, done, seed: int = 0) -> float:
    """The largest difference where the masks say that there is an answer, in parts of the largest answer."""
    model = PConvUNet(**done.config).double().eval()
    model.load_state_dict(done.state)
    x, mask = fields(done.config["levels"], done.config["in_channels"], seed)
    expected, expected_mask = network(x, mask)
    with torch.no_grad():
        output, new_mask = model(x, mask)
        fused, fused_mask = model.fuse()(x, mask)
    assert torch.equal(new_mask, expected_mask) and torch.equal(fused_mask, expected_mask)
    known = new_mask.expand_as(output)
    assert known.any() and (known & ~mask).any() and torch.allclose(fused[known], output[known], rtol=1e-9, atol=1e-9)
    return float((output - expected).abs()[known].max() / expected.abs()[known].max())


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("first_norm", [False, True])
@pytest.mark.parametrize(("levels", "inputs", "outputs"), [(3, 1, 1), (2, 3, 1), (5, 2, 2)])
def test_the_same_numbers(tmp_path, wrap, first_norm, levels, inputs, outputs):
    torch.manual_seed(levels)
    network = random_climate(levels, inputs=inputs, outputs=outputs, first_norm=first_norm, wrap=wrap)
    mode = ("zeros", "circular") if wrap else "zeros"
    done = convert(saved(tmp_path, network), padding_mode=mode)
    assert done.source == "climatereconstructionai" and done.config["values"] == "data"
    assert done.config["negative_slope"] == 0.01 and done.config["mean"] == (0.0,) * inputs
    assert gap_of(network, done) < CLOSE
    # what a wrong reading would give is far off
    assert gap_of(replace(network, wrap=not wrap), done) > 1e-4
    assert gap_of(replace(network, slope=0.2), done) > 1e-4


def test_the_comparison_catches_a_lost_sum(tmp_path, monkeypatch):
    network = random_climate(3)
    monkeypatch.setattr("pconv_cuda.convert.formats._window", lambda weight: weight[0, 0].numel())
    assert gap_of(network, convert(saved(tmp_path, network))) > 1e-3


def test_the_last_of_several_labels_is_taken(tmp_path):
    torch.manual_seed(0)
    network, other = random_climate(2), random_climate(2)
    first = {"n_iter": 1, "model": other.checkpoint(), "optimizer": {}}
    path = saved(tmp_path, network, labels=["1", "7"], **{"1": first})
    assert gap_of(network, convert(path)) < CLOSE


def test_data_in_its_own_unit(tmp_path):
    """From the command to fill(): normalised by the given mean and std, what was measured comes back to the bit."""
    torch.manual_seed(1)
    network = random_climate(3, wrap=True)
    out = tmp_path / "out"
    command = [
        "convert",
        str(saved(tmp_path, network)),
        "-o",
        str(out),
        "--wrap",
        "columns",
        "--mean",
        "280",
        "--std",
        "12.5",
    ]
    assert main(command) == 0
    model = PConvUNet.from_pretrained(out)
    assert model.config["padding_mode"] == ("zeros", "circular") and model.config["std"] == (12.5,)
    x, mask = fields(3, 1)
    field = (x[0, 0] * 12.5 + 280).numpy()
    filled = pconv_cuda.fill(model, field)
    expected, reached = network((torch.from_numpy(field)[None, None] - 280) / 12.5, mask[:1])
    known, answer = mask[0, 0].numpy(), (expected[0, 0] * 12.5 + 280).numpy()
    assert np.array_equal(filled[known], field[known])
    open_ = ~known & reached[0, 0].numpy()
    assert open_.any() and np.allclose(filled[open_], answer[open_], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (1.0, 2.0)}, "mean: expected 1 finite numbers, one a channel"),
        ({"padding_mode": "wrap"}, "padding_mode: expected 'zeros' or 'circular'"),
        ({"levels": 1}, "levels: the file tells how many levels"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, options, message):
    with pytest.raises(PConvError, match=message):
        convert(saved(tmp_path, random_climate(2)), **options)


def test_recurrent_and_attention_networks_are_refused(tmp_path):
    network = random_climate(2)
    network.extra = {"encoder.0.recurrent_conv.conv.weight": torch.ones(2, 2, 3, 3)}
    with pytest.raises(PConvError, match="recurrent_conv: layers between time steps and of attention"):
        convert(saved(tmp_path, network), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    network.extra = {"encoder.0.partial_conv.mask_conv.weight": torch.full((3, 1, 7, 7), 2.0)}
    with pytest.raises(PConvError, match="expected to hold ones"):
        convert(saved(tmp_path, network))


def test_a_slope_that_is_none_is_refused():
    with pytest.raises(ValueError, match="negative_slope: expected 0 to 1, got -0.1"):
        PConvUNet(levels=2, width=2, negative_slope=-0.1)
    assert "negative_slope" not in PConvUNet(levels=2, width=2).config


def test_other_networks_have_their_own_mean(tmp_path):
    state = {f"{side}_{n}.conv.input_conv.weight": torch.ones(3, 3, 3, 3) for side in ("enc", "dec") for n in (1, 2)}
    torch.save({"model": state}, tmp_path / "net.pth")
    with pytest.raises(PConvError, match="mean: naoto0804's networks have their own; leave it out"):
        convert(tmp_path / "net.pth", mean=(0.0,) * 3)
