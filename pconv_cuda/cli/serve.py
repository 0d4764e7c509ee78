"""``pconv serve``: inpainting in the browser, and as an HTTP API."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pconv_cuda.devices import DEVICE_HELP
from pconv_cuda.named import DEFAULT, NAMED
from pconv_cuda.text import printable

ARGUMENTS = {"path": "--token-file", "megapixels": "--max-megapixels", "upload": "--max-upload"}
_NEEDED = ("starlette", "uvicorn", "python_multipart")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; nothing heavy is imported."""
    parser.epilog = (
        "Open the printed address in a browser: paint the hole, fill it, save the picture. Programs post to /inpaint. "
        "Nothing leaves this machine, and the page loads nothing from elsewhere. Without --host only this "
        "machine reaches the server, including its other users unless there is a token."
    )
    add = parser.add_argument
    add("--host", metavar="ADDRESS", default="127.0.0.1", help="where to listen (default: %(default)s, this machine "
        "alone); 0.0.0.0 is every network that this machine is in")  # fmt: skip
    add("--port", metavar="PORT", type=int, default=7860, help="default: %(default)s; 0 takes any that is free")
    add(
        "--weights",
        metavar=f"{'|'.join(NAMED)}|PATH",
        nargs="+",
        default=sorted(NAMED, key=lambda name: name != DEFAULT),
        help="what the page offers, the first as default: names, .safetensors files, folders with config.json, "
        "user/repo on the Hugging Face hub (default: %(default)s)",
    )
    add("--device", default="auto", help=DEVICE_HELP)
    add("--token-file", metavar="FILE", type=Path, help="a file with a token that every request has to bring")
    add("--no-token", action="store_true", help="no access control for those who reach --host")
    add(
        "--name",
        metavar="NAME",
        action="append",
        default=[],
        help="a further name that browsers call this server by, such as that of a proxy; repeatable",
    )
    add("--max-megapixels", metavar="N", type=float, default=100, help="of a picture (default: %(default)s)")
    add("--max-upload", metavar="MB", type=float, default=200, help="of a request (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    from pconv_cuda.errors import PConvError, require

    for module in _NEEDED:
        require(module, "serve", why="pconv serve (the extra [serve])")
    from pconv_cuda.serve.app import create_app
    from pconv_cuda.serve.server import address_of, listen, running
    from pconv_cuda.serve.settings import Limits, Settings, is_loopback, read_token
    from pconv_cuda.serve.work import Fillers

    if not 0 <= args.port <= 65535:
        raise PConvError(f"--port: expected 0 to 65535, got {args.port}")
    if args.token_file and args.no_token:
        raise PConvError("--token-file, --no-token: expected one of them, got both")
    token = read_token(args.token_file) if args.token_file else None
    limits = Limits(megapixels=args.max_megapixels, upload=args.max_upload)
    alone = is_loopback(args.host)
    if not alone:
        _warn_of_others(args.host, token is not None, args.no_token)
    settings = Settings(args.host, tuple(args.name), token, limits)
    fillers = Fillers(args.weights, args.device)
    with listen(args.host, args.port) as listening:
        app = create_app(settings, fillers, lambda text: print(f"filled: {printable(text)}", flush=True))
        with running(app, listening) as thread:
            print(f"pconv serve: {printable(address_of(listening, args.host))}", flush=True)
            reach = "this machine alone reaches it" if alone else "other machines reach it"
            print(f"{reach}; weights {printable(', '.join(fillers.about))}; Ctrl-C ends it", flush=True)
            while thread.is_alive():
                thread.join(1.0)
    raise PConvError("the server ended by itself; the lines above say why")


def _warn_of_others(host: str, has_token: bool, no_token: bool) -> None:
    """Warns about a host that others can reach.

    Raises:
        PConvError: there is neither a token nor the wish for none.
    """
    from pconv_cuda.errors import PConvError

    means = f"--host {host}: every machine that reaches this one can send pictures and use its processor"
    if not has_token and not no_token:
        raise PConvError(
            f"{means}; give a token that they have to know (--token-file FILE), or --no-token for open access"
        )
    who = "with the token" if has_token else "without a token"
    print(
        printable(f"pconv serve: warning: {means}, {who}; nothing is encrypted: put a proxy with TLS before it"),
        file=sys.stderr,
    )
