"""The examples that run exported files: onnxruntime without torch, and a page in the browser."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from export_support import network
from PIL import Image

import pconv_cuda

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
pytest.importorskip("onnxscript", reason="the extra [export] is not installed")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# A folder of onnxruntime-web's files: npm pack onnxruntime-web, unpacked, its dist.
WEB_RUNTIME = os.environ.get("PCONV_ONNXRUNTIME_WEB", "")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "unet.onnx"
    pconv_cuda.export_onnx(network("unet"), path)
    return path


def expected(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Of the network itself, which closes these holes."""
    model = network("unet")
    image, mask = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255, torch.from_numpy(~hole)[None, None]
    with torch.inference_mode():
        answer, closed = model(model.normalize(image), mask)
    assert closed.all()
    filled = (model.denormalize(answer)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return np.where(hole[..., None], filled, picture)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its hole, as files too."""
    rng = np.random.default_rng(1)
    picture = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8)).resize((101, 75)))
    hole = np.zeros((75, 101), bool)
    hole[30:50, 20:60] = True
    Image.fromarray(picture).save(tmp_path / "picture.png")
    Image.fromarray(hole).save(tmp_path / "hole.png")
    return picture, hole


def call(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process that can import neither torch nor this package."""
    program = EXAMPLES / "onnx_inpaint.py"
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['pconv_cuda'] = None\n"
        f"sys.argv = {[program.name, *map(str, arguments)]!r}; runpy.run_path({str(program)!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_a_picture_is_filled_without_torch(exported: Path, tmp_path: Path, pair) -> None:
    picture, hole = pair
    done = call(tmp_path, exported, "picture.png", "hole.png", "-o", "filled.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "filled.png: 101 x 75 px, 0 pixels of the hole left open\n"
    with Image.open(tmp_path / "filled.png") as filled:
        assert np.abs(np.asarray(filled).astype(int) - expected(picture, hole)).max() <= 1
        assert np.array_equal(np.asarray(filled)[~hole], picture[~hole])


def test_wrong_files_are_refused(exported: Path, tmp_path: Path, pair) -> None:
    Image.new("L", (5, 5)).save(tmp_path / "small.png")
    done = call(tmp_path, exported, "picture.png", "small.png")
    assert done.returncode == 1 and "mask: expected (101, 75), the picture's size, got (5, 5)" in done.stderr
    done = call(tmp_path, "picture.png", "picture.png", "hole.png")
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr


# The page -------------------------------------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, exported: Path) -> Iterator[str]:
    if not (WEB_RUNTIME and Path(WEB_RUNTIME, "ort.wasm.min.js").is_file()):
        pytest.skip("PCONV_ONNXRUNTIME_WEB does not name a folder of onnxruntime-web's files (docs/export.md)")
    folder = tmp_path / "site"
    shutil.copytree(WEB_RUNTIME, folder / "ort", ignore=shutil.ignore_patterns("*.map", "*jsep*", "*webg*", "*jspi*"))
    shutil.copy(EXAMPLES / "web" / "index.html", folder)
    shutil.copy(exported, folder / "network.onnx")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_page_fills_a_painted_hole(site: str, tmp_path: Path, pair) -> None:
    pytest.importorskip("selenium", reason="the page is tested with selenium")
    from browser_support import ActionChains, By, chromium

    picture, _ = pair
    downloads = tmp_path / "downloads"
    downloads.mkdir()

    def until(browser, start: str) -> str:
        end = time.monotonic() + 60
        while not (said := browser.find_element(By.ID, "status").text).startswith(start):
            assert not said.startswith("Error") and time.monotonic() < end, said
            time.sleep(0.1)
        return said

    with chromium(downloads) as browser:
        browser.get(site)
        until(browser, "Open a picture")
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "picture.png"))
        until(browser, "101 x 75 pixels")
        stage = browser.find_element(By.ID, "stage")
        chain = ActionChains(browser).move_to_element_with_offset(stage, -20, 0).click_and_hold()
        chain.move_by_offset(30, 0).release().perform()
        hole = np.array(browser.execute_script("return Array.from(hole)"), bool).reshape(75, 101)
        assert 24 * 30 < hole.sum() < 24 * 60
        browser.find_element(By.ID, "fill").click()
        assert "too far" not in until(browser, "Filled in")
        data = browser.execute_script("return Array.from(picture.data)")
        asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    filled = np.array(data, np.uint8).reshape(75, 101, 4)[..., :3]
    assert np.array_equal(filled[~hole], picture[~hole])
    assert np.abs(filled.astype(int) - expected(picture, hole)).max() <= 1
    addresses = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    assert addresses and all(address.startswith((site, "blob:", "data:")) for address in addresses)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    text = (EXAMPLES / "web" / "index.html").read_text(encoding="utf-8")
    assert "http://" not in text.replace("http.server", "") and "https://" not in text and "ort.wasm.min.js" in text
