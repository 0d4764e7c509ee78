"""The HTTP API of ``pconv serve``: the same bytes as the command's, errors in words, limits, path tricks."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import socket
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deep_png import deep_png
from inpaint_support import smooth_picture, square_hole
from PIL import Image, ImageCms
from serve_support import Client, by_command, multipart, png, serving

from pconv_cuda.serve import work

HOLE = square_hole(40, 50, 10, 15, 8)
MASK = png(HOLE)
PHOTO = png(smooth_picture(40, 50))


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    with serving("smooth", "photo", megapixels=0.1, upload=1, stall=0.5) as client:
        yield client


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    colours = Image.fromarray(smooth_picture(40, 50))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 3, "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    see_through = colours.copy()
    see_through.putalpha(Image.fromarray((np.arange(2000).reshape(40, 50) % 256).astype(np.uint8)))
    return {
        "photo.jpg": saved(colours, "JPEG", quality=90, exif=exif, icc_profile=profile, dpi=(300, 300)),
        "scan.tif": saved(colours, "TIFF", compression="tiff_lzw", dpi=(400, 400)),
        "grey.bmp": saved(colours.convert("L"), "BMP"),
        "soft.webp": saved(see_through, "WEBP", lossless=True),
        "inks.tiff": saved(colours.convert("CMYK"), "TIFF"),
        "few.png": saved(colours.quantize(16), "PNG"),
        "deep.png": deep_png(smooth_picture(40, 50).astype(np.uint16) * 255),
        "named wrongly.jpeg": PHOTO,
    }


@pytest.mark.parametrize("name", pictures())
def test_the_answer_is_the_commands_file(server: Client, tmp_path: Path, name: str) -> None:
    picture = pictures()[name]
    answer = server.post("/inpaint", picture=(name, picture), mask=MASK)
    assert answer.status == 200, answer.content
    assert answer.content == by_command(tmp_path, name, picture, MASK)
    assert answer.content != picture
    assert answer.about["done"].startswith("white is the hole, 3.2 % of 50 x 40 px")
    ending = "named wrongly.png" if "wrongly" in name else name
    assert f'"{ending}"' in answer.headers["Content-Disposition"] or "named%20wrongly.png" in str(answer.headers)


def test_weights_are_chosen_by_name(server: Client, tmp_path: Path) -> None:
    photo = server.post("/inpaint", picture=PHOTO, mask=MASK, weights="photo")
    assert photo.content == by_command(tmp_path, "a.png", PHOTO, MASK, weights="photo")
    smooth = server.post("/inpaint", picture=PHOTO, mask=MASK)
    assert smooth.content != photo.content
    refused = server.post("/inpaint", picture=PHOTO, mask=MASK, weights="/etc/passwd")
    assert refused.status == 400 and refused.error.startswith("weights: expected one of smooth, photo, got")
    names = [one["name"] for one in json.loads(server.get("/about").content)["weights"]]
    assert names == ["smooth", "photo"]


def soft_mask() -> bytes:
    values = np.zeros((40, 50), np.uint8)
    values[10:20, 10:20], values[9, 10:20], values[20, 10:20] = 255, 100, 60
    return png(values)


def cut_out() -> bytes:
    return png(np.dstack([smooth_picture(40, 50), np.where(HOLE, 0, 255).astype(np.uint8)]))


@pytest.mark.parametrize(
    ("picture", "mask", "options"),
    [
        (PHOTO, soft_mask(), {}),
        (PHOTO, soft_mask(), {"threshold": "61", "dilate": "1"}),
        (PHOTO, png(~HOLE), {"invert-mask": "true"}),
        (PHOTO, png(HOLE[::2, ::2]), {"resize-mask": "1"}),
        (cut_out(), "alpha", {}),
        (png(np.where(HOLE[..., None], 7, smooth_picture(40, 50))), "", {"mask-color": "#070707"}),
    ],
)
def test_masks_are_read_as_the_command_reads_them(
    server: Client, tmp_path: Path, picture: bytes, mask: bytes | str, options: dict[str, str]
) -> None:
    given = {"mask": mask} if mask else {}
    answer = server.post("/inpaint", picture=("a.png", picture), **given, **options)
    switches = [
        f"--{name}" if value in ("true", "1") and "mask" in name else f"--{name}={value}"
        for name, value in options.items()
    ]
    assert answer.content == by_command(tmp_path, "a.png", picture, mask, *switches)
    found = server.post("/mask", picture=("a.png", picture), **given, **options)
    bits = np.frombuffer(gzip.decompress(found.content), np.uint8)
    hole = np.unpackbits(bits.reshape(40, -1), axis=1)[:, :50].astype(bool)
    exact = server.post("/inpaint", picture=("a.png", picture), mask=png(hole))
    if mask != "alpha":  # which makes the filled pixels opaque
        assert exact.content == answer.content
    assert 0 < hole.mean() < 0.5 and "is the hole" in found.about["notes"][0]


def broken_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BOMB = broken_png(30000, 30000)  # 900 million pixels in 70 bytes
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 40\n(x) run\n"


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ({"picture": ("a.png", PHOTO)}, 400, "mask: expected a picture file, the word alpha, or mask-color; got none"),
        ({"mask": MASK}, 400, "picture: expected a file"),
        ({"picture": "a.png", "mask": MASK}, 400, "unknown field 'picture'"),
        ({"picture": PHOTO, "mask": MASK, "tile": "9"}, 400, "unknown field 'tile'; expected files picture, mask"),
        ({"picture": PHOTO, "mask": MASK, "weights": "x" * 999}, 400, "weights: expected at most"),
        ({"picture": ("notes.txt", b"hello"), "mask": MASK}, 415, "but notes.txt is none of these"),
        ({"picture": ("a.png", b""), "mask": MASK}, 415, "but a.png is empty"),
        ({"picture": PHOTO, "mask": ("m.eps", EPS)}, 415, "mask: expected a jpg"),
        ({"picture": ("a.gif", b"GIF89a" + bytes(99)), "mask": MASK}, 415, "picture: expected a jpg"),
        ({"picture": ("cut.png", PHOTO[:700]), "mask": MASK}, 422, "picture: cut.png cannot be decoded"),
        ({"picture": ("a.png", broken_png(50, 40)), "mask": MASK}, 422, "picture: a.png cannot be decoded"),
        ({"picture": PHOTO, "mask": ("m.png", MASK[:50])}, 422, "mask: m.png cannot be"),
        ({"picture": PHOTO, "mask": ("m.png", png(HOLE[1:]))}, 422, "m.png is 50 x 39 px, but picture.bin is 50 x 40"),
        ({"picture": ("a.png", PHOTO), "mask": ("a.png", PHOTO)}, 422, "mask: a.png is the picture a.png itself"),
        ({"picture": PHOTO, "mask": "alpha"}, 422, "has no transparency"),
        ({"picture": PHOTO, "mask": "beta"}, 400, "the word alpha, got the text 'beta'"),
        ({"picture": PHOTO, "mask": MASK, "threshold": "0"}, 422, "threshold: expected 1 to 255, but got 0"),
        ({"picture": PHOTO, "mask": MASK, "dilate": "-1"}, 400, "dilate: expected a whole number"),
        ({"picture": PHOTO, "mask": MASK, "dilate": "9999"}, 400, "dilate: expected a whole number"),
        ({"picture": PHOTO, "mask": MASK, "invert-mask": "perhaps"}, 400, "invert-mask: expected true or false"),
        ({"picture": PHOTO, "mask-color": "#ggg"}, 422, "mask-color: expected a colour"),
        ({"picture": PHOTO, "mask": png(np.ones((40, 50), bool))}, 422, "hole"),
        ({"picture": PHOTO, "mask": MASK, "id": "../../etc"}, 400, "id: expected 8 to 64 letters"),
        ({"picture": ("b.png", BOMB), "mask": MASK}, 413, "30000 x 30000 px, and this server takes 0.1 megapixels"),
        ({"picture": PHOTO, "mask": ("b.png", BOMB)}, 413, "b.png is 30000 x 30000 px, and this server takes 0.1 meg"),
        ({"picture": PHOTO, "mask": ("big.bin", bytes(1_000_001))}, 413, "larger than the 1 MB"),
    ],
)  # fmt: skip
def test_errors_say_what_was_wrong_and_show_no_path(server: Client, parts: dict, status: int, words: str) -> None:
    answer = server.post("/inpaint", **parts)
    assert (answer.status, words in answer.error) == (status, True), (answer.status, answer.error)
    assert tempfile.gettempdir() not in answer.error and "--mask" not in answer.error


def test_bombs_are_refused_wherever_a_picture_is_read(server: Client) -> None:
    for answer in (
        server.post("/preview", picture=BOMB),
        server.post("/mask", picture=BOMB, mask=MASK),
        server.post("/mask", picture=PHOTO, mask=BOMB),
    ):
        assert answer.status == 413 and "takes 0.1 megapixels; shrink it" in answer.error


def test_bodies_other_than_multipart_are_refused(server: Client) -> None:
    assert server.request("POST", "/inpaint", b"{}", {"Content-Type": "application/json"}).status == 415
    body, kind = multipart({"picture": PHOTO, "mask": MASK})
    for wrong in (body[:-40], b"nonsense", body.replace(b"form-data", b"nothing")):
        answer = server.request("POST", "/inpaint", wrong, {"Content-Type": kind})
        assert answer.status == 400, (answer.status, answer.content)
    twice = body.replace(b'name="mask"', b'name="picture"')
    assert "got it twice" in server.request("POST", "/inpaint", twice, {"Content-Type": kind}).error
    many, kind = multipart({f"mask{' ' * k}": "alpha" for k in range(1)})
    many = many.replace(b"\r\n\r\nalpha", b"\r\n" + b"X: y\r\n" * 100 + b"\r\nalpha")
    assert server.request("POST", "/inpaint", many, {"Content-Type": kind}).status == 400


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that takes the place of the system's temporary one."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def files_below(folder: Path) -> list[Path]:
    # os.walk passes over folders that are removed while it looks; Path.rglob raises.
    return [Path(place) / name for place, _, names in os.walk(folder) for name in names]


def wait_for_no_files(folder: Path) -> None:
    """A request's files are removed just after its answer was sent."""
    end = time.monotonic() + 10
    while found := files_below(folder):
        assert time.monotonic() < end, found
        time.sleep(0.01)


