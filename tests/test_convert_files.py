"""Checkpoint files: what is written, what is refused, and that nothing in them runs."""

from __future__ import annotations

import json

import foreign_networks as foreign
import pytest
import torch
from safetensors.torch import save_file
from test_convert_networks import BOB, NAOTO, PLAIN, TANI

from pconv_cuda import PConvUNet
from pconv_cuda.cli import main
from pconv_cuda.convert import FORMATS, convert
from pconv_cuda.errors import PConvError


@pytest.fixture
def state():
    return foreign.checkpoint(foreign.random_network(foreign.without_sum, 3), **NAOTO)


def saved(tmp_path, content, name="net.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def test_the_verb_writes_what_from_pretrained_takes(tmp_path, state, capsys):
    path = saved(tmp_path, {"model": {f"module.{key}": value.float() for key, value in state.items()}})
    assert main(["convert", str(path), "-o", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "naoto0804" in text and "divide by sum(M)" in text
    model = PConvUNet.from_pretrained(tmp_path / "out")
    assert model.levels == 3 and model.width == 2
    assert json.loads((tmp_path / "out/conversion.json").read_text())["format"] == "naoto0804"
    done = convert(path)
    assert torch.equal(model.state_dict()["decoder.2.conv.bias"], done.state["decoder.2.conv.bias"].float())


@pytest.mark.parametrize("wrapped", ["_orig_mod.", "module._orig_mod.", "model.", "net.module.", "generator.model."])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_what_a_network_was_wrapped_in_is_taken_off(tmp_path, state, wrapped, name):
    """torch.compile, DataParallel, and the attribute of a Lightning module."""
    content = {wrapped + key: value.contiguous() for key, value in state.items()}
    path = tmp_path / name
    save_file(content, path) if name.endswith("safetensors") else torch.save({"state_dict": content}, path)
    found, bare = convert(path), convert(saved(tmp_path, state, "bare.pth"))
    assert found.source == bare.source and found.state.keys() == bare.state.keys()
    assert all(torch.equal(found.state[key], bare.state[key]) for key in bare.state)


@pytest.mark.parametrize("there", ["model.safetensors", "config.json", "best.safetensors", "checkpoints/step-3.pt"])
@pytest.mark.parametrize("noted", [False, True])
def test_a_training_run_is_not_replaced(tmp_path, state, there, noted, capsys):
    path, out = saved(tmp_path, state), tmp_path / "run"
    (out / there).parent.mkdir(parents=True)
    (out / there).write_text("of a run")
    if noted:  # a conversion that was trained further
        (out / "best.safetensors").write_text("of a run")
        (out / "conversion.json").write_text('{"file": "net.pth"}')
    before = {each: each.read_bytes() for each in out.rglob("*") if each.is_file()}
    assert main(["convert", str(path), "-o", str(out)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "-o: expected a folder without a network" in said and there.split("/")[0] in said
    assert {each: each.read_bytes() for each in out.rglob("*") if each.is_file()} == before


def test_a_conversion_is_replaced_by_one_of_the_same_file_alone(tmp_path, state):
    path, other, out = saved(tmp_path, state), saved(tmp_path, state, "other.pth"), tmp_path / "out"
    convert(path, out)
    convert(path, out)
    with pytest.raises(PConvError, match=r"a conversion of other.pth, got .*, which holds that of 'net.pth'"):
        convert(other, out)
    (out / "conversion.json").write_text("[]")
    with pytest.raises(PConvError, match="which holds that of None"):
        convert(path, out)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.txt").write_text("mine")
    convert(path, tmp_path / "notes")
    assert (tmp_path / "notes/readme.txt").exists()


def test_converted_weights_inpaint(tmp_path, state):
    from PIL import Image

    convert(saved(tmp_path, state), tmp_path / "out")
    Image.effect_noise((40, 33), 40).convert("RGB").save(tmp_path / "a.png")
    mask = Image.new("L", (40, 33))
    mask.paste(255, (8, 8, 20, 20))
    mask.save(tmp_path / "mask.png")
    words = [str(tmp_path / "a.png"), "--mask", str(tmp_path / "mask.png"), "-o", str(tmp_path / "b.png")]
    assert main(["inpaint", *words, "--weights", str(tmp_path / "out")]) == 0
    assert (tmp_path / "b.png").exists()


def test_the_head_runs_fused_too(tmp_path):
    network = foreign.random_network(foreign.keras, 3, biases="all", skip_first=True, head=True)
    foreign.write_keras(network, tmp_path / "w.h5")
    convert(tmp_path / "w.h5", tmp_path / "out")
    model = PConvUNet.from_pretrained(tmp_path / "out")
    x, mask = torch.rand(1, 3, 24, 40), torch.rand(1, 1, 24, 40) > 0.3
    with torch.no_grad():
        apart, new_mask = model(x, mask)
        fused, _ = model.fuse()(x, mask)
    assert torch.allclose(apart, fused, atol=1e-5) and new_mask.any()


def test_safetensors_too(tmp_path, state):
    save_file(state, tmp_path / "net.safetensors")
    assert convert(tmp_path / "net.safetensors").source == "naoto0804"


class Poison:
    def __reduce__(self):
        return print, ("code ran",)


def test_nothing_is_unpickled_but_tensors(tmp_path, state, capsys):
    path = saved(tmp_path, {"model": state, "extra": Poison()})
    with pytest.raises(PConvError, match="nothing but tensors is unpickled"):
        convert(path, tmp_path / "out")
    assert "code ran" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def drop(key):
    def edit(state):
        del state[key]

    return edit


def put(key, tensor):
    def edit(state):
        state[key] = tensor

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("enc_2.conv.input_conv.weight"), "layer enc 2 has no weight"),
        (drop("dec_2.bn.running_var"), "batch norm of layer dec 2"),
        (put("enc_1.conv.mask_conv.weight", torch.full((2, 3, 7, 7), 2.0)), "expected to hold ones"),
        (put("enc_2.conv.input_conv.weight", torch.ones(5, 2, 5, 5)), "enc 2: expected"),
        (put("enc_2.conv.input_conv.weight", torch.ones(4, 2, 4, 4)), "windows: expected 3 odd sizes"),
        (put("enc_3.bn.running_var", torch.full((8,), -1.0)), "negative variance"),
        (put("enc_3.bn.running_mean", torch.full((8,), torch.nan)), "NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, state, edit, message):
    edit(state)
    with pytest.raises(PConvError, match=message):
        convert(saved(tmp_path, state), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.ones(3, 3), "conv1.weight": torch.ones(4, 3, 3, 3)}, "use_partial_padding"),
        ({"conv.weight": torch.ones(4, 3, 3, 3)}, "as many convolutions up as down"),
        ({"a.weight": torch.ones(4, 3, 3, 3), "b.alpha": torch.ones(1)}, "no known network: b.alpha"),
        ({"encoder.0.conv.weight": torch.ones(4, 3, 3, 3)}, "weights of this package"),
        ({"n_iter": 4}, "no state_dict of convolutions .* it holds n_iter"),
        (torch.ones(3), "holds Tensor"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, content, message):
    with pytest.raises(PConvError, match=message):
        convert(saved(tmp_path, content))


def test_missing_or_invalid_files(tmp_path):
    for name in ("a.pth", "a.h5", "a.safetensors"):
        with pytest.raises(PConvError, match="is no file"):
            convert(tmp_path / name)
        (tmp_path / name).write_bytes(b"not a checkpoint at all")
        with pytest.raises(PConvError, match="^file: "):
            convert(tmp_path / name)


def test_a_format_can_be_asked_for(tmp_path, state):
    path = saved(tmp_path, state)
    assert convert(path, format="naoto0804").source == "naoto0804"
    with pytest.raises(PConvError, match="format: bobqywei: no key"):
        convert(path, format="bobqywei")
    with pytest.raises(PConvError, match="expected an .h5 file"):
        convert(path, format="keras")
    with pytest.raises(PConvError, match="leave it out"):
        convert(path, levels=2)
    with pytest.raises(PConvError, match="format: expected auto"):
        convert(path, format="other")


def test_the_verbs_formats_are_the_packages(capsys):
    from pconv_cuda.cli.convert import _FORMATS

    assert _FORMATS == FORMATS


@pytest.mark.parametrize(("names", "source"), [(NAOTO, "naoto0804"), (BOB, "bobqywei"), (PLAIN, "nvidia")])
def test_formats_are_told_apart(tmp_path, names, source):
    network = foreign.random_network(foreign.nvidia, 3)
    assert convert(saved(tmp_path, foreign.checkpoint(network, **names))).source == source


def test_a_norm_tells_tanimutomos_keys_from_anothers(tmp_path):
    network = foreign.random_network(foreign.nvidia, 3)
    state = foreign.checkpoint(network, **TANI, norm="{side}_{number}.bn")
    assert convert(saved(tmp_path, state)).source == "nvidia"


def test_reach_of_other_windows():
    usual = PConvUNet(levels=3, width=1)
    assert "windows" not in usual.config and "head" not in usual.config
    same = PConvUNet(levels=3, width=1, windows=(7, 5, 5))
    assert same.config == usual.config and same.reach == usual.reach
    small = PConvUNet(levels=3, width=1, windows=(3, 3, 3))
    assert small.reach < usual.reach
    for model in (small, usual):  # at every offset: this side closes, one more does not
        for side, closes in ((model.reach, True), (model.reach + 1, False)):
            filled = []
            for offset in range(8):
                mask = torch.ones(1, 1, side + 80, side + 80, dtype=torch.bool)
                mask[..., 32 + offset : 32 + offset + side, 32 + offset : 32 + offset + side] = False
                with torch.no_grad():
                    filled.append(bool(model(torch.zeros(1, 3, side + 80, side + 80), mask)[1].all()))
            assert all(filled) is closes
