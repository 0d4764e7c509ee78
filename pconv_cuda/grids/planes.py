"""How the planes of an array are called in a warning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Planes"]

_SHOWN = 6


@dataclass(frozen=True)
class Planes:
    """Of the array ``name``: the axes before rows and columns, and what counts along the first of them.

    Args:
        axes: their names; numbers, or none of them, where they have no names.
        numbers: of the planes along the first axis, where they are not 0, 1, 2 ...
    """

    name: str = "array"
    axes: tuple[Any, ...] = ()
    numbers: tuple[int, ...] = ()

    def without_value(self, empty: np.ndarray) -> str:
        """The sentence on planes without a value; ``empty`` is bool, of the shape of the axes before rows and columns.

        Many of them are shortened.
        """
        which = [self._called(tuple(int(one) for one in place)) for place in np.argwhere(empty)]
        more = f" and {len(which) - _SHOWN:,} more" if len(which) > _SHOWN else ""
        shown = f": {'; '.join(which[:_SHOWN])}{more}" if empty.ndim else ""
        return f"{self.name}: {len(which)} of {empty.size} planes have no value and stay empty{shown}"

    def _called(self, place: tuple[int, ...]) -> str:
        if self.numbers:
            place = (self.numbers[place[0]], *place[1:])
        if len(self.axes) == len(place) and all(isinstance(axis, str) for axis in self.axes):
            return ", ".join(f"{axis} {at}" for axis, at in zip(self.axes, place, strict=True))
        return str(place[0]) if len(place) == 1 else str(place)
