"""Samples that are not 8 bits wide, masks of 0 and 1, masks without a hole, pictures that are huge."""

from __future__ import annotations

import json
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pconv_cuda.cli import main
from pconv_cuda.data.images import FolderImages, RandomCrops, load_rgb
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation.pairs import ALL_CELLS, open_masks
from pconv_cuda.masks import FolderMasks
from pconv_cuda.masks.stats import mask_stats

# ---- samples


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32", "float32"])
def test_samples_whose_white_is_unknown_are_refused_with_the_reason(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 8), 1, dtype), photometric="minisblack")
    with pytest.raises(ValueError, match="expected 8 or 16 bits a sample, without sign, got (float|signed or)"):
        load_rgb(tmp_path / "a.tif")
    images = FolderImages(tmp_path)
    with pytest.warns(UserWarning, match="skipped .*a.tif, which cannot be read: expected 8 or 16 bits"):
        assert images.load(0) is None
    with pytest.raises(PConvError, match="none of the 1 pictures can be read"):
        RandomCrops(images, 8, 1, 0)[0, 0]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("order", "<>")
def test_of_16_bit_grey_the_high_byte_is_taken(tmp_path, name, order):
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, values, byteorder=order)
    else:
        Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(load_rgb(tmp_path / name)[..., 2], [[0, 0, 1], [128, 255, 255]])


# ---- masks of 0 and 1


def save_masks(folder: Path, white: int, count: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    hole = np.zeros((32, 32), np.uint8)
    hole[8:20, 8:20] = white
    for number in range(count):
        Image.fromarray(hole).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("polarity", ["white-hole", "black-hole"])
def test_masks_of_0_and_1_in_training(tmp_path, polarity):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "data.masks: the masks in .* hole when read")  # black-hole: 86 % are hole
        want = FolderMasks(save_masks(tmp_path / "255", 255), polarity).draw(32, np.random.default_rng(0))
        with pytest.warns(UserWarning, match=r"data.masks: the brightest value of .*0.png is 1") as caught:
            masks = FolderMasks(save_masks(tmp_path / "1", 1), polarity)
            drawn = [masks.draw(32, np.random.default_rng(seed)) for seed in range(5)]
    assert sum("brightest" in str(one.message) for one in caught) == 1
    assert all(np.array_equal(one, want) for one in drawn)


def test_masks_of_0_and_1_in_an_evaluation(tmp_path):
    save_masks(tmp_path / "m", 1)
    cell = next(one for one in ALL_CELLS if one.key == "0.1-0.2/inside")
    with pytest.warns(UserWarning, match="masks: masks whose brightest value is 1 are read as 0 and 255"):
        masks = open_masks(str(tmp_path / "m"), 32, 0, "white-hole", [cell])
    assert (~masks.load(cell, 0)).sum() == 144 and masks.counts == {cell: 2}


def test_masks_of_0_and_1_in_the_statistics(tmp_path, capsys):
    stats = mask_stats(save_masks(tmp_path / "m", 1))
    assert stats.zero_one_files == 2 and stats.mean_hole_share == pytest.approx(144 / 1024) and stats.grey_files == 0
    assert main(["masks", "stats", str(tmp_path / "m")]) == 0
    assert "values 0 and 1, read as 0 and 255: 2 files" in capsys.readouterr().out


# ---- no hole at all


@pytest.mark.parametrize("folder", ["m", "m/0.1-0.2/inside"])
def test_a_set_without_any_hole_is_an_error(tmp_path, folder):
    """Of a layout that is taken at its word too."""
    save_masks(tmp_path / folder, 0, count=40)
    words = r": expected masks with holes, but not one of the 40 files in .* has a pixel that is hole"
    with pytest.raises(PConvError, match="data.masks" + words):
        FolderMasks(tmp_path / "m")
    with pytest.raises(PConvError, match="^masks" + words):
        open_masks(str(tmp_path / "m"), 32, 0, "white-hole", list(ALL_CELLS))
    hole = np.zeros((32, 32), np.uint8)
    hole[8:20, 8:20] = 255
    Image.fromarray(hole).save(tmp_path / folder / "7.png")  # one is enough, and is found wherever it is
    FolderMasks(tmp_path / "m")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "masks:")
        assert any(open_masks(str(tmp_path / "m"), 32, 0, "white-hole", list(ALL_CELLS)).counts.values())


# ---- decompression bombs


def huge_png(path: Path, side: int = 30_000) -> None:
    """1-bit, all black: some kilobytes that stand for ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    data = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    content = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def peak_memory(anew: bool = False) -> int:
    """The most memory that this process had at once, since it began or was asked to count anew, in MiB."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


def test_a_bomb_is_named_and_the_rest_is_done_in_little_memory(tmp_path, capsys):
    for name in ("images", "masks"):
        save_masks(tmp_path / name, 255)
        huge_png(tmp_path / name / "bomb.png")
    assert (tmp_path / "images/bomb.png").stat().st_size < 300_000
    words = ["eval", "--images", tmp_path / "images", "--masks", tmp_path / "masks", "--out", tmp_path / "r"]
    words += ["--size", "32", "--baselines", "mean", "--resamples", "2", "--shares", "0.1-0.2"]
    before = peak_memory(anew=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert main([*map(str, words)]) == 1
    assert peak_memory() - before < 300  # one bomb as RGB is 2700
    assert "Traceback" not in capsys.readouterr().err
    assert not [one for one in said if "DecompressionBomb" in f"{one.category} {one.message}"]
    table = json.loads((tmp_path / "r/results.json").read_text())
    assert table["measured"] == 2 and table["wanted"] == 3
    assert any("bomb.png cannot be read" in one for one in table["left_out"].values())
    assert any("mask left out: " in one and "bomb.png" in one for one in table["notes"])
    with pytest.warns(UserWarning, match="skipped .*bomb.png"):
        images = FolderImages(tmp_path / "images")
        assert [images.load(index) is None for index in range(3)] == [False, False, True]


def test_below_the_limit_pillows_alarm_is_not_passed_on(tmp_path, monkeypatch):
    save_masks(tmp_path / "m", 255, count=1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 1024 pixels: above the alarm, below twice as many
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_rgb(tmp_path / "m/0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # whatever another part of a program sets
    monkeypatch.setattr("pconv_cuda.data.images._MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match="expected at most 1000 pixels, got 32 x 32"):
        load_rgb(tmp_path / "m/0.png")
