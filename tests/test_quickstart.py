"""The quick start: what it measures, what it writes, and that it beats its baselines."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pconv_cuda import quickstart as q
from pconv_cuda.data.packaged import HELD_OUT_SCENES, packaged_images
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation.methods import baselines
from pconv_cuda.inpainting import inpaint
from pconv_cuda.models import load_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A shortened run, far from what the whole one reaches."""
    torch.set_num_threads(1)
    out, lines = tmp_path_factory.mktemp("quickstart") / "out", []
    report = q.quickstart(out, steps=60, vgg="none", say=lines.append)
    return out, report, lines


def test_all_documented_files_are_written(result):
    out, report, _ = result
    names = {path.name for path in out.iterdir()}
    assert names >= {"sheet.png", "report.json", "model.safetensors", "config.json", "log.jsonl"}
    written = json.loads((out / "report.json").read_text())
    keys = {f"psnr_hole_{name}" for name in ("smooth", "packaged", "after", "mean", "biharmonic")}
    assert set(report) == keys
    assert {key: written[key] for key in keys} == report
    assert all(np.isfinite(value) for value in report.values())


def test_the_result_is_above_biharmonic_filling(result):
    _, report, _ = result
    assert report["psnr_hole_after"] > report["psnr_hole_biharmonic"] > report["psnr_hole_mean"]
    assert report["psnr_hole_after"] != report["psnr_hole_smooth"]  # it has learned something
    assert report["psnr_hole_packaged"] > report["psnr_hole_smooth"] + 0.3


def test_the_sheet_comes_first_and_the_report_has_every_figure(result):
    _, report, lines = result
    assert "sheet.png" in lines[0] and "smooth fill" in lines[0] and "by photo" in lines[0]
    text = "\n".join(lines)
    assert f"training added {report['psnr_hole_after'] - report['psnr_hole_smooth']:+.2f} dB to the smooth fill" in text
    assert "dB above biharmonic filling" in text
    assert f"{report['psnr_hole_after']:6.2f} dB" in text


def test_the_report_is_that_of_the_weights(result):
    """Worked out again from the files alone, by another formula."""
    out, report, _ = result
    network = load_network(out)
    values = []
    for case in q.held_out_cases():
        restored = inpaint(network, case.truth, ~case.valid)
        assert np.array_equal(restored[case.valid], case.truth[case.valid])
        error = torch.nn.functional.mse_loss(
            torch.from_numpy(restored).double()[torch.from_numpy(~case.valid)],
            torch.from_numpy(case.truth.copy()).double()[torch.from_numpy(~case.valid)],
        )
        values.append(20 * np.log10(255) - 10 * np.log10(float(error)))
    assert report["psnr_hole_after"] == pytest.approx(np.mean(values), abs=1e-6)


def test_the_sheet_shows_the_columns(result):
    out, _, _ = result
    cases = q.held_out_cases()
    sheet = np.asarray(Image.open(out / "sheet.png"))
    size = cases[0].truth.shape[0]
    assert sheet.shape[1] == 6 * (size + 6) + 6
    assert sheet.shape[0] == 22 + len(cases) * (size + 6)
    columns = (sheet[22:, 6 + column * (size + 6) :][:size, :size] for column in range(6))
    before, mask, smooth, packaged, after, truth = columns
    valid = cases[0].valid
    assert np.array_equal(truth, cases[0].truth)
    assert np.array_equal(mask[..., 0], np.where(valid, 0, 255))
    assert (before[~valid] == 255).all()
    assert np.array_equal(before[valid], truth[valid])
    assert np.array_equal(after[valid], truth[valid])
    assert np.array_equal(smooth, inpaint("smooth", cases[0].truth, ~valid))
    assert np.array_equal(packaged, inpaint("photo", cases[0].truth, ~valid))
    assert not np.array_equal(after[~valid], truth[~valid])
    assert (sheet[:22] != 255).any()  # the labels


def test_held_out_pictures_are_not_trained_on():
    cases = q.held_out_cases()
    scenes = {one.name: one.scene for one in packaged_images()}
    assert {scenes[case.name.rsplit("-", 1)[0]] for case in cases} == set(HELD_OUT_SCENES)
    for case in cases:
        assert 128 <= case.truth.shape[0] <= 256
        low, high = {"1": (0.02, 0.1), "2": (0.1, 0.3)}[case.name[-1]]
        assert low < 1 - case.valid.mean() <= high
    other = q.held_out_cases(seed=1)
    assert not np.array_equal(other[0].valid, cases[0].valid)


def test_the_network_cannot_see_what_lies_in_the_holes():
    case = q.held_out_cases()[0]
    painted = case.truth.copy()
    painted[~case.valid] = 7
    both = [case, replace(case, truth=painted)]
    for one, other in q.restore_all([*baselines(("smooth", "mean")), *q.packaged_network("photo")], both).values():
        assert np.array_equal(one[~case.valid], other[~case.valid])


def test_psnr_by_hand():
    truth, valid = np.zeros((16, 16, 3), np.uint8), np.ones((16, 16), bool)
    valid[1, 1] = False
    restored = np.full((16, 16, 3), 200, np.uint8)
    restored[1, 1] = (0, 0, 51)  # only this pixel lies in the hole: mean square 51^2 / 3
    expected = 10 * np.log10(255**2 / (51**2 / 3))
    assert q.hole_psnr([restored], [q.Case("a", truth, valid)]) == [pytest.approx(expected)]


def test_weights_of_vgg_bring_all_terms_at_the_end():
    without = q.quickstart_config()
    assert without.loss.vgg == "none" and without.loss.hole_steps is None
    with_weights = q.quickstart_config(vgg="vgg16.pth")
    assert with_weights.loss.vgg == "vgg16.pth" and with_weights.loss.hole_steps < with_weights.train.steps
    assert with_weights.train.steps < without.train.steps


def test_no_steps_is_an_error(tmp_path):
    with pytest.raises(PConvError, match="steps: expected at least 1, got 0"):
        q.quickstart(tmp_path / "out", steps=0)
    assert not (tmp_path / "out").exists()
