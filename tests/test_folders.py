"""Folders that are replaced as a whole: what killed processes leave, links, read-only folders."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from files_support import in_child

from pconv_cuda.files import aside, remove_leftovers, remove_unfinished, unfinished
from pconv_cuda.folders import atomic_folder, copy_folder


def folder(path: Path, text: str) -> Path:
    (path / "below").mkdir(parents=True)
    (path / "below" / "file").write_text(text)
    return path


def text(path: Path) -> str:
    return (path / "below" / "file").read_text()


@pytest.mark.parametrize("name", ["out", "x" * 250])
def test_the_folder_appears_whole(name: str, tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "sub" / name) as temporary:
            folder(temporary, content)
        assert text(tmp_path / "sub" / name) == content and os.listdir(tmp_path / "sub") == [name]
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "sub" / name) as temporary:
        folder(temporary, "third")
        raise ZeroDivisionError
    assert text(tmp_path / "sub" / name) == "second" and os.listdir(tmp_path / "sub") == [name]
    assert not unfinished and not aside


def test_data_are_stored_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename must not leave a folder of empty files."""
    stored = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda number: (stored.append(os.readlink(f"/proc/self/fd/{number}")), fsync(number))
    )
    monkeypatch.setattr(os, "rename", lambda *names: (stored.append("rename"), rename(*names)))
    with atomic_folder(tmp_path / "out") as temporary:
        folder(temporary, "text")
    before = stored[: stored.index("rename")]
    assert {str(temporary / "below" / "file"), str(temporary / "below"), str(temporary)} <= set(before)
    assert stored[-1] == str(tmp_path)


def test_a_refused_rename_gives_the_old_folder_back(tmp_path: Path) -> None:
    folder(tmp_path / "out", "old")
    with pytest.raises(OSError), atomic_folder(tmp_path / "out"):
        pass  # nothing was made
    assert text(tmp_path / "out") == "old" and os.listdir(tmp_path) == ["out"]


def test_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    folder(tmp_path / "target", "kept")
    for name, target in (("link", "target"), ("dangling", "none")):
        (tmp_path / name).symlink_to(target)
        with atomic_folder(tmp_path / name) as temporary:
            folder(temporary, "new")
        assert text(tmp_path / name) == "new" and not (tmp_path / name).is_symlink()
    assert text(tmp_path / "target") == "kept" and sorted(os.listdir(tmp_path)) == ["dangling", "link", "target"]


def test_read_only_folders_are_copied_as_writable_ones(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "text")
    os.chmod(source / "below" / "file", 0o444)
    for path in (source / "below", source):
        os.chmod(path, 0o555)
    for _ in range(2):  # the second time over a folder that is read-only itself
        with atomic_folder(tmp_path / "out") as temporary:
            copy_folder(source, temporary)
            assert all(path.stat().st_mode & 0o200 for path in (temporary, *temporary.rglob("*")))
        assert text(tmp_path / "out") == "text" and sorted(os.listdir(tmp_path)) == ["in", "out"]
        os.chmod(tmp_path / "out", 0o555)
    assert source.stat().st_mode & 0o777 == 0o555


@pytest.mark.parametrize("moment", ["before", "between", "after"])
@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_killed_process_costs_nothing(moment: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "out", "old")
    rename, count = os.rename, 0

    def stop() -> None:
        if how == "ended":
            remove_unfinished()
            os._exit(9)
        os.kill(os.getpid(), signal.SIGKILL)

    def stopping(source: Path, target: Path) -> None:
        nonlocal count
        if moment == "between" and count == 1:
            count += 1  # what is done at the end may rename too
            stop()
        rename(source, target)
        count += 1
        if moment == "after" and count == 2:
            stop()

    def work() -> None:
        monkeypatch.setattr(os, "rename", stopping)
        with atomic_folder(tmp_path / "out") as temporary:
            folder(temporary, "new")
            if moment == "before":
                stop()

    assert in_child(work) in (-signal.SIGKILL, 9)
    if how == "killed":
        assert len(os.listdir(tmp_path)) == 2
        remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["out"] and text(tmp_path / "out") == ("new" if moment == "after" else "old")


def test_a_process_that_works_keeps_its_folders(tmp_path: Path) -> None:
    folder(tmp_path / "out", "old")
    with atomic_folder(tmp_path / "out") as temporary:
        folder(temporary, "new")
        remove_leftovers(tmp_path)
        assert in_child(lambda: remove_leftovers(tmp_path)) == 0
        assert text(temporary) == "new"
    assert text(tmp_path / "out") == "new"
