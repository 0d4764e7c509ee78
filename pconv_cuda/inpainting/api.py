"""``inpaint`` for pictures in memory, and ``restore``, which it shares with the work on files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pconv_cuda.data.images import black_is_zero
from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.fill import fill_holes
from pconv_cuda.inpainting.patches import Progress
from pconv_cuda.inpainting.pictures import ArrayPicture, Picture, pillow
from pconv_cuda.inpainting.smooth_holes import NO_TILES, SmoothFiller
from pconv_cuda.masks.polarity import (
    BLACK_HOLE,
    INVERTED_SHARE,
    WHITE_HOLE,
    check_polarity,
    hole_where,
    other_polarity,
)
from pconv_cuda.masks.values import THRESHOLD, brightness, is_coloured, is_set, looks_like_a_picture
from pconv_cuda.named import load_named

if TYPE_CHECKING:
    from PIL import Image as PillowImage

    from pconv_cuda.models import InpaintingNetwork
    from pconv_cuda.named import Filler

__all__ = ["check_for_pictures", "inpaint", "restore"]


def inpaint(
    model: InpaintingNetwork | str, image: Any, mask: Any, *, polarity: str | None = None, tile: int | None = None
) -> Any:
    """Fill the holes of a picture of any size; every pixel outside them is returned exactly as it came.

    **The mask's polarity** goes by the image's type: for PIL pictures and numpy arrays white (True, 255) is the hole,
    as in every file; for torch tensors the mask is 1 where the picture is *valid*, as in the network. ``polarity``
    says it for all of them.

    Args:
        model: a network of :mod:`pconv_cuda.models` for RGB, used in eval mode, on the device where it lies; or the
            word ``"smooth"``, :func:`pconv_cuda.functional.smooth_fill`, which needs no weights, or ``"photo"``, the
            network that comes with the package; by name on the device of an image that is a tensor, else on the CPU.
        image: a PIL picture (modes 1, L, LA, P, PA, RGB, RGBA, CMYK, YCbCr, I;16); a numpy array (H, W) or
            (H, W, 1|2|3|4), or a tensor (C, H, W) or (N, C, H, W): uint8, floating in [0, 1], numpy also
            uint16. What lies in the hole is not read. An alpha channel is kept as it is.
            A PIL picture's orientation tag is applied, as the command does: the result is upright and has none.
        mask: for PIL a picture or array of the upright picture's size; for numpy (H, W); for tensors (H, W),
            (1, H, W), or (N|1, 1, H, W) with a batch. One rule for all: bool as it is; values within 0..1 count from
            0.5 on, so 0 and 1 are exact; within 0..255 from 128 on; within 0..65535 from 32768 on. NaN is a hole. A PIL
            picture or an array of integers that has colours, or more than two values most of which are grey, is no
            mask and is refused.
        polarity: ``"white-hole"``: what is set (white, True, 1) is the hole; ``"black-hole"``: it is valid. None: as
            above.
        tile: the largest side in px that the network sees at once; default: as the memory allows. ``"smooth"`` needs
            none and warns.

    Returns:
        A new picture, array or tensor of the image's type, shape, dtype and device.

    Raises:
        PConvError: a type, shape or range that does not fit; a photograph in the mask's place; a hole that covers the
            whole picture.

    A mask without a hole gives a copy and a warning. One of which more than 60% is hole gives a warning that it may be
    inverted, unless ``polarity`` is given.
    """
    check_polarity(polarity, also=(None,))
    if mask is image:
        raise PConvError("mask: expected a black and white mask beside the image, got the image itself")
    if isinstance(model, str):
        filler = load_named(model, image.device if isinstance(image, Tensor) else torch.device("cpu"))
    else:
        filler = model
    if tile is not None and (not isinstance(tile, int | np.integer) or tile < 1):
        raise PConvError(f"tile: expected a positive integer or None, got {tile!r}")
    if isinstance(filler, SmoothFiller):
        if tile is not None:
            warnings.warn(NO_TILES, UserWarning, stacklevel=2)
    elif not hasattr(filler, "config"):
        raise PConvError(f"model: expected a network of pconv_cuda.models or a name, got {type(filler).__name__}")
    else:
        check_for_pictures(filler, "model")
    if isinstance(image, Tensor):
        return _inpaint_tensor(filler, image, mask, polarity, tile)
    if isinstance(image, np.ndarray):
        _check_array(image)  # before its first two sizes are taken for a picture's
        return _inpaint_array(filler, image, _as_hole(mask, image.shape[:2], polarity, depth=3), tile)
    if hasattr(image, "getexif"):
        return _inpaint_pil(filler, image, mask, polarity, tile)
    raise PConvError(f"image: expected a PIL picture, a numpy array or a torch tensor, but got {type(image)}")


def check_for_pictures(network: InpaintingNetwork, argument: str) -> None:
    """
    Raises:
        PConvError: the network is for other than RGB pictures.
    """
    if network.in_channels != 3 or network.not_for_pictures:
        found = network.not_for_pictures or f"in_channels={network.in_channels}"
        raise PConvError(f"{argument}: expected a network for RGB pictures, got {found}; pconv_cuda.fill is for grids")


def restore(
    filler: Filler,
    picture: Picture | ArrayPicture,
    hole: np.ndarray,
    *,
    opaque: bool = False,
    tile: int | None = None,
    notify: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Paint the hole (bool (H, W), true in it) of ``picture``, in place.

    Fully transparent pixels have no colour, so they count as unknown, but are not painted. ``opaque`` makes the painted
    pixels opaque; the rest as in :func:`fill_holes`. The smooth fill ignores ``tile``.
    """
    colours = torch.from_numpy(np.array(picture.rgb())).permute(2, 0, 1)
    wanted = torch.from_numpy(np.array(hole))
    alpha = picture.alpha()
    valid = ~wanted if alpha is None else ~wanted & torch.from_numpy(alpha > 0)
    if not bool(valid.any()):
        valid = ~wanted
    picture.prepare(hole)
    if isinstance(filler, SmoothFiller):
        patches = filler.fill(colours, wanted, valid, notify=notify, progress=progress)
    else:
        patches = fill_holes(filler, colours, wanted, valid, tile=tile, notify=notify, progress=progress)
    for patch in patches:
        picture.paint(patch.box, patch.colours.permute(1, 2, 0).numpy(), hole[patch.box.slices], opaque=opaque)


