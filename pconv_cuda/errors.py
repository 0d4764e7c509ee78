"""Errors for users, and the check for optional packages."""

from __future__ import annotations

import importlib
import re
import shlex
from importlib import metadata
from types import ModuleType

__all__ = ["MissingExtra", "PConvError", "install_command", "require"]

_DISTRIBUTIONS = {  # import name -> the name that pip knows, where they differ
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "huggingface_hub": "huggingface-hub",
    "netCDF4": "netcdf4",
    "pytest_benchmark": "pytest-benchmark",
    "python_multipart": "python-multipart",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "torch_fidelity": "torch-fidelity",
    "yaml": "pyyaml",
}


class PConvError(Exception):
    """An error that the user can correct; the command line prints it without a traceback."""


class MissingExtra(PConvError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""


def install_command(module: str, extra: str) -> str:
    """``pip install ...`` with the package that provides ``module``, and what else of ``extra`` is missing."""
    wanted = _DISTRIBUTIONS.get(module, module)
    others = [one for one in _requirements(extra) if _name(one) == wanted or not _is_installed(_name(one))]
    if wanted not in map(_name, others):
        others.insert(0, wanted)
    return shlex.join(["pip", "install", *others])


def _requirements(extra: str) -> list[str]:
    """Such as ``["pillow>=10.1", "safetensors"]``; empty where the package was not installed by pip."""
    try:
        entries = metadata.requires("pconv-cuda") or []
    except metadata.PackageNotFoundError:
        return []
    found: list[str] = []
    for entry in entries:
        requirement, _, marker = entry.partition(";")
        if not re.search(rf"""extra\s*==\s*["']{re.escape(extra)}["']""", marker):
            continue
        own = re.match(r"pconv[-_]cuda\[(.*)\]", requirement.strip())  # one extra holds another
        for one in (
            [part for name in own[1].split(",") for part in _requirements(name.strip())] if own else [requirement]
        ):
            found += [one.strip()] * (one.strip() not in found)
    return found


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0].lower()


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def require(module: str, extra: str, *, why: str = "") -> ModuleType:
    """Import ``module`` or raise :class:`MissingExtra` with the command that installs it.

    Args:
        module: dotted name, as in ``import``.
        extra: the extra of this package that depends on it (``inpaint``, ``train``, ...).
        why: what needed it, put at the front of the sentence.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        what = f"{why} needs" if why else "this needs"
        raise MissingExtra(
            f"{what} the package that provides {top!r}, which could not be imported ({error}); "
            f"install it with: {install_command(top, extra)}"
        ) from error
