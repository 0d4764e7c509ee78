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

# The copy is one file: no files beside it. One that is laid out for the cloud (COG) may be changed too.
_OPTIONS = {"GDAL_PAM_ENABLED": "NO", "GDAL_TIFF_INTERNAL_MASK": "YES", "IGNORE_COG_LAYOUT_BREAK": "YES"}
_STATISTICS = "STATISTICS_"  # of the values that were there before


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
            numbers = self._bands(name)
            self._refuse_classes(source, numbers)
            bands = [self._band(source, band) for band in numbers]
            unit = next((text for text in source.units if text), "")
        planes = [packing.unpack(raw)[0] for raw, packing, _ in bands]
        for plane, (_, _, gone) in zip(planes, bands, strict=True):
            plane[gone] = np.nan
        return GridVariable(name, np.stack(planes), ("band", "y", "x"), (), unit, numbers=tuple(numbers))

    def _refuse_classes(self, source: Any, bands: Sequence[int]) -> None:
        """PConvError where a band has a colour table, which makes its values numbers of entries."""
        for band in bands:
            is_palette = source.colorinterp[band - 1] == self._rasterio.enums.ColorInterp.palette
            with contextlib.suppress(ValueError):  # rasterio's answer where there is none
                is_palette = bool(source.colormap(band)) or is_palette
            if is_palette:
                raise PConvError(
                    f"input: expected measurements, got {self.path}, whose band {band} has a colour table: its values "
                    "are classes or colours, between which nothing can be interpolated"
                )

    def raw(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        with self._opened(self.path) as source:
            bands = [self._band(source, band) for band in self._bands(name)]
        return np.stack([raw for raw, _, _ in bands]), np.stack([gone for _, _, gone in bands])

    def check(self, names: Sequence[str]) -> None:
        with self._opened(self.path) as source:
            how = _lossy(source.tags(ns="IMAGE_STRUCTURE"))
            chosen = {band for name in names for band in self._bands(name)}
            masked = any(self._rasterio.enums.MaskFlags.per_dataset in each for each in source.mask_flag_enums)
        own = self.path.name
        if how:
            raise PConvError(
                f"input: expected a file without loss, got {self.path} with {how} compression, whose values would "
                f"change when they are written again; fill a copy: gdal_translate -co COMPRESS=DEFLATE {own} copy.tif"
            )
        if masked and chosen != set(self._all):
            every, some = (", ".join(map(str, bands)) for bands in (self._all, sorted(chosen)))
            raise PConvError(
                f"variables: expected all bands ({every}) of {self.path}, which share one mask, got {some}; fill all, "
                f"or a copy with these alone: gdal_translate -b {some.replace(', ', ' -b ')} {own} copy.tif"
            )

    def rewrite(self, temporary: Path, filled: Mapping[str, np.ndarray]) -> None:
        with self._opened(self.path) as source, self._opened(temporary, "r+") as copy:
            self._carry(source, copy)
            there: Any = np.zeros(source.shape, bool)  # where a band has a value now
            never: Any = np.zeros(source.shape, bool)  # where one has none, and had none
            for name, planes in filled.items():
                for number, plane in zip(self._bands(name), planes, strict=True):
                    raw, packing, gone = self._band(source, number)
                    there |= gone & ~np.isnan(plane)
                    never |= gone & np.isnan(plane)
                    copy.write(packing.pack(raw, plane, gone), number)
                    stale = [key for key in copy.tags(number) if key.startswith(_STATISTICS)]
                    copy.update_tags(number, **dict.fromkeys(stale, ""))  # an empty text takes a tag away
            self._mark_valid(source, copy, there & ~never)
            if factors := source.overviews(1):
                copy.build_overviews(factors, self._rasterio.enums.Resampling.average)

    def verify(self, temporary: Path, filled: Mapping[str, np.ndarray]) -> None:
        chosen = {band for name in filled for band in self._bands(name)}
        with self._opened(self.path) as source, self._opened(temporary, "r+") as copy:
            before, after = _facts(source), _facts(copy)
            lost = [name for name in before if before[name] != after[name]]
            if lost:
                raise PConvError(
                    f"input: expected a GeoTIFF that holds its own metadata, got {self.path}, whose {', '.join(lost)} "
                    f"cannot be written into a copy; fill one file: gdal_translate {self.path.name} copy.tif"
                )
            for band in self._all:
                raw, _, gone = self._band(source, band)
                self.compare(str(band), raw, copy.read(band), ~gone if band in chosen else np.ones_like(gone))

    def _carry(self, source: Any, copy: Any) -> None:
        """What files beside the source say (.tfw, .aux.xml), into the copy; a mask beside it is written at the end."""
        for name in ("crs", "transform", "scales", "offsets", "units", "descriptions"):
            value = getattr(source, name)
            if value and value != getattr(copy, name):
                setattr(copy, name, value)
        if str(source.nodatavals) != str(copy.nodatavals):
            copy.nodata = source.nodata
        for band in range(source.count + 1):  # 0: the file's
            own = copy.tags(band)
            new = {key: value for key, value in source.tags(band).items() if own.get(key) != value}
            copy.update_tags(band, **{key: new[key] for key in new if not key.startswith(_STATISTICS)})

    def _mark_valid(self, source: Any, copy: Any, there: np.ndarray) -> None:
        """In a mask or an alpha band, where there is one; a mask beside the source becomes one within the copy."""
        flags, enums = source.mask_flag_enums, self._rasterio.enums
        alpha = [band for band in range(1, copy.count + 1) if band not in self._all]
        for band in alpha:
            raw = copy.read(band)
            raw[there] = np.iinfo(raw.dtype).max if raw.dtype.kind in "iu" else 1
            copy.write(raw, band)
        if not alpha and any(enums.MaskFlags.per_dataset in each for each in flags):
            mask = source.read_masks(1)
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
            options = _OPTIONS if mode == "r+" else {}
            with self._rasterio.Env(**options), self._rasterio.open(path, mode) as source:
                yield source
        except self._rasterio.errors.RasterioError as error:
            what = f"input: {self.path} cannot be read" if mode == "r" else "output: the file cannot be written"
            raise PConvError(f"{what} as GeoTIFF: {error}") from error


def _lossy(structure: Mapping[str, str]) -> str:
    """The name of the compression where it loses something, else nothing."""
    name = structure.get("COMPRESSION", "")
    if name.startswith("LERC"):
        return name if float(structure.get("MAX_Z_ERROR", "0")) > 0 else ""
    if "JPEG" in name or "JP2" in name:
        return name
    return name if name in ("WEBP", "JXL") and structure.get("COMPRESSION_REVERSIBILITY") != "LOSSLESS" else ""


def _facts(source: Any) -> dict[str, str]:
    """What a GeoTIFF or files beside it say of its values."""
    tags = []
    for band in range(source.count + 1):
        kept = {key: value for key, value in source.tags(band).items() if not key.startswith(_STATISTICS)}
        if kept.get("AREA_OR_POINT") == "Area":  # as without it
            del kept["AREA_OR_POINT"]
        tags.append(sorted(kept.items()))
    points, reference = source.gcps
    found = {
        "crs": source.crs.to_wkt() if source.crs else "",
        "transform": source.transform,
        "nodata": source.nodatavals,
        "scales": source.scales,
        "offsets": source.offsets,
        "units": [unit or "" for unit in source.units],
        "descriptions": source.descriptions,
        "colours": source.colorinterp,
        "control points": ([(one.row, one.col, one.x, one.y, one.z) for one in points], str(reference)),
        "RPCs": source.rpcs,
        "tags": tags,
    }
    return {name: str(value) for name, value in found.items()}
