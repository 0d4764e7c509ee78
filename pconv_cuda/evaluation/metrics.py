"""How far a restored picture is from the true one, on 8-bit pictures; torchmetrics does the arithmetic.

Data range 255 everywhere. ``l1`` and ``psnr`` are over all pixels of the composite, ``hole_l1`` and ``hole_psnr`` over
the hole's pixels alone; SSIM has the usual Gaussian window (11 px, sigma 1.5) and K 0.01 and 0.03, over RGB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pconv_cuda.errors import require

__all__ = ["ABOUT", "COLUMNS", "SSIM_WINDOW", "measure"]

DATA_RANGE = 255.0
SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_PSNR_OF_EQUALS = 120.0  # dB: an 8-bit picture that differs at all has less

# name -> (heading, whether higher is better, digits)
COLUMNS: dict[str, tuple[str, bool, int]] = {
    "l1": ("l1 (%)", False, 3),
    "psnr": ("PSNR", True, 2),
    "ssim": ("SSIM", True, 4),
    "hole_l1": ("l1 in the hole (%)", False, 3),
    "hole_psnr": ("PSNR in the hole", True, 2),
    "lpips": ("LPIPS", False, 4),
    "features": ("VGG16 feature distance", False, 4),
    "fid": ("FID", False, 2),
}
ABOUT = (
    f"All numbers are of the composited 8-bit picture (the method's colours in the hole, the true ones elsewhere), "
    f"data range {DATA_RANGE:.0f}. l1 is the mean absolute difference in percent of the range, PSNR in dB (peak 255; "
    f"equal pictures count as {_PSNR_OF_EQUALS:.0f} dB), each a mean over pictures of the picture's value. SSIM: "
    f"Gaussian window of {SSIM_WINDOW} px, sigma {_SSIM_SIGMA}, K 0.01 and 0.03, mean over RGB and over the windows "
    "that lie in the picture. 'In the hole': the same over hole pixels alone."
)


def measure(restored: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """The five metrics that need no network.

    Args:
        restored, truth: (H, W, 3) uint8, at least :data:`SSIM_WINDOW` px on a side.
        valid: (H, W) bool, with a hole.
    """
    functional = require("torchmetrics.functional", "eval", why="evaluating")
    image = require("torchmetrics.functional.image", "eval", why="evaluating")
    one, other = _planes(restored), _planes(truth)
    hole = torch.from_numpy(~valid)
    # of every place; its own mean would take windows that reach over the border too
    _, places = image.structural_similarity_index_measure(
        one[None], other[None], sigma=_SSIM_SIGMA, data_range=DATA_RANGE, return_full_image=True
    )
    edge = SSIM_WINDOW // 2
    values = {"ssim": float(places[..., edge:-edge, edge:-edge].mean())}
    for name, ours, true in (("", one, other), ("hole_", one[:, hole], other[:, hole])):
        # contiguous: the library flattens with view()
        ours, true = ours.contiguous(), true.contiguous()
        values[f"{name}l1"] = 100 / DATA_RANGE * float(functional.mean_absolute_error(ours, true))
        values[f"{name}psnr"] = _psnr(image, ours, true)
    return {name: values[name] for name in COLUMNS if name in values}


def _psnr(image: Any, ours: Tensor, true: Tensor) -> float:
    if torch.equal(ours, true):
        return _PSNR_OF_EQUALS
    return float(image.peak_signal_noise_ratio(ours, true, data_range=DATA_RANGE))


def _planes(picture: np.ndarray) -> Tensor:
    """(3, H, W) in float64, so that sums over a whole picture lose nothing."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).double()
