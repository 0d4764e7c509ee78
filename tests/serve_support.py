"""A server of ``pconv serve`` within the test's process, and requests to it, byte by byte where that matters."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for _module in ("starlette", "uvicorn", "python_multipart"):
    pytest.importorskip(_module, reason="pconv serve needs the extra [serve]")

from pconv_cuda.cli import main  # noqa: E402
from pconv_cuda.serve.app import create_app  # noqa: E402
from pconv_cuda.serve.server import listen, running  # noqa: E402
from pconv_cuda.serve.settings import Limits, Settings  # noqa: E402
from pconv_cuda.serve.work import Fillers  # noqa: E402

__all__ = ["Answer", "Client", "by_command", "multipart", "png", "serving"]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def about(self) -> dict[str, Any]:
        return json.loads(self.headers["X-Pconv"])

    @property
    def error(self) -> str:
        return json.loads(self.content)["error"]

    def array(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.content)))


class Client:
    def __init__(self, port: int) -> None:
        self.port = port
        self.token: str | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        headers = {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **(headers or {})}
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, headers: Mapping[str, str] | None = None, **parts: Any) -> Answer:
        """Parts are texts, bytes, or (file name, bytes); ``_`` in a name stands for ``-``."""
        body, kind = multipart(parts)
        return self.request("POST", path, body, {"Content-Type": kind, **(headers or {})})


def multipart(parts: Mapping[str, Any]) -> tuple[bytes, str]:
    """The body and its content type."""
    boundary = secrets.token_hex(16)
    body = b""
    for name, value in parts.items():
        head = f'Content-Disposition: form-data; name="{name.replace("_", "-")}"'
        if isinstance(value, bytes):
            value = (f"{name}.bin", value)
        if isinstance(value, tuple):
            head += f'; filename="{value[0]}"'
            value = value[1]
        content = value if isinstance(value, bytes) else str(value).encode()
        body += f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@contextlib.contextmanager
def serving(
    *weights: str, host: str = "127.0.0.1", names: tuple[str, ...] = (), token: str | None = None, **limits: float
) -> Iterator[Client]:
    """A server on a port of its own, with the smooth fill alone unless weights are named."""
    settings = Settings(host, names, token, Limits(**limits))  # type: ignore[arg-type]
    app = create_app(settings, Fillers(weights or ("smooth",), "cpu"))
    with listen(host, 0) as listening, running(app, listening):
        client = Client(listening.getsockname()[1])
        client.token = token
        yield client


def png(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples.astype(np.uint8) * 255 if samples.dtype == bool else samples).save(file, "PNG")
    return file.getvalue()


def by_command(
    folder: Path, name: str, picture: bytes, mask: bytes | str, *options: str, weights: str = "smooth"
) -> bytes:
    """The file that ``pconv inpaint`` writes."""
    (folder / "in").mkdir(parents=True, exist_ok=True)
    (folder / "in" / name).write_bytes(picture)
    (folder / "mask.png").write_bytes(mask if isinstance(mask, bytes) else b"")
    given = str(folder / "mask.png") if isinstance(mask, bytes) else mask
    target = folder / "out" / name
    arguments = [str(folder / "in" / name), *(["--mask", given] if given else []), "-o", str(target), *options]
    assert main(["inpaint", *arguments, "--weights", weights, "--device", "cpu"]) == 0
    return target.read_bytes()
