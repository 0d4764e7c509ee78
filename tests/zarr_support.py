"""Zarr stores by either major version of the library: zarr 2, the last one for Python 3.10, knows format 2 alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr

__all__ = ["FORMATS", "new_array", "new_group"]

_IS_OLD = int(zarr.__version__.split(".")[0]) < 3
FORMATS = [2] if _IS_OLD else [2, 3]


def new_group(path: Path, format: int = 2) -> Any:
    options = {} if _IS_OLD else {"zarr_format": format}
    return zarr.open_group(str(path), mode="w", **options)


def new_array(group: Any, name: str, **options: Any) -> Any:
    return (group.create_dataset if _IS_OLD else group.create_array)(name, **options)
