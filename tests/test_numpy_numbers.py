"""Integers and reals of numpy's types, which the arithmetic of shapes and tables gives, wherever a number is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pconv_cuda
from pconv_cuda import PConvUNet, documents, functional, masks
from pconv_cuda.models import FillRefiner, load_network
from pconv_cuda.nn import PartialConv2d, PartialConvTranspose3d

I = np.int64  # noqa: E741


def test_the_operation() -> None:
    image, mask, weight = torch.rand(1, 4, 9, 8), torch.rand(1, 1, 9, 8) > 0.3, torch.rand(8, 2, 3, 3)
    expected, _ = functional.partial_conv2d(image, mask, weight, stride=2, padding=1, groups=2)
    for stride, groups in ((I(2), I(2)), ((2,), np.int32(2)), ([2, 2], np.uint8(2)), ((np.int32(2), 2), I(2))):
        found, _ = functional.partial_conv2d(image, mask, weight, stride=stride, padding=(I(1),), groups=groups)
        assert torch.equal(found, expected)
    line = image[0, :, 0]
    found, _ = functional.partial_conv1d(line, None, weight[:, :, 0], padding=I(1), groups=I(2))
    assert torch.equal(found, functional.partial_conv1d(line, None, weight[:, :, 0], padding=1, groups=2)[0])
    for wrong in (2.0, np.float64(2), "2", None, I(0)):
        with pytest.raises(ValueError, match="^groups: expected a positive integer, got "):
            functional.partial_conv2d(image, mask, weight, groups=wrong)
        with pytest.raises(ValueError, match="^groups: expected a positive integer, got "):
            functional.partial_conv_transpose1d(line, None, weight[:4, :, 0], groups=wrong)


def test_layers() -> None:
    layer = PartialConv2d(I(4), I(6), I(3), I(1), I(1), I(1), I(2), padding_mode="reflect")
    assert layer(torch.rand(1, 4, 5, 6), torch.rand(1, 1, 5, 6) > 0.3).shape == (1, 6, 5, 6)
    up = PartialConvTranspose3d(I(4), I(6), I(3), I(2), I(1), I(1), groups=I(2))
    assert up(torch.rand(1, 4, 2, 3, 4), torch.rand(1, 1, 2, 3, 4) > 0.3).shape == (1, 6, 4, 6, 8)


def test_networks_and_their_files(tmp_path) -> None:
    numbers = {"tension": np.float32(0.5), "mean": np.full(3, 0.5), "std": np.full(3, np.float32(0.25))}
    image, mask = torch.rand(1, 3, 16, 17), torch.rand(1, 1, 16, 17) > 0.3
    windows = (I(5), I(3))
    for network in (
        PConvUNet(I(3), I(2), I(4), windows=windows, negative_slope=np.float32(0.25), **numbers),
        FillRefiner(I(3), I(2), I(4), I(1), I(4), **numbers),
    ):
        network.eval().save_pretrained(tmp_path / network.kind)
        loaded = load_network(tmp_path / network.kind)
        assert loaded.config == network.config and type(loaded.width) is type(network.width) is int
        assert all(map(torch.equal, loaded(image, mask), network(image, mask)))
    with pytest.raises(ValueError, match="^width: expected a positive integer, got 4.0"):
        PConvUNet(width=4.0)
    with pytest.raises(ValueError, match="^levels: expected at most 12, got 13"):
        PConvUNet(levels=I(13))


def test_drawing() -> None:
    for size in (I(24), (I(24), np.int32(20))):
        plain = 24 if isinstance(size, np.integer) else (24, 20)
        found, expected = (masks.draw_mask(each, np.random.default_rng(3)) for each in (size, plain))
        assert np.array_equal(found, expected)
        batches = ((I(2), size, I(3)), (2, plain, 3))
        found, expected = (masks.draw_masks_batch(*each) for each in batches)
        assert torch.equal(found, expected)
        found, expected = (masks.augment(found[0, 0].numpy(), seed, each) for seed, each in ((I(3), size), (3, plain)))
        assert np.array_equal(found, expected)
    found, expected = (documents.damage_mask(32, 40, seed) for seed in (I(3), 3))
    assert np.array_equal(found, expected)


def test_pages() -> None:
    pytest.importorskip("PIL")
    found, expected = (documents.render_page(side, 40, seed) for side, seed in ((I(48), I(3)), (48, 3)))
    assert np.array_equal(found, expected)


def test_inpainting_in_tiles() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    hole = np.zeros((40, 40), dtype=bool)
    hole[5:10, 5:10] = True
    found, expected = (pconv_cuda.inpaint("photo", image, hole, tile=tile) for tile in (I(64), 64))
    assert np.array_equal(found, expected)
    with pytest.raises(pconv_cuda.PConvError, match="^tile: expected a positive integer or None, got 64.0"):
        pconv_cuda.inpaint("photo", image, hole, tile=64.0)
