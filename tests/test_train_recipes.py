"""Recipes, and what they may ask of a training: schedule, weight average, clipping, a loss in the hole first."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_support import TINY_RUN

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.functional import smooth_fill
from pconv_cuda.losses.vgg import VGG16Features
from pconv_cuda.models import FillRefiner, PConvUNet, load_network
from pconv_cuda.training import build_network, load_config, train
from pconv_cuda.training.checkpoints import Checkpoints
from pconv_cuda.training.networks import WeightAverage, build_optimizer
from pconv_cuda.training.objective import Objective
from pconv_cuda.training.sources import open_data

SMALL = {**TINY_RUN, "data.size": 24, "train.steps": 6, "train.warmup": 2, "loss.hole_steps": 4, "checkpoint.every": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(3):
        waves = rng.normal(size=(4, 4, 3)).repeat(10, 0).repeat(10, 1)
        Image.fromarray((127 + 40 * waves).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def small(pictures: Path, **changes: Any):
    return load_config(
        overrides={**SMALL, "data.images": str(pictures), **{key.replace("__", "."): v for key, v in changes.items()}},
        recipe="small",
    )


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_recipe_is_beaten_by_file_settings_and_options(tmp_path, capsys) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train: {lr: 5e-4, steps: 70}\n")
    config = load_config(file, ["train.steps=80"], {"train.seed": 3}, recipe="small")
    assert (config.train.lr, config.train.steps, config.train.seed) == (5e-4, 80, 3)
    assert (config.model.network, config.model.prefill, config.train.schedule) == ("refiner", "smooth", "cosine")
    assert load_config(recipe="paper") == load_config()
    assert main(["train", "--recipe", "small", "--print-config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "printed.yaml") == load_config(recipe="small")
    with pytest.raises(PConvError, match="recipe: expected one of paper, small, grid, got 'big'"):
        load_config(recipe="big")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.network=gan", "model.network: expected one of unet, refiner, got 'gan'"),
        ("model.prefill=telea", "model.prefill: expected one of smooth, got 'telea'"),
        ("model.prefill=null", "model.prefill: expected smooth, to which a refiner adds, got null"),
        ("train.schedule=linear", "train.schedule: expected one of constant, cosine"),
        ("train.average=1", "train.average: expected at most 0.999999, got 1"),
        ("train.average=-0.1", "train.average: expected at least 0"),
        ("train.clip=0", "train.clip: expected a number above 0"),
        ("train.warmup=-1", "train.warmup: expected at least 0"),
        ("loss.hole_steps=1.5", "loss.hole_steps: expected a whole number"),
        ("loss.relative=1", "loss.relative: expected true or false"),
    ],
)
def test_wrong_values_are_named(setting: str, message: str) -> None:
    with pytest.raises(PConvError, match=message):
        load_config(settings=[setting], recipe="small")


def test_the_learning_rate_rises_and_falls() -> None:
    config = load_config(overrides={"train.lr": 0.4, "train.warmup": 3, "train.schedule": "cosine", "train.steps": 100})
    rise = [config.lr_at(step) for step in range(4)]
    assert rise[0] == pytest.approx(0.1, rel=1e-3) and rise[1] == pytest.approx(0.2, rel=1e-3)
    assert rise[3] == pytest.approx(0.4, rel=1e-2)
    assert config.lr_at(50) == pytest.approx(0.2)
    assert config.lr_at(25) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))
    assert config.lr_at(99) < 2e-4 and config.lr_at(100) == 0
    constant = load_config(overrides={"train.lr": 0.4, "train.warmup": 1})
    assert [constant.lr_at(step) for step in (0, 1, 1000)] == [0.2, 0.4, 0.4]


def test_the_average_of_the_weights() -> None:
    network = PConvUNet(levels=2, width=2)  # its batch norms count batches
    average = WeightAverage(network, 0.5)
    expected: dict[str, np.ndarray] = {}
    draw = np.random.default_rng(0)
    for count in range(12):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.copy_(torch.from_numpy(np.array(draw.integers(0, 9, tensor.shape))))
        average.update(network)
        decay = min(0.5, (1 + count) / (10 + count))
        for name, tensor in network.state_dict().items():
            value = tensor.double().numpy().copy()
            whole = not tensor.is_floating_point()
            expected[name] = value if whole or count == 0 else decay * expected[name] + (1 - decay) * value
    for name, tensor in average.network.state_dict().items():
        np.testing.assert_allclose(tensor.double().numpy(), expected[name], rtol=1e-5, atol=1e-5)


def test_networks_and_optimisers_by_name() -> None:
    refiner = build_network(load_config(overrides={"model.levels": 2, "model.width": 5}, recipe="small"))
    assert isinstance(refiner, FillRefiner) and (refiner.levels, refiner.width, refiner.prefill) == (2, 5, "smooth")
    unet = build_network(load_config(overrides={"model.levels": 2, "model.width": 2, "model.prefill": "smooth"}))
    assert isinstance(unet, PConvUNet) and unet.prefill == "smooth"
    cpu = torch.device("cpu")
    decayed = build_optimizer(load_config(overrides={"train.weight_decay": 0.1}), refiner, cpu)
    assert isinstance(decayed, torch.optim.AdamW) and decayed.defaults["weight_decay"] == 0.1
    assert type(build_optimizer(load_config(), refiner, cpu)) is torch.optim.Adam


def test_a_small_run(pictures: Path, tmp_path) -> None:
    """The hole's loss alone, then all; what is written is the average; a resumed run is the same run."""
    # the other terms weigh more than that in the hole
    config = small(pictures, loss__preset="bobqywei", loss__relative=False)
    train(config, tmp_path / "run")
    log = log_of(tmp_path / "run")
    assert ["loss/valid" in line for line in log] == [False] * 4 + [True] * 2
    assert all("loss/hole" in line for line in log)
    written = load_file(tmp_path / "run" / "model.safetensors")
    last = Checkpoints(tmp_path / "run", 3).newest()[1]
    assert all(torch.equal(written[name], tensor) for name, tensor in last["average"].items())
    assert any(not torch.equal(written[name], tensor) for name, tensor in last["model"].items())
    start = build_network(config).state_dict()
    assert all(not torch.equal(written[name], start[name]) for name in start)
    assert isinstance(load_network(tmp_path / "run"), FillRefiner)
    # scores before, of the other loss, do not count: they were better
    totals = [line["loss/total"] for line in log]
    assert last["best_step"] == 6 and last["best_score"] == pytest.approx(sum(totals[4:]) / 2, rel=1e-4)
    assert last["best_score"] > sum(totals[2:4]) / 2
    best = load_file(tmp_path / "run" / "best.safetensors")
    assert all(torch.equal(best[name], tensor) for name, tensor in written.items())

    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for name in ("step-00000006.pt", "best.pt"):
        (tmp_path / "again" / "checkpoints" / name).unlink()
    assert train(config, tmp_path / "again").first_step == 4
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in written.items())

    with pytest.raises(PConvError, match="train.steps: 6 in the checkpoint, 9 now"):  # its schedule is another
        train(small(pictures, train__steps=9), tmp_path / "run")


