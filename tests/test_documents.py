"""Drawn pages and their damage: pixels, missing fonts, and their use by the commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from pconv_cuda import documents
from pconv_cuda import quickstart as q
from pconv_cuda.cli import main
from pconv_cuda.documents import DocumentPages, Fonts, damage_mask, find_fonts, fonts, render_page, words
from pconv_cuda.documents import __main__ as sheet
from pconv_cuda.documents.layout import STYLES, styles_of, write_page
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation import Settings, evaluate
from pconv_cuda.rng import Stream, generator

LATIN = find_fonts().latin
# every layout with a font that may lack the characters: where they stand does not depend on their shapes
ALL_SCRIPTS = Fonts(LATIN, LATIN, LATIN)
EIGHT = np.ones((3, 3))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("style", STYLES)
def test_the_same_seed_draws_the_same_page(style):
    one = render_page(96, 120, 5, ALL_SCRIPTS, style)
    assert one.shape == (96, 120, 3) and one.dtype == np.uint8 and one.flags.c_contiguous
    render_page(64, 64, 1, ALL_SCRIPTS)  # nothing of another page stays behind
    assert np.array_equal(one, render_page(96, 120, np.random.default_rng(5), ALL_SCRIPTS, style))
    assert not np.array_equal(one, render_page(96, 120, 6, ALL_SCRIPTS, style))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (7, 64), (64, 7), (33, 47)])
@pytest.mark.parametrize("chosen", [ALL_SCRIPTS, Fonts((fonts.BUILT_IN,))])
def test_pages_of_any_size(size, chosen):
    for seed in range(6):
        assert render_page(*size, seed, chosen).shape == (*size, 3)


@pytest.mark.parametrize("style", STYLES)
def test_a_page_is_old_paper_with_text(style):
    for seed in range(4):
        page = render_page(256, 256, seed, ALL_SCRIPTS, style).astype(int)
        paper = np.median(page, axis=(0, 1))
        assert paper[0] > paper[1] > paper[2] + 10  # yellowed
        grey = page.sum(axis=2)
        assert 0.003 < (grey < 0.7 * np.median(grey)).mean() < 0.45  # ink
        assert len(np.unique(page.reshape(-1, 3), axis=0)) > 3000  # a screenshot has a few hundred colours
        assert (page == 255).all(axis=2).mean() < 0.01


@pytest.mark.parametrize("style", STYLES)
def test_text_fills_the_page_but_not_its_margins(style):
    inks = [write_page(200, 200, np.random.default_rng(seed), ALL_SCRIPTS, style, 10.0) for seed in range(8)]
    assert all(0.005 < (ink > 64).mean() < 0.5 for ink in inks)
    middle = np.mean([(ink[40:160, 40:160] > 64).mean() for ink in inks])
    assert np.mean([(ink[:, :8] > 64).mean() for ink in inks]) < 0.5 * middle


def test_words_have_the_letters_of_their_script():
    rng = np.random.default_rng(0)
    assert all(word.isascii() and len(word) >= 1 for word in words.latin_words(rng, 500))
    assert all("가" <= one <= "힣" for word in words.hangul_words(rng, 500) for one in word)
    assert all("一" <= one <= "鿿" for one in words.HANJA)


def test_fonts_are_asked_what_they_can_write(tmp_path):
    latin = next(path for path in fonts._bundled() if path.name == "DejaVuSerif.ttf")
    assert fonts._writes(str(latin), "agQR")
    assert not fonts._writes(str(latin), "한글") and not fonts._writes(str(latin), "a天")
    (tmp_path / "NotoSerif-Broken.ttf").write_bytes(b"no font")
    (tmp_path / "DejaVuSerif.ttf").symlink_to(latin)
    found = find_fonts([tmp_path])
    assert str(tmp_path / "DejaVuSerif.ttf") in found.latin or str(latin) in found.latin
    assert found.hangul == found.hanja == () and not any("Broken" in path for path in found.latin)
    assert styles_of(found) == ["latin"] and styles_of(ALL_SCRIPTS) == ["hanja", "mixed", "hangul", "latin"]


def test_a_bare_machine_has_pillows_font(tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "_bundled", list)
    bare = find_fonts([tmp_path])
    assert bare == Fonts((fonts.BUILT_IN,))
    page = render_page(128, 128, 3, bare)
    assert (page.sum(axis=2) < 0.7 * np.median(page.sum(axis=2))).mean() > 0.003
    assert bare.fingerprint != find_fonts().fingerprint


def test_pages_refuse_what_they_cannot_do(tmp_path):
    with pytest.raises(PConvError, match="size: expected at least 1 x 1 pixels, got 0 x 5"):
        render_page(0, 5, 0)
    with pytest.raises(PConvError, match="style: expected one of latin, .*, got 'runes'"):
        render_page(5, 5, 0, style="runes")
    with pytest.raises(PConvError, match="style: no font for 'hanja'"):
        render_page(5, 5, 0, Fonts(LATIN), "hanja")
    with pytest.raises(PConvError, match="fonts: expected a folder"):
        find_fonts([tmp_path / "none"])
    with pytest.raises(PConvError, match="count: expected at least 1, got 0"):
        documents.document_pages(0)
    with pytest.raises(PConvError, match="size, count, seed"):
        DocumentPages(0)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_the_hole_share_is_met_to_the_pixel(data):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    low = data.draw(st.integers(0, height * width - 1))
    high = data.draw(st.integers(low + 1, height * width))
    kinds = data.draw(st.none() | st.lists(st.sampled_from(list(documents.DAMAGE)), min_size=1, unique=True))
    seed = data.draw(st.integers(0, 2**32))
    share = (low / (height * width), high / (height * width))
    valid = damage_mask(height, width, seed, share, kinds)
    assert valid.shape == (height, width) and valid.dtype == np.bool_
    assert low < np.count_nonzero(~valid) <= high
    assert np.array_equal(valid, damage_mask(height, width, np.random.default_rng(seed), share, kinds))


def test_shares_are_spread_over_the_range():
    shares = [1 - damage_mask(48, 48, seed, (0.1, 0.3)).mean() for seed in range(300)]
    # a uniform distribution's mean and quartiles, each within about four deviations
    assert np.mean(shares) == pytest.approx(0.2, abs=0.014)
    assert np.quantile(shares, (0.25, 0.75)) == pytest.approx((0.15, 0.25), abs=0.025)


def _pieces(valid):
    """Sizes of the connected holes (eight neighbours), and whether each touches the edge."""
    labels, count = ndimage.label(~valid, EIGHT)
    edge = set(np.unique(np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1]])) - {0}
    return np.bincount(labels.ravel())[1:], [number in edge for number in range(1, count + 1)]


def _at_the_edge(valid):
    sizes, touches = _pieces(valid)
    return sizes[touches].sum() / sizes.sum()


def test_tears_come_from_the_edge():
    masks = [damage_mask(160, 160, seed, (0.02, 0.3), ["tears"]) for seed in range(30)]
    assert min(_at_the_edge(valid) for valid in masks) > 0.97  # but for torn fibres
    lost = np.ones((160, 160), bool)
    lost[60:90, 60:90] = False
    assert _at_the_edge(lost) == 0  # the check itself
    assert np.mean([_at_the_edge(damage_mask(160, 160, seed, (0.02, 0.1), ["stains"])) for seed in range(30)]) < 0.8


def test_worms_bore_many_small_holes():
    for seed in range(20):
        sizes, _ = _pieces(damage_mask(256, 256, seed, (0.005, 0.03), ["worms"]))
        assert sizes.size >= 4 and np.median(sizes) < 0.01 * 256**2


def test_stains_are_compact_and_folds_cross_the_page():
    for seed in range(20):
        labels, _ = ndimage.label(~damage_mask(200, 200, seed, (0.03, 0.06), ["stains"]), EIGHT)
        largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
        box = labels[ndimage.find_objects(labels)[largest - 1]] == largest
        assert box.mean() > 0.4
        rows, columns = np.nonzero(~damage_mask(200, 200, seed, (0.01, 0.03), ["folds"]))
        assert max(np.ptp(rows), np.ptp(columns)) > 0.7 * 200
        thickest = ndimage.distance_transform_edt(~damage_mask(200, 200, seed, (0.01, 0.03), ["folds"])).max()
        assert thickest <= 7  # two that cross or coincide
    stains = [damage_mask(200, 200, seed, (0.08, 0.1), ["stains"]) for seed in range(10)]
    assert np.median([ndimage.distance_transform_edt(~valid).max() for valid in stains]) > 10


def test_damage_refuses_what_no_mask_can_be():
    with pytest.raises(PConvError, match="size: expected at least 1 x 1"):
        damage_mask(5, 0, 0)
    with pytest.raises(PConvError, match=r"kinds: expected some of worms, tears, stains, folds, got \['mice'\]"):
        damage_mask(5, 5, 0, kinds=["mice"])
    with pytest.raises(PConvError, match="kinds: expected some of"):
        damage_mask(5, 5, 0, kinds=[])
    with pytest.raises(PConvError, match="hole_share: expected 0 <= low < high"):
        damage_mask(5, 5, 0, (0.5, 0.2))
    with pytest.raises(PConvError, match="hole_share: no number of hole pixels"):
        damage_mask(2, 2, 0, (0.3, 0.4))


def test_the_source_draws_its_pages_by_number():
    source = DocumentPages(40, seed=3, count=7)
    assert len(source) == 7
    expected = render_page(40, 40, generator(3, Stream.PAGE, 4))
    assert np.array_equal(source.load(4), expected) and np.array_equal(source.load(4), source.load(4))
    others = (DocumentPages(40, 4, 7), DocumentPages(41, 3, 7), DocumentPages(40, 3, 8))
    others += (DocumentPages(40, 3, 7, Fonts((fonts.BUILT_IN,))),)
    assert len({one.fingerprint for one in (source, *others)}) == 5
    tests = documents.document_pages(3, 40, 3)
    assert len({page.tobytes() for page in [*tests, *(source.load(number) for number in range(7))]}) == 10
    assert np.array_equal(tests[2], documents.document_page(2, 40, 3))


def test_training_on_documents(tmp_path):
    words = ["train", "--data", "documents", "--masks", "damage", "--out", str(tmp_path / "run"), "--steps", "2"]
    for setting in ("model.levels=2", "model.width=4", "data.size=32", "data.workers=0", "train.batch_size=2",
                    "loss.vgg=none", "log.every=1", "log.tensorboard=false", "data.validation_samples=2"):  # fmt: skip
        words += ["--set", setting]
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert len(lines) >= 2 and (tmp_path / "run/model.safetensors").is_file()
    assert all(np.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))


def test_evaluation_on_documents(tmp_path):
    usual = {"images": "documents", "baselines": ("mean",), "shares": ("0.1-0.2",), "size": 32, "resamples": 10}
    report = evaluate(Settings(**usual, count=2, lpips="none", fid="none"), tmp_path)
    assert report["complete"] and {one["image"] for one in report["pictures"]} == {"page-00000.png", "page-00001.png"}
    more = evaluate(Settings(**usual, count=3, lpips="none", fid="none"), tmp_path)
    assert more["measured"] == 6 and {one["image"] for one in more["pictures"]} > {"page-00000.png"}


def test_quick_start_with_documents(tmp_path):
    config = q.quickstart_config(vgg="none", preset="document")
    assert (config.data.images, config.data.masks) == ("documents", "damage")
    usual = q.quickstart_config(vgg="none")
    assert (usual.data.images, usual.data.masks) == ("packaged", "mixed")
    cases = q.held_out_cases(preset="document")
    assert len(cases) == 6 and all(0.02 < 1 - case.valid.mean() <= 0.3 for case in cases)
    report = q.quickstart(tmp_path, steps=1, vgg="none", preset="document", say=lambda line: None)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["preset"] == "document" and written["psnr_hole_after"] == report["psnr_hole_after"]
    assert np.isfinite(report["psnr_hole_biharmonic"]) and (tmp_path / "sheet.png").is_file()
    with pytest.raises(PConvError, match="preset: expected photographs or document, got 'stone'"):
        q.quickstart(tmp_path / "other", preset="stone")
    assert not (tmp_path / "other").exists()


def test_the_contact_sheet(tmp_path, capsys):
    assert sheet.main([str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size < 250 * 1024
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert 0.02 < (pixels[-180:] > 250).all(axis=2).mean() < 0.4  # the holes of the last row
    assert sheet.main([str(tmp_path / "no.png"), "--fonts", str(tmp_path / "none")]) == 2
    assert "fonts: expected a folder" in capsys.readouterr().err and not (tmp_path / "no.png").exists()
    assert sheet.main([str(tmp_path / "no.jpg")]) == 2
    assert "expected a name ending in .png" in capsys.readouterr().err and not (tmp_path / "no.jpg").exists()
