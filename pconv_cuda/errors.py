"""Errors that a person reads, and the check for optional packages."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["PConvError", "MissingExtra", "require"]


class PConvError(Exception):
    """Something the user can put right; the command line prints it without a traceback."""


class MissingExtra(PConvError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


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
            f"install it with: pip install 'pconv-cuda[{extra}]'"
        ) from error
