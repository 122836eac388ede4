"""Files that a reader sees whole: the old one, or the new one."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_path", "write_text_atomically"]


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    A temporary name beside ``path``; what is written there takes its place when the block ends without an error.

    After an error ``path`` is as it was, and nothing is left beside it.

    :param path: A local file; its folder is made where it is missing.
    :return: The temporary name, hidden, in the same folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # on disk before its name is: a rename may outlive a power cut, its content not
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """
    Write a text file, complete or not at all.

    :param path: The file; its folder is made where it is missing.
    :param text: Its content, written as UTF-8.
    :return: The path.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)
