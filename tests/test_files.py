from __future__ import annotations

import os
from pathlib import Path

import pytest

from art_versatile._files import atomic_path, write_text_atomically


def test_a_new_file_in_a_new_folder(tmp_path):
    path = tmp_path / "deep" / "er" / "file.bin"
    with atomic_path(str(path)) as temporary:
        assert temporary.parent == path.parent
        temporary.write_bytes(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert os.listdir(path.parent) == ["file.bin"]


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"n")
        assert path.read_bytes() == b"old"
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("step", ["write", "sync", "rename", "nothing written"])
def test_after_an_error_all_is_as_before(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    def run():
        with atomic_path(path) as temporary:
            if step == "nothing written":
                return
            temporary.write_bytes(b"new")
            if step == "write":
                fail()

    if step in ("sync", "rename"):
        monkeypatch.setattr(os, {"sync": "fsync", "rename": "replace"}[step], fail)
    with pytest.raises(OSError, match="disk full|No such file"):
        run()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_synced_before_it_is_renamed(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.fstat(number).st_ino) or fsync(number))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or replace(*names))
    write_text_atomically(tmp_path / "file", "x")
    assert done == [(tmp_path / "file").stat().st_ino, "renamed"]


def test_two_writers_have_names_of_their_own(tmp_path):
    path = tmp_path / "file"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the last to finish
    assert os.listdir(tmp_path) == ["file"]


def test_text_has_the_usual_permissions_and_the_same_bytes_everywhere(tmp_path):
    (tmp_path / "usual").write_text("")
    written = write_text_atomically(tmp_path / "written", "é\n")
    assert isinstance(written, Path)
    assert written.read_bytes() == b"\xc3\xa9\n"
    assert written.stat().st_mode == (tmp_path / "usual").stat().st_mode
