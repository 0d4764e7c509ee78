"""The fillers that ``inpaint`` and the command line know by name. torch is imported when one is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pconv_cuda.errors import PConvError

if TYPE_CHECKING:
    import torch

    from pconv_cuda.inpainting.smooth_holes import SmoothFiller
    from pconv_cuda.models import InpaintingNetwork

    Filler = InpaintingNetwork | SmoothFiller

__all__ = ["DEFAULT", "NAMED", "Named", "load", "load_named"]


@dataclass(frozen=True)
class Named:
    """``about``: for help texts; ``load``: makes it on a device."""

    about: str
    load: Callable[[torch.device], Filler]


def _smooth(device: torch.device) -> SmoothFiller:
    from pconv_cuda.inpainting.smooth_holes import SmoothFiller

    return SmoothFiller(device)


@lru_cache(maxsize=8)
def _packaged(name: str, device: torch.device) -> InpaintingNetwork:
    from pconv_cuda.models import load_network
    from pconv_cuda.models.weights import PRETRAINED

    return load_network(PRETRAINED / f"{name}.safetensors", device=device)


NAMED = {
    "smooth": Named("the smoothest surface through the known pixels", _smooth),
    "photo": Named("a network for photographs, which adds detail to what smooth gives", partial(_packaged, "photo")),
    "document": Named(
        "a network for pages of old documents, which adds to what smooth gives", partial(_packaged, "document")
    ),
}
DEFAULT = "photo"  # what `pconv inpaint` takes where no weights are named


def load_named(name: str, device: torch.device) -> Filler:
    """The filler of a name, as ``pconv_cuda.inpaint`` takes it.

    Raises:
        PConvError: another word.
    """
    if name not in NAMED:
        raise PConvError(
            f"model: expected a network or one of the words {', '.join(NAMED)}, but got {name!r}; weights in a file "
            "are read by pconv_cuda.models.load_network(PATH)"
        )
    return NAMED[name].load(device)


def load(
    weights: str, device: torch.device, argument: str = "weights", names: Collection[str] = tuple(NAMED)
) -> Filler:
    """What fills holes: one of the names, else weights at a path. ``./smooth`` is a path.

    ``names``: those that an error lists.

    Raises:
        PConvError: nothing is called so, or it holds no weights.
    """
    if weights in NAMED:
        return NAMED[weights].load(device)
    from pconv_cuda.models import load_network

    path = Path(weights)
    if path.name == weights and not path.exists():
        known = f"one of the names {', '.join(names)}" if len(names) > 1 else ", ".join(names)
        raise PConvError(
            f"{argument}: expected {known}, a .safetensors file or a folder with one, but {weights} does not exist"
        )
    return load_network(weights, device=device)  # as it was written: ./a/b is no repository
