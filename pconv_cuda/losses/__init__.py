"""The paper's loss, and the VGG16 features that it compares."""

from pconv_cuda.losses.inpainting import PRESETS, InpaintingLoss, Preset, gram_matrix, total_variation

__all__ = ["PRESETS", "InpaintingLoss", "Preset", "gram_matrix", "total_variation"]
