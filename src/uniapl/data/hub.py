"""Rows out of data sets on the hub, named `owner/name`, `owner/name:split` or `owner/name/subset:split`.

The hub is asked once whether it is there. Where it is not, the copy that an earlier load left in the cache is
read; the libraries' own retries, which take up to a minute and fill the screen, never start.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from uniapl.data.formats import has_known_suffix, optional
from uniapl.data.rows import Row
from uniapl.errors import InputError, one_line

_ID = re.compile(
    r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(/(?P<subset>[\w-][\w.-]*))?"
    r"(:(?P<split>\w+(\[[\d:%]+\])?))?"
)
_TIMEOUT_SECONDS = 10.0


def is_hub_id(source: str) -> bool:
    """Return whether the text could name a data set on the hub, and no file of a known kind."""
    return _ID.fullmatch(source) is not None and not has_known_suffix(source)


def read_hub(source: str) -> Iterator[Row]:
    """Yield the rows of a data set; without a split, of `train`.

    Raises:
        InputError: the hub has none of this name, or neither it nor a cached copy can be read.
    """
    match = _ID.fullmatch(source)
    assert match is not None
    datasets = optional("datasets", "datasets", f"{source}: no such file; reading it from the hub")
    unreachable = _why_unreachable(source, match["name"])
    try:
        with _offline(datasets, unreachable is not None):
            data = datasets.load_dataset(
                match["name"], match["subset"], split=match["split"] or "train"
            )
    except Exception as error:  # scripts, formats and the hub raise errors of many kinds
        if unreachable is not None:
            raise InputError(
                f"{source}: no such file, and the hub cannot be reached ({unreachable}); give a local file, "
                "or load it once with a network: the copy in the cache is then read"
            ) from error
        raise InputError(
            f"{source}: no such file, and not a data set that could be loaded as owner/name/subset:split "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error
    for number, values in enumerate(data, start=1):
        yield Row(number, f"{source} row {number}", values)


def _why_unreachable(source: str, name: str) -> str | None:
    """Ask the hub for the data set, once; return why no answer came, None if one came.

    Raises:
        InputError: the hub answers that there is no such data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=_TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"{source}: no such file, and the hub has no data set {name} that you may read; "
            "for a private one log in first: hf auth login"
        ) from error
    except Exception as error:  # which HTTP library the hub's client uses depends on its version
        return f"{type(error).__name__}: {one_line(error, limit=80)}"
    return None


@contextmanager
def _offline(datasets: ModuleType, is_offline: bool) -> Iterator[None]:
    """Let both libraries read their caches alone, as HF_HUB_OFFLINE=1 does before they are imported."""
    from huggingface_hub import constants

    modules: list[Any] = [constants, datasets.config] if is_offline else []
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
