"""The page of ``pconv serve`` in use: several pictures, a phone, errors, the queue, accessibility."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest
from browser_support import Keys, Page, stroke_pixels
from inpaint_support import smooth_picture
from serve_support import Client, by_command, png, serving

from pconv_cuda import serve
from pconv_cuda.serve import work

pytest_plugins = ("page_fixtures",)

SIZE = (90, 140)  # (H, W)
PHOTO = png(smooth_picture(*SIZE))


def test_several_pictures(page: Page, tmp_path: Path) -> None:
    other = png(smooth_picture(50, 60, 3))
    page.open(first_png=PHOTO, second_png=other)
    assert page.status.startswith("second.png: 60 × 50 px")
    page.drag((0.5, 0.5))
    page.focus()
    page.keys(",")
    assert page.status.startswith("first.png: 140 × 90 px, no hole yet")
    page.drag((0.2, 0.5), (0.3, 0.6))
    masks = {}
    for name in ("first.png", "second.png"):
        masks[name] = png(page.mask())
        page.fill()
        page.focus()
        page.keys(".")
    for name, picture in (("first.png", PHOTO), ("second.png", other)):
        button = next(one for one in page["pictures"].find_elements("tag name", "button") if name in one.text)
        button.click()
        assert page.saved("save").read_bytes() == by_command(tmp_path, name, picture, masks[name])


def test_at_phone_width_by_touch(page: Page) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    page.open(photo_png=PHOTO, **{"a long name of another picture_png": PHOTO})
    widths = "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    assert page.browser.execute_script(widths) == [360, 360, 360]
    script = """
        const all = [...document.querySelectorAll("button, input:not([hidden]), select, canvas, p, summary")];
        return all.filter((one) => {
            const box = one.getBoundingClientRect();
            const small = one.tagName === "BUTTON" && box.height < 40;
            return box.width && !one.closest("nav") && (box.left < 0 || box.right > innerWidth || small);
        }).map((one) => one.outerHTML.slice(0, 80));
    """
    assert page.browser.execute_script(script) == []
    x, y, width, height = page.box()
    left, top, scale = page.view
    page.touch("touchStart", (0.3, 0.5))
    page.touch("touchMove", (0.6, 0.55))
    page.touch("touchEnd")
    way = [(left + a * width * 2 / scale, top + b * height * 2 / scale) for a, b in ((0.3, 0.5), (0.6, 0.55))]
    size = int(page["size-shown"].text.split()[0])
    painted = page.mask()
    np.testing.assert_array_equal(painted, stroke_pixels(SIZE, size, way))
    page.to_top()
    page.touch("touchStart", (0.4, 0.5))
    page.touch("touchStart", (0.4, 0.5), (0.6, 0.5))
    page.touch("touchMove", (0.3, 0.5), (0.7, 0.5))
    page.touch("touchEnd")
    assert page.view[2] == pytest.approx(2 * scale, rel=0.05)
    np.testing.assert_array_equal(page.mask(), painted)  # the first finger's stroke is given up
    page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_at_phone_width_results_and_errors_come_into_view(page: Page) -> None:
    page.open(photo_png=PHOTO)
    page.drag((0.5, 0.5))
    page["undo"].click()
    metrics = {"width": 390, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def seen(name: str) -> bool:
        script = (
            "const b = document.getElementById(arguments[0]).getBoundingClientRect();"
            "return b.height > 0 && b.top >= -1 && b.bottom <= innerHeight + 1"
        )
        return page.browser.execute_script(script, name)

    page.browser.execute_script("document.getElementById('fill').scrollIntoView({block: 'end'})")
    assert not seen("frame")
    page["fill"].click()
    page.until(lambda: page.error, "no error")
    assert page.error.startswith("There is no hole yet") and seen("error")
    page["redo"].click()
    assert "no hole yet" not in page.status
    page.browser.execute_script("document.getElementById('fill').scrollIntoView({block: 'end'})")
    assert not seen("frame")
    page["fill"].click()
    page.until(lambda: "Filled in" in page.status, "it is not filled")
    page.until(lambda: seen("frame"), "the picture is not in view")


def test_the_empty_page_says_how_to_begin(page: Page) -> None:
    page.browser.execute_script("document.getElementById('file').click = () => { window.asked = true; }")
    page["stage"].click()
    assert page.browser.execute_script("return window.asked === true")
    page.open(photo_png=PHOTO)
    assert page.status.endswith("no hole yet. Paint over what is to be filled, or load a mask.")
    page.browser.execute_script("window.asked = false")
    page.drag((0.5, 0.5))
    assert "Paint over" not in page.status and not page.browser.execute_script("return window.asked")


def test_the_page_sends_requests_to_its_server_only(page: Page, server: Client) -> None:
    page.open(photo_png=PHOTO)
    page.drag((0.3, 0.3), (0.5, 0.5))
    page.fill()
    page.saved("save")
    asked = page.requested()
    assert any(url == f"{server.address}/inpaint" for url in asked)
    assert [
        url for url in asked if not url.startswith((f"{server.address}/", f"blob:{server.address}/", "data:"))
    ] == []
    assert page.console() == []


def test_a_file_that_is_gone_after_it_was_opened_is_filled_all_the_same(page: Page) -> None:
    page.open(photo_png=PHOTO)
    (page.folder / "photo.png").unlink()
    page.drag((0.5, 0.5))
    page.fill()
    assert page.error == "" and len(page.saved("save").read_bytes()) > 1000


def test_errors_are_shown_in_the_page(page: Page, tmp_path: Path) -> None:
    page.open(broken_png=PHOTO[:900])
    assert "picture: broken.png cannot be decoded" in page.error
    page.click("error-close")
    assert not page["error"].is_displayed()
    page.open(notes_txt=b"hello")
    assert "notes.txt is none of these" in page.error
    page.open(large_png=bytes(1_100_000))
    assert "large.png is larger than the 1 MB" in page.error and "allow more" in page.error
    page.open(photo_png=PHOTO)
    assert page.error == ""
    page.click("fill")
    assert page.error.startswith("There is no hole yet")
    page.click("invert")
    page.click("fill")
    page.until(lambda: "hole" in page.error and "no hole yet" not in page.error, "no error")
    assert page.allows("fill") and not page.allows("save")


def test_a_server_that_has_ended_is_an_error_in_words(browser, tmp_path: Path, downloads: Path) -> None:
    with serving() as client:
        page = Page(browser, client.address, tmp_path, downloads)
        page.open(photo_png=PHOTO)
        page.drag((0.5, 0.5))
    page.click("fill")
    page.until(lambda: page.error, "no error")
    assert "does not answer" in page.error and "pconv serve" in page.error
    page.console()  # the browser's own complaint


def test_the_token_is_asked_for(browser, tmp_path: Path, downloads: Path) -> None:
    with serving(token="correct-horse-battery") as client:
        page = Page(browser, client.address, tmp_path, downloads)
        for given in ("wrong", "correct-horse-battery"):
            page.until(lambda: page["token-dialog"].is_displayed(), "no dialog")
            page["token"].send_keys(given + Keys.ENTER)
        page.until(lambda: page["weights"].text, "the page has no weights")
        assert not page["token-dialog"].is_displayed()
        page.open(photo_png=PHOTO)
        page.drag((0.5, 0.5))
        page.fill()
        assert page.error == ""
    page.console()


def test_the_place_in_the_queue_and_stop(page: Page, server: Client, monkeypatch) -> None:
    door, begun = threading.Event(), threading.Event()
    real = work.run_job

    def slow(job, filler, rule, report, *rest) -> None:
        begun.set()
        for piece in range(3000):
            report.progress(min(piece, 7), 9)
            if door.wait(0.01):
                break
        real(job, filler, rule, report, *rest)

    monkeypatch.setattr(work, "run_job", slow)
    page.open(photo_png=PHOTO)
    page.drag((0.5, 0.5))
    other = threading.Thread(target=lambda: server.post("/inpaint", picture=PHOTO, mask=png(np.eye(90, 140) > 0)))
    other.start()
    assert begun.wait(20)
    height = page["fill"].size["height"]
    page.click("fill")
    page.until(lambda: "Waiting: 1 before this one" in page.status, "no place")
    assert page["fill"].size["height"] == height and page["stop"].is_displayed()  # no line of its text is broken
    page.click("stop")
    page.until(lambda: page.allows("fill"), "it goes on")
    page.until(lambda: b'"length":1' in server.get("/queue").content, "the place is not free")
    assert page.error == ""
    page.click("fill")
    page.until(lambda: "Waiting" in page.status, "no place")
    begun.clear()
    door.set()
    other.join()
    page.until(lambda: "Filled in" in page.status, "it is not filled")


# ---- for everyone


def test_everything_has_a_name_for_screen_readers(page: Page) -> None:
    page.open(photo_png=PHOTO)
    page.browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    page.browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    wanted = {
        "button",
        "slider",
        "radio",
        "checkbox",
        "combobox",
        "textbox",
        "spinbutton",
        "application",
        "progressbar",
    }
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    named = [(role, name) for role, name in found if role in wanted]
    assert len(named) > 20 and [one for one in named if not one[1]] == []
    assert {"main", "navigation", "status"} <= {role for role, _ in found}


def test_colours_have_contrast_in_light_and_dark() -> None:
    css = (Path(serve.__file__).parent / "static" / "page.css").read_text()
    palettes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)]
    assert len(palettes) == 2

    def light(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for palette in palettes:
        for front, back, least in (
            ("text", "back", 7), ("text", "panel", 7), ("text", "stage", 7), ("text", "bad-back", 7),
            ("faint", "back", 4.5), ("faint", "panel", 4.5), ("faint", "stage", 4.5), ("on-main", "main", 4.5),
            ("main", "panel", 3), ("main", "back", 3), ("main", "stage", 3), ("line", "panel", 3),
        ):  # fmt: skip
            dark, bright = sorted((light(palette[front]), light(palette[back])))
            assert (bright + 0.05) / (dark + 0.05) >= least, (front, back, palette)


def test_the_page_follows_the_systems_dark_mode(page: Page) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    for wish, shown in (("dark", "rgb(20, 23, 27)"), ("light", "rgb(238, 240, 243)")):
        features = {"features": [{"name": "prefers-color-scheme", "value": wish}]}
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        assert page.browser.execute_script(colour) == shown
