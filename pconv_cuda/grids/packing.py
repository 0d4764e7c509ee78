"""Packed numbers of files (scaled integers, codes for missing values) and the values that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pconv_cuda.errors import PConvError

__all__ = ["Packing", "packing_of"]


@dataclass(frozen=True)
class Packing:
    """``value = raw * scale + offset``; the codes in ``missing`` and NaN stand for no value.

    A code that the raw type cannot hold, such as 1e20 for int16, stands for nothing. Where ``unsigned`` the raw
    integers are to be read as such (attribute ``_Unsigned`` of classic NetCDF files).

    Raises:
        PConvError: a scale of 0, or one or an offset that is not finite.
    """

    scale: float = 1.0
    offset: float = 0.0
    missing: tuple[Any, ...] = ()
    unsigned: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale == 0:
            raise PConvError(f"scale_factor: expected a finite number other than 0, got {self.scale}")
        if not math.isfinite(self.offset):
            raise PConvError(f"add_offset: expected a finite number, got {self.offset}")

    def unpack(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values, floating with NaN where one is missing, and a bool array of where that is."""
        own = self.own(raw)
        gone = np.isnan(own) if own.dtype.kind == "f" else np.zeros(own.shape, bool)
        for code in self._codes(own.dtype):
            gone |= own == code
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

        Integers are rounded; all are cut to the range of their type, and never one of the codes. What is NaN stays
        missing.
        """
        own = self.own(raw).copy()
        gone = gone & ~np.isnan(filled)
        with np.errstate(over="ignore"):
            new = (filled[gone].astype(np.float64) - self.offset) / self.scale
        codes = self._codes(own.dtype)
        whole = own.dtype.kind != "f"
        lowest, highest = _limits(own.dtype)
        new = np.clip(np.rint(new) if whole else new, lowest, highest).astype(own.dtype)
        top = np.iinfo(own.dtype).max if whole else None
        for _ in range(len(codes)):  # a neighbour may be a code as well
            coded = np.isin(new, codes)
            if whole:
                down, up = coded & (new == top), coded & (new != top)
                new[up] += 1
                new[down] -= len(codes)
            else:
                new[coded] = np.nextafter(
                    new[coded], np.where(new[coded] == highest, lowest, highest).astype(new.dtype)
                )
        own[gone] = new
        return own.view(raw.dtype)

    def _codes(self, dtype: np.dtype) -> np.ndarray:
        """The codes that the type can hold, once each."""
        found = []
        for code in self.missing:
            if dtype.kind == "f":
                with np.errstate(over="ignore"):
                    cast = dtype.type(code)
                if np.isfinite(cast) or not math.isfinite(code):
                    found.append(cast)
                continue
            if not math.isfinite(code) or code != int(code):
                continue
            own, limits = int(code), np.iinfo(dtype)
            if self.unsigned and -(2 ** (8 * dtype.itemsize - 1)) <= own < 0:  # of the signed type of that size
                own += 2 ** (8 * dtype.itemsize)
            if limits.min <= own <= limits.max:
                found.append(dtype.type(own))
        return np.unique(np.array(found, dtype.newbyteorder("=")))

    def own(self, raw: np.ndarray) -> np.ndarray:
        """The same numbers, unsigned where they are to be read so."""
        if not self.unsigned or raw.dtype.kind != "i":
            return raw
        return raw.view(np.dtype(f"u{raw.dtype.itemsize}").newbyteorder(raw.dtype.byteorder))


def _limits(dtype: np.dtype) -> tuple[float, float]:
    """The least and the largest value that are a number of the type and a float64."""
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    limits = np.iinfo(dtype)
    largest = float(limits.max)
    return float(limits.min), largest if int(largest) <= limits.max else math.nextafter(largest, 0.0)


def packing_of(attributes: Mapping[str, Any]) -> Packing:
    """By the attributes of the CF conventions.

    Raises:
        PConvError: attributes that are no numbers, or by which nothing can be packed.
    """
    missing: list[Any] = []
    for name in ("_FillValue", "missing_value"):
        value = attributes.get(name)
        if value is not None and np.asarray(value).dtype.kind in "iuf":
            missing += np.asarray(value).ravel().tolist()
    numbers = [_number(attributes, name, standard) for name, standard in (("scale_factor", 1.0), ("add_offset", 0.0))]
    return Packing(numbers[0], numbers[1], tuple(missing), str(attributes.get("_Unsigned", "")).lower() == "true")


def _number(attributes: Mapping[str, Any], name: str, standard: float) -> float:
    value = attributes.get(name)
    if value is None:
        return standard
    found = np.asarray(value)
    if found.dtype.kind not in "iuf" or found.size != 1:
        raise PConvError(f"{name}: expected a number, got {value!r}")
    return float(found.ravel()[0])
