"""The page of ``pconv serve`` in headless Chromium: masks exact to the pixel, files as the command writes them."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser_support import Keys, Page, chromium, stroke_pixels
from deep_png import deep_png
from inpaint_support import smooth_picture, square_hole
from PIL import Image
from serve_support import Client, by_command, png, serving

from pconv_cuda import serve
from pconv_cuda.serve import work

SIZE = (90, 140)  # (H, W)
PHOTO = png(smooth_picture(*SIZE))


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator:
    with chromium(downloads) as started:
        yield started


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    with serving("smooth", "photo", upload=1) as client:
        yield client


@pytest.fixture
def page(browser, server: Client, tmp_path: Path, downloads: Path) -> Page:
    for path in downloads.iterdir():
        path.unlink()
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page = Page(browser, server.address, tmp_path, downloads)
    page.until(lambda: page["weights"].text, "the page has no weights")
    page.requested(), page.console()  # what was before
    return page


def mask_of(page: Page) -> np.ndarray:
    with Image.open(page.saved("save-mask")) as image:
        assert image.mode == "1"
        return np.asarray(image)


def test_strokes_are_exact_to_the_pixel_at_any_zoom(page: Page) -> None:
    page.open(photo_png=PHOTO)
    expected = np.zeros(SIZE, bool)
    for size, zoom, way in (
        (6, "1", [(0.45, 0.5), (0.5, 0.53), (0.55, 0.46)]),
        (1, "0", [(0.2, 0.2), (0.45, 0.9)]),
        (1, "0", [(0.7, 0.71)]),
        (13, "0", [(0.5, 0.3), (0.9, 0.4), (0.6, 0.95)]),
        (3, "+", [(0.3, 0.52), (0.75, 0.4)]),
    ):
        page.set_size(size)
        page.keys(zoom)
        expected |= stroke_pixels(SIZE, size, page.drag(*way))
        np.testing.assert_array_equal(mask_of(page), expected)
    page.choose("erase")
    page.set_size(13)
    expected &= ~stroke_pixels(SIZE, 13, page.drag((0.1, 0.5), (0.9, 0.42)))
    np.testing.assert_array_equal(mask_of(page), expected)
    assert f"hole {expected.mean() * 100:.1f} %" in page.status


def test_what_is_painted_on_a_small_preview_is_exact_at_full_size(page: Page, monkeypatch) -> None:
    monkeypatch.setattr(work, "PREVIEW_PIXELS", 5000)
    shape = (3001, 2203)
    page.open(large_png=png(np.zeros(shape, np.uint8)))
    assert "painted at full size" in page.status
    page.focus()
    size = int(page["size-shown"].text.split()[0])
    expected = stroke_pixels(shape, size, page.drag((0.4, 0.3), (0.6, 0.7), (0.5, 0.75)))
    np.testing.assert_array_equal(mask_of(page), expected)
    page.drag((0.5, 0.5), (0.55, 0.5))
    page.with_control("z")
    np.testing.assert_array_equal(mask_of(page), expected)
    row, column = np.argwhere(expected)[expected.sum() // 2] + 0.5
    assert page.pixel(column / shape[1], row / shape[0])[0] > 100  # the hole is seen over black


def test_undo_redo_clear_and_invert(page: Page) -> None:
    page.open(photo_png=PHOTO)
    states = [mask_of(page)]
    page.drag((0.3, 0.3), (0.6, 0.6))
    states.append(mask_of(page))
    page.click("invert")
    states.append(mask_of(page))
    np.testing.assert_array_equal(states[2], ~states[1])
    page.click("clear")
    states.append(mask_of(page))
    page.drag((0.5, 0.5))
    states.append(mask_of(page))
    assert not states[0].any() and not states[3].any() and states[4].any()
    for state in states[-2::-1]:
        page.click("undo")
        np.testing.assert_array_equal(mask_of(page), state)
    assert not page.allows("undo")
    for state in states[1:]:
        page.focus()
        page.with_control("y")
        np.testing.assert_array_equal(mask_of(page), state)
    assert not page.allows("redo")
    page.with_control("z")
    page.with_control("z", shift=True)
    np.testing.assert_array_equal(mask_of(page), states[-1])
    page.with_control("z")
    page.drag((0.2, 0.8))
    assert not page.allows("redo")


def turned_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(smooth_picture(*SIZE)).save(file, "JPEG", exif=exif, quality=88)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("photo.png", PHOTO),
        ("turned.jpg", turned_jpeg()),
        ("deep.png", deep_png(smooth_picture(*SIZE).astype(np.uint16) * 251)),
    ],
)
def test_the_saved_picture_is_the_commands_to_the_byte(page: Page, tmp_path: Path, name: str, picture: bytes) -> None:
    page.open(**{name.replace(".", "_"): picture})
    page.drag((0.4, 0.4), (0.6, 0.5))
    saved = page.saved("save-mask")
    mask = saved.read_bytes()
    assert saved.name == f"{Path(name).stem}_mask.png"
    page.browser.execute_script("const s = document.getElementById('weights'); s.value = 'photo'; s.onchange()")
    assert "photographs" in page["weights-about"].text
    page.fill()
    assert page.error == "" and "hole" in page.status
    saved = page.saved("save")
    assert saved.name == name
    assert saved.read_bytes() == by_command(tmp_path, name, picture, mask, weights="photo")


def test_a_loaded_mask_is_read_as_the_command_reads_it(page: Page, tmp_path: Path) -> None:
    page.open(photo_png=PHOTO)
    soft = np.zeros(SIZE, np.uint8)
    soft[20:40, 30:60], soft[19, 30:60] = 255, 90
    (tmp_path / "soft.png").write_bytes(png(soft))
    page["mask-file"].send_keys(str(tmp_path / "soft.png"))
    page.until(lambda: page.status.startswith("Mask read"), "no mask")
    assert "grown by 2 px for its soft edges" in page.status
    grown = np.zeros(SIZE, bool)
    grown[18:42, 28:62] = True
    np.testing.assert_array_equal(mask_of(page), grown)
    page.fill()
    assert page.saved("save").read_bytes() == by_command(tmp_path, "photo.png", PHOTO, png(soft))
    (tmp_path / "half.png").write_bytes(png(soft[::2, ::2]))
    page["mask-file"].send_keys(str(tmp_path / "half.png"))
    page.until(lambda: page.error, "no error")
    assert "half.png is 70 x 45 px, but photo.png is 140 x 90; resize-mask resizes" in page.error
    np.testing.assert_array_equal(mask_of(page), grown)
    page.browser.execute_script("document.querySelector('details').open = true")
    page.click("resize-mask")
    page["dilate"].send_keys("0")
    page["mask-file"].send_keys(str(tmp_path / "half.png"))
    page.until(lambda: page.status.startswith("Mask read"), "no mask")
    assert page.error == "" and mask_of(page).sum() == 600


def test_everything_by_keys(page: Page, tmp_path: Path) -> None:
    page.open(photo_png=PHOTO)
    page.browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(40):
        page.keys(Keys.TAB)
        script = "const e = document.activeElement; return [e.id || e.value, getComputedStyle(e).outline]"
        name, outline = page.browser.execute_script(script)
        reached.append(name)
        if name == "stage":
            assert "3px" in outline and "solid" in outline  # where the focus is can be seen
            break
    assert reached[0] == "open" and reached[-1] == "stage"
    page.set_size(4)
    page.keys(Keys.ARROW_LEFT, " ", *[Keys.ARROW_RIGHT] * 3, Keys.ARROW_DOWN, " ", Keys.ARROW_DOWN)
    assert "Brush up" in page.status
    step = max(1, round(12 / page.view[2]))
    x, y = SIZE[1] / 2 - step, SIZE[0] / 2
    way = [(x + k * step, y) for k in range(4)] + [(x + 3 * step, y + step)]
    expected = stroke_pixels(SIZE, 4, way)
    np.testing.assert_array_equal(mask_of(page), expected)
    page.focus()
    page.keys("e", " ", " ", "p", "i", "i")
    page.with_control("z")
    page.with_control("z")
    page.with_control("z")
    np.testing.assert_array_equal(mask_of(page), expected)
    page.focus()
    page.keys(" ", Keys.ARROW_LEFT, Keys.ESCAPE)  # gives the stroke up
    np.testing.assert_array_equal(mask_of(page), expected)
    page.focus()
    page.keys(Keys.ENTER)
    page.until(lambda: "Filled in" in page.status, "it is not filled")
    saved = page.saved(lambda: page.with_control("s"))
    assert saved.read_bytes() == by_command(tmp_path, "photo.png", PHOTO, png(expected))
    page.focus()
    page.keys("0")
    fitted = page.view
    page.keys("+", "v")
    left, top, scale = page.view
    assert scale == pytest.approx(fitted[2] * 1.4)
    page.keys(Keys.ARROW_RIGHT)
    assert page.view == pytest.approx((left + 60 / scale, top, scale), abs=1 / scale)
    page.drag((0.5, 0.5), (0.6, 0.5))
    assert page.view[0] == pytest.approx(left + (60 - 0.1 * page.box()[2]) / scale, abs=2 / scale)
    page.keys("0")
    assert page.view == fitted
    page.keys("p", Keys.DELETE)
    assert not mask_of(page).any()
    reachable = (
        "return [...document.querySelectorAll('button, input, select, summary')].filter(e => e.tabIndex < 0).length"
    )
    assert page.browser.execute_script(reachable) == 0


def test_before_and_after(page: Page) -> None:
    marked = smooth_picture(*SIZE)
    hole = square_hole(*SIZE, 40, 60, 14)
    marked[hole] = (0, 255, 0)
    page.open(photo_png=png(marked))
    (page.folder / "m.png").write_bytes(png(hole))
    page["mask-file"].send_keys(str(page.folder / "m.png"))
    page.until(lambda: page.status.startswith("Mask read"), "no mask")
    assert not page["compare"].is_displayed()
    page.fill()
    middle = (67 / SIZE[1], 47 / SIZE[0])
    page.click("show-mask")

    def is_green() -> bool:
        red, green, blue, _ = page.pixel(*middle)
        return green > 200 and red < 60 and blue < 60

    page.focus()
    page.keys("b")
    assert is_green()
    page.keys("a")
    assert not is_green()
    page["split"].send_keys(Keys.END)
    assert is_green()
    page["split"].send_keys(Keys.HOME)
    assert not is_green()
    page["split"].send_keys(*[Keys.ARROW_RIGHT] * 50)
    assert page["split"].get_attribute("value") == "50" and is_green()  # it is at 48 %
    page["split"].send_keys(*[Keys.ARROW_LEFT] * 4)
    assert not is_green()


def test_the_line_between_before_and_after_can_be_dragged(page: Page) -> None:
    page.open(photo_png=PHOTO)
    page.drag((0.3, 0.3))
    page.fill()
    before = mask_of(page)
    page.drag((0.5, 0.5), (0.6, 0.5))
    assert int(page["split"].get_attribute("value")) > 52
    np.testing.assert_array_equal(mask_of(page), before)  # it is no stroke


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
        masks[name] = png(mask_of(page))
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
    painted = mask_of(page)
    np.testing.assert_array_equal(painted, stroke_pixels(SIZE, size, way))
    page.browser.execute_script("window.scrollTo(0, 0)")
    page.touch("touchStart", (0.4, 0.5))
    page.touch("touchStart", (0.4, 0.5), (0.6, 0.5))
    page.touch("touchMove", (0.3, 0.5), (0.7, 0.5))
    page.touch("touchEnd")
    assert page.view[2] == pytest.approx(2 * scale, rel=0.05)
    np.testing.assert_array_equal(mask_of(page), painted)  # the first finger's stroke is given up
    page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_nothing_is_asked_for_elsewhere(page: Page, server: Client) -> None:
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
    assert "large.png is larger than the 1 MB" in page.error and "--max-upload" in page.error
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
    page.click("fill")
    page.until(lambda: "Waiting: 1 before this one" in page.status, "no place")
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


def test_the_systems_wish_for_dark_is_heard(page: Page) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    for wish, shown in (("dark", "rgb(20, 23, 27)"), ("light", "rgb(238, 240, 243)")):
        features = {"features": [{"name": "prefers-color-scheme", "value": wish}]}
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        assert page.browser.execute_script(colour) == shown