def test_the_first_loss_is_that_in_the_hole(pictures: Path, tmp_path) -> None:
    """Of an untrained refiner, worked out from the smooth fill."""
    config = small(pictures, train__steps=1, loss__relative=False)
    train(config, tmp_path / "run")
    pairs = open_data(config).training
    samples = [pairs[0, number] for number in range(config.train.batch_size)]
    truth, mask = (torch.stack(each) for each in zip(*samples, strict=True))
    std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    difference = (smooth_fill(truth, mask) - truth).abs() / std * ~mask
    assert log_of(tmp_path / "run")[0]["loss/hole"] == pytest.approx(6 * float(difference.mean()), rel=2e-3)


def test_the_relative_loss_picture_by_picture() -> None:
    draw = torch.Generator().manual_seed(0)
    output, target, fill = (torch.randn(4, 3, 9, 7, generator=draw) * scale for scale in (1.0, 0.5, 0.8))
    mask = torch.rand(4, 1, 9, 7, generator=draw) > 0.4
    fill[3] = target[3]  # a perfect fill
    expected = []
    for number in range(4):
        hole = ~mask[number].expand(3, -1, -1).numpy()
        ours, fills = (np.abs(each[number].numpy() - target[number].numpy())[hole] for each in (output, fill))
        expected.append(ours.mean() / (fills.mean() + 0.01))

    def terms(hole_steps: int | None, step: int | None) -> dict[str, torch.Tensor]:
        config = load_config(overrides={"loss.vgg": "none", "loss.hole_steps": hole_steps}, recipe="small")
        return Objective(config, torch.device("cpu")).terms(target, mask, output, target, fill, step)

    for hole_steps, step in ((None, 0), (None, None), (9, 8), (1, 0)):
        first = terms(hole_steps, step)
        assert set(first) == {"hole"} and float(first["hole"]) == pytest.approx(np.mean(expected), rel=1e-5)
    for hole_steps, step in ((9, 9), (9, None), (0, 0)):
        assert len(terms(hole_steps, step)) > 1


