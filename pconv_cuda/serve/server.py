"""The application behind a socket, in a thread of its own, so that signals reach the main thread."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from pconv_cuda.errors import PConvError
from pconv_cuda.files import os_error_text

__all__ = ["address_of", "listen", "running"]

_PATIENCE = 2.0  # seconds for requests to end before the server does
_CONNECTIONS = 128


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any that is free.

    Raises:
        PConvError: the port is taken, not allowed, or ``host`` is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise PConvError(f"host: expected an address of this machine, got {host!r} ({error})") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_CONNECTIONS)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            text = f"port: {port} on {host} is taken by another program; name another, or 0 for any that is free"
        elif error.errno in (errno.EACCES, errno.EPERM):
            text = f"port: {port} needs more rights than this user has; name one from 1024 on"
        elif error.errno == errno.EADDRNOTAVAIL:
            text = f"host: expected an address of this machine, got {host!r}; 127.0.0.1 is this machine alone"
        else:
            text = f"port: cannot listen on {host}, port {port} ({os_error_text(error)})"
        raise PConvError(text) from error
    return listening


def address_of(listening: socket.socket, host: str) -> str:
    """Such as ``http://127.0.0.1:7860``."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


@contextlib.contextmanager
def running(app: ASGIApp, listening: socket.socket) -> Iterator[threading.Thread]:
    """In the block ``app`` answers; at its end what still runs is told to end, and given a few seconds."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="pconv-serve", daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        if not thread.is_alive():
            raise PConvError("the server could not be started; the lines above say why")
        yield thread
    finally:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it reports requests that are cut off
        server.should_exit = True
        thread.join(_PATIENCE)
