"""The page of ``pconv serve`` in headless Chromium: strokes by mouse, touch and keys, and what is saved."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("selenium", reason="the page is tested with selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

__all__ = ["Keys", "Page", "chromium", "stroke_pixels"]

_OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking "
    "--disable-component-update --disable-quic --disable-sync --no-first-run --hide-scrollbars --window-size=1000,860"
)


@contextlib.contextmanager
def chromium(downloads: Path) -> Iterator[webdriver.Chrome]:
    """With an empty profile. Skips where Chromium is missing."""
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in _OPTIONS.split():
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # its last processes may still write
        options.add_argument(f"--user-data-dir={profile}")
        started = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            started.execute_cdp_cmd(
                "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
            )  # fmt: skip
            started.get("about:blank")  # in place of the new tab's page, whose requests are no page's of ours
            started.get_log("performance"), started.get_log("browser")
            yield started
        finally:
            started.quit()


class Page:
    """A user's actions on the page.

    Args:
        browser: which shows it.
        address: of the server.
        folder: for pictures that are opened.
        downloads: where the browser saves.
    """

    def __init__(self, browser: webdriver.Chrome, address: str, folder: Path, downloads: Path) -> None:
        self.browser, self.folder, self.downloads = browser, folder, downloads
        browser.get(address)

    def __getitem__(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"{what}; status {self.status!r}, error {self.error!r}"
            time.sleep(0.03)
        return found

    @property
    def status(self) -> str:
        return self["status"].text

    @property
    def error(self) -> str:
        return self["error-text"].text

    @property
    def view(self) -> tuple[float, float, float]:
        """The canvas' upper left corner in pixels of the picture, and how many of the screen one has."""
        left, top, scale = map(float, self["stage"].get_attribute("data-view").split())
        return left, top, scale

    def open(self, **files: bytes) -> None:
        """``photo_png=...`` is photo.png."""
        paths = []
        for name, content in files.items():
            path = self.folder / name.replace("_", ".")
            path.write_bytes(content)
            paths.append(path)
        self["file"].send_keys("\n".join(map(str, paths)))
        self.until(lambda: self.status.startswith(f"{paths[-1].name}: ") or self.error, "it does not open")

    def click(self, name: str) -> None:
        self["status"].parent.execute_script("arguments[0].scrollIntoView({block: 'center'})", self[name])
        self[name].click()

    def allows(self, button: str) -> bool:
        return self[button].get_attribute("aria-disabled") != "true"

    def choose(self, tool: str) -> None:
        self.browser.execute_script(f"document.querySelector('input[value={tool}]').click()")

    def set_size(self, size: int) -> None:
        """By the keys [ and ]."""
        self.focus()
        for _ in range(200):
            shown = int(self["size-shown"].text.split()[0])
            if shown == size:
                return
            step = size > shown
            self.keys("]" if step else "[")
            now = int(self["size-shown"].text.split()[0])
            if (now > size) == step and now != size:  # beyond it: by the slider's script, as no step hits it
                break
        raise AssertionError(f"no brush of {size} px")

    def focus(self) -> None:
        self.browser.execute_script("document.getElementById('stage').focus()")

    def keys(self, *keys: str) -> None:
        chain = ActionChains(self.browser, duration=0)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    def with_control(self, key: str, *, shift: bool = False) -> None:
        chain = ActionChains(self.browser, duration=0).key_down(Keys.CONTROL)
        chain = chain.key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT) if shift else chain.send_keys(key)
        chain.key_up(Keys.CONTROL).perform()

    def to_top(self) -> None:
        """Scrolls there; two frames later the mouse and fingers meet what is there now."""
        self.browser.execute_script(
            "window.scrollTo(0, 0);"
            "return new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
        )

    def box(self) -> tuple[float, float, float, float]:
        script = (
            "const b = document.getElementById('stage').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
        )
        return tuple(self.browser.execute_script(script))

    def drag(self, *shares: tuple[float, float]) -> list[tuple[float, float]]:
        """A drag with the mouse through points in shares of the canvas; returns them in pixels of the picture."""
        x, y, width, height = self.box()
        points = [(round(x + across * width), round(y + down * height)) for across, down in shares]
        left, top, scale = self.view
        chain = ActionChains(self.browser, duration=0)
        mouse = chain.w3c_actions.pointer_action
        mouse.move_to_location(*points[0])
        mouse.pointer_down()
        for point in points[1:]:
            mouse.move_to_location(*point)
        mouse.pointer_up()
        chain.perform()
        return [(left + (px - x) / scale, top + (py - y) / scale) for px, py in points]

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """touchStart, touchMove or touchEnd with fingers at points in shares of the canvas."""
        x, y, width, height = self.box()
        fingers = [
            {"x": x + across * width, "y": y + down * height, "id": k} for k, (across, down) in enumerate(points)
        ]
        self.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    def saved(self, button: str | Callable[[], None]) -> Path:
        """The file that a button (or anything) makes the browser save."""
        for path in self.downloads.iterdir():  # one of the same name would be replaced
            path.unlink()
        if isinstance(button, str):
            self.click(button)
        else:
            button()

        def whole() -> list[Path]:
            found = list(self.downloads.iterdir())  # at first an empty file of its name, and one of another
            if len(found) != 1 or found[0].name.startswith(".") or found[0].suffix in (".crdownload", ".tmp"):
                return []
            try:
                return found if found[0].stat().st_size else []
            except FileNotFoundError:  # it is being renamed
                return []

        (path,) = self.until(whole, "nothing is saved")
        return path

    def mask(self) -> np.ndarray:
        """The hole, bool (H, W), as the page saves it."""
        with Image.open(self.saved("save-mask")) as image:
            assert image.mode == "1"
            return np.asarray(image)

    def fill(self) -> None:
        self.click("fill")
        self.until(lambda: "Filled in" in self.status or self.error, "it is not filled")

    def pixel(self, across: float, down: float) -> tuple[int, ...]:
        """The canvas' colour at a point of the picture, in shares of it."""
        script = """
            const canvas = document.getElementById("stage");
            const [left, top, scale, width, height] = arguments;
            return new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve([...canvas
                .getContext("2d").getImageData((width - left) * scale, (height - top) * scale, 1, 1).data]))));
        """
        left, top, scale = self.view
        width, height = map(int, self.status.split(": ")[1].split(" px")[0].split(" × "))
        return tuple(self.browser.execute_script(script, left, top, scale, across * width, down * height))

    def console(self) -> list[str]:
        """Errors and warnings, such as violations of the policy."""
        return [one["message"] for one in self.browser.get_log("browser") if one["level"] in ("SEVERE", "WARNING")]

    def requested(self) -> list[str]:
        """Every address that was asked for since this was called before."""
        messages = [json.loads(one["message"])["message"] for one in self.browser.get_log("performance")]
        return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]


def stroke_pixels(shape: tuple[int, int], size: int, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """The pixels of a stroke by its definition: centres at most half the size from the line, and those under points."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    hole = np.zeros(shape, bool)
    for (ax, ay), (bx, by) in zip(points, points[1:] or points, strict=False):
        dx, dy = bx - ax, by - ay
        length = dx * dx + dy * dy
        along = ((columns - ax) * dx + (rows - ay) * dy) / length if length else np.zeros(shape)
        along = along.clip(0, 1)
        hole |= np.hypot(columns - ax - along * dx, rows - ay - along * dy) <= size / 2
    for x, y in points:
        if 0 <= x < shape[1] and 0 <= y < shape[0]:
            hole[int(y), int(x)] = True
    return hole
