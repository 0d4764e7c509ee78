"""Masks from a video whose occlusions are known: a textured square that moves before a textured background."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.masks import video as module
from pconv_cuda.masks.stats import mask_stats
from pconv_cuda.masks.video import inconsistent_flow, masks_from_video, optical_flow

SIDE, SQUARE, TOP, LEFT, STEP = 160, 60, 50, 30, 8  # px; the square moves to the right


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Noise of several sizes: flow needs something to hold on to at each of its scales."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), sigma) * sigma for sigma in (1, 2.5, 6)]
    grey = np.sum(layers, axis=0)
    return np.uint8(255 * (grey - grey.min()) / np.ptp(grey))


def frames(count: int, step: int = STEP) -> list[np.ndarray]:
    square, made = texture(1, SQUARE, SQUARE), []
    for number in range(count):
        frame = texture(0, SIDE, SIDE)
        left = LEFT + number * step
        frame[TOP : TOP + SQUARE, left : left + SQUARE] = square
        made.append(frame)
    return made


def write(path, pictures, fourcc="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), 25, pictures[0].shape[::-1])
    assert writer.isOpened()
    for one in pictures:
        writer.write(cv2.cvtColor(one, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def truth(number: int) -> np.ndarray:
    """Covered: background just right of the square; uncovered: where its left edge was."""
    hole = np.zeros((SIDE, SIDE), dtype=bool)
    left = LEFT + number * STEP
    hole[TOP : TOP + SQUARE, left : left + STEP] = True
    hole[TOP : TOP + SQUARE, left + SQUARE : left + SQUARE + STEP] = True
    return hole


def wrong(hole: np.ndarray, number: int) -> str:
    """What is wrong with a mask of the pair ``number``; empty where nothing is."""
    marked = truth(number)
    outline = np.zeros((SIDE, SIDE), np.uint8)
    for left in (LEFT + number * STEP, LEFT + (number + 1) * STEP):
        cv2.rectangle(outline, (left, TOP), (left + SQUARE - 1, TOP + SQUARE - 1), 1)
    # flow is blurred by its patches (8 px): what is two of them away from where the motion changes must be valid
    near = cv2.dilate(outline, np.ones((33, 33), np.uint8)) > 0
    return ("recall " if hole[marked].mean() < 0.9 else "") + ("far" if hole[~near].any() else "")


def test_the_holes_are_what_is_covered_and_uncovered(tmp_path, capsys):
    path = write(tmp_path / "square.avi", frames(5))
    out = tmp_path / "masks"
    assert main(["masks", "from-video", str(path), "--out", str(out)]) == 0
    assert "4 masks from 4 pairs of frames" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert [one["path"] for one in manifest["files"]] == [f"{number:06d}.png" for number in range(4)]
    for number, one in enumerate(manifest["files"]):
        with Image.open(out / one["path"]) as picture:
            assert picture.mode == "1"
            hole = np.array(picture)
        assert hole.shape == (SIDE, SIDE) and wrong(hole, number) == "", number
        assert one["hole_share"] == pytest.approx(hole.mean(), abs=1e-6)
    stats = mask_stats(out)
    assert stats.masks == 4 and stats.polarity == "white-hole" and not stats.missing
    # the same call again gives the same set; another one is refused
    assert masks_from_video(path, out, progress=False) == manifest
    with pytest.raises(PConvError, match="every 1 there, 2 asked for"):
        masks_from_video(path, out, every=2, progress=False)


def test_the_check_sees_flow_of_the_wrong_direction():
    first, second = frames(2)
    forward, back = optical_flow(first, second), optical_flow(second, first)
    assert wrong(inconsistent_flow(forward, back), 0) == ""
    # the square's middle does not lead home: with the way back turned round, and with the way forth in its place
    assert "far" in wrong(inconsistent_flow(forward, -back), 0)
    assert "far" in wrong(inconsistent_flow(forward, forward), 0)
    assert wrong(truth(0), 0) == "" and wrong(~truth(0), 0) == "recall far"


def test_flow_leads_from_the_first_frame_to_the_second():
    first, second = frames(2)
    flow = optical_flow(first, second)
    assert np.median(flow[TOP + 15 : TOP + 45, LEFT + 15 : LEFT + 45], axis=(0, 1)) == pytest.approx([STEP, 0], abs=0.3)
    assert np.abs(flow[:20]).max() < 1


def test_exact_flow_of_a_plane_is_consistent_and_what_leaves_is_not_marked():
    forward = np.zeros((40, 50, 2), np.float32)
    forward[..., 0], forward[..., 1] = 7.25, -3.5
    assert not inconsistent_flow(forward, -forward).any()
    lost = inconsistent_flow(forward, -forward + np.float32(2))
    assert lost[10:30, 10:40].all()


def test_specks_are_removed_and_large_parts_kept():
    pixels = np.zeros((200, 200), dtype=bool)
    pixels[5, 5], pixels[50:60, 50:60], pixels[100, 100:102] = True, True, True
    kept = module._without_specks(pixels)  # 1e-4 of 200 x 200 is 4 pixels
    assert kept.sum() == 100 and kept[50:60, 50:60].all()


def test_a_call_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    path = write(tmp_path / "square.avi", frames(4))
    whole = masks_from_video(path, tmp_path / "whole", progress=False)
    calls, real = [], module.occluded

    def failing(*pair):
        calls.append(pair)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*pair)

    monkeypatch.setattr(module, "occluded", failing)
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        masks_from_video(path, out, progress=False)
    assert [one.name for one in out.iterdir()] == ["000000.png"]
    # masks of a video of the same name are none of this one's
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other/square.avi", frames(4, 5))
    with pytest.raises(PConvError, match="other settings .video_sha256"):
        masks_from_video(other, out, progress=False)
    (out / "000001.png").write_bytes(b"cut short")
    assert masks_from_video(path, out, progress=False) == whole
    assert len(calls) == 2 + 2
    for one in whole["files"]:
        assert (out / one["path"]).read_bytes() == (tmp_path / "whole" / one["path"]).read_bytes()


def test_every_and_size(tmp_path):
    path = write(tmp_path / "square.avi", frames(7))
    made = masks_from_video(path, tmp_path / "masks", every=3, size=96, progress=False)
    assert made["pairs"] == 2 and [one["frame"] for one in made["files"]] == [0, 3]
    with Image.open(tmp_path / "masks/000003.png") as picture:
        hole = np.array(picture)
    assert hole.shape == (96, 96)
    resized = cv2.resize(truth(3).astype(np.uint8), (96, 96), interpolation=cv2.INTER_NEAREST) > 0
    assert hole[resized].mean() > 0.75 and not hole[:12].any()


def test_cuts_and_still_frames_give_no_mask(tmp_path):
    still = frames(1) * 2
    made = masks_from_video(
        write(tmp_path / "cut.avi", [*still, *frames(2), 255 - texture(9, SIDE, SIDE)]), tmp_path / "a", progress=False
    )
    assert made["empty"] == [0, 1]
    assert [one["frame"] for one in made["files"]][:1] == [2]
    with pytest.raises(PConvError, match="no mask in 1 pairs of frames"):
        masks_from_video(write(tmp_path / "still.avi", still), tmp_path / "b", progress=False)
    assert not (tmp_path / "b").exists()


def test_masks_of_a_truncated_video_are_kept_and_marked(tmp_path):
    whole = write(tmp_path / "whole.avi", frames(8)).read_bytes()
    (tmp_path / "part.avi").write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.warns(UserWarning, match="pairs of frames could be decoded, by its header .* has 7"):
        made = masks_from_video(tmp_path / "part.avi", tmp_path / "masks", progress=False)
    assert made["expected_pairs"] == 7 and 1 <= made["pairs"] < 7
    assert len(made["files"]) == made["pairs"] == len(list((tmp_path / "masks").glob("*.png")))


def test_bad_input(tmp_path, capsys):
    path = write(tmp_path / "one.avi", frames(1))
    assert main(["masks", "from-video", str(path), "--out", str(tmp_path / "x")]) == 1
    assert "expected at least two frames" in capsys.readouterr().err
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "pictures").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "pictures/a.png")
    for video, out, more, message in (
        ("gone.avi", "x", {}, "is no file"),
        ("text.avi", "x", {}, "OpenCV cannot decode"),
        ("one.avi", "x", {"every": 0}, "every: expected at least 1"),
        ("one.avi", "x", {"size": 8}, "size: expected at least 32 px"),
        ("one.avi", "text.avi", {}, "out: expected a folder"),
        ("one.avi", "pictures", {}, "not written by `pconv masks`"),
    ):
        with pytest.raises(PConvError, match=message):
            masks_from_video(tmp_path / video, tmp_path / out, progress=False, **more)
    tiny = write(tmp_path / "tiny.avi", [np.zeros((16, 24), np.uint8)] * 2)
    with pytest.raises(PConvError, match="at least 32 px, got 16 x 24"):
        masks_from_video(tiny, tmp_path / "x", progress=False)
    assert not (tmp_path / "x").exists()


def test_a_folder_of_other_files_is_refused(tmp_path):
    path = write(tmp_path / "square.avi", frames(3))
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(PConvError, match=r"masks of `pconv masks from-video`, got '.*' with 'photo.jpg'"):
        masks_from_video(path, tmp_path, progress=False)
    (tmp_path / "photo.jpg").unlink()
    assert len(masks_from_video(path, tmp_path, progress=False)["files"]) == 2  # beside the video
