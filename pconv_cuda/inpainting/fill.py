"""The filling of holes by a network, in pictures of any size, with holes of any width.

The network runs on the surroundings of the holes, never on the whole photo. In a hole that is wider than one run can
close, the smooth fill stands in for the middle while the network fills the band between it and the real pixels. Where
the network's last mask is 0 its output means nothing and is never used: there the smooth fill stays.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda.errors import PConvError
from pconv_cuda.files import is_out_of_memory
from pconv_cuda.inpainting.patches import Patch, Patches, Progress, as_unit_range, known_pixels
from pconv_cuda.inpainting.smooth_holes import SmoothFiller
from pconv_cuda.inpainting.tiling import Box, Piece, hole_boxes, pieces_of, spread
from pconv_cuda.smooth import REACH

if TYPE_CHECKING:
    from pconv_cuda.models import InpaintingNetwork

__all__ = ["fading", "fill_holes", "in_eval_mode"]

_CPU_BUDGET = 1536 * 2**20  # bytes for one run's activations, where the caller names no tile


@dataclass(frozen=True)
class _Scene:
    """A picture (3, H, W), the pixels that count as known, and those that are to be filled."""

    image: Tensor
    valid: Tensor
    wanted: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.valid.shape[0], self.valid.shape[1]


def fill_holes(
    model: InpaintingNetwork,
    image: Tensor,
    wanted: Tensor,
    valid: Tensor | None = None,
    *,
    tile: int | None = None,
    notify: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> list[Patch]:
    """Colours for every wanted pixel, as patches that do not overlap in wanted pixels.

    Args:
        model: a network of :mod:`pconv_cuda.models`; it runs where its parameters lie, in eval mode.
        image: RGB (3, H, W), uint8, uint16 or floating in [0, 1]. Nothing is read where ``valid`` is false.
        wanted: bool (H, W), true where a colour is wanted.
        valid: bool (H, W), true where the picture can be trusted; default: wherever nothing is wanted.
        tile: largest side in px of what the network sees at once; default: from the memory that it needs.
        notify: takes one sentence when something differs from what was asked (less memory than needed).
        progress: called after each run of the network.

    Raises:
        PConvError: no pixel is valid; ``tile`` is below the network's grid; not even that fits in memory.
    """
    if not bool(wanted.any()):
        return []
    valid = known_pixels(wanted, valid)
    filler = _Filler(in_eval_mode(model), tile, notify or (lambda _: None), progress or (lambda *_: None))
    scene = _Scene(image, valid, wanted)
    # windows of boxes that are this near would overlap: one box is then cheaper than two
    boxes = hole_boxes(wanted, gap=2 * filler.mask_reach)
    with torch.inference_mode():
        if model.prefill is not None:
            filler.prefill(scene)
        return [Patch(box, filler.fill(scene, box).clamp(0, 1).cpu()) for box in boxes]


class _Filler:
    """Fills boxes of scenes; holds the model and the present size limit."""

    def __init__(
        self, model: InpaintingNetwork, tile: int | None, notify: Callable[[str], None], progress: Progress
    ) -> None:
        self.model, self.notify, self.progress = model, notify, progress
        self.grid, self.context = model.grid, model.context
        self.mask_reach = model.mask_reach
        self.device, self.dtype = model.device, model.dtype
        if tile is not None and tile < self.grid:
            raise PConvError(f"tile: expected at least {self.grid} px, one cell of this network's grid, but got {tile}")
        side = tile if tile is not None else self._affordable_side()
        # the network pads to its grid, so a larger limit would cost time without use
        self.limit = side // self.grid * self.grid
        self.smooth = SmoothFiller(self.device)
        self.prefilled: Patches | None = None

    def prefill(self, scene: _Scene) -> None:
        """The smooth fill of every hole, once: a window may cut a hole."""
        self.prefilled = Patches(self.smooth.fill(scene.image, scene.wanted, scene.valid, notify=self.notify))

    def _affordable_side(self) -> int:
        """The side of the largest square whose activations fit the budget, on the grid."""
        budget = _CPU_BUDGET
        if self.device.type == "cuda":
            budget = int(0.6 * torch.cuda.mem_get_info(self.device)[0])
        side = int((budget / self.model.bytes_per_pixel) ** 0.5)
        return max(self.grid, side)

    def fill(self, scene: _Scene, box: Box) -> Tensor:
        """Colours (3, h, w) of the box: the network's where something is wanted, anything elsewhere."""
        if self.prefilled is not None:  # no hole is too wide
            return self._run(scene, box)[0]
        missing = self._beyond(scene, box, self.mask_reach)
        if not bool(missing.any()):  # one run may close it
            colours, reached = self._run(scene, box)
            missing = scene.wanted[box.slices] & ~reached
            if not bool(missing.any()):
                return colours
        stand_in = self._stand_in(scene, box)
        # The band between real and stand-in pixels is half the reach: the network closes it from both sides.
        band = max(1, self.mask_reach // 2)
        middle = self._beyond(scene, box, band) | missing
        colours, reached = self._run(scene, box, stand_in, middle)
        # the stand-in fades out within the band: a network is at its weakest just beyond an edge of its mask
        margin = min(8, band // 4)
        share = _soften(spread(middle, margin), margin)
        blended = stand_in * share + colours * (1 - share)
        return torch.where(reached, blended, stand_in)

    def _beyond(self, scene: _Scene, box: Box, distance: int) -> Tensor:
        """Wanted pixels of the box that are farther than ``distance`` from every valid pixel."""
        around = box.grown(distance, scene.size)
        near = spread(scene.valid[around.slices], distance)
        return scene.wanted[box.slices] & ~near[box.seen_from(around).slices]

    def _stand_in(self, scene: _Scene, box: Box) -> Tensor:
        """The smooth fill (3, h, w) of what is wanted in the box."""
        margin = REACH
        while not bool(scene.valid[(around := box.grown(margin, scene.size)).slices].any()):
            margin *= 2  # all that lies near is transparent
        inside = box.seen_from(around)
        wanted = torch.zeros(around.height, around.width, dtype=torch.bool)
        wanted[inside.slices] = scene.wanted[box.slices]
        image, valid = scene.image[(slice(None), *around.slices)], scene.valid[around.slices]
        colours = torch.zeros(3, box.height, box.width)
        for patch in self.smooth.fill(image, wanted, valid, notify=self.notify):
            part = patch.box.inside(inside)
            colours[(slice(None), *part.seen_from(inside).slices)] = patch.colours[
                (slice(None), *part.seen_from(patch.box).slices)
            ]
        return colours

    def _run(
        self, scene: _Scene, box: Box, stand_in: Tensor | None = None, middle: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The network's colours (3, h, w) for the box and where they mean something (h, w)."""
        while True:
            try:
                return self._run_pieces(scene, box, stand_in, middle)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                largest = max(
                    max(piece.window.height, piece.window.width)
                    for piece in pieces_of(box, scene.size, self.grid, self.context, self.limit)
                )
            # outside the handler: there the error's traceback would still hold the failed run's memory
            smaller = largest // 2 // self.grid * self.grid
            if smaller < self.grid:
                raise PConvError(f"out of memory on {self.device}, even for a piece of {largest} px")
            self.notify(f"out of memory on {self.device} with pieces of {largest} px; trying again with {smaller} px")
            self.limit = smaller
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _run_pieces(
        self, scene: _Scene, box: Box, stand_in: Tensor | None, middle: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        sums = torch.zeros(3, box.height, box.width)
        weights = torch.zeros(box.height, box.width)
        pieces = [
            piece
            for piece in pieces_of(box, scene.size, self.grid, self.context, self.limit)
            if bool(scene.wanted[piece.core.slices].any())
        ]
        for done, piece in enumerate(pieces, 1):
            view = piece.window
            known = scene.valid[view.slices]
            colours = as_unit_range(scene.image[(slice(None), *view.slices)])
            if stand_in is not None and middle is not None:
                colours, known = _with_stand_in(colours, known, box, view, stand_in, middle)
            fill = None if self.prefilled is None else self.prefilled.over(view, colours, known)
            output, reached = self._ask_network(colours, known, fill)
            used = piece.core.grown(piece.ramp, scene.size).inside(box).inside(view)
            there, here = used.seen_from(box).slices, used.seen_from(view).slices
            weight = fading(piece, used) * reached[here]
            # a select first: what the network leaves where its mask is 0 must not get through a product
            sums[(slice(None), *there)] += torch.where(weight > 0, output[(slice(None), *here)], 0) * weight
            weights[there] += weight
            self.progress(done, len(pieces))
        return sums / torch.where(weights > 0, weights, 1), weights > 0

    def _ask_network(self, colours: Tensor, known: Tensor, fill: Tensor | None) -> tuple[Tensor, Tensor]:
        """One run: colours (3, h, w) in [0, 1], known pixels and prefill in; colours and the last mask out."""

        def ready(picture: Tensor) -> Tensor:
            return self.model.normalize(picture.to(self.device)[None]).to(self.dtype)

        known = known.to(self.device)
        given = [ready(colours), known[None, None]] + ([] if fill is None else [ready(fill)])
        output, mask = self.model(*given)
        mask = (mask != 0).expand(1, 1, *known.shape)[0, 0]
        output = self.model.denormalize(torch.where(mask, output.float(), 0))
        if not bool(torch.isfinite(output).all()):
            raise PConvError("model: its output is not finite; its weights are damaged, or do not fit its precision")
        return output[0].cpu(), mask.cpu()


def _with_stand_in(
    colours: Tensor, known: Tensor, box: Box, view: Box, stand_in: Tensor, middle: Tensor
) -> tuple[Tensor, Tensor]:
    """The window's colours and known pixels with the middle of the box's hole taken from ``stand_in``."""
    shared = box.inside(view)
    there, here = shared.seen_from(box).slices, shared.seen_from(view).slices
    colours, known = colours.clone(), known.clone()
    chosen = middle[there]
    colours[(slice(None), *here)] = torch.where(chosen, stand_in[(slice(None), *there)], colours[(slice(None), *here)])
    known[here] |= chosen
    return colours, known


def _soften(mask: Tensor, radius: int) -> Tensor:
    """A bool mask (h, w) as shares that rise from 0 to 1 across its edge, over ``2 * radius`` px."""
    size = 2 * radius + 1
    return F.avg_pool2d(mask.float()[None], size, 1, radius, count_include_pad=False)[0]


def fading(piece: Piece, used: Box) -> Tensor:
    """The weight (h, w) of a piece's answer: 1 in its core, falling to near 0 at the end of its ramp."""

    def line(start: int, stop: int, core_start: int, core_stop: int) -> Tensor:
        at = torch.arange(start, stop)
        outside = torch.maximum(core_start - at, at - (core_stop - 1)).clamp(min=0)
        return 1 - outside / (piece.ramp + 1)

    core = piece.core
    rows = line(used.top, used.bottom, core.top, core.bottom)
    return rows[:, None] * line(used.left, used.right, core.left, core.right)


def in_eval_mode(model: InpaintingNetwork) -> InpaintingNetwork:
    """The model if it is in eval mode, else a copy in eval mode that shares its tensors.

    The mode of a model that the caller holds is never changed: other threads may be using it.
    """
    if not any(module.training for module in model.modules()):
        return model
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared).eval()
