"""Which axes of a labelled array are rows and columns, as the CF conventions tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = ["EAST", "LONGITUDES", "horizontal_axes", "misplaced"]

EAST = ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese")
LONGITUDES = ("lon", "longitude", "long", "nav_lon")
_NORTH = ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn")
_LATITUDES = ("lat", "latitude", "nav_lat")
_ROWS = ("latitude", "grid_latitude", "projection_y_coordinate")  # standard names
_COLUMNS = ("longitude", "grid_longitude", "projection_x_coordinate")


def horizontal_axes(
    dims: Sequence[Any], coordinates: Mapping[Any, Any], listed: Collection[Any] = ()
) -> tuple[Any, Any] | None:
    """The names of the axes of latitude and longitude (or of a projection's y and x); None where it is not clear.

    Args:
        dims: names of the array's axes.
        coordinates: by their names, with ``dims`` and ``attrs`` as xarray has them.
        listed: those that may be coordinates of two axes, as on curvilinear grids.
    """
    kinds = {dim: _kind(dim, _attributes(dim, coordinates)) for dim in dims}
    rows, columns = ([dim for dim, kind in kinds.items() if kind == wanted] for wanted in ("rows", "columns"))
    if len(rows) == len(columns) == 1:
        return rows[0], columns[0]
    of_two: dict[str, set[tuple[Any, ...]]] = {"rows": set(), "columns": set()}
    for name in listed:
        found = coordinates.get(name)
        kind = None if found is None else _kind(name, found.attrs)
        if found is not None and kind and len(found.dims) == 2 and set(found.dims) <= set(dims):
            of_two[kind].add(tuple(found.dims))
    if of_two["rows"] == of_two["columns"] and len(of_two["rows"]) == 1:
        first, second = of_two["rows"].pop()
        return first, second
    return None


def misplaced(dims: Sequence[Any], horizontal: tuple[Any, Any] | None) -> bool:
    """Whether the last two axes, which are filled where nothing else is said, are others than the horizontal ones."""
    return horizontal is not None and set(dims[-2:]) != set(horizontal)


def _attributes(dim: Any, coordinates: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Of the axis' own coordinate; nothing where it has none."""
    found = coordinates.get(dim)
    return found.attrs if found is not None and tuple(found.dims) == (dim,) else {}


def _kind(name: Any, attributes: Mapping[Any, Any]) -> str | None:
    units, standard, axis = (str(attributes.get(key, "")).lower() for key in ("units", "standard_name", "axis"))
    if units in _NORTH or standard in _ROWS or axis == "y":
        return "rows"
    if units in EAST or standard in _COLUMNS or axis == "x":
        return "columns"
    if standard or axis:  # it says that it is something else
        return None
    return "rows" if str(name).lower() in _LATITUDES else "columns" if str(name).lower() in LONGITUDES else None
