"""Logs, picture grids and progress."""

from __future__ import annotations

import io
import json
import sys

import torch
from conftest import Terminal

from pconv_cuda.progress import Progress
from pconv_cuda.training.logs import RunLog, picture_grid


def test_the_grid_shows_input_mask_output_composite_truth_with_white_holes():
    truth = torch.rand(2, 3, 4, 4) * 0.5
    output = torch.rand(2, 3, 4, 4) * 0.5 + 0.5
    mask = torch.rand(2, 1, 4, 4) > 0.5
    grid = picture_grid(truth, mask, output)
    assert grid.shape == (3, 2 * 6 + 2, 5 * 6 + 2)
    for row in range(2):
        cells = [grid[:, 2 + 6 * row :, 2 + 6 * column :][:, :4, :4] for column in range(5)]
        valid = mask[row].expand(3, 4, 4)
        shown, hole, filled, composite, whole = cells
        assert torch.equal(shown[valid], truth[row][valid])
        assert (shown[~valid] == 1).all()
        assert torch.equal(hole, (~valid).float())
        assert torch.equal(filled, output[row])
        assert torch.equal(composite, torch.where(valid, truth[row], output[row]))
        assert torch.equal(whole, truth[row])


def test_a_resumed_log_repeats_no_step_and_drops_a_truncated_line(tmp_path):
    log = RunLog(tmp_path, 0, tensorboard=False)
    for step in range(1, 6):
        log.numbers(step, {"loss/total": step / 2})
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 6, "loss/to')
    log = RunLog(tmp_path, 3, tensorboard=False)
    log.numbers(4, {"loss/total": 9.0})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss/total"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 9.0)]


def test_tensorboard_gets_the_terms_and_the_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    terms = ("valid", "hole", "perceptual", "style_out", "style_comp", "tv")
    log = RunLog(tmp_path, 0, tensorboard=True)
    log.numbers(7, {f"loss/{name}": number for number, name in enumerate(terms)})
    log.pictures(7, torch.rand(3, 14, 32))
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for number, name in enumerate(terms):
        (event,) = events.Scalars(f"loss/{name}")
        assert (event.step, event.value) == (7, number)
    (tag,) = events.Tags()["images"]
    (picture,) = events.Images(tag)
    assert (picture.width, picture.height) == (32, 14)


def test_a_bar_on_a_terminal_and_plain_lines_elsewhere(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    written = {}
    for kind in (io.StringIO, Terminal):
        monkeypatch.setattr(sys, "stderr", kind())
        with Progress("step", 10, done=4, every=3) as progress:
            progress.say("hello [not markup]")
            for _ in range(6):
                progress.advance("loss 1.25")
        written[kind] = sys.stderr.getvalue()
    plain = written[io.StringIO].splitlines()
    assert plain[0] == "hello [not markup]"
    assert [line.split()[1] for line in plain[1:]] == ["6/10", "9/10", "10/10"]
    assert all("steps/s" in line and "left" in line and "loss 1.25" in line for line in plain[1:])
    assert "\x1b[" in written[Terminal]
    assert "hello [not markup]" in written[Terminal]
    assert "steps/s" in written[Terminal]
    assert "10/10" in written[Terminal]
    assert "\x1b[" not in written[io.StringIO]


def test_disabled_progress_prints_nothing(capsys):
    with Progress("step", 2, every=1, enabled=False) as progress:
        progress.say("x")
        progress.advance()
    assert capsys.readouterr() == ("", "")
