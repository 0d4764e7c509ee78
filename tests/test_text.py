"""Arbitrary names, as shown in a terminal, Markdown, a spreadsheet and error messages."""

from __future__ import annotations

import pickle

import pytest

from pconv_cuda.text import between_commas, brief, csv_text, load_error_text, markdown, parse_json, printable


@pytest.mark.parametrize(
    ("text", "parts"), [("tas", ["tas"]), (" tas , pr", ["tas", "pr"]), ("a b,,c", ["a b", "", "c"]), ("", [""])]
)
def test_blanks_beside_commas(text, parts):
    assert between_commas(text) == parts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.png", "plain name.png"),
        ("größe 图片 👍🏽.png", "größe 图片 👍🏽.png"),
        ("e\u0301.png", "e\u0301.png"),
        ("a\x1b]0;title\x07.png", "a\\x1b]0;title\\x07.png"),
        ("a\x9b2J", "a\\x9b2J"),
        ("over\rwritten", "over\\rwritten"),
        (b"caf\xe9.png".decode("utf-8", "surrogateescape"), "caf\\udce9.png"),
        ("gnp.\u202eabc", "gnp.\\u202eabc"),
        ("two\u2028lines", "two\\u2028lines"),
        ("two\nlines\tand", "two\nlines\tand"),
    ],
)
def test_terminal_control_codes_are_escaped(text, shown):
    assert printable(text) == shown
    shown.encode("utf-8")


def test_a_name_within_a_line_stays_in_it():
    assert printable("a\nb\tc", keep="") == "a\\nb\\tc"


def test_markdown_shows_the_name():
    name = "<script>alert(1)</script> | `x` & \n# title \x1b[2J"
    shown = markdown(name)
    assert shown == "&lt;script&gt;alert(1)&lt;/script&gt; &#124; &#96;x&#96; &amp; \\n# title \\x1b[2J"


@pytest.mark.parametrize("sign", "=+-@")
def test_no_cell_is_a_formula(sign):
    assert csv_text(f"{sign}cmd|' /C calc'!A0") == f"'{sign}cmd|' /C calc'!A0"
    assert csv_text(f"a{sign}") == f"a{sign}"


def test_long_and_deep_values_are_shortened():
    bomb: list = ["lol"] * 10
    for _ in range(40):
        bomb = [bomb] * 10
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in (bomb, deep, {"a": bomb}, "x" * 10**6, 10**5000, {str(n): n for n in range(1000)}):
        assert len(brief(value)) < 3000
    assert brief("short") == "'short'" and brief([1, 2.5]) == "[1, 2.5]" and brief(None) == "None"


def test_json_that_is_nested_too_deeply_is_no_json():
    assert parse_json('{"a": [1]}') == {"a": [1]}
    for text in ("[" * 200_000, '{"a":' * 200_000, "{"):
        with pytest.raises(ValueError):
            parse_json(text)


def test_torchs_advice_is_left_out():
    advice = (
        "Weights only load failed. ... set `weights_only=False` ...: Unsupported global: GLOBAL posix.system was not"
    )
    assert (
        load_error_text(pickle.UnpicklingError(advice)) == "it asks for posix.system, and nothing but tensors is loaded"
    )
    assert load_error_text(pickle.UnpicklingError("pickle data was truncated")) == "it is no file of tensors"
    assert load_error_text(ValueError("short")) == "short"