def test_the_distance_of_features_joins_in_after_the_first_steps() -> None:
    draw = torch.Generator().manual_seed(0)
    output, target, fill = (torch.randn(3, 3, 17, 12, generator=draw) * scale for scale in (1.0, 0.5, 0.8))
    mask = torch.rand(3, 1, 17, 12, generator=draw) > 0.4
    settings = {"loss.vgg": "random", "loss.hole_steps": 2, "loss.features": 3.0}
    objective = Objective(load_config(overrides=settings, recipe="small"), torch.device("cpu"))
    network, expected = VGG16Features("random"), []
    for number in range(3):
        one, composite = slice(number, number + 1), torch.where(mask, target, output)
        true, ours, fills = (network(each[one]) for each in (target, composite, fill))
        distances = [
            sum(float((a - b).abs().mean() / b.abs().mean()) for a, b in zip(found, true, strict=True))
            for found in (ours, fills)
        ]
        expected.append(distances[0] / (distances[1] + 0.01))
    output.requires_grad_()
    for step in (2, None):
        terms = objective.terms(target, mask, output, target, fill, step)
        assert set(terms) == {"hole", "features"}
        assert float(terms["features"].detach()) == pytest.approx(3 * np.mean(expected), rel=1e-5)
    (gradient,) = torch.autograd.grad(terms["features"], output)
    assert (gradient != 0).any() and (gradient[mask.expand_as(gradient)] == 0).all()
    assert set(objective.terms(target, mask, output, target, fill, 1)) == {"hole"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "loss.hole_steps: with loss.features expected a number of steps, after which it joins in; got None"),
        ({"loss.relative": False}, "loss.relative: with loss.features expected true: both of .* got False"),
        ({"loss.hole_steps": 1, "loss.vgg": "none"}, "loss.vgg: with loss.features expected weights, .* got 'none'"),
        ({"loss.features": -1}, "loss.features: expected at least 0, got -1"),
    ],
)
def test_features_need_what_they_are_relative_to(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PConvError, match=message):
        load_config(overrides={"loss.features": 1, **changes}, recipe="small")


def test_a_training_begins_from_given_weights(pictures: Path, tmp_path) -> None:
    first = train(small(pictures), tmp_path / "first").run
    network = build_network(small(pictures, model__weights=str(first)))
    for name, value in load_file(first / "model.safetensors").items():
        assert torch.equal(network.state_dict()[name], value), name
    train(small(pictures, model__weights=str(first), train__lr=1e-12), tmp_path / "second")
    kept, again = (load_file(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    fresh = build_network(small(pictures)).state_dict()
    for name, value in kept.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=1e-6)
    assert any(not torch.equal(fresh[name], value) for name, value in kept.items())


def test_weights_to_begin_from_that_do_not_fit(pictures: Path, tmp_path) -> None:
    run = train(small(pictures, train__steps=1), tmp_path / "run").run
    for changes, message in (
        ({"model__weights": str(run), "model__width": 5}, f"expected a network with width 5, .* but {run} has 2"),
        ({"model__weights": "photo", "model__network": "unet"}, "expected a network with .*, but photo has"),
        ({"model__weights": "smooth"}, "expected a network, but smooth has no weights"),
        ({"model__weights": "missing"}, "model.weights: expected one of the names smooth, photo, document"),
    ):
        with pytest.raises(PConvError, match=message):
            build_network(small(pictures, **changes))


def test_the_hole_alone_needs_no_weights_of_vgg(tmp_path) -> None:
    config = load_config(overrides={"loss.vgg": str(tmp_path / "missing.pth")}, recipe="small")
    Objective(config, torch.device("cpu"))
    with pytest.raises(PConvError, match="missing.pth"):
        Objective(load_config(overrides={"loss.vgg": str(tmp_path / "missing.pth")}), torch.device("cpu"))


def test_a_relative_loss_needs_a_prefill() -> None:
    with pytest.raises(PConvError, match="loss.relative: expected false without model.prefill"):
        load_config(settings=["loss.relative=true"])


def test_clipping_and_scores_by_pictures_set_aside(pictures: Path, tmp_path) -> None:
    train(small(pictures, train__clip=1e-12, train__weight_decay=0.0, data__validation=str(pictures)), tmp_path / "run")
    config = small(pictures)
    start, end = build_network(config).state_dict(), load_file(tmp_path / "run" / "model.safetensors")
    # Adam divides by the gradient's size, but for what it adds against a division by 0
    assert max(float((end[name] - tensor).abs().max()) for name, tensor in start.items()) < 1e-6
    scores = [line["validation/total"] for line in log_of(tmp_path / "run") if "validation/total" in line]
    assert len(scores) == 3 and scores[0] == pytest.approx(scores[2], rel=1e-3)  # every term each time
    assert scores[0] > log_of(tmp_path / "run")[0]["loss/hole"] / 10
