"""Fill the holes of a photograph with the network `photo`, which comes with the package.

python examples/inpaint_photo.py                                    a photograph and a mask that are there already
python examples/inpaint_photo.py photo.jpg hole.png -o finished.png  yours; white is the hole, as large as the photo
`pconv inpaint` does the same for files and whole folders, and keeps EXIF, ICC profiles and 16 bits.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from pconv_cuda import PConvError, inpaint
from pconv_cuda.data import packaged_images
from pconv_cuda.masks import draw_mask


def example_pair() -> tuple[Image.Image, Image.Image]:
    """The cat of scikit-image, which no network of the package was trained on, and a mask of brush strokes."""
    cat = next(photograph.array for photograph in packaged_images() if photograph.name == "chelsea")  # (H, W, 3) uint8
    valid = draw_mask(cat.shape[:2], seed=4, kind="strokes", hole_share=(0.05, 0.1))  # (H, W) bool, True is valid
    return Image.fromarray(cat), Image.fromarray(~valid)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, help="picture of any size and format that Pillow reads")
    parser.add_argument("mask", nargs="?", type=Path, help="black and white, white in the hole")
    parser.add_argument("-o", "--out", type=Path, default=Path("finished.png"), help="default: %(default)s")
    parser.add_argument("--model", default="photo", help="photo, document or smooth (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.photo and not args.mask:
        parser.error("expected a mask beside the photograph")
    try:
        if args.photo:
            photo, mask = Image.open(args.photo), Image.open(args.mask)
        else:
            photo, mask = example_pair()
        finished = inpaint(args.model, photo, mask)  # pixels outside the hole come back as they are
        finished.save(args.out)
        if not args.photo:
            holed = Image.composite(Image.new("RGB", photo.size, "white"), photo, mask)
            holed.save(args.out.with_stem(f"{args.out.stem}-before"))
    except (PConvError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: {finished.width} x {finished.height} px")


if __name__ == "__main__":
    main()
