"""A run's logs: log.jsonl and TensorBoard's events."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from pconv_cuda.checks import as_valid
from pconv_cuda.errors import require
from pconv_cuda.files import atomic_path, open_append
from pconv_cuda.text import parse_json

__all__ = ["LOG", "RunLog", "as_pictures", "last_step", "picture_grid"]

LOG = "log.jsonl"

_ROWS = 4  # samples in a picture grid


def picture_grid(truth: torch.Tensor, mask: torch.Tensor, output: torch.Tensor, rows: int = _ROWS) -> torch.Tensor:
    """One row a sample: input, mask, output, composite, truth; white is the hole.

    Args:
        truth, output: (N, 3, H, W) in [0, 1].
        mask: (N, 1, H, W), 1 = valid.

    Returns:
        float32 (3, height, width) in [0, 1].
    """
    from torchvision.utils import make_grid

    truth, output = truth[:rows].float(), output[:rows].float()
    valid = as_valid(mask[:rows]).expand_as(truth)
    white = torch.ones_like(truth)
    shown = [
        torch.where(valid, truth, white),
        (~valid).float(),
        output,
        torch.where(valid, truth, output),
        truth,
    ]
    return make_grid(torch.stack(shown, dim=1).flatten(0, 1), nrow=len(shown), padding=2)


def as_pictures(
    channel: int, truth: torch.Tensor, mask: torch.Tensor, output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalised data ``(N, C, H, W)`` as :func:`picture_grid` takes them, from two deviations below to two above."""
    middle = slice(channel, channel + 1)
    truth, output = ((each.nan_to_num(-2.0) / 4 + 0.5).clamp(0, 1) for each in (truth[:, middle], output))
    return truth, mask[:, middle], output


def last_step(path: Path) -> int:
    """The largest step of the log ``path``, or 0."""
    steps = [0]
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a torn line
                steps.append(int(parse_json(line)["step"]))
    return max(steps)


class RunLog:
    """Lines of numbers in RUN/log.jsonl, and the same with picture grids for TensorBoard.

    Args:
        run: folder of the run.
        done: steps that the run has done. What an earlier process logged beyond them (it was killed
            after its last checkpoint) is dropped: those steps are done again.
        tensorboard: whether to write events.
    """

    def __init__(self, run: Path, done: int, tensorboard: bool) -> None:
        self.path = run / LOG
        self._drop_after(done)
        self._file = open_append(self.path)
        self._events: Any = None
        if tensorboard:
            require("tensorboard", "train", why="log.tensorboard=true")
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def _drop_after(self, done: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if parse_json(line)["step"] <= done:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the torn last line of a killed process
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """``values`` after ``step`` steps, as one line and as TensorBoard scalars."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def pictures(self, step: int, grid: torch.Tensor) -> None:
        if self._events is not None:
            self._events.add_image("input_mask_output_composite_truth", grid, step)

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()
