"""What fills the holes: trained networks, and baselines without training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pconv_cuda.devices import pick_device
from pconv_cuda.errors import PConvError, require
from pconv_cuda.inpainting import inpaint
from pconv_cuda.models import load_network
from pconv_cuda.smooth import TENSION

__all__ = ["BASELINES", "Method", "baselines", "check_baselines", "networks"]

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]
_RADIUS = 3  # px, of OpenCV's methods: what its tutorial uses
_FEW_VALID = "the hole covers the whole picture"


@dataclass(frozen=True)
class Method:
    """``fill(holed, valid)``: a picture (H, W, 3) uint8, 0 in its holes, and bool (H, W) -> colours for every pixel.

    ``identity`` differs whenever the results could differ.
    """

    name: str
    about: str
    identity: str
    fill: Fill

    def restore(self, truth: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """The composite: the method's colours in the holes, of which it sees nothing, the true ones elsewhere."""
        if not valid.any():
            raise PConvError(_FEW_VALID)
        filled = self.fill(np.where(valid[..., None], truth, np.uint8(0)), valid)
        return np.where(valid[..., None], truth, filled)


def _mean(holed: np.ndarray, valid: np.ndarray) -> np.ndarray:
    colour = holed[valid].mean(axis=0).round().astype(np.uint8)
    return np.broadcast_to(colour, holed.shape)


def _opencv(flag: str) -> Fill:
    def fill(holed: np.ndarray, valid: np.ndarray) -> np.ndarray:
        cv2 = require("cv2", "eval", why=f"the baseline {flag}")
        method = cv2.INPAINT_TELEA if flag == "telea" else cv2.INPAINT_NS
        return np.asarray(cv2.inpaint(holed, (~valid).astype(np.uint8), _RADIUS, method))

    return fill


def _biharmonic(holed: np.ndarray, valid: np.ndarray) -> np.ndarray:
    restoration = require("skimage.restoration", "eval", why="the biharmonic baseline")
    filled = restoration.inpaint_biharmonic(holed / 255.0, ~valid, channel_axis=-1)
    return (filled.clip(0, 1) * 255).round().astype(np.uint8)


def _smooth(holed: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return inpaint("smooth", holed, ~valid)


# name -> (about, package, how)
BASELINES: dict[str, tuple[str, str, Fill]] = {
    "mean": ("mean colour of the valid pixels", "numpy", _mean),
    "telea": (f"OpenCV, Telea, radius {_RADIUS} px", "cv2", _opencv("telea")),
    "ns": (f"OpenCV, Navier-Stokes, radius {_RADIUS} px", "cv2", _opencv("ns")),
    "biharmonic": ("scikit-image, biharmonic", "skimage", _biharmonic),
    "smooth": (f"smooth_fill, a thin plate under tension {TENSION}", "torch", _smooth),
}


def check_baselines(names: Sequence[str]) -> None:
    """PConvError where one is unknown; MissingExtra where its package is not there, before hours of work."""
    for name in names:
        if name not in BASELINES:
            raise PConvError(f"baselines: expected some of {', '.join(BASELINES)}, or none, got {name!r}")
        require(BASELINES[name][1], "eval", why=f"the baseline {name}")


def baselines(names: Sequence[str]) -> list[Method]:
    """The methods of these names."""
    check_baselines(names)
    return [Method(name, BASELINES[name][0], BASELINES[name][0], BASELINES[name][2]) for name in names]


def networks(given: Sequence[str], device: str = "auto") -> list[Method]:
    """A method for each ``PATH`` or ``NAME=PATH``; without a name the folder's is taken.

    They fill as ``pconv inpaint`` does: the smooth fill stands in where holes are wider than their reach.

    Raises:
        PConvError: weights that cannot be read, a name twice or one of a baseline, no such device.
    """
    place = pick_device(device)
    found: list[Method] = []
    for text in given:
        name, equals, rest = text.partition("=")
        path = Path(rest if equals else text)
        name = name if equals else path.resolve().stem
        if len(name) > 100 or name in (".", "..", "truth") or any(one in name for one in "/\\\0"):
            # it names a folder of features too
            raise PConvError(
                f"weights: expected a name of at most 100 characters, without / and \\, and not ., .. or truth, "
                f"got {name[:99]!r}; give it another one with NAME={path}"
            )
        if not name or name in BASELINES or any(name == other.name for other in found):
            raise PConvError(f"weights: {text}: {name!r} is taken or empty; give it a name of its own with NAME={path}")
        found.append(_network(name, path, place))
    return found


def _network(name: str, path: Path, device: torch.device) -> Method:
    model = load_network(path, device=device)
    if model.in_channels != 3 or model.not_for_pictures:
        found = model.not_for_pictures or f"in_channels={model.in_channels}"
        raise PConvError(f"weights: {path}: expected a network for RGB, got {found}")
    digest = hashlib.sha256(repr(sorted(model.config.items())).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode() + tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    about = f"{model.conv} convolutions, {model.levels} levels, width {model.width}"
    if model.prefill is not None:
        about = f"{type(model).__name__} on the {model.prefill} fill, {about}"
    identity = (
        f"{about}, {digest.hexdigest()[:16]}"  # of the weights before fuse(), which changes results by rounding only
    )
    if model.conv == "partial":
        model = model.fuse()
    return Method(name, about, identity, lambda holed, valid: inpaint(model, holed, ~valid))
