"""Networks on the hub, against a server on this machine that speaks as much of its protocol as is needed."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from pconv_cuda import PConvUNet, cli, errors, hub
from pconv_cuda.errors import MissingExtra, PConvError
from pconv_cuda.models import load_network

constants = pytest.importorskip("huggingface_hub.constants", reason="the extra [hub] is not installed")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repositories are ``server.files``: name -> path -> bytes; requests go into ``server.asked``."""

    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def as_json(self, content: object) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+?)(\?.*)?", self.path)
        if not found or found[1] not in self.server.files:
            return self.answer(401, X_Error_Code="RepoNotFound")
        if found[1].endswith("/asked-for"):
            return self.answer(403, X_Error_Code="GatedRepo")
        if found[2] not in ("main", COMMIT, "v1"):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        content = self.server.files[found[1]].get(found[3])
        if content is None:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(200, content, ETag=etag, X_Repo_Commit=COMMIT)

    do_GET = do_HEAD

    def do_POST(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer(401, b'{"error": "Invalid credentials"}')
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            self.server.files.setdefault(name, {})
            return self.as_json({"url": f"http://{self.headers['Host']}/{name}"})
        if self.path == "/api/validate-yaml":
            return self.as_json({"errors": [], "warnings": []})
        name = re.match(r"/api/models/([\w.-]+/[\w.-]+)/", self.path)[1]  # type: ignore[index]
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            plan = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            return self.as_json({"files": plan})
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.server.files[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        address = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
        return self.as_json({"success": True, "commitOid": COMMIT, "commitUrl": address})


class HubServer(ThreadingHTTPServer):
    files: dict[str, dict[str, bytes]]
    asked: list[str]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    started = HubServer(("127.0.0.1", 0), Hub)
    started.files, started.asked = {}, []
    thread = threading.Thread(target=started.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{started.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    # what the library read from there when it was imported
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield started
    started.shutdown()
    started.server_close()
    thread.join()


@pytest.fixture
def uploaded(server: HubServer, tmp_path: Path) -> PConvUNet:
    """A network that is in the repository someone/network."""
    model = PConvUNet(levels=2, width=2).eval()
    model.save_pretrained(tmp_path / "saved")
    server.files["someone/network"] = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    return model


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["someone/network", "someone/network@v1", f"someone/network@{COMMIT}"])
def test_a_network_comes_from_the_hub(name: str, uploaded: PConvUNet) -> None:
    assert same(PConvUNet.from_pretrained(name), uploaded)
    assert same(load_network(name), uploaded)


def test_a_network_comes_from_the_cache_when_offline(
    uploaded: PConvUNet, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    PConvUNet.from_pretrained("someone/network")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(server.asked)
    assert same(PConvUNet.from_pretrained("someone/network"), uploaded)
    assert len(server.asked) == asked
    with pytest.raises(
        PConvError, match=r"someone/other does not exist here, is not in the hub's cache, and the hub can"
    ):
        load_network("someone/other")


def test_a_config_that_lies_beside_is_fetched_too(uploaded: PConvUNet, server: HubServer, tmp_path: Path) -> None:
    import safetensors.torch

    server.files["someone/network"]["model.safetensors"] = safetensors.torch.save(uploaded.state_dict())
    assert same(PConvUNet.from_pretrained("someone/network"), uploaded)


def test_a_path_that_exists_wins_and_mistyped_ones_stay_here(server: HubServer, uploaded: PConvUNet) -> None:
    other = PConvUNet(levels=1, width=2)
    other.save_pretrained("someone/network")
    assert same(PConvUNet.from_pretrained("someone/network"), other)
    for path in (
        "someone/netwrok",
        "./someone/network2",
        "nobody/a/b",
        "nobody/a.safetensors",
        "nobody/a.pth",
        "/no/a",
    ):
        with pytest.raises(PConvError, match="does not exist$"):
            load_network(path)
    assert not server.asked


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "someone/absent",
            "weights: someone/absent is neither a path here nor a repository on the hub that you may see",
        ),
        ("someone/network@v9", "weights: someone/network@v9: the repository has no such revision"),
        ("someone/empty", "weights: someone/empty: the repository has no model.safetensors"),
        ("someone/asked-for", "weights: someone/asked-for: its owner has to let you in"),
        ("someone/a--b", "weights: someone/a--b: the hub answered: "),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    name: str, message: str, server: HubServer, uploaded: PConvUNet, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files |= {"someone/empty": {"a.txt": b"a"}, "someone/asked-for": {}}
    with pytest.raises(PConvError, match=message):
        load_network(name)
    Path("a.png").write_bytes(b"")
    assert cli.main(["inpaint", "a.png", "--mask", "a.png", "-o", "b.png", "--weights", name]) == 1
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_an_unreachable_hub_is_said_in_a_line(
    tmp_path: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("huggingface_hub").addHandler(caplog.handler)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the library tries several times
    with pytest.raises(PConvError, match="someone/network does not exist here, is not in .* cannot be reached"):
        load_network("someone/network")
    with pytest.raises(PConvError, match="push_to_hub: someone/network: the hub cannot be reached"):
        PConvUNet(levels=1, width=2).push_to_hub("someone/network", token="hf_right")
    logging.getLogger("huggingface_hub").removeHandler(caplog.handler)
    assert not caplog.records  # of its tries


def test_a_network_goes_to_the_hub_and_comes_back(server: HubServer) -> None:
    model = PConvUNet(levels=1, width=3).eval()
    address = model.push_to_hub("someone/new", token="hf_right", message="first")
    assert address.endswith(f"/someone/new/commit/{COMMIT}")
    assert set(server.files["someone/new"]) == {"model.safetensors", "config.json", "README.md"}
    assert 'PConvUNet.from_pretrained("someone/new")' in server.files["someone/new"]["README.md"].decode()
    assert same(PConvUNet.from_pretrained("someone/new"), model)
    PConvUNet(1, levels=1, width=2, values="data").push_to_hub("someone/grid", token="hf_right")
    assert "pconv fill data.nc" in server.files["someone/grid"]["README.md"].decode()
    server.files["someone/new"]["README.md"] = b"mine"
    model.push_to_hub("someone/new", token="hf_right")
    assert server.files["someone/new"]["README.md"] == b"mine"


def test_what_cannot_be_pushed_is_refused(server: HubServer) -> None:
    model = PConvUNet(levels=1, width=2)
    with pytest.raises(PConvError, match="push_to_hub: someone/new: the hub answered: .*(401|credentials)"):
        model.push_to_hub("someone/new", token="hf_wrong")
    for name in ("new", "someone/new@v1", "a/b/c"):
        with pytest.raises(PConvError, match=f"repository: expected user/repo, got '{name}'"):
            model.push_to_hub(name)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(errors, "_requirements", lambda extra: [])
    sentence = (
        r"someone/network does not exist here; .*\(the extra \[hub\]\).*install it with: pip install huggingface-hub"
    )
    with pytest.raises(MissingExtra, match=sentence):
        load_network("someone/network")
    with pytest.raises(MissingExtra, match=r"push_to_hub \(the extra \[hub\]\)"):
        PConvUNet(levels=1, width=2).push_to_hub("someone/network")


def test_names_of_repositories_are_told_from_paths() -> None:
    assert all(map(hub.is_repository, ("a/b", "some-one/net.v1", "a/b@refs/pr/1", Path("a/b"))))
    assert not any(map(hub.is_repository, ("a", "/a/b", "a/b/c", "../b", "./a", "./a/b", "a/b/", "a//b", "~a/b")))
    assert not any(map(hub.is_repository, ("a/b.safetensors", "tests/b", "-a/b", "a/b@")))
