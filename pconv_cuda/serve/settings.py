"""A server's settings, and refusals: errors that a client gets as JSON."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pconv_cuda.errors import PConvError

__all__ = ["Limits", "Refusal", "Settings", "is_loopback", "read_token"]

_SHORTEST_TOKEN = 16  # characters; shorter ones can be guessed over a network


class Refusal(Exception):
    """A request that is answered with an HTTP status and one sentence: what was wrong, and what to do."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """``megapixels`` of a picture, ``upload`` in MB of a request, ``waiting`` requests that may be at work or wait.

    ``stall`` and ``longest`` are seconds: without a byte of an upload, and of a whole upload.
    """

    megapixels: float = 100
    upload: float = 200
    waiting: int = 16
    stall: float = 30
    longest: float = 600

    def __post_init__(self) -> None:
        for name, value in (("megapixels", self.megapixels), ("upload", self.upload)):
            if not 0 < value < 1e6:
                raise PConvError(f"{name}: expected a number above 0 and below 1000000, but got {value}")

    @property
    def pixels(self) -> int:
        """The most pixels of a picture."""
        return max(1, int(self.megapixels * 1e6))

    @property
    def bytes(self) -> int:
        """The most bytes of a request."""
        return max(1, int(self.upload * 1e6))


@dataclass(frozen=True)
class Settings:
    """``host`` is the address that the server listens on; ``names`` are further names that it may be called by."""

    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    token: str | None = None
    limits: Limits = field(default_factory=Limits)


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine reaches ``host``.

    Raises:
        PConvError: there is no such address.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise PConvError(f"host: expected an address of this machine, got {host!r} ({error})") from error
    return all(ipaddress.ip_address(str(one[4][0]).partition("%")[0]).is_loopback for one in found)


def read_token(path: Path) -> str:
    """The token in a file: one line of at least 16 visible ASCII characters.

    Raises:
        PConvError: the file cannot be read, or holds no such line.
    """
    make = f"; make one with: python3 -c 'import secrets; print(secrets.token_urlsafe())' > {path}"
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise PConvError(f"path: {path} does not exist{make}") from None
    except UnicodeDecodeError:
        raise PConvError(f"path: {path} holds other characters than ASCII's{make}") from None
    if len(token) < _SHORTEST_TOKEN or not all(33 <= ord(one) <= 126 for one in token):
        raise PConvError(f"path: expected one line of at least {_SHORTEST_TOKEN} visible characters in {path}{make}")
    return token
