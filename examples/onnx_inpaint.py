"""Fill the holes of a picture with a file of `pconv export`, by onnxruntime, numpy and Pillow alone.

python examples/onnx_inpaint.py photo.onnx picture.jpg hole.png -o filled.png    white is the hole
Copy it anywhere: neither torch nor pconv_cuda is needed. docs/export.md says what the file takes and gives.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def fill(session: onnxruntime.InferenceSession, picture: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, int]:
    """The filled picture, and how many pixels of the hole were too far from its edge to be filled.

    picture: (H, W, 3) uint8; hole: (H, W) bool, true in the hole.
    """
    image = picture.transpose(2, 0, 1)[None].astype(np.float32) / 255  # (1, 3, H, W) in [0, 1]
    mask = (~hole)[None, None].astype(np.float32)  # (1, 1, H, W): 1 is valid, 0 is a hole
    output, new_mask = session.run(["output", "new_mask"], {"image": image, "mask": mask})
    filled = np.rint(output[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    return np.where(hole[..., None], filled, picture), int((new_mask == 0).sum())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, help="written by `pconv export`")
    parser.add_argument("picture", type=Path, help="of any size and format that Pillow reads; becomes RGB")
    parser.add_argument("mask", type=Path, help="black and white, white in the hole")
    parser.add_argument("-o", "--out", type=Path, default=Path("filled.png"), help="default: %(default)s")
    args = parser.parse_args(arguments)
    try:
        session = onnxruntime.InferenceSession(str(args.network), providers=["CPUExecutionProvider"])
        said = session.get_modelmeta().custom_metadata_map
        if said.get("mask_polarity") != "1 = valid, 0 = hole":
            sys.exit(f"error: {args.network} was not written by pconv export")
        # a camera's "turn me" tag first, so that picture and mask are the same way up
        picture, mask = (ImageOps.exif_transpose(Image.open(path)) for path in (args.picture, args.mask))
        if picture.size != mask.size:
            sys.exit(f"error: mask: expected {picture.size}, the picture's size, got {mask.size}")
        filled, left = fill(session, np.asarray(picture.convert("RGB")), np.asarray(mask.convert("L")) >= 128)
        Image.fromarray(filled).save(args.out)
    except Exception as error:  # those of onnxruntime have no class in common
        sys.exit(f"error: {error}")
    print(f"{args.out}: {picture.width} x {picture.height} px, {left} pixels of the hole left open")


if __name__ == "__main__":
    main()
