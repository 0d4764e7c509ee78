"""Values that count as such, although other readers hide them: default fill values, and those outside valid ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["doubts"]

# What netCDF writes where nothing was written; of bytes every value may be meant.
_DEFAULTS: dict[str, float] = {
    "i2": -32767, "u2": 65535, "i4": -2147483647, "u4": 4294967295, "i8": -9223372036854775806,
    "u8": 18446744073709551614, "f4": 9.969209968386869e36, "f8": 9.969209968386869e36,
}  # fmt: skip


def doubts(raw: np.ndarray, values: np.ndarray, attributes: Mapping[str, Any], defaults: bool) -> list[str]:
    """Sentences on values that are not missing by ``_FillValue`` and ``missing_value`` and yet may be meant to be.

    Args:
        raw: the numbers as they are stored; unsigned ones as such.
        values: what they stand for, NaN where one is missing.
        attributes: of the variable.
        defaults: whether the file format has default fill values.
    """
    found, known = [], ~np.isnan(values)
    default = _DEFAULTS.get(f"{raw.dtype.kind}{raw.dtype.itemsize}")
    if defaults and default is not None and "_FillValue" not in attributes:
        count = int((known & (raw == raw.dtype.type(default))).sum())
        if count:
            found.append(f"{_values(count)} {default:g}, the default fill value of {raw.dtype.name}")
    for text, attribute, place, below in (
        ("valid_min", "valid_min", 0, True),
        ("valid_max", "valid_max", 0, False),
        ("valid_range", "valid_range", 0, True),
        ("valid_range", "valid_range", 1, False),
    ):
        limits = np.asarray(attributes.get(attribute, ())).ravel()
        if limits.dtype.kind not in "iuf" or limits.size != (2 if attribute == "valid_range" else 1):
            continue
        limit: Any = limits[place]
        packed = "scale_factor" in attributes or "add_offset" in attributes
        own = values if packed and raw.dtype.kind in "iu" and limits.dtype.kind == "f" else raw  # as the CF conventions
        if own.dtype.kind == "u" and limits.dtype.kind == "i" and limit < 0:  # of the signed type
            limit = int(limit) + 2 ** (8 * limits.dtype.itemsize)
        with np.errstate(invalid="ignore"):
            count = int((known & ((own < limit) if below else (own > limit))).sum())
        if count:
            found.append(f"{_values(count)} {'below' if below else 'above'} the {text} of {limit:g}")
    return [f"{one}; such values count as values, unless _FillValue or missing_value names them" for one in found]


def _values(count: int) -> str:
    return "1 value is" if count == 1 else f"{count:,} values are"
