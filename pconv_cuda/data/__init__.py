"""Pictures and masks to train on."""

from pconv_cuda.data.images import FolderImages, MemoryImages, RandomCrops
from pconv_cuda.data.masks import FolderMasks, StrokeMasks, irregular_mask
from pconv_cuda.data.packaged import Photograph, packaged_images, split
from pconv_cuda.data.pairs import Pairs, StepBatches

__all__ = [
    "FolderImages",
    "FolderMasks",
    "MemoryImages",
    "Pairs",
    "Photograph",
    "RandomCrops",
    "StepBatches",
    "StrokeMasks",
    "irregular_mask",
    "packaged_images",
    "split",
]
