"""Damaged and malicious picture files: one sentence that names the file, bounded memory, and the rest is done."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from deep_png import deep_png
from inpaint_support import small_network, smooth_picture, square_hole
from PIL import Image

from pconv_cuda.cli import main
from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.masks import MaskRule
from pconv_cuda.inpainting.pictures import formats, read_picture, reading, save_picture

ROOT = Path(__file__).parents[1]


def samples_of_every_kind() -> dict[str, bytes]:
    picture = Image.fromarray(smooth_picture(40, 50))
    found = {"deep.png": deep_png(np.arange(40 * 50 * 3, dtype=np.uint16).reshape(40, 50, 3))}
    for name, image, options in (
        ("rgb.png", picture, {}),
        ("palette.png", picture.quantize(20), {"transparency": 3}),
        ("rgb.jpg", picture, {"exif": Image.Exif()}),
        ("cmyk.jpg", picture.convert("CMYK"), {}),
        ("rgb.webp", picture, {"lossless": True}),
        ("rgb.avif", picture, {}),
        ("rgb.bmp", picture, {}),
        ("lzw.tif", picture, {"compression": "tiff_lzw"}),
    ):
        data = io.BytesIO()
        image.save(data, {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.rpartition(".")[2].upper()), **options)
        found[name] = data.getvalue()
    data = io.BytesIO()
    tifffile.imwrite(data, np.zeros((40, 50, 4), np.uint16), photometric="rgb", extrasamples=[0], compression="zlib")
    found["deep.tif"] = data.getvalue()
    return found


def mutations(count: int) -> list[tuple[str, bytes]]:
    """Bytes changed, mostly near the beginning where the headers are; pieces cut out, doubled, or cut off."""
    rng, kinds = np.random.default_rng(0), list(samples_of_every_kind().items())
    found = []
    for number in range(count):
        name, whole = kinds[number % len(kinds)]
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 5))):
            at = int(len(data) * rng.random() ** 3) if len(data) else 0
            kind = rng.integers(5)
            if kind < 2:
                data[at : at + 1] = bytes([rng.integers(256)])
            elif kind == 2:
                data[at : at + 4] = struct.pack(">I", int(rng.choice([0, 1, 2**31, 2**32 - 1, 65535])))
            elif kind == 3:
                del data[at : at + int(rng.integers(1, 40))]
            else:
                data = data[: max(1, at)]
        found.append((name, bytes(data)))
    return found


def check(count: int, folder: Path) -> int:
    """Reads each as picture and as mask. Returns how many were refused; anything but PConvError is raised."""
    photo, refused = folder / "photo.png", 0
    Image.fromarray(smooth_picture(40, 50, 9)).save(photo)
    for number, (name, data) in enumerate(mutations(count)):
        path = folder / f"{number}{Path(name).suffix}"
        path.write_bytes(data)
        for use in ("picture", "mask"):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if use == "mask":
                        MaskRule(threshold=100).hole(read_picture(photo, 10**6), photo, path)
                    else:
                        picture = read_picture(path, 10**6)
                        kind = "PNG" if picture.format == "AVIF" else picture.format
                        save_picture(picture, folder / "out", kind)
            except PConvError as error:
                refused += 1
                assert str(number) in str(error) or "out" in str(error), error
        path.unlink()
    return refused


@pytest.mark.parametrize("count", [300, pytest.param(8000, marks=pytest.mark.full("8,000 damaged pictures"))])
def test_damaged_pictures_are_refused_in_one_sentence(tmp_path: Path, count: int) -> None:
    assert check(count, tmp_path) > count / 5


def test_the_check_catches_what_is_not_handled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unguarded(path: Path, limit: int) -> object:
        if path.name == "photo.png":
            return reading.read_picture(path, limit)
        return reading._read(path, Image.open(path))

    monkeypatch.setitem(check.__globals__, "read_picture", unguarded)
    with pytest.raises(Exception) as caught:
        check(60, tmp_path)
    assert not isinstance(caught.value, PConvError)


def test_one_damaged_picture_does_not_end_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    small_network(2).save_pretrained(tmp_path / "w")
    pictures = tmp_path / "d"
    pictures.mkdir()
    for name in "ac":
        Image.fromarray(smooth_picture(40, 50)).save(pictures / f"{name}.png")
    header = struct.pack(">I4s", 4, b"IHDR") + b"\0\0\0\1"
    (pictures / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", zlib.crc32(header[4:])))
    Image.fromarray(square_hole(40, 50, 5, 5, 9)).save(tmp_path / "m.png")
    arguments = ["inpaint", pictures, "--mask", tmp_path / "m.png", "-o", tmp_path / "o", "--weights", tmp_path / "w"]
    assert main([str(one) for one in arguments]) == 1
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["a.png", "c.png"]
    err = capsys.readouterr().err
    assert "b.png" in err and "1 of 3 pictures failed" in err and "Traceback" not in err


def png_bomb(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def in_little_memory(paths: list[Path], mebibytes: int) -> str:
    """What reading ``paths`` says where the process may take so much beyond what it has after its imports."""
    code = f"""
