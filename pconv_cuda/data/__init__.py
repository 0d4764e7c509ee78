"""Pictures to train on: folders of them, those of the packages that are installed, and crops."""

from pconv_cuda.data.images import FolderImages, MemoryImages, RandomCrops
from pconv_cuda.data.packaged import Photograph, packaged_images, split

__all__ = ["FolderImages", "MemoryImages", "Photograph", "RandomCrops", "packaged_images", "split"]