def _as_hole(mask: Any, size: tuple[int, ...], given: str | None, depth: int) -> np.ndarray:
    """A PIL or array mask as bool (H, W), true in the hole.

    ``given``: the polarity, where the caller named one; ``depth``: calls between that caller and a warning of here.
    """
    polarity = given or WHITE_HOLE
    if hasattr(mask, "getexif"):
        mask = _upright(black_is_zero(mask))
        grey = brightness(mask, "the picture given as mask").values
        if is_coloured(mask) or looks_like_a_picture(grey):
            what = "with colours" if is_coloured(mask) else "that is mostly grey"
            raise PConvError(
                f"mask: expected a black and white mask, got a picture {what} (mode {mask.mode}, {mask.width} x "
                f"{mask.height} px); mask.convert('L').point(lambda v: 255 * (v >= {THRESHOLD})) takes what is bright"
            )
        hole = _hole_of(grey >= THRESHOLD, None, polarity)
    elif isinstance(mask, np.ndarray):
        values = mask[..., 0] if mask.ndim == 3 and mask.shape[2] == 1 else mask
        if values.dtype.kind in "ui" and values.ndim == 2:
            most = int(values.max(initial=0))
            if looks_like_a_picture((values >> (8 if most > 255 else 0)).clip(0, 255).astype(np.uint8)):
                limit = THRESHOLD * (256 if most > 255 else 1)
                raise PConvError(
                    f"mask: expected a black and white mask, got {values.dtype} {values.shape} that is mostly grey, as "
                    f"a picture is; mask >= {limit} takes what is bright"
                )
        hole = _hole_of(is_set(values), values, polarity)
    else:
        raise PConvError(f"mask: expected a PIL picture or a numpy array, but got {type(mask)}")
    if hole.shape != tuple(size):
        raise PConvError(f"mask: expected (H, W) = {tuple(size)}, the image's size, but got {hole.shape}")
    _warn_of_share(hole.mean(), given, polarity, depth)
    return hole


def _hole_of(is_set: np.ndarray, values: np.ndarray | None, polarity: str) -> np.ndarray:
    """Where the hole is, of what is set; NaN among ``values`` is hole either way."""
    hole = hole_where(is_set, polarity)
    return hole | np.isnan(values) if values is not None and values.dtype.kind == "f" else hole


def _orientation(image: PillowImage.Image) -> int:
    found = image.getexif().get(0x0112, 1)
    return found if isinstance(found, int) and 2 <= found <= 8 else 1


def _upright(image: PillowImage.Image) -> PillowImage.Image:
    """A copy with the orientation tag applied, and gone."""
    return image.copy() if _orientation(image) == 1 else pillow("PIL.ImageOps").exif_transpose(image)


