"""Picture files: read upright, shown to the network as RGB, painted in their own mode, written as they were.

Only the hole's pixels are ever assigned; everything else in a picture is carried through as it was decoded. Three
classes have the same methods: :class:`Picture` for whatever Pillow holds exactly, :class:`Picture16` for 16-bit colour
files, which Pillow would cut down to 8 bits, and :class:`ArrayPicture` for arrays.
"""

from pconv_cuda.inpainting.pictures.array import ArrayPicture
from pconv_cuda.inpainting.pictures.formats import FORMATS, MAX_PIXELS, READ_ONLY, PictureTooLarge, open_pillow, pillow
from pconv_cuda.inpainting.pictures.picture import Picture
from pconv_cuda.inpainting.pictures.reading import read_picture
from pconv_cuda.inpainting.pictures.saving import save_picture
from pconv_cuda.inpainting.pictures.sixteen_bit import Picture16

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "READ_ONLY",
    "ArrayPicture",
    "Picture",
    "Picture16",
    "PictureTooLarge",
    "open_pillow",
    "pillow",
    "read_picture",
    "save_picture",
]
