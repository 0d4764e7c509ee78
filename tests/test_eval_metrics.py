"""Metrics against float64 formulas and scikit-image; baselines; LPIPS and FID without downloads."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.linalg
import skimage.metrics
import torch
import torchvision

from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation import learned, metrics
from pconv_cuda.evaluation.methods import BASELINES, baselines


def noisy(size, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    valid = rng.random(size) > 0.3
    valid[0, 0] = False
    change = rng.integers(-60, 61, truth.shape)
    restored = np.where(valid[..., None], truth, np.clip(truth + change, 0, 255)).astype(np.uint8)
    return restored, truth, valid


def gaps(restored, truth, valid):
    """The largest distance of our values from formulas in float64 and from scikit-image."""
    ours = metrics.measure(restored, truth, valid)
    one, other = restored.astype(np.float64), truth.astype(np.float64)
    hole = ~valid
    expected = {
        "l1": 100 * np.abs(one - other).mean() / 255,
        "psnr": 10 * np.log10(255**2 / ((one - other) ** 2).mean()),
        "hole_l1": 100 * np.abs(one[hole] - other[hole]).mean() / 255,
        "hole_psnr": 10 * np.log10(255**2 / ((one[hole] - other[hole]) ** 2).mean()),
        "ssim": skimage.metrics.structural_similarity(
            one, other, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        ),
    }
    assert set(ours) == set(expected)
    return {name: abs(ours[name] - value) for name, value in expected.items()}


@pytest.mark.parametrize("size", [(11, 11), (24, 37), (64, 64)])
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics(size, seed):
    found = gaps(*noisy(size, seed))
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize(("name", "value"), [("DATA_RANGE", 1.0), ("_SSIM_SIGMA", 1.0), ("SSIM_WINDOW", 7)])
def test_the_check_catches(monkeypatch, name, value):
    monkeypatch.setattr(metrics, name, value)
    assert max(gaps(*noisy((24, 37), 0)).values()) > 1e-4


def test_equal_pictures():
    _, truth, valid = noisy((16, 16), 0)
    values = metrics.measure(truth, truth, valid)
    assert values == {"l1": 0, "psnr": 120, "ssim": pytest.approx(1), "hole_l1": 0, "hole_psnr": 120}


@pytest.mark.parametrize("method", baselines(tuple(BASELINES)), ids=lambda method: method.name)
def test_baselines_see_nothing_of_the_hole_and_leave_the_rest(method):
    _, truth, _ = noisy((24, 20), 0)
    valid = np.ones((24, 20), bool)
    valid[5:12, 4:9] = False
    painted = truth.copy()
    painted[~valid] = 7
    one, other = method.restore(truth, valid), method.restore(painted, valid)
    assert np.array_equal(one[~valid], other[~valid]) and one.dtype == np.uint8
    assert np.array_equal(one[valid], truth[valid])
    with pytest.raises(PConvError, match="covers the whole picture"):
        method.restore(truth, np.zeros_like(valid))


def test_baselines_by_hand():
    _, truth, _ = noisy((24, 20), 0)
    valid = np.ones((24, 20), bool)
    valid[5:12, 4:9] = False
    mean, telea = baselines(("mean", "telea"))
    assert np.array_equal(mean.restore(truth, valid)[6, 5], truth[valid].mean(0).round())
    holed = truth * valid[..., None]
    expected = cv2.inpaint(holed, np.uint8(~valid), 3, cv2.INPAINT_TELEA)
    assert np.array_equal(telea.restore(truth, valid)[~valid], expected[~valid])


def test_frechet_distance_by_its_formula():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (40, 5)), rng.normal(0.5, 1.5, (40, 5))
    covariances = [np.cov(side, rowvar=False) for side in (one, other)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert learned.frechet_distance(list(one), list(other)) == pytest.approx(expected, rel=1e-6)
    assert learned.frechet_distance(list(one), list(one)) == pytest.approx(0, abs=1e-6)


def test_without_weights_the_columns_say_why(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for find, word in (
        (learned.find_perceptual, "lpips"),
        (learned.find_inception, "fid"),
        (learned.find_features, "vgg"),
    ):
        metric, about = find("auto")
        assert metric is None and word in about
        assert find("none")[0] is None
        with pytest.raises(PConvError, match=word):
            find(str(tmp_path / "none.pth"))


@pytest.mark.parametrize("from_cache", [True, False])
def test_lpips_of_a_backbone_in_a_file(tmp_path, monkeypatch, from_cache):
    torch.manual_seed(0)
    net = torchvision.models.alexnet(weights=None)
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints/alexnet-owt-7be5be79.pth"
    torch.save(net.state_dict(), path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    metric, about = learned.find_perceptual("auto" if from_cache else str(path))
    assert "AlexNet" in about
    restored, truth, _ = noisy((64, 64), 0)
    assert metric(truth, truth) == 0 and metric(restored, truth) > 0
    # the formula: normalised features' squared differences, weighted, averaged over places, summed over layers
    shift, scale = metric.network.scaling_layer.shift, metric.network.scaling_layer.scale
    pair = [
        (torch.from_numpy(one).float().permute(2, 0, 1)[None] / 127.5 - 1 - shift) / scale for one in (restored, truth)
    ]
    total = 0.0
    with torch.no_grad():
        sides = []
        for x in pair:
            features = []
            for layer in net.features:
                x = layer(x) if not isinstance(layer, torch.nn.ReLU) else torch.relu(x)
                if isinstance(layer, torch.nn.ReLU):
                    features.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-8))
            sides.append(features)
        for ours, true, lin in zip(*sides, metric.network.lins, strict=True):
            total += float(lin((ours - true) ** 2).mean())
    assert metric(restored, truth) == pytest.approx(total, rel=1e-4)
    with pytest.raises(PConvError, match="AlexNet or VGG16"):
        torch.save({"features.0.weight": torch.ones(1)}, tmp_path / "other.pth")
        learned.find_perceptual(str(tmp_path / "other.pth"))


@pytest.mark.parametrize("from_cache", [True, False])
def test_distance_of_vgg_features_in_a_file(tmp_path, monkeypatch, from_cache):
    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])[:17]
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints/vgg16-397923af.pth"
    torch.save({f"features.{name}": tensor for name, tensor in layers.state_dict().items()}, path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    metric, about = learned.find_features("auto" if from_cache else str(path))
    assert "VGG16" in about and metric.identity
    restored, truth, _ = noisy((40, 32), 0)
    normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pair = [normalize(torch.from_numpy(one).permute(2, 0, 1) / 255)[None] for one in (restored, truth)]
    total = 0.0
    with torch.no_grad():
        for layer in layers:
            pair = [layer(one) for one in pair]
            if isinstance(layer, torch.nn.MaxPool2d):
                total += float(torch.nn.functional.l1_loss(*pair) / pair[1].abs().mean())
    assert metric(restored, truth) == pytest.approx(total, rel=1e-4) and metric(truth, truth) == 0
    with pytest.raises(PConvError, match="vgg: .* lacks features"):
        torch.save({"features.0.weight": torch.ones(64, 3, 3, 3)}, tmp_path / "other.pth")
        learned.find_features(str(tmp_path / "other.pth"))