def _warn_of_share(share: float, given: str | None, polarity: str, depth: int = 3) -> None:
    """Warns of a mask without a hole, and of one that looks inverted unless its polarity was named."""
    if share == 0:
        warnings.warn("the mask has no hole: the image is returned as it came", UserWarning, stacklevel=depth + 1)
    elif INVERTED_SHARE < share < 1 and given is None:
        warnings.warn(
            f"mask: {share:.0%} of the picture is hole; if the mask is inverted, give `polarity="
            f"{other_polarity(polarity)}`, else `polarity={polarity}`",
            UserWarning,
            stacklevel=depth + 1,
        )


def _inpaint_pil(filler: Filler, image: PillowImage.Image, mask: Any, polarity: str | None, tile: int | None) -> Any:
    upright, turned = _upright(image), _orientation(image) != 1
    hole = _as_hole(mask, (upright.height, upright.width), polarity, depth=4)
    has_tag = hasattr(mask, "getexif") and _orientation(mask) != 1
    if turned and not has_tag and image.size == upright.size:  # of another size, a mask that is not turned is refused
        warnings.warn(
            "image: it is turned by its orientation tag; the mask, which has none, is not turned", stacklevel=3
        )
    picture = Picture(upright, str(image.format))
    if hole.any():
        restore(filler, picture, hole, tile=tile)
    return picture.image


def _check_array(image: np.ndarray) -> None:
    if image.ndim in (2, 3) and 0 not in image.shape and (image.ndim == 2 or image.shape[2] <= 4):
        return
    text = f"image: expected (H, W) or (H, W, C) with 1 to 4 channels and a pixel, but got {image.shape}"
    if image.ndim == 3 and 1 <= image.shape[0] <= 4:
        text += "; channels come last in an array, and first in a torch tensor"
    raise PConvError(text)


def _inpaint_array(filler: Filler, image: np.ndarray, hole: np.ndarray, tile: int | None) -> np.ndarray:
    samples = image[..., None] if image.ndim == 2 else image
    if (samples.dtype.kind, samples.dtype.itemsize) not in (("u", 1), ("u", 2)) and samples.dtype.kind != "f":
        raise PConvError(f"image: expected uint8, uint16 or floating in [0, 1], but got {image.dtype}")
    if samples.dtype.kind == "f":
        seen = samples[~hole]
        if not ((seen >= 0) & (seen <= 1)).all():  # false for NaN
            raise PConvError("image: expected values in [0, 1] outside the hole, but found others (or NaN)")
    result = samples.astype(samples.dtype.newbyteorder("="))  # a copy
    if hole.any():
        restore(filler, ArrayPicture(result), hole, tile=tile)
    return result.reshape(image.shape).astype(image.dtype, copy=False)


def _inpaint_tensor(filler: Filler, image: Tensor, mask: Any, given: str | None, tile: int | None) -> Tensor:
    polarity = given or BLACK_HOLE
    batch = image[None] if image.ndim == 3 else image
    if batch.ndim != 4 or not 1 <= batch.shape[1] <= 4:
        raise PConvError(
            f"image: expected (C, H, W) or (N, C, H, W) with 1 to 4 channels, but got {tuple(image.shape)}"
        )
    if image.dtype != torch.uint8 and not image.dtype.is_floating_point:
        raise PConvError(f"image: expected uint8 or floating in [0, 1], but got {image.dtype}")
    if not isinstance(mask, Tensor):
        raise PConvError(f"mask: expected a tensor beside an image that is one, but got {type(mask)}")
    masks = mask.detach().reshape((1,) * (4 - mask.ndim) + mask.shape) if mask.ndim <= 4 else mask
    size = (batch.shape[2], batch.shape[3])
    if masks.ndim != 4 or masks.shape[1] != 1 or masks.shape[2:] != size or masks.shape[0] not in (1, len(batch)):
        raise PConvError(
            f"mask: expected (H, W), (1, H, W) or (N|1, 1, H, W) for an image {tuple(image.shape)}, "
            f"but got {tuple(mask.shape)}"
        )
    if not len(batch):
        return image.clone()
    plain = masks.float() if masks.dtype == torch.bfloat16 else masks  # numpy knows no bfloat16
    values = plain.cpu().numpy()
    found = torch.from_numpy(_hole_of(is_set(values), values, polarity))
    holes = found.to(image.device).expand(len(batch), 1, *size)
    _warn_of_share(float(holes.float().mean()), given, polarity)
    results = []
    for sample, hole in zip(batch.detach(), holes, strict=True):
        # numpy knows no bfloat16; only the hole's pixels come back from the float32 copy
        exact = sample if sample.dtype in (torch.uint8, torch.float64) else sample.float()
        array = exact.permute(1, 2, 0).cpu().numpy()
        painted = torch.from_numpy(_inpaint_array(filler, array, hole[0].cpu().numpy(), tile))
        results.append(torch.where(hole, painted.permute(2, 0, 1).to(sample), sample))
    return torch.stack(results).reshape(image.shape)
