"""Restore a page whose damage is marked in one colour, with the network `document`, which comes with the package.

python examples/restore_page.py                             a page and damage that are drawn here
python examples/restore_page.py scan.png --colour '#ff00ff'  yours: paint over what is lost in that colour, save as png
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from pconv_cuda import PConvError, inpaint
from pconv_cuda.documents import damage_mask, document_pages


def marked_page(colour: np.ndarray, size: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """A drawn page with worm holes, tears and folds in ``colour``, and the same page whole: (H, W, 3) uint8 each."""
    page = document_pages(2, size)[1]
    valid = damage_mask(size, size, rng=3, hole_share=(0.05, 0.1), kinds=["worms", "tears", "folds"])
    return np.where(valid[..., None], page, colour), page


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", type=Path, help="png or tiff with the damage painted over in one colour")
    parser.add_argument("--colour", default="#ff00ff", help="of the damage (default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, default=Path("restored.png"), help="default: %(default)s")
    args = parser.parse_args(arguments)
    try:
        colour = np.array(ImageColor.getrgb(args.colour)[:3], np.uint8)
        if args.page:
            page = np.asarray(Image.open(args.page).convert("RGB"))
        else:
            page, whole = marked_page(colour)
        hole = (page == colour).all(axis=-1)  # (H, W) bool: where the damage is
        if not hole.any():
            sys.exit(f"error: no pixel is exactly {args.colour}; jpg blurs colours, so save the marked page as png")
        restored = inpaint("document", page, hole)  # for numpy arrays True is the hole
        Image.fromarray(restored).save(args.out)
        both = np.concatenate([page, restored], axis=1)
        Image.fromarray(both).save(args.out.with_stem(f"{args.out.stem}-before-after"))
    except (PConvError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: {hole.mean():.1%} of the page restored")
    if not args.page:
        for name, filled in {"document": restored, "smooth": inpaint("smooth", page, hole)}.items():
            squares = np.mean((filled[hole] * 1.0 - whole[hole]) ** 2)
            print(f"PSNR in the hole, {name}: {10 * np.log10(255**2 / squares):.2f} dB")


if __name__ == "__main__":
    main()
