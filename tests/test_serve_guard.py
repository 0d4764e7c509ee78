"""Who may use ``pconv serve``: names, origins, tokens; what the command says; what the page may load."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from process_support import default_signals
from serve_support import serving

from pconv_cuda import serve
from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.serve.settings import read_token

TOKEN = "correct-horse-battery"
STATIC = Path(serve.__file__).parent / "static"
EVIL = "http://evil.example"


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("localhost", True),
        ("localhost:{port}", True),
        ("127.0.0.1:{port}", True),
        ("127.0.0.2", True),
        ("[::1]:8000", True),  # a tunnel has another port
        ("LOCALHOST.:{port}", True),
        ("proxy.example", True),
        ("evil.example", False),
        ("evil.example:{port}", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("192.168.0.1", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_the_server_answers_to_its_own_names_alone(host: str, good: bool) -> None:
    """A foreign name that leads to this machine is DNS rebinding."""
    with serving(names=("proxy.example",)) as client:
        for path in ("/", "/about", "/nowhere"):
            answer = client.get(path, Host=host.format(port=client.port))
            assert (answer.status != 403) == good, (path, answer.status)
            if not good:
                assert "does not go by the name" in answer.error


def test_on_every_network_numbers_are_good_names() -> None:
    with serving(host="0.0.0.0", token=TOKEN) as client:
        assert client.get("/about", Host="192.168.0.1").status == 200
        assert client.get("/about", Host=socket.gethostname()).status == 200
        assert client.get("/about", Host="evil.example").status == 403


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({}, True),
        ({"Origin": "http://localhost:{port}", "Host": "localhost:{port}", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": EVIL}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://localhost:1", "Host": "localhost:{port}"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),  # another port of this machine
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str], good: bool) -> None:
    with serving() as client:
        given = {name: value.format(port=client.port) for name, value in headers.items()}
        answers = [
            client.post("/inpaint", given),
            client.post("/preview", given),
            client.request("GET", "/about", None, given),
        ]
        assert [answer.status != 403 for answer in answers] == [good] * 3
        if not good:
            assert "other sites" in answers[0].error
        assert not any("access-control" in name.lower() for answer in answers for name in answer.headers)


def test_a_link_elsewhere_may_lead_to_the_page() -> None:
    with serving() as client:
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert client.request("GET", "/", None, link).status == 200
        assert client.request("GET", "/", None, {**link, "Sec-Fetch-Mode": "no-cors"}).status == 403
        assert client.request("GET", "/page.js", None, {**link, "Sec-Fetch-Mode": "no-cors"}).status == 403


def test_the_token() -> None:
    with serving(token=TOKEN) as client:
        client.token = None
        assert client.get("/").status == 200  # the page asks for it
        for path in ("/about", "/queue", "/nowhere", "/inpaint"):
            for given in (None, "Bearer wrong", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", "Bearer \xff"):
                answer = client.request("GET", path, None, {} if given is None else {"Authorization": given})
                assert answer.status == 401 and "Bearer TOKEN" in answer.error
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.post("/inpaint", picture=b"").status == 401
        client.token = TOKEN
        assert client.get("/about").status == 200
        assert client.get("/about", Origin=EVIL).status == 403  # with the token too


def test_every_answer_carries_the_policy() -> None:
    with serving() as client:
        for answer in (client.get("/"), client.get("/page.js"), client.get("/nowhere"), client.get("/", Host="x")):
            policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
            assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
            assert all("unsafe" not in value and ":" not in value and "*" not in value for value in policy.values())
            assert (
                answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"
            )
            assert answer.headers["Server"] is None
        types = {name: client.get(f"/{name}").headers["Content-Type"].split(";")[0] for name in ("page.js", "page.css")}
        assert types == {"page.js": "text/javascript", "page.css": "text/css"}


def test_the_page_needs_nothing_from_outside() -> None:
    files = [path for path in STATIC.iterdir() if path.is_file()]
    assert {"index.html", "page.css", "page.js"} <= {path.name for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?i)https?:|[\"'(]//|@import|\beval\(|innerHTML|insertAdjacentHTML", text), path.name
        assert len(text.splitlines()) < 300, path.name
        if path.suffix == ".html":
            assert not re.search(r"(?i)<style|\bstyle=|<script(?![^>]* src=)|\son[a-z]+=", text)
            for name in re.findall(r'(?:src|href)="([^"#]+)"', text):
                assert (STATIC / name).is_file(), name


# ---- the command


def said(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert main(["serve", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("pconv serve: error: ")
    return err


def test_refused_ports_hosts_and_tokens_are_named(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"--port: {port} on 127.0.0.1 is taken" in said(capsys, "--port", port, "--weights", "smooth")
    assert "--port: expected 0 to 65535" in said(capsys, "--port", 99999)
    assert "got 'no such host'" in said(capsys, "--host", "no such host")
    assert main(["serve", "--host", "192.0.2.1", "--no-token", "--weights", "smooth"]) == 1
    assert "error: --host: expected an address of this machine, got '192.0.2.1'" in capsys.readouterr().err
    refused = said(capsys, "--host", "0.0.0.0")
    assert "every machine that reaches this one" in refused and "--token-file" in refused and "--no-token" in refused
    assert "secrets.token_urlsafe" in said(capsys, "--token-file", tmp_path / "nowhere")
    assert "--weights" in said(capsys, "--weights", "nowhere.safetensors")
    assert "--max-upload: expected a number above 0" in said(capsys, "--max-upload", 0)
    assert "--max-megapixels" in said(capsys, "--max-megapixels", "nan")
    (tmp_path / "token").write_text(TOKEN)
    assert "got both" in said(capsys, "--token-file", tmp_path / "token", "--no-token")


def test_token_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    for wrong in ("short", "", "two words of a token", "täglich-brot-und-salz"):
        file.write_text(wrong, encoding="utf-8")
        with pytest.raises(PConvError, match="path: .*secrets"):
            read_token(file)


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "the extra [serve]" in said(capsys)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("0.0.0.0", marks=pytest.mark.full("signals"))])
def test_a_signal_ends_the_process_and_leaves_nothing(host: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pconv_cuda", "serve", "--host", host, "--port", "0", "--weights", "smooth"]
    environment = {"TMPDIR": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(
        [*command, "--no-token"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        cwd=Path(__file__).parents[1], preexec_fn=default_signals,
    ) as process:  # fmt: skip
        try:
            address = process.stdout.readline().split()[-1]
            alone = "this machine alone" in process.stdout.readline()
            assert alone == (host == "127.0.0.1")
            with urllib.request.urlopen(address) as page:
                assert page.status == 200
            assert [path.name[:12] for path in tmp_path.iterdir()] == ["pconv-serve-"]
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130 and "interrupted (SIGINT)" in err and "Traceback" not in err
    assert ("nothing is encrypted" in err) == (not alone)
    assert list(tmp_path.iterdir()) == []


def test_the_package_does_not_import_the_server() -> None:
    code = (
        "import sys, pconv_cuda.inpainting; assert not {'starlette', 'uvicorn', 'pconv_cuda.serve'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