def test_an_announced_size_is_refused_before_it_is_sent(place: Path) -> None:
    with serving(upload=0.5) as client, socket.create_connection(("127.0.0.1", client.port), 30) as line:
        head = "POST /inpaint HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        line.sendall((head + "Content-Length: 500001\r\nExpect: 100-continue\r\n\r\n").encode())
        assert line.recv(99).startswith(b"HTTP/1.1 413")  # and not 100 Continue


def test_a_stream_without_an_announced_size_is_cut_off(place: Path) -> None:
    """No more than the limit reaches the disk, however much is sent."""
    largest = 0
    with serving(upload=0.5) as client:

        def endless() -> Iterator[bytes]:
            nonlocal largest
            body, _ = multipart({"picture": b"x"})
            yield body[: body.rindex(b"x\r\n")].replace(body[2:34], b"b" * 32)
            for _ in range(100):
                yield bytes(100_000)
                largest = max([largest, *(path.stat().st_size for path in files_below(place))])

        kind = f"multipart/form-data; boundary={'b' * 32}"
        answer = client.request("POST", "/preview", endless(), {"Content-Type": kind})
        assert answer.status == 413 and "0.5 MB" in answer.error
    assert 0 < largest <= 500_000


def test_an_upload_that_stands_still_is_ended(server: Client) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 30) as line:
        line.sendall(
            b"POST /preview HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        assert line.recv(99).startswith(b"HTTP/1.1 408")


NAMES = [
    "../../evil.png",
    "/etc/passwd",
    "..\\..\\evil.png",
    "a\x00b.png",
    "x" * 300 + ".png",
    ".",
    "",
    "CON",
    "%2e%2e%2fevil.png",
]


def test_names_of_files_are_never_paths(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    seen: set[str] = set()
    real = work.run_job
    monkeypatch.setattr(work, "run_job", lambda job, *rest: (seen.add(job.image.name), real(job, *rest)))
    with serving() as client:
        (folder,) = place.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        for name in NAMES:
            answer = client.post("/inpaint", picture=(name, PHOTO), mask=(name, MASK))
            assert answer.status == 200, (name, answer.content)
            shown = answer.headers["Content-Disposition"]
            assert not re.search(r"[/\\\x00-\x1f]|\.\.", shown.partition(";")[2]), shown
            for field in ("../mask", "/tmp/mask", "mask/../../x"):
                assert client.post("/inpaint", picture=PHOTO, **{field: MASK}).status == 400
        wait_for_no_files(place)
    assert sorted(tmp_path.rglob("*")) == before  # the server's folder is gone too
    assert seen == {"picture.png"}


def test_paths_lead_to_the_pages_files_alone(server: Client) -> None:
    assert server.get("/").status == 200
    tricks = (
        "/../app.py /%2e%2e/app.py /..%2fapp.py //etc/passwd /static/page.js /page.js/.. /app.py /page.js%00 /?../x"
    )
    for path in tricks.split():
        answer = server.get(path)
        assert answer.status == (200 if path.startswith("/?") else 404), path
    assert server.get("/inpaint").status == 405 and "not allowed" in server.get("/inpaint").error
    assert server.post("/", picture=PHOTO).status == 405


def test_a_client_that_leaves_leaves_no_files(place: Path) -> None:
    body, kind = multipart({"picture": PHOTO, "mask": MASK})
    with serving() as client:
        with contextlib.closing(client.connect()) as connection:
            connection.putrequest("POST", "/inpaint")
            connection.putheader("Content-Type", kind)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:-500])
        assert client.post("/inpaint", picture=PHOTO, mask=MASK).status == 200
        wait_for_no_files(place)


def test_previews(server: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = smooth_picture(40, 50)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(Image.fromarray(colours).transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    answer = server.post("/preview", picture=("turned.png", turned))
    np.testing.assert_array_equal(answer.array(), colours)
    assert answer.about == {"width": 50, "height": 40, "format": "PNG", "notes": []}
    deep = colours.astype(np.uint16) * 257
    np.testing.assert_array_equal(server.post("/preview", picture=deep_png(deep)).array(), colours)
    np.testing.assert_array_equal(server.post("/preview", picture=cut_out()).array()[..., 3] == 0, HOLE)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_profile = server.post("/preview", picture=saved(Image.fromarray(colours), "TIFF", icc_profile=profile))
    assert Image.open(io.BytesIO(with_profile.content)).info["icc_profile"] == profile
    monkeypatch.setattr(work, "PREVIEW_PIXELS", 500)
    small = server.post("/preview", picture=PHOTO)
    assert small.array().shape == (20, 25, 3) and small.about["width"] == 50
    np.testing.assert_allclose(small.array(), colours.reshape(20, 2, 25, 2, 3).mean((1, 3)), atol=1)
