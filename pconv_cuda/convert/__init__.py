"""Weights of other implementations as weights of :class:`pconv_cuda.PConvUNet`."""

from pconv_cuda.convert.api import Conversion, convert
from pconv_cuda.convert.formats import FORMATS

__all__ = ["FORMATS", "Conversion", "convert"]
