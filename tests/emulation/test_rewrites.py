"""Planted mistakes are texts beside the kernels: what ships has no trace of them, and each has exactly one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulation import rewrites
from emulation.rewrites import Edit, Mistake

KERNEL = """#pragma once
void kernel() {
    stage();
    __syncthreads();
    product(a + b,
            c < 4 && d);
    __syncthreads();
}
"""


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    folder = tmp_path / "csrc"
    (folder / "deeper").mkdir(parents=True)
    (folder / "deeper" / "kernel.cuh").write_text(KERNEL)
    (folder / "other.h").write_text("#pragma once\n")
    return folder


def mistake(*edits: Edit, own_id: int = 7, file: str = "kernel.cuh") -> Mistake:
    return Mistake("table", own_id, file, "kernel", "part", "what", ["rel"], list(edits))


def planted(csrc: Path, *mistakes: Mistake) -> str:
    return rewrites.planted_texts(csrc, list(mistakes))[csrc / "deeper" / "kernel.cuh"]


def test_shipped_sources_have_no_planted_mistakes() -> None:
    for path in rewrites.CSRC.rglob("*"):
        if path.is_file():
            assert "plant" not in path.read_text().lower(), path


def test_every_mistake_has_its_place_and_an_id_of_its_own() -> None:
    mistakes = rewrites.read_tables()
    ids = [one.id for one in mistakes]
    assert len(ids) > 150 and len(ids) == len(set(ids)), "an id is used twice"
    for one in mistakes:
        assert one.edits and all(edit.old for edit in one.edits), one
        assert one.builds and set(one.builds) <= {"rel", "asan", "tsan"}, one
    rewrites.planted_texts(rewrites.CSRC, mistakes)


def test_an_expression_and_a_statement_choose(csrc: Path) -> None:
    text = planted(csrc, mistake(Edit("", "c<4", "true")), mistake(Edit("stage();\n__syncthreads();", "stage();")))
    assert "            (::emu::planted != 7 ? (c < 4) : (true)) && d);" in text
    assert "    { if (::emu::planted != 7) { stage(); } }\n" in text
    text = planted(csrc, mistake(Edit("", "stage();", "stage();\nstage();")))
    assert "    { if (::emu::planted != 7) { stage(); } else { stage(); stage(); } }\n" in text


def test_nested_places_are_planted_and_line_numbers_kept(csrc: Path) -> None:
    inner, whole = mistake(Edit("", "c < 4", "true")), mistake(Edit("", "c < 4 && d", "d"), own_id=8)
    outer = mistake(Edit("", "product(a + b, c < 4 && d);", "product(a, d);"), own_id=9)
    text = planted(csrc, inner, whole, outer)
    chosen = "(::emu::planted != 8 ? ((::emu::planted != 7 ? (c < 4) : (true)) && d) : (d))"
    assert (
        f"{{ if (::emu::planted != 9) {{ product(a + b,\n            {chosen}); }} else {{ product(a, d); }} }}" in text
    )
    assert text.count("\n") == KERNEL.count("\n")
    with pytest.raises(ValueError, match="planted mistake 8: its place overlaps that of 7"):
        planted(csrc, mistake(Edit("", "b, c", "c")), mistake(Edit("", "a + b", "a"), own_id=8))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Edit("", "gone();", ""), r"in kernel.cuh, found 0 times: 'gone\(\);'"),
        (Edit("", "__syncthreads();", ""), r"in kernel.cuh, found 2 times: '__syncthreads\(\);'"),
        (Edit("gone();", "stage();", ""), r"in kernel.cuh, found 0 times: 'gone\(\);'"),
        (Edit("product(a + b", "c", ""), r"in kernel.cuh, in 'product\(a \+ b', found 0 times: 'c'"),
        (Edit("", "stag", ""), "in kernel.cuh, found 0 times: 'stag'"),  # a part of a name
    ],
)
def test_a_text_that_is_not_there_exactly_once_is_named(csrc: Path, edit: Edit, said: str) -> None:
    with pytest.raises(ValueError, match=f"planted mistake 7: expected once {said}"):
        planted(csrc, mistake(edit))


def test_a_file_that_is_not_there_exactly_once_is_named(csrc: Path) -> None:
    with pytest.raises(ValueError, match="planted mistake 7: 0 files of csrc are named gone.cu"):
        planted(csrc, mistake(Edit("", "a", "b"), file="gone.cu"))
    (csrc / "kernel.cuh").write_text(KERNEL)
    with pytest.raises(ValueError, match="planted mistake 7: 2 files of csrc are named kernel.cuh"):
        planted(csrc, mistake(Edit("", "a", "b")))


def test_a_copy_is_made_once_for_each_text_and_names_what_ships(csrc: Path, tmp_path: Path) -> None:
    first = rewrites.plant(tmp_path, csrc, [])
    assert rewrites.plant(tmp_path, csrc, []) == first
    assert rewrites.plant(tmp_path, csrc, [mistake(Edit("", "a", "b"))]) != first
    start = f'#include "planted.h"\n#line 1 "{csrc / "deeper" / "kernel.cuh"}"\n'
    assert (first / "deeper" / "kernel.cuh").read_text() == start + KERNEL
    assert not list(tmp_path.glob(".csrc-*"))


def test_a_table_is_read(tmp_path: Path) -> None:
    table = tmp_path / "some.txt"
    table.write_text("# about\n\n7 | k.cu | kernel | part | what | rel, asan\n@ a\n@ b\n- b\n+\n- c\n+ d;\n+ e;\n")
    assert rewrites.read_table(table) == [
        Mistake(
            "some", 7, "k.cu", "kernel", "part", "what", ["rel", "asan"], [Edit("a\nb", "b"), Edit("", "c", "d;\ne;")]
        )
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7 | k.cu\n", "some.txt:1: expected six fields, got 2"),
        ("7 | k.cu | kernel | part | what | rel\n+ a\n", "some.txt:2: expected a mistake, an edit or a comment"),
        ("7 | k.cu | kernel | part | what | rel\n@ a\n+ a\n", "some.txt:3: expected one of @ - after @"),
        ("7 | k.cu | kernel | part | what | rel\n- a\n\n", r"some.txt:3: expected one of - \+ after -"),
        ("- a\n", "some.txt:1: expected a mistake, an edit or a comment"),
        ("what\n", "some.txt:1: expected a mistake, an edit or a comment"),
    ],
)
def test_an_invalid_table_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "some.txt").write_text(text)
    with pytest.raises(ValueError, match=said):
        rewrites.read_table(tmp_path / "some.txt")
