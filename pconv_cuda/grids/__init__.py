"""Gaps in gridded data, in arrays and in files."""

from pconv_cuda.grids.api import fill

__all__ = ["fill"]
