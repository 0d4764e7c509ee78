"""A node for ComfyUI that fills holes: copy this folder to ComfyUI/custom_nodes/pconv_inpaint and start ComfyUI again.

pconv_cuda has to be installed in ComfyUI's Python. The node is in the menu under image/inpainting.
"""

from functools import lru_cache

import torch

from pconv_cuda import inpaint
from pconv_cuda.models import load_network

NAMES = ["photo", "document", "smooth"]


@lru_cache(maxsize=2)
def network_of(weights, device):
    """A network of a file, a folder or user/repo, kept for the next picture."""
    return load_network(weights, device=device)


class FillHoles:
    """Masked pixels are filled; all others come back as they are."""

    DESCRIPTION = "Fills the masked pixels with a partial-convolution network or the smooth fill; others stay the same."
    CATEGORY = "image/inpainting"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "fill"

    @classmethod
    def INPUT_TYPES(cls):
        weights = {"default": "", "tooltip": "a .safetensors file, a folder or user/repo, instead of the method"}
        return {
            "required": {"image": ("IMAGE",), "mask": ("MASK",), "method": (NAMES, {"default": NAMES[0]})},
            "optional": {"weights": ("STRING", weights)},
        }

    def fill(self, image, mask, method, weights=""):
        """image: (B, H, W, C) in [0, 1]; mask: (B or 1, H, W), 1 in the hole. Returns a tuple of one image."""
        mask = mask.reshape(-1, *mask.shape[-2:])
        if not bool((mask >= 0.5).any()):  # of a picture without alpha ComfyUI makes an empty mask of 64 x 64
            return (image,)
        if mask.shape[1:] != image.shape[1:3] or len(mask) not in (1, len(image)):
            sizes = tuple(image.shape[:3]), tuple(mask.shape)
            raise ValueError(f"mask: expected the image's batch and size {sizes[0]}, got {sizes[1]}")
        model = network_of(weights, str(image.device)) if weights else method
        valid = (mask < 0.5)[:, None]  # for tensors pconv_cuda's masks are 1 where the picture is valid
        filled = [  # one at a time: of a batch some pictures may have no hole
            one if bool(known.all()) else inpaint(model, one, known)
            for one, known in zip(image.movedim(-1, 1), valid.expand(len(image), -1, -1, -1), strict=True)
        ]
        return (torch.stack(filled).movedim(1, -1).contiguous(),)


NODE_CLASS_MAPPINGS = {"PConvFillHoles": FillHoles}
NODE_DISPLAY_NAME_MAPPINGS = {"PConvFillHoles": "Fill holes (pconv_cuda)"}
