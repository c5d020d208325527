"""Where rows come from: a file, or a data set on the hub. `readers.py` gives the rows their meaning."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from uniapl.data.formats import read_file
from uniapl.data.hub import is_hub_id, read_hub
from uniapl.data.rows import Problems, Row
from uniapl.errors import InputError

__all__ = ["Problems", "Row", "local_file", "read_rows"]


def read_rows(source: str | Path, problems: Problems) -> Iterator[Row]:
    """Yield the rows of a file (`formats.py` says of which kinds) or of a hub data set (`hub.py`).

    Lines that are no row become problems; the rest is still read.

    Raises:
        InputError: there is no such file or data set, it cannot be opened, or it has no rows.
    """
    path = local_file(source, may_be_missing=is_hub_id(str(source)))
    rows = read_hub(str(source)) if path is None else read_file(path, problems)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        # a file of which every line is broken is not empty
        problems.raise_any()
        raise InputError(f"{source} has no rows")


def local_file(source: str | Path, *, may_be_missing: bool = False) -> Path | None:
    """Return the file that a source names, `~` expanded; None where it names no file.

    Args:
        may_be_missing: The source may name something else, unless a folder of the owner's name is here: then a
            mistyped file is likelier.

    Raises:
        InputError: there is no such file, or it is a folder.
    """
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            raise InputError(f"{source} is a folder; give one of the files in it")
        if path.exists():
            return path
        if may_be_missing and not Path(path.parts[0]).is_dir():
            return None
        raise InputError(f"no such file: {source}{_did_you_mean(path)}")
    except (OSError, RuntimeError) as error:  # no right to look, a name too long, `~nobody`
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{source}: cannot be read: {reason}") from error


def _did_you_mean(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor is there a folder {path.parent})"
    siblings = sorted(entry.name for entry in path.parent.iterdir())
    # by the name without suffixes too: a forgotten suffix is half of a short name
    by_name = {name.partition(".")[0]: name for name in siblings} | {
        name: name for name in siblings
    }
    close = get_close_matches(path.name, by_name, n=1)
    return f"; did you mean {path.parent / by_name[close[0]]}?" if close else ""
