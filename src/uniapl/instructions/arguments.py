"""What an instruction's kwargs may hold; turns a row's kwargs into clean ones or says what is wrong.

Rows come from people, JSON and Parquet: unrelated keys hold None, counts arrive as floats. Every
problem is an error here, so that no checker has to guess (IFEval's own code draws a random value
for a missing one).
"""

import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from uniapl.errors import InputError
from uniapl.words import composed

RELATIONS = ("at least", "less than")

LANGUAGES = (
    *("af", "ar", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et", "fa", "fi"),
    *("fr", "gu", "he", "hi", "hr", "hu", "id", "it", "ja", "kn", "ko", "lt", "lv", "mk", "ml"),
    *("mr", "ne", "nl", "no", "pa", "pl", "pt", "ro", "ru", "sk", "sl", "so", "sq", "sv", "sw"),
    *("ta", "te", "th", "tl", "tr", "uk", "ur", "vi", "zh-cn", "zh-tw"),
)
"""The codes langdetect can answer; no response could follow an instruction with another one."""


class InstructionError(InputError):
    """An instruction cannot be checked: unknown id, or a kwarg that is unknown, missing or wrong."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What values a kwarg takes."""

    meaning: str
    """Completes "must be ..." in an error message."""
    clean: Callable[[Any], Any]
    """Returns the value a checker gets; raises ValueError where the value is not of this kind."""


def _whole_number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError
    # Parquet gives counts as floats where a column also holds nulls
    if not (isinstance(value, int) or float(value).is_integer()):
        raise ValueError
    return value if isinstance(value, int) else int(float(value))


def _at_least(minimum: int) -> Callable[[Any], int]:
    def clean(value: Any) -> int:
        number = _whole_number(value)
        if number < minimum:
            raise ValueError
        return number

    return clean


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    value.encode()  # half of a surrogate pair is no text that a file, or an answer, could hold
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError
    return tuple(_text(item) for item in value)


def _letter(value: Any) -> str:
    letter = composed(_text(value).strip())
    if len(letter) != 1:
        raise ValueError
    return letter


def _first_word(value: Any) -> str:
    word = _text(value).strip()
    if any(character.isspace() or character in ".,?!'\"" for character in word):
        raise ValueError
    return word


def _one_of(options: tuple[str, ...]) -> Callable[[Any], str]:
    def clean(value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError
        return value

    return clean


COUNT = Kind("a whole number of at least 0", _at_least(0))
ORDINAL = Kind("a whole number of at least 1", _at_least(1))
TEXT = Kind("a string that is not blank and can be written as UTF-8", _text)
TEXTS = Kind("a non-empty list of strings that are not blank and can be written as UTF-8", _texts)
LETTER = Kind("a single character", _letter)
FIRST_WORD = Kind("one word without quotes or punctuation", _first_word)
RELATION = Kind(" or ".join(map(repr, RELATIONS)), _one_of(RELATIONS))
LANGUAGE = Kind("a language code such as 'en', 'de' or 'zh-cn'", _one_of(LANGUAGES))


def clean_kwargs(
    instruction_id: str, kinds: Mapping[str, Kind], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return exactly the kwargs named in `kinds`, cleaned; None counts as absent.

    Raises:
        InstructionError: a kwarg is unknown, missing, or not of its kind.
    """
    if not isinstance(kwargs, Mapping):
        raise InstructionError(f"{instruction_id}: kwargs must be a mapping, got {_shown(kwargs)}")
    given = {name: value for name, value in kwargs.items() if value is not None}
    for name in given:
        if name not in kinds:
            takes = f"takes {', '.join(kinds)}" if kinds else "takes none"
            raise InstructionError(
                f"{instruction_id}: unknown kwarg {name!r} (it {takes}){did_you_mean(name, kinds)}"
            )
    cleaned = {}
    for name, kind in kinds.items():
        if name not in given:
            raise InstructionError(f"{instruction_id}: kwarg {name!r} is missing")
        try:
            cleaned[name] = kind.clean(given[name])
        except ValueError:
            shown = _shown(given[name])
            raise InstructionError(
                f"{instruction_id}: {name} must be {kind.meaning}, got {shown}"
            ) from None
    return cleaned


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return `; did you mean X?`, or nothing where no option is close."""
    close = get_close_matches(name, list(options), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _shown(value: Any) -> str:
    """Show a value in one short line."""
    try:
        shown = repr(value)
    except ValueError:  # Python writes no integer of so many digits
        shown = "an integer of thousands of digits"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
