"""The web application: the page's files, and the API that the page and programs use alike (``docs/serve.md``)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pconv_cuda import __version__
from pconv_cuda.files import is_out_of_memory, os_error_text, system_error_text, temporary_folder
from pconv_cuda.inpainting.pictures import FORMATS
from pconv_cuda.serve import work
from pconv_cuda.serve.guard import Guard
from pconv_cuda.serve.queue import Line
from pconv_cuda.serve.settings import Refusal, Settings
from pconv_cuda.serve.upload import Form, read_form

__all__ = ["create_app"]

T = TypeVar("T")

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_KEY = re.compile(r"[A-Za-z0-9_-]{8,64}")
_AROUND = 16  # requests that may be uploading or looking, beside those that may be in the line


def create_app(settings: Settings, fillers: work.Fillers, say: Callable[[str], None] = lambda text: None) -> ASGIApp:
    """The application; files are kept in a private temporary folder of its own while it runs.

    Args:
        settings: names, token and limits.
        fillers: what a client may choose from.
        say: takes one sentence for each filled picture, without its name.
    """
    site = _Site(settings, fillers, say)
    files = _page_files()
    routes = [Route(path, _Static(*files[path]), methods=["GET"]) for path in files]
    routes += [
        Route("/about", _Endpoint(site, site.about), methods=["GET"]),
        Route("/queue", _Endpoint(site, site.queue), methods=["GET"]),
        Route("/preview", _Endpoint(site, site.preview), methods=["POST"]),
        Route("/mask", _Endpoint(site, site.mask), methods=["POST"]),
        Route("/inpaint", _Endpoint(site, site.inpaint), methods=["POST"]),
    ]
    return Guard(
        Starlette(routes=routes, lifespan=site.running, exception_handlers={HTTPException: _http_error}),
        settings,
        files,
    )


def _page_files() -> dict[str, tuple[bytes, str]]:
    """Content and type of each of the page's files by its path: requests' paths never reach the file system."""
    found = {}
    for file in resources.files("pconv_cuda.serve").joinpath("static").iterdir():
        kind = _TYPES.get(Path(file.name).suffix)
        if kind:
            found["/" if file.name == "index.html" else f"/{file.name}"] = (file.read_bytes(), kind)
    return found


class _Static:
    def __init__(self, content: bytes, kind: str) -> None:
        self.content, self.kind = content, kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Response(self.content, media_type=self.kind)(scope, receive, send)


class _Endpoint:
    """Answers by ``work(request, folder)``; the folder is the request's own and is gone after the answer."""

    def __init__(self, site: _Site, work: Callable[[Request, Path], Awaitable[Response]]) -> None:
        self.site, self.work = site, work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.site.folder() as folder:
            try:
                response = await self.work(Request(scope, receive), folder)
            except ClientDisconnect:
                return
            except Exception as error:
                response = _refused(error)
            with contextlib.suppress(OSError):  # the client has gone meanwhile
                await response(scope, receive, send)


def _refused(error: Exception) -> Response:
    if isinstance(error, Refusal):
        return JSONResponse({"error": error.text}, error.status, error.headers)
    if is_out_of_memory(error):
        text = "out of memory; send a smaller picture, or try again when the server does less"
        return JSONResponse({"error": text}, 503)
    if isinstance(error, OSError) and system_error_text(error):
        return JSONResponse({"error": f"the server cannot keep the picture: {os_error_text(error)}"}, 507)
    traceback.print_exception(error, file=sys.stderr)
    return JSONResponse({"error": f"the server failed ({type(error).__name__}); its terminal says more"}, 500)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: "there is nothing of this name", 405: "this method is not allowed here"}
    return JSONResponse({"error": text.get(error.status_code, error.detail)}, error.status_code, error.headers)


