"""Access control by host name, origin and token, and the headers of every answer.

A page of any site can make a browser send requests to this machine. It cannot forge the headers ``Host``, ``Origin``
and ``Sec-Fetch-Site``, so these tell: a foreign name in ``Host`` is DNS rebinding, a foreign ``Origin`` another site.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pconv_cuda.serve.settings import Refusal, Settings, is_loopback
from pconv_cuda.text import printable

__all__ = ["Guard"]

_HEADERS = {
    # no inline script or style, nothing from elsewhere, no frame, no form
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets a request through to ``app``, or answers it with the reason.

    Args:
        app: what is guarded.
        settings: names and token.
        public: paths of the page's own files, which hold nothing secret and need no token.
    """

    def __init__(self, app: ASGIApp, settings: Settings, public: Collection[str]) -> None:
        self.app, self.token, self.public = app, settings.token, frozenset(public)
        self.names = {"localhost", settings.host.lower(), *(name.lower() for name in settings.names)}
        self.loopback = is_loopback(settings.host)
        if not self.loopback:
            self.names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        try:
            host = self._check_host(headers)
            self._check_origin(scope, headers, host)
            if scope["path"] not in self.public:
                self._check_token(headers)
        except Refusal as refusal:
            answer = JSONResponse({"error": refusal.text}, refusal.status, refusal.headers)
            await answer(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)

    def _check_host(self, headers: Headers) -> str:
        given = headers.getlist("host")
        host = given[0] if len(given) == 1 else ""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            name = ""
        if name in self.names or _is_address(name, loopback=self.loopback):
            return host.lower()
        shown = printable(host[:100], keep="")
        raise Refusal(403, f"Host: this server does not go by the name {shown!r}; whoever starts it can add names")

    def _check_origin(self, scope: Scope, headers: Headers, host: str) -> None:
        origins = headers.getlist("origin")
        same = all(_place(one) == host for one in origins)
        site = headers.get("sec-fetch-site", "none")
        # a link on another site may lead here, and shows the page; everything else is the page's own business
        link = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if not same or (site not in ("same-origin", "none") and not link):
            raise Refusal(403, "Origin: requests by pages of other sites are refused; open this server's own page")

    def _check_token(self, headers: Headers) -> None:
        if self.token is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode()):
            return
        text = "Authorization: expected 'Bearer TOKEN' with the token that the server was started with"
        raise Refusal(401, text, {"WWW-Authenticate": "Bearer"})


def _is_address(name: str, *, loopback: bool) -> bool:
    """Whether ``name`` is a number, which needs no DNS; a loopback one where the server listens there alone."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
