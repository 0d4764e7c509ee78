"""Reading a multipart request into a private folder, with every limit checked while the bytes come in.

The client's names of files are only shown again; on disk a file is called by its field and by the format that its
first bytes tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from pconv_cuda.serve.settings import Limits, Refusal
from pconv_cuda.text import printable

__all__ = ["Form", "Upload", "read_form", "shown_name"]

_MOST_PARTS = 16
_LONGEST_TEXT = 200  # bytes of a field that is no file
_LONGEST_NAME = 100
_DRAIN = 3.0  # seconds of a too large upload that are read and dropped, so that its sender reads the answer

# Formats that the project reads, by their first bytes. All others are refused before a decoder sees them.
_KINDS = [
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ".png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), ".tif"),
    (re.compile(rb"BM"), ".bmp"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), ".avif"),
    (re.compile(rb"....ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL), ".heic"),
]


@dataclass(frozen=True)
class Upload:
    """A file at ``path``, in the private folder; ``name`` is the client's, fit to be shown."""

    path: Path
    name: str


@dataclass
class Form:
    """``files`` and ``texts`` by field."""

    files: dict[str, Upload] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


async def read_form(
    request: Request, folder: Path, limits: Limits, files: Collection[str], texts: Collection[str]
) -> Form:
    """The request's body; ``files`` and ``texts`` are the fields that are known.

    Raises:
        Refusal: too large, too slow, no multipart, unknown fields, or files of other kinds.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Refusal(415, "Content-Type: expected multipart/form-data with a boundary, as curl -F sends it")
    too_large = Refusal(413, f"the request is larger than the {limits.upload:g} MB that this server takes; send less")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.bytes:
        raise too_large
    stream = request.stream()
    taken = 0
    with _Parts(folder, files, texts) as parts:
        try:
            parser = MultipartParser(boundary, parts.callbacks())
            async for chunk in _in_time(stream, limits):
                taken += len(chunk)
                if taken > limits.bytes:
                    raise too_large
                parser.write(chunk)
            parser.finalize()
        except FormParserError as error:
            refusal = Refusal(400, f"the request is no sound multipart/form-data ({error})")
            await _drain(stream)
            raise refusal from error
        except Refusal as refusal:
            if refusal.status != 408:
                await _drain(stream)
            raise
        if not parts.ended:
            raise Refusal(400, "the request ends before its last part does; send it again")
    return Form({name: _told(upload) for name, upload in parts.form.files.items()}, parts.form.texts)


async def _in_time(stream: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[bytes]:
    end = time.monotonic() + limits.longest
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), min(limits.stall, end - time.monotonic()))
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            text = f"the upload stood still for {limits.stall:g} s, or took more than {limits.longest:g} s; try again"
            raise Refusal(408, text, {"Connection": "close"}) from None


async def _drain(stream: AsyncIterator[bytes]) -> None:
    async def drop() -> None:
        async for _ in stream:
            pass

    with contextlib.suppress(asyncio.TimeoutError, RuntimeError):  # the latter where the stream is at its end
        await asyncio.wait_for(drop(), _DRAIN)


class _Parts:
    """Takes the parser's calls: files go to disk as they come, texts are collected."""

    def __init__(self, folder: Path, files: Collection[str], texts: Collection[str]) -> None:
        self.folder, self.known_files, self.known_texts = folder, files, texts
        self.form, self.ended, self.count = Form(), False, 0
        self._file: IO[bytes] | None = None
        self._text, self._name = bytearray(), ""
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def callbacks(self) -> Any:
        names = "part_begin part_data part_end header_field header_value header_end headers_finished end"
        return {f"on_{name}": getattr(self, f"_{name}") for name in names.split()}

    def _part_begin(self) -> None:
        self.count += 1
        if self.count > _MOST_PARTS:
            raise Refusal(400, f"expected at most {_MOST_PARTS} parts in the request")
        self._text, self._disposition = bytearray(), b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data":
            raise Refusal(400, "expected 'Content-Disposition: form-data' in every part of the request")
        self._name = name = options.get(b"name", b"").decode("utf-8", "replace")
        is_file = b"filename" in options
        if name not in (self.known_files if is_file else self.known_texts):
            known = f"files {', '.join(self.known_files)}, fields {', '.join(self.known_texts) or 'none'}"
            raise Refusal(400, f"unknown {'file' if is_file else 'field'} {_shortened(name)!r}; expected {known}")
        if name in self.form.files or name in self.form.texts:
            raise Refusal(400, f"{name}: expected it once, got it twice")
        if is_file:
            path = self.folder / name  # a name of ours: it is among the known ones
            self._file = open(path, "xb")  # noqa: SIM115
            self.form.files[name] = Upload(path, shown_name(options[b"filename"].decode("utf-8", "replace")) or name)
        else:
            self.form.texts[name] = ""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _LONGEST_TEXT:
            raise Refusal(400, f"{self._name}: expected at most {_LONGEST_TEXT} bytes of text (or a file)")

    def _part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        else:
            self.form.texts[self._name] = self._text.decode("utf-8", "replace").strip()

    def _end(self) -> None:
        self.ended = True


def shown_name(name: str) -> str:
    """A client's file name without folders and control characters, short enough for a line."""
    return _shortened(re.split(r"[/\\]", name)[-1].strip())


def _shortened(name: str) -> str:
    name = printable(name, keep="")
    if len(name) <= _LONGEST_NAME:
        return name
    half = _LONGEST_NAME // 2
    return f"{name[:half]}…{name[-half + 1 :]}"


def _told(upload: Upload) -> Upload:
    """The file under a name whose ending its first bytes tell."""
    with open(upload.path, "rb") as file:
        start = file.read(16)
    for kind, ending in _KINDS:
        if kind.match(start):
            return Upload(upload.path.rename(upload.path.with_suffix(ending)), upload.name)
    what = "is empty" if not start else "is none of these"
    field = upload.path.name
    raise Refusal(415, f"{field}: expected a jpg, png, webp, tiff, bmp, avif or heic file, but {upload.name} {what}")
