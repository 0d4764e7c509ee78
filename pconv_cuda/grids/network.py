"""Gaps filled by a network: values in its unit, planes of any size, axes that go round."""

from __future__ import annotations

import torch
from torch import Tensor

from pconv_cuda.errors import PConvError
from pconv_cuda.grids.smooth import TOLERANCE, plate, within
from pconv_cuda.inpainting.fill import fading, in_eval_mode
from pconv_cuda.inpainting.tiling import Box, pieces_of
from pconv_cuda.models import FillRefiner, InpaintingNetwork, PConvUNet
from pconv_cuda.models.prefill import smooth_fill_around
from pconv_cuda.models.wrap import Wraps, continued

__all__ = ["NetworkGrid"]

_BUDGET = 1536 * 2**20  # bytes of one run's activations on a CPU


class NetworkGrid:
    """A network, and how grids are normalised, padded and cut for it.

    Args:
        model: in any mode, on its device.
        wrap: whether rows and columns go round; None: as the network's padding says.

    Raises:
        PConvError: more channels out than in, or neither one nor all of them; a network whose axes go round where
            ``wrap`` says that they end.
    """

    def __init__(self, model: InpaintingNetwork, wrap: Wraps | None) -> None:
        if model.out_channels not in (1, model.in_channels):
            raise PConvError(
                f"model: expected a network with one channel out, the middle one's, or with all of its in_channels "
                f"({model.in_channels}), got out_channels={model.out_channels}"
            )
        self.wraps = model.wraps if wrap is None else wrap
        if any(own and not wanted for own, wanted in zip(model.wraps, self.wraps, strict=True)):
            raise PConvError(
                f"wrap: expected {model.wraps} for rows and columns, as the network's padding_mode "
                f"{model.padding_mode!r} says, got {self.wraps}"
            )
        self.in_channels, self.out_channels = model.in_channels, model.out_channels
        self.first_answer = model.first_answer
        model = in_eval_mode(model)
        self.model = model.fuse() if isinstance(model, PConvUNet) and model.conv == "partial" else model
        self.at_once = 16

    def fill(self, values: Tensor) -> Tensor:
        """
        Args:
            values: ``(N, in_channels, H, W)``, floating, NaN where one is missing.

        Returns:
            ``(N, out_channels, H, W)`` of their dtype and device. Where there was a value it is that one, to the bit.
            What the network's masks do not reach the smooth fill continues; samples without a value stay empty.
        """
        answered = slice(self.first_answer, self.first_answer + self.out_channels)
        filled = values[:, answered].clone()
        known = ~torch.isnan(values)
        wanted = known.flatten(1).any(1) & ~known[:, answered].flatten(1).all(1)
        if bool(wanted.any()):
            filled[wanted] = within(self._filled(values[wanted], known[wanted], answered), values.dtype)
        return torch.where(known[:, answered], values[:, answered], filled)

    def _filled(self, values: Tensor, known: Tensor, answered: slice) -> Tensor:
        """The same in float64, for samples with a value."""
        device, dtype = self.model.device, self.model.dtype
        mean, std = (
            torch.tensor(each, dtype=torch.float64, device=values.device).view(-1, 1, 1)
            for each in (self.model.mean, self.model.std)
        )
        normal = (torch.where(known, values, 0).double() - mean) / std
        normal = torch.where(known, normal, 0.0)  # the mean, where nothing is known
        with torch.inference_mode():
            output, reached = self._answer(normal.to(device, dtype), known.to(device))
        output, reached = output.to(values.device, torch.float64), reached.to(values.device)
        if not bool(torch.isfinite(output).all()):
            raise PConvError("model: its output is not finite; its weights are damaged, or do not fit its precision")
        found = output * std[answered] + mean[answered]
        given = known[:, answered]
        found = torch.where(given, values[:, answered].double(), found)
        there = given | reached
        planes, have = found.flatten(0, 1).unsqueeze(1), there.flatten(0, 1).unsqueeze(1)
        open_ = have.flatten(1).any(1) & ~have.flatten(1).all(1)
        if bool(open_.any()):  # holes too wide for the network
            planes[open_] = torch.where(
                have[open_], planes[open_], plate(planes[open_], have[open_], self.wraps, self.model.tension)
            )
        none = ~have.flatten(1).any(1)
        planes[none] = torch.nan
        return planes.view_as(found)

    def _answer(self, normal: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised answers ``(N, out, H, W)``, and where they are valid."""
        mask = known[:, :1]
        if not torch.equal(known, mask.expand_as(known)):
            if isinstance(self.model, FillRefiner):
                raise PConvError(
                    "array: expected gaps at the same places in all channels, which a FillRefiner needs, got others"
                )
            mask = known
        fill = self._prefill(normal, known)
        height, width = normal.shape[2:]
        limit = self._limit()
        piecewise = max(height, width) > limit
        # axes that go round although the network does not pad them so, and pieces of large grids, are continued
        outside = (
            (self.wraps[0] and (piecewise or not self.model.wraps[0])),
            (self.wraps[1] and (piecewise or not self.model.wraps[1])),
        )
        given = [normal, mask] + ([] if fill is None else [fill])
        grid = self.model.grid  # by whole cells, so that what is kept halves as it does by itself
        given, (top, left) = continued(given, outside, -(-self.model.context // grid) * grid, 1)
        kept = Box(top, left, top + height, left + width)
        size = (given[0].shape[2], given[0].shape[3])
        if not piecewise:
            outputs, masks = zip(*(self._run([x[n : n + 1] for x in given]) for n in range(len(normal))), strict=True)
            output, reached = torch.cat(outputs), torch.cat(masks)
            return output[(..., *kept.slices)], reached[(..., *kept.slices)]
        sums = normal.new_zeros((len(normal), self.out_channels, height, width), dtype=torch.float32)
        weights = sums.new_zeros((len(normal), 1, height, width))
        for piece in pieces_of(kept, size, self.model.grid, self.model.context, limit):
            view = piece.window
            used = piece.core.grown(piece.ramp, size).inside(kept).inside(view)
            here, there = used.seen_from(view).slices, used.seen_from(kept).slices
            fade = fading(piece, used).to(sums)
            for n in range(len(normal)):
                output, reached = self._run([x[(slice(n, n + 1), slice(None), *view.slices)] for x in given])
                weight = fade * reached[(0, slice(None), *here)]
                part = torch.where(weight > 0, output[(0, slice(None), *here)], 0.0) * weight
                sums[(n, slice(None), *there)] += part
                weights[(n, slice(None), *there)] += weight
        return sums / torch.where(weights > 0, weights, 1), weights > 0

    def _run(self, given: list[Tensor]) -> tuple[Tensor, Tensor]:
        output, reached = self.model(*given)
        return torch.where(reached != 0, output, 0.0).float(), reached != 0

    def _prefill(self, normal: Tensor, known: Tensor) -> Tensor | None:
        if self.model.prefill is None:
            return None
        empty = ~known.flatten(2).any(2)[..., None, None]  # such a channel is the mean
        options = {"tension": self.model.tension, "tolerance": TOLERANCE}
        return smooth_fill_around(normal, known | empty, self.wraps, **options).to(normal.dtype)

    def _limit(self) -> int:
        """The side of the largest square whose activations fit the budget, on the network's grid."""
        budget = _BUDGET
        if self.model.device.type == "cuda":
            budget = int(0.6 * torch.cuda.mem_get_info(self.model.device)[0])
        grid = self.model.grid
        return max(grid, int((budget / self.model.bytes_per_pixel) ** 0.5) // grid * grid)
