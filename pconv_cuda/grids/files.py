"""Grids in files: NetCDF, Zarr, GeoTIFF and npy, read variable by variable and written again with their gaps filled.

A written file is a copy of the one that was read, in which only missing values change: whatever else it holds stays.
"""

from __future__ import annotations

import abc
import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_path, os_error_text
from pconv_cuda.grids.axes import misplaced
from pconv_cuda.grids.packing import Packing
from pconv_cuda.models.wrap import Wraps

__all__ = ["SUFFIXES", "GridFile", "GridVariable", "kind_of", "open_grid"]

SUFFIXES = (".nc", ".nc4", ".cdf", ".zarr", ".tif", ".tiff", ".npy")

_NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class GridVariable:
    """Floating ``values``, NaN where one is missing, with the names of their axes (numbers where they have none).

    ``round`` names the axes that go round, and ``horizontal`` those of latitude and longitude, as their coordinates
    tell. ``numbers`` are those of the planes along the first axis, where they are not counted from 0.
    """

    name: str
    values: np.ndarray
    dims: tuple[Any, ...]
    round: tuple[Any, ...] = ()
    unit: str = ""
    horizontal: tuple[Any, Any] | None = None
    numbers: tuple[int, ...] = ()

    def wraps(self, dims: Sequence[Any] | None) -> Wraps:
        """Whether rows and columns, the last two of ``dims`` or of all, go round."""
        rows, columns = (self.dims if dims is None else tuple(dims))[-2:]
        return rows in self.round, columns in self.round

    def refuse_other_order(self, argument: str, path: Path | str, remedy: str) -> None:
        """PConvError where latitude and longitude are known and are not the last two axes.

        ``remedy`` ends the sentence; {rows} and {columns} in it stand for their names.
        """
        if misplaced(self.dims, self.horizontal):
            rows, columns = self.horizontal or ("", "")
            raise PConvError(
                f"{argument}: expected the horizontal axes, {rows} and {columns}, as the last two, got "
                f"({', '.join(map(str, self.dims))}) of {self.name!r} in {path}; "
                + remedy.format(rows=rows, columns=columns)
            )


class GridFile(abc.ABC):
    """A file that was opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abc.abstractmethod
    def names(self) -> list[str]:
        """Of the variables that are grids."""

    @abc.abstractmethod
    def read(self, name: str) -> GridVariable:
        """A variable's values.

        Raises:
            PConvError: no such variable, or one that is no grid of numbers.
        """

    @abc.abstractmethod
    def rewrite(self, temporary: Path, filled: Mapping[str, np.ndarray]) -> None:
        """Change ``temporary``, a copy of the file: the missing values of variables become those of ``filled``."""

    def check(self, names: Sequence[str]) -> None:  # noqa: B027  # most can always be copied
        """Before anything is filled.

        Raises:
            PConvError: a copy in which these variables are filled could not keep what is there.
        """

    @abc.abstractmethod
    def raw(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A variable's numbers as they are stored, and a bool array of where there is no value."""

    def verify(self, temporary: Path, filled: Mapping[str, np.ndarray]) -> None:
        """After :meth:`rewrite`: read again what was written.

        Raises:
            PConvError: a value that was there is another one, as compression with loss makes it.
        """
        with contextlib.closing(type(self)(temporary)) as copy:
            for name in filled:
                raw, gone = self.raw(name)
                self.compare(name, raw, copy.raw(name)[0], ~gone)

    def compare(self, name: str, before: np.ndarray, after: np.ndarray, known: np.ndarray) -> None:
        """For :meth:`verify`, one variable."""
        old, new = before[known], after[known]
        if old.tobytes() == new.tobytes():
            return
        changed = int((old != new).sum())
        raise PConvError(
            f"input: expected values that can be written again as they are, got {name!r} of {self.path}, of which "
            f"{changed:,} of {old.size:,} would change: its compression, a filter or least_significant_digit rounds; "
            "fill a copy that is stored without loss"
        )

    @contextlib.contextmanager
    def copied(self, output: Path) -> Iterator[Path]:
        """A copy under a temporary name, which becomes ``output`` at the end."""
        with atomic_path(output) as temporary:
            shutil.copyfile(self.path, temporary)
            yield temporary

    def chosen(self, names: Sequence[str]) -> list[str]:
        """``names``, or the only variable that is a grid.

        Raises:
            PConvError: there are several, or none.
        """
        if names:
            return list(dict.fromkeys(names))
        if len(self.names) != 1:
            listed = f"one or more of {', '.join(self.names)}" if self.names else "a variable with rows and columns"
            raise PConvError(f"variables: expected {listed} of {self.path}, got none")
        return self.names

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Close the file."""


class NpyFile(GridFile):
    """One array of floating numbers."""

    names = ["array"]  # noqa: RUF012

    def read(self, name: str) -> GridVariable:
        if name != "array":
            raise PConvError(f"variables: expected none, as {self.path} is one array, got {name!r}")
        try:
            with open(self.path, "rb") as file:
                head = file.read(6)
            if head != _NPY and head[:2] != b"PK":  # which numpy would take for a pickle
                raise ValueError(f"expected a file that begins with {_NPY!r}, got {head!r}")
            values = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            why = "it holds Python objects, no numbers" if "allow_pickle" in str(error) else error
            raise PConvError(f"input: {self.path} cannot be read as npy: {why}") from error
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            kind = getattr(values, "dtype", "an archive of several arrays")
            raise PConvError(f"input: expected floating numbers, NaN where missing, got {kind} in {self.path}")
        if values.ndim < 2:
            raise PConvError(f"input: expected (..., rows, columns) with values, got {values.shape} in {self.path}")
        return GridVariable(name, values, tuple(range(values.ndim)))

    def raw(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        raw = np.load(self.path, allow_pickle=False)
        return raw, np.isnan(raw)

    def rewrite(self, temporary: Path, filled: Mapping[str, np.ndarray]) -> None:
        raw, gone = self.raw("array")
        with open(temporary, "wb") as file:
            np.save(file, Packing().pack(raw, filled["array"], gone))


def kind_of(path: Path) -> str:
    """The ending, in small letters.

    Raises:
        PConvError: of no kind of file that is known.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise PConvError(f"input: expected a name ending in {', '.join(SUFFIXES)}, got {path}")
    return kind


def open_grid(path: str | Path) -> GridFile:
    """A file by its ending.

    Raises:
        PConvError: no such file, or one of another kind, or one that cannot be read.
        MissingExtra: its library is not installed (extra ``[grid]``).
    """
    path = Path(path)
    kind = kind_of(path)
    if not path.exists():
        raise PConvError(f"input: {path} does not exist")
    if path.is_dir() != (kind == ".zarr"):
        what = "a folder" if kind == ".zarr" else "a file"
        raise PConvError(f"input: expected {what}, got {path}")
    try:
        if kind == ".npy":
            return NpyFile(path)
        if kind in (".tif", ".tiff"):
            from pconv_cuda.grids.raster import RasterFile

            return RasterFile(path)
        from pconv_cuda.grids.netcdf import NetcdfFile, ZarrFile

        return ZarrFile(path) if kind == ".zarr" else NetcdfFile(path)
    except OSError as error:
        raise PConvError(f"input: {path} cannot be read: {os_error_text(error)}") from error
