"""The page of ``pconv serve`` in headless Chromium: masks exact to the pixel, files as the command writes them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from browser_support import Keys, Page, stroke_pixels
from deep_png import deep_png
from inpaint_support import smooth_picture, square_hole
from PIL import Image
from serve_support import by_command, png

from pconv_cuda.serve import work

pytest_plugins = ("page_fixtures",)

SIZE = (90, 140)  # (H, W)
PHOTO = png(smooth_picture(*SIZE))


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
        np.testing.assert_array_equal(page.mask(), expected)
    page.choose("erase")
    page.set_size(13)
    expected &= ~stroke_pixels(SIZE, 13, page.drag((0.1, 0.5), (0.9, 0.42)))
    np.testing.assert_array_equal(page.mask(), expected)
    assert f"hole {expected.mean() * 100:.1f} %" in page.status


def test_what_is_painted_on_a_small_preview_is_exact_at_full_size(page: Page, monkeypatch) -> None:
    monkeypatch.setattr(work, "PREVIEW_PIXELS", 5000)
    shape = (3001, 2203)
    page.open(large_png=png(np.zeros(shape, np.uint8)))
    assert "painted at full size" in page.status
    page.focus()
    size = int(page["size-shown"].text.split()[0])
    expected = stroke_pixels(shape, size, page.drag((0.4, 0.3), (0.6, 0.7), (0.5, 0.75)))
    np.testing.assert_array_equal(page.mask(), expected)
    page.drag((0.5, 0.5), (0.55, 0.5))
    page.with_control("z")
    np.testing.assert_array_equal(page.mask(), expected)
    row, column = np.argwhere(expected)[expected.sum() // 2] + 0.5
    assert page.pixel(column / shape[1], row / shape[0])[0] > 100  # the hole is seen over black


def test_undo_redo_clear_and_invert(page: Page) -> None:
    page.open(photo_png=PHOTO)
    states = [page.mask()]
    page.drag((0.3, 0.3), (0.6, 0.6))
    states.append(page.mask())
    page.click("invert")
    states.append(page.mask())
    np.testing.assert_array_equal(states[2], ~states[1])
    page.click("clear")
    states.append(page.mask())
    page.drag((0.5, 0.5))
    states.append(page.mask())
    assert not states[0].any() and not states[3].any() and states[4].any()
    for state in states[-2::-1]:
        page.click("undo")
        np.testing.assert_array_equal(page.mask(), state)
    assert not page.allows("undo")
    for state in states[1:]:
        page.focus()
        page.with_control("y")
        np.testing.assert_array_equal(page.mask(), state)
    assert not page.allows("redo")
    page.with_control("z")
    page.with_control("z", shift=True)
    np.testing.assert_array_equal(page.mask(), states[-1])
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
    page.until(lambda: "Mask read" in page.status, "no mask")
    assert "grown by 2 px for its soft edges" in page.status
    grown = np.zeros(SIZE, bool)
    grown[18:42, 28:62] = True
    np.testing.assert_array_equal(page.mask(), grown)
    page.fill()
    assert page.saved("save").read_bytes() == by_command(tmp_path, "photo.png", PHOTO, png(soft))
    (tmp_path / "half.png").write_bytes(png(soft[::2, ::2]))
    page["mask-file"].send_keys(str(tmp_path / "half.png"))
    page.until(lambda: page.error, "no error")
    assert "half.png is 70 x 45 px, but photo.png is 140 x 90; resize-mask resizes" in page.error
    assert page["resize-mask"].is_displayed()  # what the error names
    np.testing.assert_array_equal(page.mask(), grown)
    page.click("resize-mask")
    page["dilate"].send_keys("0")
    page["mask-file"].send_keys(str(tmp_path / "half.png"))
    page.until(lambda: "Mask read" in page.status, "no mask")
    assert page.error == "" and page.mask().sum() == 600
    assert page.status.startswith("photo.png: 140 × 90 px, hole 4.8 %")


def test_the_page_can_be_used_by_keys_alone(page: Page, tmp_path: Path) -> None:
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
    np.testing.assert_array_equal(page.mask(), expected)
    page.focus()
    page.keys("e", " ", " ", "p", "i", "i")
    page.with_control("z")
    page.with_control("z")
    page.with_control("z")
    np.testing.assert_array_equal(page.mask(), expected)
    page.focus()
    page.keys(" ", Keys.ARROW_LEFT, Keys.ESCAPE)  # gives the stroke up
    np.testing.assert_array_equal(page.mask(), expected)
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
    assert not page.mask().any()
    reachable = (
        "return [...document.querySelectorAll('button, input, select, summary')].filter(e => e.tabIndex < 0).length"
    )
    assert page.browser.execute_script(reachable) == 0


def test_before_and_after_are_shown(page: Page) -> None:
    marked = smooth_picture(*SIZE)
    hole = square_hole(*SIZE, 40, 60, 14)
    marked[hole] = (0, 255, 0)
    page.open(photo_png=png(marked))
    (page.folder / "m.png").write_bytes(png(hole))
    page["mask-file"].send_keys(str(page.folder / "m.png"))
    page.until(lambda: "Mask read" in page.status, "no mask")
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
    before = page.mask()
    page.drag((0.5, 0.5), (0.6, 0.5))
    assert int(page["split"].get_attribute("value")) > 52
    np.testing.assert_array_equal(page.mask(), before)  # it is no stroke