class _Site:
    """What the requests share."""

    def __init__(self, settings: Settings, fillers: work.Fillers, say: Callable[[str], None]) -> None:
        self.limits, self.fillers, self.say = settings.limits, fillers, say
        self.line = Line(self.limits.waiting)
        self.looking = ThreadPoolExecutor(1, "pconv-look")  # one at a time too: each may take much memory
        self.place: Path | None = None
        self.open = 0

    @contextlib.asynccontextmanager
    async def running(self, app: object) -> AsyncIterator[None]:
        with temporary_folder("pconv-serve-") as self.place:
            yield
            self.line.close()
            self.looking.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def folder(self) -> Any:
        folder = Path(tempfile.mkdtemp(dir=self.place))
        self.open += 1
        try:
            yield folder
        finally:
            self.open -= 1
            shutil.rmtree(folder, ignore_errors=True)

    async def about(self, request: Request, folder: Path) -> Response:
        return JSONResponse(
            {
                "version": __version__,
                "weights": [{"name": name, "about": about} for name, about in self.fillers.about.items()],
                "max_megapixels": self.limits.megapixels,
                "max_upload_mb": self.limits.upload,
            }
        )

    async def queue(self, request: Request, folder: Path) -> Response:
        key = request.query_params.get("id", "")
        ticket = self.line.find(key) if key else None
        state: dict[str, Any] = {"length": len(self.line)}
        if ticket is not None:
            state |= {"place": self.line.place(ticket), "done": ticket.done, "total": ticket.total}
        return JSONResponse(state)

    async def preview(self, request: Request, folder: Path) -> Response:
        form = await self._form(request, folder, ("picture",))
        answer = await self._look(request, work.look, form.files["picture"], self.limits)
        return Response(answer.content, media_type="image/png", headers=_about(answer))

    async def mask(self, request: Request, folder: Path) -> Response:
        form = await self._form(request, folder, ("picture", "mask"), work.MASK_TEXTS)
        answer = await self._look(request, work.find_hole, form, self.limits)
        headers = {**_about(answer), "Content-Encoding": "gzip"}
        return Response(answer.content, media_type="application/octet-stream", headers=headers)

    async def inpaint(self, request: Request, folder: Path) -> Response:
        form = await self._form(request, folder, ("picture", "mask"), (*work.MASK_TEXTS, "weights", "id"))
        filler = self.fillers.get(form.texts.get("weights", ""))
        work.rule_of(form.texts, self.limits)  # invalid requests fail before they wait
        if "mask" not in {**form.files, **form.texts} and "mask-color" not in form.texts:
            raise Refusal(400, "mask: expected a picture file, the word alpha, or mask-color; got none")
        key = form.texts.get("id", "")
        if key and not _KEY.fullmatch(key):
            raise Refusal(400, "id: expected 8 to 64 letters, digits, - or _")
        ticket = self.line.enter(key)
        try:
            job = partial(work.fill, form, folder, filler, self.limits, ticket.progress, self.say)
            answer = await _unless_gone(request, self.line.run(ticket, job))
        finally:
            self.line.leave(ticket)
            if ticket.at_work is not None:
                await asyncio.wait({ticket.at_work})  # its files are in the folder
        assert answer.path is not None
        name = _result_name(form.files["picture"].name, answer.path.suffix)
        kind = f"image/{FORMATS[answer.path.suffix].lower()}"
        return FileResponse(answer.path, media_type=kind, filename=name, headers=_about(answer))

    async def _form(self, request: Request, folder: Path, files: tuple[str, ...], texts: tuple[str, ...] = ()) -> Form:
        if self.open > self.limits.waiting + _AROUND:
            raise Refusal(503, "too many requests at the same time; try again later", {"Retry-After": "10"})
        form = await read_form(request, folder, self.limits, files, texts)
        if "picture" not in form.files:
            raise Refusal(400, "picture: expected a file in this field, as curl -F picture=@photo.jpg sends it")
        return form

    async def _look(self, request: Request, look: Callable[..., T], *arguments: Any) -> T:
        at_work = asyncio.get_running_loop().run_in_executor(self.looking, look, *arguments)
        try:
            return await _unless_gone(request, asyncio.shield(at_work))
        finally:
            at_work.cancel()  # if it has not begun
            await asyncio.wait({at_work})


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What ``work`` gives.

    Raises:
        ClientDisconnect: the client has gone.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        watching.cancel()


def _about(answer: work.Answer) -> dict[str, str]:
    return {"X-Pconv": json.dumps(answer.about)}


def _result_name(name: str, ending: str) -> str:
    """The client's name; another ending where the picture is of another format."""
    same = FORMATS.get(Path(name).suffix.lower()) == FORMATS[ending]
    return name if same else f"{Path(name).stem or 'picture'}{ending}"
