"""Packed numbers of files (scaled integers, codes for missing values) and the values that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Packing", "packing_of"]


@dataclass(frozen=True)
class Packing:
    """``value = raw * scale + offset``; the codes in ``missing`` and NaN stand for no value.

    Where ``unsigned`` the raw integers are to be read as such (attribute ``_Unsigned`` of classic NetCDF files).
    """

    scale: float = 1.0
    offset: float = 0.0
    missing: tuple[Any, ...] = ()
    unsigned: bool = False

    def unpack(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values, floating with NaN where one is missing, and a bool array of where that is."""
        own = self._own(raw)
        gone = np.isnan(own) if own.dtype.kind == "f" else np.zeros(own.shape, bool)
        for code in self.missing:
            with np.errstate(invalid="ignore", over="ignore"):
                gone |= own == np.asarray(code).astype(own.dtype)
        plain = self.scale == 1 and self.offset == 0
        if own.dtype.kind == "f" and plain:
            values = own.astype(own.dtype.newbyteorder("="))  # a copy
        else:
            values = own.astype(np.float32 if own.dtype.itemsize <= 2 and plain else np.float64)
            values = values if plain else values * self.scale + self.offset
        values[gone] = np.nan
        return values, gone

    def pack(self, raw: np.ndarray, filled: np.ndarray, gone: np.ndarray) -> np.ndarray:
        """A copy of ``raw`` with ``filled`` where there was no value (``gone``); all others are the same to the bit.

        Integers are rounded, cut to their range, and never one of the codes. What is NaN stays missing.
        """
        own = self._own(raw).copy()
        gone = gone & ~np.isnan(filled)
        new = (filled[gone].astype(np.float64) - self.offset) / self.scale
        if own.dtype.kind != "f":
            limits = np.iinfo(own.dtype)
            if own.dtype.itemsize == 8:  # the largest are no float64
                limits = np.iinfo(np.int32) if own.dtype.kind == "i" else np.iinfo(np.uint32)
            new = np.clip(np.rint(new), limits.min, limits.max)
            codes = {float(np.asarray(code).astype(own.dtype)) for code in self.missing}
            for _ in codes:  # a neighbour may be a code as well
                step = np.where(new < limits.max, 1, -len(codes))
                new = np.where(np.isin(new, list(codes)), new + step, new)
        own[gone] = new.astype(own.dtype)
        return own.view(raw.dtype)

    def _own(self, raw: np.ndarray) -> np.ndarray:
        if not self.unsigned or raw.dtype.kind != "i":
            return raw
        return raw.view(np.dtype(f"u{raw.dtype.itemsize}").newbyteorder(raw.dtype.byteorder))


def packing_of(attributes: Mapping[str, Any]) -> Packing:
    """By the attributes of the CF conventions."""
    missing: list[Any] = []
    for name in ("_FillValue", "missing_value"):
        value = attributes.get(name)
        if value is not None and np.asarray(value).dtype.kind in "iuf":
            missing += np.asarray(value).ravel().tolist()
    numbers = [_number(attributes.get(name), standard) for name, standard in (("scale_factor", 1), ("add_offset", 0))]
    return Packing(numbers[0], numbers[1], tuple(missing), str(attributes.get("_Unsigned", "")).lower() == "true")


def _number(value: Any, standard: float) -> float:
    found: Sequence[float] = np.asarray(standard if value is None else value, np.float64).ravel().tolist()
    return found[0] if len(found) else standard