import resource, sys
from pathlib import Path
from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.pictures import read_picture, save_picture
import numpy, tifffile, PIL.Image
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {mebibytes} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name in sys.argv[1:]:
    try:
        print("read", read_picture(Path(name)).size)
    except PConvError as error:
        print("refused:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_picture_beyond_the_limit_is_refused_by_its_header(tmp_path: Path) -> None:
    empty = zlib.compress(bytes(100))
    cases = {"eight.png": png_bomb(50_000, 50_000, 8, 2, empty), "deep.png": png_bomb(50_000, 50_000, 16, 2, empty)}
    lying = io.BytesIO()
    tifffile.imwrite(lying, np.zeros((4, 5, 3), np.uint16), photometric="rgb", metadata=None)
    data = bytearray(lying.getvalue())
    for tag in (256, 257):  # width and height
        at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
        data[at : at + 4] = struct.pack("<I", 60_000)
    cases["lying.tif"] = bytes(data)
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    found = in_little_memory([tmp_path / name for name in cases], 1500).splitlines()
    for name, line in zip(cases, found, strict=True):
        assert line.startswith("refused: image:") and name in line and "`max_pixels` allows 500000000" in line


@pytest.mark.full("limits of the system")
def test_a_16_bit_png_takes_what_its_header_tells_and_no_more(tmp_path: Path) -> None:
    packer = zlib.compressobj(1)
    flood = b"".join(packer.compress(bytes(2**24)) for _ in range(64)) + packer.flush()  # 1 GiB in a few MB
    (tmp_path / "flood.png").write_bytes(png_bomb(64, 64, 16, 2, flood))
    assert in_little_memory([tmp_path / "flood.png"], 300) == "read (64, 64)\n"


def test_max_pixels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    small_network(2).save_pretrained(tmp_path / "w")
    Image.fromarray(smooth_picture(40, 50)).save(tmp_path / "a.png")
    Image.fromarray(square_hole(40, 50, 5, 5, 9)).save(tmp_path / "m.png")
    arguments = ["inpaint", tmp_path / "a.png", "--mask", tmp_path / "m.png", "-o", tmp_path / "o.png", "--weights"]
    call = [str(one) for one in (*arguments, tmp_path / "w", "--max-pixels")]
    assert main([*call, "1999"]) == 1 and not (tmp_path / "o.png").exists()
    err = capsys.readouterr().err
    assert "a.png is 50 x 40 px, and --max-pixels allows 1999" in err
    assert main([*call, "0"]) == 1 and "--max-pixels: expected at least 1" in capsys.readouterr().err
    assert main([*call, "2000"]) == 0


def test_pillows_own_limit_is_not_ours_and_is_left_alone(tmp_path: Path) -> None:
    """95 megapixels made Pillow warn, 182 made it refuse."""
    before = Image.MAX_IMAGE_PIXELS
    Image.new("1", (20_000, 9_100)).save(tmp_path / "scan.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(tmp_path / "scan.png").size == (9_100, 20_000)
    assert before == Image.MAX_IMAGE_PIXELS


def test_pillows_limit_returns_after_readers_in_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1234)
    first, second = formats.without_pixel_limit(), formats.without_pixel_limit()
    first.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        assert Image.MAX_IMAGE_PIXELS is None  # the second is still reading
        pool.submit(second.__exit__, None, None, None).result()
    assert Image.MAX_IMAGE_PIXELS == 1234


@pytest.mark.full("a scan of 182 megapixels")
def test_a_large_scan_in_bounded_memory(tmp_path: Path) -> None:
    small_network(2).save_pretrained(tmp_path / "w")
    width, height = 14_000, 13_000
    Image.new("RGB", (width, height), "wheat").save(tmp_path / "scan.bmp")
    hole = np.zeros((height, width), bool)
    for at in range(0, 12_000, 400):
        hole[at : at + 5, at : at + 600] = True
    Image.fromarray(hole).save(tmp_path / "m.png")
    arguments = ["inpaint", "scan.bmp", "--mask", "m.png", "-o", "out.bmp", "--weights", "w"]
    started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(
        [sys.executable, "-m", "pconv_cuda", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    used = max(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, started)
    assert used < 4 * 2**20, f"{used / 2**20:.1f} GiB"  # the picture itself is 0.5, its mask 0.2


@pytest.mark.full("limits of the system")
def test_too_little_memory_is_one_sentence(tmp_path: Path) -> None:
    small_network(2).save_pretrained(tmp_path / "w")
    Image.new("RGB", (6000, 6000)).save(tmp_path / "a.bmp")
    Image.fromarray(square_hole(6000, 6000, 5, 5, 9)).save(tmp_path / "m.png")
    code = """
import resource, sys, torch
import pconv_cuda.inpainting.pictures.sixteen_bit, tifffile, numpy, PIL.Image, safetensors.torch
from pconv_cuda.cli import main
torch.zeros(8, 8) @ torch.zeros(8, 8)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 250 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(["inpaint", "a.bmp", "--mask", "m.png", "-o", "o.bmp", "--weights", "w"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "a.bmp: out of memory; give more" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bmp", "m.png", "w"]
