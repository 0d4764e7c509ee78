"""Inpainting: pictures of any size with holes of any width, in memory (:func:`inpaint`) or as files."""

from pconv_cuda.inpainting.api import inpaint

__all__ = ["inpaint"]
