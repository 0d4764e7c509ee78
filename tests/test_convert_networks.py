"""Converted weights compute what the network they come from computes: float64, valid pixels and holes."""

from __future__ import annotations

from dataclasses import replace

import foreign_networks as foreign
import pytest
import torch

from pconv_cuda import PConvUNet
from pconv_cuda.convert import convert, folding

CLOSE = 1e-10


def picture(levels: int, seed: int, hole: float = 0.4):
    """A batch with irregular holes, a block of them large enough to reach inner layers, one at the border."""
    rng = torch.Generator().manual_seed(seed)
    height, width = 2 * 2**levels, 3 * 2**levels
    mask = torch.rand(2, 1, height, width, generator=rng) > hole
    mask[0, :, height // 4 :, : width // 2] = False
    mask[1, :, : height // 2, width // 3 :] = False
    return torch.randn(2, 3, height, width, generator=rng, dtype=torch.float64), mask


def ours(done) -> PConvUNet:
    model = PConvUNet(**done.config).double()
    model.load_state_dict(done.state)
    return model.eval()


def difference(network, done, seed: int = 0, bgr: bool = False):
    """The largest differences of the outputs: over pixels whose window met a valid one, and of the masks."""
    x, mask = picture(done.config["levels"], seed)
    expected, expected_mask = network(x.flip(1) if bgr else x, mask)
    with torch.no_grad():
        output, new_mask = ours(done)(x, mask)
    assert torch.equal(new_mask, expected_mask)
    gap = (output - (expected.flip(1) if bgr else expected)).abs()
    known = new_mask.expand_as(gap)
    assert known.any()
    # valid pixels and filled holes separately
    inside = known & ~mask.expand_as(gap)
    return float(gap[known].max()), float(gap[inside].max()), float(expected.abs().max())


NAOTO = {"conv": "{side}_{number}.conv.input_conv", "norm": "{side}_{number}.bn"}
NAOTO["ones"] = "{side}_{number}.conv.mask_conv.weight"
BOB = {"conv": "{side}_{number}.input_conv", "norm": "{side}_{number}.batch_normalization"}
BOB |= {"ones": "{side}_{number}.mask_conv.weight", "enc": "encoder", "dec": "decoder"}
MMAGIC = {"conv": "{side}{number}.conv", "norm": "{side}{number}.bn", "ones": "{side}{number}.conv.weight_mask_updater"}
MMAGIC |= {"enc": "encoder.enc", "dec": "decoder.dec"}
TANI = {"conv": "{side}_{number}.conv"}
PLAIN = {"conv": "{side}{number}.0", "norm": "{side}{number}.1", "enc": "net.down", "dec": "net.up"}


def full(weight):
    return float(weight[0].numel())


def saved(tmp_path, content):
    path = tmp_path / "net.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("levels", [2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_naoto0804(tmp_path, levels, seed):
    torch.manual_seed(seed)
    network = foreign.random_network(foreign.without_sum, levels, scale=full)
    state = foreign.checkpoint(network, **NAOTO)
    done = convert(saved(tmp_path, {"n_iter": 5, "model": state, "optimizer": {"state": {0: {"step": 3}}}}))
    assert done.source == "naoto0804"
    gap, inside, size = difference(network, done, seed)
    assert max(gap, inside) < CLOSE * size
    # the paper's arithmetic with the weights as they are is off by far more
    paper = difference(replace(network, layer=foreign.nvidia), done, seed)
    assert paper[0] > 1e-3


def test_bobqywei_has_other_windows(tmp_path):
    network = foreign.random_network(foreign.without_sum, 5, windows=(7, 5, 3, 3, 3), scale=full)
    done = convert(saved(tmp_path, {"model": foreign.checkpoint(network, **BOB), "optimizer": {}}))
    assert done.source == "bobqywei" and done.config["windows"] == (7, 5, 3, 3, 3)
    gap, inside, size = difference(network, done)
    assert max(gap, inside) < CLOSE * size


def test_mmagic_with_its_channels_and_first_bias(tmp_path):
    network = foreign.random_network(foreign.nvidia, 4, biases="ends")
    state = {f"generator.{key}": value for key, value in foreign.checkpoint(network, **MMAGIC).items()}
    state["loss_percep.vgg.features.0.weight"] = torch.ones(2, 3, 3, 3)
    done = convert(saved(tmp_path, {"meta": {"epoch": 1}, "state_dict": state}))
    assert done.source == "mmagic" and done.config["mean"] == (0.5, 0.5, 0.5) and done.config["first_bias"]
    gap, inside, size = difference(network, done, bgr=True)
    assert max(gap, inside) < CLOSE * size
    assert difference(network, done)[0] > 1e-2  # RGB as it comes is another network
    assert any("1 tensors of other networks" in note for note in done.notes)


def test_nvidias_layer_in_a_network_of_ones_own_names(tmp_path):
    network = foreign.random_network(foreign.nvidia, 5, biases="all")
    done = convert(saved(tmp_path, foreign.checkpoint(network, **PLAIN)))
    assert done.source == "nvidia"
    gap, inside, size = difference(network, done)
    assert max(gap, inside) < CLOSE * size


def test_the_plain_readers_decoder_may_lie_either_way_round(tmp_path):
    network = foreign.random_network(foreign.nvidia, 5, biases="ends")
    state = foreign.checkpoint(network, **PLAIN)
    # down1, down2 ..., up1, up2 ...; a stable sort leaves a module's own order alone
    ascending = {key: state[key] for key in sorted(state, key=lambda key: key.split(".")[1])}
    assert list(ascending) != list(state)
    gap, _, size = difference(network, convert(saved(tmp_path, ascending)))
    assert gap < CLOSE * size


def test_tanimutomo_is_exact_but_for_the_last_bias(tmp_path):
    network = foreign.random_network(foreign.ratio_twice, 4, norms=False)
    network.up[-1].bias.zero_()
    done = convert(saved(tmp_path, {"n_iter": 1, "model": foreign.checkpoint(network, **TANI)}))
    assert done.source == "tanimutomo" and done.config["mean"] == (0.0, 0.0, 0.0)
    # without its last layer's bias: our identity norm instead of none
    x, mask = picture(4, 0)
    mask[:] = True
    last = network.up[-1]
    twice, _ = replace(network, up=[*network.up[:-1], replace(last, bias=None)])(x, mask)
    with torch.no_grad():
        once, _ = ours(done)(x, mask)
    assert float((twice - once).abs().max()) < CLOSE * float(twice.abs().max())


def test_tanimutomo_differs_where_it_says_so(tmp_path):
    """With a bias: equal where the last window is whole, different along the border and around holes."""
    network = foreign.random_network(foreign.ratio_twice, 4, norms=False)
    done = convert(saved(tmp_path, {"model": foreign.checkpoint(network, **TANI)}))
    assert any(note.startswith("NOT EXACT") for note in done.notes)
    x, mask = picture(4, 0)
    mask[:] = True
    mask[..., 10:14, 20:24] = False
    expected, _ = network(x, mask)
    with torch.no_grad():
        output, _ = ours(done)(x, mask)
    gap = (output - expected).abs().amax((0, 1))
    whole = torch.nn.functional.conv2d(mask[:1].double(), torch.ones(1, 1, 3, 3).double(), padding=1)[0, 0] == 9
    assert float(gap[whole].max()) < CLOSE * float(expected.abs().max())
    assert float(gap[~whole].min()) > 1e-6


def test_tanimutomos_unused_levels(tmp_path):
    network = foreign.random_network(foreign.ratio_twice, 8, norms=False, width=1)
    path = saved(tmp_path, {"model": foreign.checkpoint(network, **TANI)})
    assert convert(path).config["levels"] == 7
    done = convert(path, levels=6)
    assert len([key for key in done.state if key.startswith("encoder") and key.endswith("conv.weight")]) == 6
    assert torch.equal(done.state["decoder.0.conv.weight"], network.up[2].weight)


@pytest.mark.parametrize("whole_model", [False, True])
def test_keras(tmp_path, whole_model):
    def channels(weight):
        return float(weight.shape[1])

    network = foreign.random_network(
        foreign.keras, 4, biases="all", skip_first=True, eps=1e-3, head=True, scale=channels
    )
    path = tmp_path / "weights.07-0.5.h5"
    foreign.write_keras(network, path, first_number=17, whole_model=whole_model)
    done = convert(path)
    assert done.source == "keras" and done.config["head"] == "sigmoid" and done.config["first_bias"]
    gap, inside, size = difference(network, done)
    assert max(gap, inside) < CLOSE * size
    # where no valid pixel reaches, its bias stays and ours is 0: said, and not expressed
    x, mask = torch.zeros(1, 3, 256, 256).double(), torch.zeros(1, 1, 256, 256, dtype=torch.bool)
    mask[..., :8, :8] = True
    expected, reached = network(x, mask)
    with torch.no_grad():
        output, new_mask = ours(done)(x, mask)
    hole = ~new_mask.expand_as(output)
    assert torch.equal(new_mask, reached) and hole.any()
    assert (output[hole] == 0).all() and (expected[hole] > 0).all()


def _factor(network):
    network.divisor = lambda weight: weight[0, 0].numel()


def _eps(network):
    network.eps = 1e-5


def _bias(network):
    network.encoder[1].bias = None


def _order(network):
    network.decoder[0].weight = network.decoder[0].weight.roll(1, 1)


@pytest.mark.parametrize("mistake", [_factor, _eps, _bias, _order])
def test_the_comparison_catches_a_planted_mistake(tmp_path, monkeypatch, mistake):
    """Planted in the folding of PConv-Keras, which uses every part of it."""
    network = foreign.random_network(foreign.keras, 3, biases="all", skip_first=True, eps=1e-3, head=True)
    path = tmp_path / "w.h5"
    foreign.write_keras(network, path)
    fold = folding.fold

    def wrong(read):
        mistake(read)
        return fold(read)

    monkeypatch.setattr("pconv_cuda.convert.api.fold", wrong)
    gap, _, size = difference(network, convert(path))
    assert gap > 1e-6 * size
