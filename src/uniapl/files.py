"""Files appear whole: written aside, synced, renamed. Readers see the old or the new one, never a part."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

WRITING = ".writing"
"""End of the names of what is being written aside."""


def replace_file(path: Path, text: str) -> None:
    """Write a text file, UTF-8.

    Processes may write the same file at the same time; the last one wins.

    Raises:
        OSError: It could not be written; an earlier file is untouched.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{WRITING}")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def write_folder(target: Path, write: Callable[[Path], bool | None]) -> bool:
    """Make a folder; one of that name is replaced.

    Args:
        target: What it will be called.
        write: Fills the empty folder whose path it is given; False: it has nothing to write.

    Returns:
        Whether there is a folder now.

    Raises:
        OSError: It could not be written; nothing is left of it. What `write` raises comes through as well.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}{WRITING}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        if write(aside) is False:
            return False
        for path in (*sorted(aside.rglob("*")), aside):
            _sync(path)
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex}{WRITING}")
        if target.exists():  # moved first: a part of it, left by a kill, must not look whole
            os.replace(target, old)
        os.replace(aside, target)
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
        return True
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing into a folder."""
    for rest in folder.glob(f".*{WRITING}"):
        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
