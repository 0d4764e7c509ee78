"""Training pictures: what is found, what is skipped, and that draws depend on (seed, step, sample) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from pconv_cuda.data.images import FolderImages, MemoryImages, RandomCrops, load_rgb
from pconv_cuda.data.packaged import packaged_images, split
from pconv_cuda.errors import PConvError
from pconv_cuda.masks import DrawnMasks
from pconv_cuda.training.pairs import Pairs, StepBatches


def random_picture(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """One picture of each suffix, some of them in folders below, and things that are no pictures."""
    suffixes = ("jpg", "JPEG", "png", "webp", "tif", "tiff", "bmp")
    for number, suffix in enumerate(suffixes):
        place = tmp_path / ("." if number % 2 else f"deep/er{number}")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_picture(number)).save(place / f"{number}.{suffix}")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_every_suffix_is_found_at_any_depth(folder):
    images = FolderImages(folder)
    assert sorted(path.stem for path in images.files) == list("0123456")
    assert all(images.load(index).shape == (20, 30, 3) for index in range(7))


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_no_pictures_is_an_error_that_says_what_was_looked_for(tmp_path, what):
    place = tmp_path / "place"
    if what == "empty":
        place.mkdir()
        (place / "a.txt").write_text("x")
    if what == "file":
        place.write_text("x")
    with pytest.raises(PConvError, match=r"data\.images.*place") as caught:
        FolderImages(place)
    assert what != "empty" or ".webp" in str(caught.value)


def test_unreadable_files_are_reported_once_and_replaced_by_the_next(folder):
    (folder / "broken.png").write_bytes(b"no picture at all")
    whole = (folder / "1.JPEG").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    crops = RandomCrops(FolderImages(folder), size=8, batch_size=9, seed=0)
    with pytest.warns(UserWarning) as caught:
        samples = [crops[step, sample] for step in range(3) for sample in range(9)]
    assert all(sample.shape == (3, 8, 8) for sample in samples)
    messages = sorted(str(one.message) for one in caught)
    assert len(messages) == 2  # three epochs, two files, two lines
    assert "broken.png" in messages[0]
    assert "cut.jpg" in messages[1]


def test_a_folder_of_broken_files_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "b.png").write_bytes(b"2")
    with pytest.warns(UserWarning), pytest.raises(PConvError, match="none of the 2 pictures"):
        RandomCrops(FolderImages(tmp_path), 8, 1, 0)[0, 0]


def test_orientation_depth_and_alpha(tmp_path):
    upright = random_picture(5, 6, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_rgb(tmp_path / "turned.png"), upright)

    deep = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(load_rgb(tmp_path / "deep.png")[..., 1], [[0, 0, 1], [128, 255, 255]])

    rgba = np.dstack([upright, np.zeros((6, 4), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    assert np.array_equal(load_rgb(tmp_path / "clear.png"), upright)


def test_a_share_of_the_short_side_is_resized_to_the_crop():
    # A ramp over the width: the crop's range tells how much of the picture it shows.
    ramp = np.repeat(np.linspace(0, 255, 100).astype(np.uint8)[None, :, None], 100, axis=0).repeat(3, axis=2)
    crops = RandomCrops(MemoryImages([ramp], ["a"]), 10, 1, 0, share=(0.5, 0.8))
    spans = [float(crop.max() - crop.min()) for crop in (crops[step, 0] for step in range(60))]
    assert all(0.43 < span < 0.8 for span in spans)  # a tenth less than the share, since ten pixels have nine gaps
    assert min(spans) < 0.52 and max(spans) > 0.68
    whole = RandomCrops(MemoryImages([ramp], ["a"]), 10, 1, 0, share=(1.0, 1.0))[0, 0]
    assert float(whole.max() - whole.min()) > 0.88


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_crops_have_the_asked_size_and_real_content(height, width, size, seed):
    array = random_picture(1, height, width)
    crop = RandomCrops(MemoryImages([array], ["a"]), size, 1, seed)[seed % 7, 0]
    assert crop.shape == (3, size, size)
    assert crop.dtype == torch.float32
    assert 0 <= crop.min() <= crop.max() <= 1
    if min(height, width) >= size:  # a crop, mirrored or not, lies somewhere in the picture to the bit
        exact = (crop * 255).round().byte().permute(1, 2, 0).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(array, (size, size), axis=(0, 1))
        windows = windows.transpose(0, 1, 3, 4, 2)
        found = [(windows == one).all(axis=(2, 3, 4)).any() for one in (exact, exact[:, ::-1])]
        assert any(found)


def test_crops_reach_every_place_and_both_orientations():
    array = np.arange(9, dtype=np.uint8).reshape(3, 3)[..., None].repeat(3, axis=2)
    crops = RandomCrops(MemoryImages([array], ["a"]), 2, 1, 0)
    seen = {tuple((crops[step, 0][0] * 255).round().int().flatten().tolist()) for step in range(200)}
    assert len(seen) == 8  # four places, mirrored or not


def test_each_epoch_shows_every_picture_once():
    arrays = [np.full((2, 2, 3), value, np.uint8) for value in range(7)]
    crops = RandomCrops(MemoryImages(arrays, list("abcdefg")), 2, batch_size=3, seed=4)
    drawn = [round(float(crops[step, sample][0, 0, 0]) * 255) for step in range(7) for sample in range(3)]
    epochs = [drawn[0:7], drawn[7:14], drawn[14:21]]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def _pairs(seed: int = 3) -> Pairs:
    images = MemoryImages([random_picture(number) for number in range(5)], list("abcde"))
    return Pairs(images, DrawnMasks("strokes", (0.1, 0.5)), 16, batch_size=12, seed=seed)


def _all_samples(workers: int, processes: int, accumulate: int, first: int = 0) -> dict:
    samples = {}
    for rank in range(processes):
        steps = StepBatches(first, 3, 12, accumulate, processes, rank)
        loader = DataLoader(_pairs(), batch_sampler=steps, num_workers=workers)
        for keys, (images, masks) in zip(steps, loader, strict=True):
            assert len(keys) == 12 // processes // accumulate
            for key, image, mask in zip(keys, images, masks, strict=True):
                assert key not in samples
                samples[key] = (image, mask)
    return samples


def test_samples_do_not_depend_on_workers_processes_micro_batches_or_the_first_step():
    expected = _all_samples(0, 1, 1)
    assert sorted(expected) == [(step, sample) for step in range(3) for sample in range(12)]
    for other in (_all_samples(2, 1, 1), _all_samples(0, 2, 3), _all_samples(0, 1, 2, first=2)):
        assert len(other) in (12, 36)
        for key, (image, mask) in other.items():
            assert torch.equal(image, expected[key][0])
            assert torch.equal(mask, expected[key][1])


def test_samples_differ_by_step_sample_and_seed():
    drawn = [_pairs(seed)[key] for seed in (3, 4) for key in ((0, 0), (0, 1), (1, 0))]
    assert len({mask.numpy().tobytes() for _, mask in drawn}) == 6
    assert len({image.numpy().tobytes() for image, _ in drawn}) == 6


def test_uneven_batches_are_refused():
    with pytest.raises(ValueError, match="12 is no multiple of 5 x 1"):
        StepBatches(0, 1, 12, accumulate=5)


def test_packaged_photographs_are_split_by_scene():
    images = packaged_images()
    assert len(images) >= 10
    assert all(one.array.dtype == np.uint8 and one.array.shape[2] == 3 for one in images)
    assert all(min(one.array.shape[:2]) >= 300 for one in images)
    names = {one.name for one in images}
    assert names.isdisjoint({"page", "text", "phantom", "cell", "retina", "logo", "horse", "ihc", "color"})
    training, held_out = split(images)
    assert len(training) + len(held_out) == len(images)
    assert {one.scene for one in training}.isdisjoint({one.scene for one in held_out})
    _, motorcycles = split(images, ["motorcycle"])
    assert {one.name for one in motorcycles} == {"motorcycle_left", "motorcycle_right"}
    with pytest.raises(PConvError, match="no picture of zebra; scenes are astronaut"):
        split(images, ["zebra"])
    with pytest.raises(PConvError, match="one side of the split is empty"):
        split(images, [])
