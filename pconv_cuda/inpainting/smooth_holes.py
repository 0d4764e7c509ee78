"""The smooth fill of the holes of a picture, box by box: it needs no weights.

A hole depends on the known pixels within the plate's reach and on nothing else, so each box around holes, grown by that
reach, gives what the whole picture would give, up to the solver's tolerance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pconv_cuda.files import is_out_of_memory
from pconv_cuda.functional import smooth_fill
from pconv_cuda.inpainting.patches import Patch, Progress, as_unit_range, known_pixels
from pconv_cuda.inpainting.tiling import Box, hole_boxes
from pconv_cuda.smooth import REACH

__all__ = ["NO_TILES", "SmoothFiller"]

NO_TILES = "tile: the smooth fill looks at nothing but the holes' surroundings, so the tile's size is ignored"
# Boxes that are nearer than this become one. More than the reach, since a call costs about as much as a small hole.
_GAP = {"cpu": 16, "cuda": 128}


class SmoothFiller:
    """Fills holes by :func:`pconv_cuda.functional.smooth_fill`; takes a network's place in ``inpaint``.

    Args:
        device: where it computes. Only a CPU and CUDA devices have kernels of it: others leave it to the CPU.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self.device = device if device.type in _GAP else torch.device("cpu")

    def fill(
        self,
        image: Tensor,
        wanted: Tensor,
        valid: Tensor | None = None,
        *,
        notify: Callable[[str], None] | None = None,
        progress: Progress | None = None,
    ) -> list[Patch]:
        """Colours for every wanted pixel, as :func:`pconv_cuda.inpainting.fill.fill_holes` gives them.

        Pixels that are neither wanted nor valid are unknown too: what is wanted beside them is solved with them.
        """
        if not bool(wanted.any()):
            return []
        unknown = ~known_pixels(wanted, valid)
        boxes = hole_boxes(unknown, max(REACH, _GAP[self.device.type]))
        boxes = [box for box in boxes if bool(wanted[box.slices].any())]
        patches = []
        for done, box in enumerate(boxes, 1):
            patches.append(Patch(box, self._solve(image, unknown, box, notify or (lambda _: None))))
            if progress is not None:
                progress(done, len(boxes))
        return patches

    def _solve(self, image: Tensor, unknown: Tensor, box: Box, notify: Callable[[str], None]) -> Tensor:
        around = box.grown(REACH, (unknown.shape[0], unknown.shape[1]))
        colours = as_unit_range(image[(slice(None), *around.slices)])
        known = ~unknown[None, around.slices[0], around.slices[1]]
        try:
            filled = smooth_fill(colours.to(self.device), known.to(self.device)).cpu()
        except RuntimeError as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
            filled = None
        if filled is None:  # outside the handler, where the error's traceback would still hold the memory
            notify(f"out of memory on {self.device} with {around.width} x {around.height} px; the CPU fills them")
            torch.cuda.empty_cache()
            filled = smooth_fill(colours, known)
        return filled[(slice(None), *box.seen_from(around).slices)].clamp_(0, 1)
