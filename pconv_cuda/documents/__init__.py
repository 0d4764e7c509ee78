"""Pages of old documents and their damage, drawn by seed; ``python -m`` this package draws a sheet of both."""

from pconv_cuda.documents.damage import DAMAGE, damage_mask
from pconv_cuda.documents.fonts import Fonts, find_fonts
from pconv_cuda.documents.page import render_page
from pconv_cuda.documents.sources import (
    DamageMasks,
    DocumentPages,
    document_page,
    document_pages,
    pages_fingerprint,
)

__all__ = [
    "DAMAGE",
    "DamageMasks",
    "DocumentPages",
    "Fonts",
    "damage_mask",
    "document_page",
    "document_pages",
    "find_fonts",
    "pages_fingerprint",
    "render_page",
]
