"""What a reward function returned, as numbers: one per completion, finite or None."""

import math
import numbers
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from uniapl.errors import TrainingError


def checked_values(label: str, result: Any, prompt_ids: Sequence[str]) -> list[float | None]:
    """Return a function's result as numbers, one per completion.

    Lists, tuples, arrays, tensors and columns of tables are taken; in them every real number, Python's own, numpy's
    and torch's. True is 1.

    Args:
        label: How messages name the function.
        result: What it returned.
        prompt_ids: Per completion.

    Raises:
        TrainingError: It is no list, has another length, or holds something but finite numbers and None.
    """
    result = _listed(label, result)
    if not isinstance(result, list | tuple):
        raise TrainingError(
            f"{label} returned {type(result).__name__}; it must return a list of numbers"
        )
    if len(result) != len(prompt_ids):
        raise TrainingError(
            f"{label} returned {len(result)} values for {len(prompt_ids)} completions"
        )
    return [
        _number(label, value, prompt_id)
        for value, prompt_id in zip(result, prompt_ids, strict=True)
    ]


def _listed(label: str, result: Any) -> Any:
    """Return arrays, tensors and columns of tables as lists, anything else as it is."""
    try:
        return result.tolist() if hasattr(result, "tolist") else result
    except Exception as error:  # a sparse tensor, a class, whatever a foreign object comes up with
        raise TrainingError(
            f"{label} returned {type(result).__name__}, whose tolist() raises {type(error).__name__}; "
            "it must return a list of numbers"
        ) from error


def _number(label: str, value: Any, prompt_id: str) -> float | None:
    if value is None:
        return None
    where = f"for prompt {prompt_id}"
    try:
        element = _element(value)
    except Exception:  # as in `_listed`
        element = value
    if not isinstance(element, numbers.Real | Decimal):
        raise TrainingError(
            f"{label} returned {_shown(value)} {where}; it must be a number, or None for no opinion"
        )
    try:
        number = float(element)
    except OverflowError:
        raise TrainingError(f"{label} returned a number above 1e308 {where}; scale it") from None
    except Exception:  # Decimal's signalling NaN, or a foreign number
        number = math.nan
    if not math.isfinite(number):
        raise TrainingError(
            f"{label} returned {number} {where}; return None where there is no opinion"
        )
    return number


def _element(value: Any) -> Any:
    """Return the number inside an array or a tensor of one element."""
    if isinstance(value, numbers.Real) or not hasattr(value, "item"):
        return value
    if getattr(value, "size", None) != 1 and getattr(value, "numel", lambda: 0)() != 1:
        return value
    return value.item()


def _shown(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # what a foreign class, or an integer too long to be written, comes up with
        return type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
