"""GeoTIFF by rasterio: a copy of the file in which the bands' missing values change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.errors import PConvError, require
from pconv_cuda.grids.files import GridFile, GridVariable
from pconv_cuda.grids.packing import Packing

__all__ = ["RasterFile"]

# No files beside the copy, and a file laid out for the cloud (COG) may be changed too.
_OPTIONS = {"GDAL_PAM_ENABLED": "NO", "IGNORE_COG_LAYOUT_BREAK": "YES"}


class RasterFile(GridFile):
    """All bands but alpha are one variable, ``bands``; so are chosen ones, such as ``1,3``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rasterio: Any = require("rasterio", "grid", why="reading GeoTIFF files")
        with self._opened(path) as source:
            kinds, alpha = source.dtypes, self._rasterio.enums.ColorInterp.alpha
            self._all = [band for band, colour in enumerate(source.colorinterp, 1) if colour != alpha]
            self._count = source.count
        if any(np.dtype(kind).kind not in "iuf" for kind in kinds):
            raise PConvError(f"input: expected bands of real numbers, got {', '.join(sorted(set(kinds)))} in {path}")

    @property
    def names(self) -> list[str]:
        return ["bands"]

    def chosen(self, names: Sequence[str]) -> list[str]:
        """One variable in any case: bands that are named are channels of one grid."""
        return [",".join(dict.fromkeys(names))] if names else self.names

    def read(self, name: str) -> GridVariable:
        with self._opened(self.path) as source:
            bands = [self._band(source, band) for band in self._bands(name)]
            unit = next((text for text in source.units if text), "")
        planes = [packing.unpack(raw)[0] for raw, packing, _ in bands]
        for plane, (_, _, gone) in zip(planes, bands, strict=True):
            plane[gone] = np.nan
        return GridVariable(name, np.stack(planes), ("band", "y", "x"), (), unit)

    def rewrite(self, temporary: Path, filled: Mapping[str, np.ndarray]) -> None:
        with self._opened(temporary, "r+") as copy:
            there: Any = False  # where a band has a value
            for name, planes in filled.items():
                for number, plane in zip(self._bands(name), planes, strict=True):
                    raw, packing, gone = self._band(copy, number)
                    there = there | (gone & ~np.isnan(plane))
                    new = packing.pack(raw, plane, gone)
                    copy.write(new, number)
                    # of the values that were there before; an empty text takes a tag away
                    stale = [key for key in copy.tags(number) if key.startswith("STATISTICS_")]
                    copy.update_tags(number, **dict.fromkeys(stale, ""))
            self._mark_valid(copy, there)
            if factors := copy.overviews(1):
                copy.build_overviews(factors, self._rasterio.enums.Resampling.average)

    def _mark_valid(self, copy: Any, there: np.ndarray) -> None:
        """In a mask band or an alpha band, where there is one."""
        flags, enums = copy.mask_flag_enums, self._rasterio.enums
        alpha = [band for band in range(1, copy.count + 1) if band not in self._all]
        for band in alpha:
            raw = copy.read(band)
            raw[there] = np.iinfo(raw.dtype).max if raw.dtype.kind in "iu" else 1
            copy.write(raw, band)
        if not alpha and any(enums.MaskFlags.per_dataset in each for each in flags):
            mask = copy.read_masks(1)
            mask[there] = 255
            copy.write_mask(mask)

    def _bands(self, name: str) -> list[int]:
        if name == "bands":
            return self._all
        parts = name.split(",")
        if not all(part.isdecimal() and 1 <= int(part) <= self._count for part in parts):
            raise PConvError(f"variables: expected numbers of bands, 1 to {self._count}, got {name!r}")
        return [int(part) for part in parts]

    def _band(self, source: Any, band: int) -> tuple[np.ndarray, Packing, np.ndarray]:
        """Raw values, what they mean, and where there is none."""
        raw, nodata, enums = source.read(band), source.nodatavals[band - 1], self._rasterio.enums
        codes: tuple[Any, ...] = () if nodata is None or np.isnan(nodata) else (nodata,)
        flags = source.mask_flag_enums[band - 1]
        if raw.dtype.kind in "iu" and raw.dtype.itemsize == 8 and enums.MaskFlags.nodata in flags:
            codes = tuple(np.unique(raw[source.read_masks(band) == 0]).tolist())  # rasterio tells the code as a float64
        try:
            packing = Packing(source.scales[band - 1], source.offsets[band - 1], codes)
        except PConvError as error:
            raise PConvError(f"variables: band {band} of {self.path}: {error}") from error
        _, gone = packing.unpack(raw)
        if enums.MaskFlags.per_dataset in flags:
            gone |= source.read_masks(band) == 0
        return raw, packing, gone

    @contextlib.contextmanager
    def _opened(self, path: Path, mode: str = "r") -> Iterator[Any]:
        try:
            with self._rasterio.Env(**_OPTIONS), self._rasterio.open(path, mode) as source:
                yield source
        except self._rasterio.errors.RasterioError as error:
            what = f"input: {self.path} cannot be read" if mode == "r" else "output: the file cannot be written"
            raise PConvError(f"{what} as GeoTIFF: {error}") from error
