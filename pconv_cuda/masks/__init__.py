"""Masks: drawn in several kinds with exact hole shares, or read from folders.

Inside, a mask is True where the pixel is valid. In files white is the hole, unless ``polarity``
says otherwise.
"""

from pconv_cuda.masks.augmenting import augment
from pconv_cuda.masks.drawing import KINDS, draw_mask, draw_masks_batch
from pconv_cuda.masks.polarity import POLARITIES
from pconv_cuda.masks.shares import border_band, border_width, hole_pixels
from pconv_cuda.masks.sources import DrawnMasks, FolderMasks, MaskSource

__all__ = [
    "KINDS",
    "POLARITIES",
    "DrawnMasks",
    "FolderMasks",
    "MaskSource",
    "augment",
    "border_band",
    "border_width",
    "draw_mask",
    "draw_masks_batch",
    "hole_pixels",
]
