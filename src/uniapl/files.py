"""Files appear whole and take nobody's place: checked before any work, written aside, synced, renamed."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from uniapl.errors import InputError

_READ_WHOLE_BYTES = 256 * 2**20
_BLOCKS, _BLOCK_BYTES = 32, 2**20
"""What is read of a larger file: as many blocks of so many bytes, from the first to the last."""


def check_outputs(
    outputs: Mapping[str, str | Path], inputs: Mapping[str, str | Path] | None = None
) -> None:
    """Refuse before any work what could not be written, or would be written over.

    Symbolic and hard links to one file are that file. Nothing is left behind.

    Args:
        outputs: Files by what messages call them, such as `--output`.
        inputs: Files or hub ids by what messages call them.

    Raises:
        InputError: An output is an input, another output or a folder, lies where nothing can be written, or is
            protected.
    """
    taken: dict[object, str] = {}
    for name, source in (inputs or {}).items():
        for identity in _identities(Path(source).expanduser()):
            taken[identity] = name
    for name, target in outputs.items():
        path = Path(target)
        identities = _identities(path)
        for identity in identities:
            if identity in taken:
                raise InputError(f"{name} would overwrite {taken[identity]}")
        taken.update(dict.fromkeys(identities, name))
        _check_writable(name, path)


def check_text(text: str, what: str) -> str:
    """Return a text, or refuse one that no file can hold: JSON can spell half of a surrogate pair.

    Raises:
        InputError: It is such a text.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half a surrogate pair at character {error.start}"
        ) from error
    return text


def content_hash(path: str | Path) -> str | None:
    """Return the SHA-256 of a file's contents; None where it is no file, such as a hub id."""
    file = Path(path).expanduser()
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(path: str | Path) -> str:
    """Return what changes with the contents of a model's file or of the files in its folder, and with their names.

    Texts about it (`*.md`) do not count, nor does where it lies. Files of up to 256 MB are read whole; of larger ones
    size, time and some blocks count, so that a copy may pass for another model, but never another model for this one.
    """
    place = Path(path).expanduser()
    if place.is_file():
        parts = [(place.suffix, _contents(place))]
    else:
        files = sorted(f for f in place.iterdir() if f.is_file() and f.suffix.lower() != ".md")
        parts = [(file.name, _contents(file)) for file in files]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _contents(file: Path) -> str | None:
    state = file.stat()
    if state.st_size <= _READ_WHOLE_BYTES:
        return content_hash(file)
    found = hashlib.sha256(repr((state.st_size, state.st_mtime_ns)).encode())
    with file.open("rb") as stream:
        for number in range(_BLOCKS):
            stream.seek((state.st_size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
            found.update(stream.read(_BLOCK_BYTES))
    return found.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file as `writing` does."""
    with writing(path) as file:
        file.write(text)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file as `writing` does."""
    with writing(path) as file:
        file.writelines(json_line(row) + "\n" for row in rows)


def json_line(row: Mapping[str, Any]) -> str:
    r"""Return a row as JSON that UTF-8 can hold: of half a surrogate pair, which no file can, as `\ud83c`."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return text


@contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """Open a file to write: aside, then renamed: nobody reads half a file, and an error leaves the old one.

    A symbolic link stays one: its target is written. What is no plain file (`/dev/stdout`) is written as it is.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    try:
        with aside.open("x", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, aside)
        os.replace(aside, target)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def write_folder(target: Path, write: Callable[[Path], bool | None]) -> bool:
    """Make a folder that appears under its name only when all of it is on disk; one of that name is replaced.

    Args:
        target: What it will be called.
        write: Fills the empty folder whose path it is given; False: it has nothing to write.

    Returns:
        Whether there is a folder now.

    Raises:
        OSError: It could not be written; nothing is left of it. What `write` raises comes through as well.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, old = _aside(target), _aside(target)
    try:
        aside.mkdir()
        if write(aside) is False:
            return False
        for path in (*sorted(aside.rglob("*")), aside):
            _sync(path)
        if target.exists():  # moved first: a part of it, left by a kill, must not look whole
            os.replace(target, old)
        os.replace(aside, target)
        _sync(target.parent)
        return True
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing into a folder."""
    for rest in folder.glob(".*.writing"):
        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identities(path: Path) -> set[object]:
    """Return what makes two paths the same file: the place behind all links, and the file itself."""
    found: set[object] = {os.path.realpath(path)}
    with suppress(OSError):
        state = path.stat()
        if path.is_file():
            found.add((state.st_dev, state.st_ino))
    return found


def _check_writable(name: str, path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{name}: {path} is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise InputError(f"{name}: {path} is write-protected")
        if path.exists() and not path.is_file():
            return
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise InputError(f"{name}: {path} is a link to itself")
        folder = next(parent for parent in target.parents if parent.exists())
        probe = _aside(folder / "any")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InputError(f"{name}: {path}: cannot be written: {error.strerror}") from error


def _aside(target: Path) -> Path:
    """Return a name beside a file that nobody has, not even an earlier process that was killed."""
    return target.with_name(f".uniapl-{secrets.token_hex(8)}.writing")
