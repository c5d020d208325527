"""Values that their types allow and that nothing can use."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from uniapl.config.recipe import Recipe

if TYPE_CHECKING:  # the schema imports the module of checks
    from uniapl.config.schema import Config

_SPELLED_OUT = ("yes", "no", "on", "off", "true", "false")
"""Texts that mean a truth value; a chat template that compares with `false` would take each for true."""


def unusable_values(config: "Config", recipe: Recipe) -> Iterator[str]:
    """Yield a line for each value that no file, seed or chat template can take as it is."""
    for key, text in _strings(config.model_dump(), ""):
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            yield f"{key}: holds a null or half a surrogate pair, which no file can hold"
    if config.seed >= 2**63:
        yield f"seed: must be below 2^63, got {config.seed}"
    for name, value in config.data.template_arguments.items():
        if isinstance(value, str) and value.lower() in _SPELLED_OUT:
            yield f"data.template_arguments: {name} must be true or false, got the text {value!r}"


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text below a value, with its dotted key."""
    below: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        below = cast("dict[Any, Any]", value).items()
    elif isinstance(value, list | tuple):
        below = enumerate(cast("Sequence[Any]", value))
    for name, one in below:
        yield from _strings(one, f"{key}.{name}".lstrip("."))
