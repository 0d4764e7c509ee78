"""NetCDF files and Zarr stores, read by xarray without decoding, so that what is written back is what was there."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.errors import PConvError, require
from pconv_cuda.folders import atomic_folder, copy_folder
from pconv_cuda.grids.axes import EAST, LONGITUDES, horizontal_axes
from pconv_cuda.grids.doubts import doubts
from pconv_cuda.grids.files import GridFile, GridVariable
from pconv_cuda.grids.packing import Packing, packing_of

__all__ = ["NetcdfFile", "ZarrFile"]


class _Labelled(GridFile):
    """What NetCDF and Zarr have in common: an undecoded xarray.Dataset."""

    dataset: Any
    _defaults = False  # whether the format has fill values that no attribute names

    @property
    def names(self) -> list[str]:
        helpers: set[str] = set()
        for variable in self.dataset.variables.values():
            for key in ("bounds", "coordinates", "grid_mapping", "ancillary_variables", "cell_measures"):
                helpers |= set(str(variable.attrs.get(key, "")).replace(":", " ").split())
        return [
            str(name)
            for name, variable in self.dataset.data_vars.items()
            if variable.ndim >= 2 and variable.dtype.kind in "iuf" and name not in helpers
        ]

    def read(self, name: str) -> GridVariable:
        variable = self._variable(name)
        raw, packing = self._raw(name), self._packing(name)
        values, gone = packing.unpack(raw)
        self._refuse_classes(name, raw, gone)
        for text in doubts(packing.own(raw), values, self._attributes(name), self._defaults):
            warnings.warn(f"{name}: {text}", UserWarning, stacklevel=3)
        round_ = tuple(dim for dim in variable.dims if self._goes_round(dim))
        listed = str(variable.attrs.get("coordinates", "")).split()
        horizontal = horizontal_axes(variable.dims, self.dataset.variables, listed)
        unit = str(variable.attrs.get("units", ""))
        return GridVariable(name, values, tuple(variable.dims), round_, unit, horizontal)

    def raw(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        found = self._raw(name)
        return found, self._packing(name).unpack(found)[1]

    def close(self) -> None:
        self.dataset.close()

    def _variable(self, name: str) -> Any:
        if name not in self.dataset.variables:
            found = ", ".join(self.names) or "none"
            raise PConvError(f"variables: expected variables of {self.path} ({found}), got {name!r}")
        variable = self.dataset[name]
        if variable.ndim < 2 or variable.dtype.kind not in "iuf":
            raise PConvError(
                f"variables: expected numbers with at least two axes, got {name!r} of {self.path}: {variable.dtype} "
                f"along {tuple(variable.dims)}"
            )
        return variable

    def _refuse_classes(self, name: str, raw: np.ndarray, gone: np.ndarray) -> None:
        """PConvError where all values are flags. A measurement may have some flags among its values."""
        attributes = self._attributes(name)
        flags = np.asarray(attributes.get("flag_values", ())).ravel()
        bits = "flag_masks" in attributes and raw.dtype.kind in "iu"
        known = np.unique(raw[~gone]) if flags.size and flags.dtype.kind in "iuf" else np.array([])
        if bits or known.size and np.isin(known, flags).all():
            raise PConvError(
                f"variables: expected measurements, got {name!r} of {self.path}, whose values are "
                f"{'flag_masks' if bits else 'flag_values'}: classes, between which nothing can be interpolated"
            )

    def _attributes(self, name: str) -> dict[str, Any]:
        return dict(self.dataset.variables[name].attrs)

    def _packing(self, name: str) -> Packing:
        try:
            return packing_of(self._attributes(name))
        except PConvError as error:
            raise PConvError(f"variables: {name} of {self.path}: {error}") from error

    def _raw(self, name: str) -> np.ndarray:
        try:
            return np.asarray(self._variable(name).values)
        except (OSError, RuntimeError, ValueError) as error:  # a truncated file, a missing filter
            raise PConvError(f"input: {name!r} of {self.path} cannot be read: {error}") from error

    def _packed(self, filled: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        for name, values in filled.items():
            raw, packing = self._raw(name), self._packing(name)
            yield name, packing.pack(raw, values, packing.unpack(raw)[1])

    def _goes_round(self, dim: Any) -> bool:
        """Whether the coordinate of an axis is a longitude that spans 360 degrees in equal steps."""
        coordinate = self.dataset.variables.get(dim)
        if coordinate is None or coordinate.dims != (dim,) or coordinate.dtype.kind not in "iuf" or coordinate.size < 2:
            return False
        units = str(coordinate.attrs.get("units", "")).lower()
        if units not in EAST and str(dim).lower() not in LONGITUDES:
            return False
        try:
            at, _ = self._packing(dim).unpack(np.asarray(coordinate.values))
        except PConvError:  # no coordinate that can be understood
            return False
        steps = np.diff(at.astype(np.float64))
        step = float(np.median(steps))
        return bool(np.abs(steps - step).max() < 0.01 * abs(step)) and abs(abs(step) * at.size - 360) < 0.5 * abs(step)


class NetcdfFile(_Labelled):
    """NetCDF, classic or 4."""

    _defaults = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._netcdf: Any = require("netCDF4", "grid", why="reading NetCDF files")
        xarray: Any = require("xarray", "grid", why="reading NetCDF files")
        try:
            self.dataset = xarray.open_dataset(path, engine="netcdf4", decode_cf=False, cache=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise PConvError(f"input: {path} cannot be read as NetCDF: {error}") from error

    def rewrite(self, temporary: Path, filled: Mapping[str, np.ndarray]) -> None:
        packed = dict(self._packed(filled))
        self.dataset.close()
        with self._netcdf.Dataset(temporary, "r+") as copy:
            copy.set_auto_maskandscale(False)
            for name, raw in packed.items():
                copy[name][...] = raw


class ZarrFile(_Labelled):
    """A Zarr store in a folder, of format 2 or 3."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._zarr: Any = require("zarr", "grid", why="reading Zarr stores")
        xarray: Any = require("xarray", "grid", why="reading Zarr stores")
        try:
            self.dataset = xarray.open_dataset(path, engine="zarr", decode_cf=False, cache=False, chunks=None)
            self._group = self._zarr.open_group(str(path), mode="r")
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise PConvError(f"input: {path} cannot be read as Zarr: {error}") from error

    def read(self, name: str) -> GridVariable:
        found = super().read(name)
        if self._is_default(name):
            zeros = int((self._raw(name) == 0).sum())
            if zeros:
                warnings.warn(
                    f"{name}: {zeros} values are 0, the default fill_value of Zarr format 2, and count as values; if "
                    "they are missing, say so by the attribute missing_value: 0",
                    UserWarning,
                    stacklevel=3,
                )
        return found

    def _is_default(self, name: str) -> bool:
        """Whether an array of format 2 has the fill value 0, and no attribute that says so.

        xarray takes any fill value of format 2 for a missing one, but 0 is what every array has that was made without.
        """
        array = self._group[name]
        if _zarr_format(array) != 2 or array.fill_value is None or array.fill_value != 0:
            return False
        codes = [array.attrs.get(key) for key in ("_FillValue", "missing_value")]
        return not any(0 in np.asarray(code).ravel().tolist() for code in codes)

    def _attributes(self, name: str) -> dict[str, Any]:
        found, own = super()._attributes(name), self._group[name]
        if _zarr_format(own) == 2:  # where xarray puts the array's fill value instead of the attribute
            codes = [own.attrs.get("_FillValue"), None if self._is_default(name) else own.fill_value]
            found["_FillValue"] = np.array([code for code in codes if isinstance(code, int | float | np.number)])
        return found

    @contextlib.contextmanager
    def copied(self, output: Path) -> Iterator[Path]:
        if output.exists() and not any((output / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata")):
            raise PConvError(f"output: expected a new name or a Zarr store, got {output}, which is something else")
        with atomic_folder(output) as temporary:
            copy_folder(self.path, temporary)
            yield temporary

    def rewrite(self, temporary: Path, filled: Mapping[str, np.ndarray]) -> None:
        group = self._zarr.open_group(str(temporary), mode="r+")
        for name, raw in self._packed(filled):
            group[name][...] = raw


def _zarr_format(array: Any) -> int:
    """2 or 3; zarr 2, the last one for Python 3.10, knows no other than 2."""
    return array.metadata.zarr_format if hasattr(array, "metadata") else 2
