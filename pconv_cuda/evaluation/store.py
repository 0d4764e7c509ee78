"""The results of an evaluation on disk: a line for each picture and method, so that a kill loses one at most.

R/settings.json what they depend on; R/records.jsonl; R/features/METHOD/CELL-NUMBER.npy for FID.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_path, open_append, os_error_text, remove_leftovers
from pconv_cuda.text import brief, parse_json

__all__ = ["Store"]

Key = tuple[str, str]  # pair, method
REPORT_FILES = ("results.json", "table.csv", "table.md", "plot.png", "sheet.png")


class Store:
    """Opens ``folder`` for ``settings``; other pairs and methods of the same settings may be added later.

    Raises:
        PConvError: it holds results of other settings, or of another network of the same name: what differs is named.
            Or it holds files under a report's names, and no settings: those are not replaced.

    ``check_folder`` is called before a file is written.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        methods: Mapping[str, str],
        check_folder: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.path, self._check_folder = folder, folder / "records.jsonl", check_folder
        file = folder / "settings.json"
        known: dict[str, str] = {}
        if file.is_file():
            try:
                old = parse_json(file.read_bytes())
                known = dict(old["methods"])
                before, now = dict(old["settings"]), dict(settings)
            except (ValueError, KeyError, TypeError) as error:
                raise PConvError(f"out: {file} is not the settings of an evaluation ({error})") from error
            differing = [(key, before.get(key), now.get(key)) for key in sorted({*before, *now})]
            differing += [(f"weights of {name}", known[name], methods[name]) for name in methods if name in known]
            lines = [f"{key}: {brief(old)} there, {new!r} now" for key, old, new in differing if old != new]
            if lines:
                raise PConvError(
                    f"out: {folder} holds results of other settings:\n  " + "\n  ".join(lines) + "\ntake another `out`"
                )
        elif there := [name for name in (self.path.name, *REPORT_FILES) if (folder / name).exists()]:
            # settings.json is written first: without it no file of these names is an evaluation's
            raise PConvError(
                f"out: {folder} holds {', '.join(there)} and no {file.name}, so they are not from pconv eval, which "
                "would replace them; take another `out`"
            )
        for place in (folder, *(folder / "features").glob("*")):
            remove_leftovers(place)
        try:
            with atomic_path(file) as temporary:
                text = json.dumps({"settings": dict(settings), "methods": {**known, **methods}}, indent=2)
                temporary.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise PConvError(f"out: {folder} cannot be written ({os_error_text(error)})") from error
        self.records: dict[Key, dict[str, Any]] = {}
        self._read()

    def _read(self) -> None:
        """Reads whole lines; a truncated last line is removed from the file."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                record = parse_json(line)
                self.records[record["pair"], record["method"]] = record
            except (ValueError, KeyError, TypeError):  # lost to a power cut: it is done again
                continue
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))

    def add(self, record: dict[str, Any]) -> None:
        """Keeps a record ("pair", "method", and its values), on disk when this returns."""
        self._check_folder()
        self.records[record["pair"], record["method"]] = record
        with open_append(self.path) as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def feature_path(self, method: str, pair: str) -> Path:
        return self.folder / "features" / method / f"{pair.replace('/', '-')}.npy"

    def add_feature(self, method: str, pair: str, feature: np.ndarray) -> None:
        self._check_folder()
        with atomic_path(self.feature_path(method, pair)) as temporary, open(temporary, "wb") as file:
            np.save(file, feature)
