"""IFBench's 58 instruction types (Pyatkin et al. 2025, arXiv 2507.02833), checked by if-verifiable.

The package carries the authors' own checkers; a response goes to them as it is, as in the authors'
evaluation (if-verifiable itself trims it first). What it leaves to chance is an error here: an unknown
id, a kwarg that is missing (it would draw one), a download while it is imported.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from uniapl.errors import InputError
from uniapl.instructions import InstructionError, Verdict, loose_variants

_RESOURCES = (
    ("punkt_tab", "tokenizers/punkt_tab/english/"),
    ("stopwords", "corpora/stopwords"),
    ("averaged_perceptron_tagger_eng", "taggers/averaged_perceptron_tagger_eng/"),
)
"""Data of NLTK that the checkers read, by name and place."""


def verify_ifbench(
    instruction_ids: Sequence[str],
    kwargs_list: Sequence[Mapping[str, Any]],
    prompt: str,
    response: str | None,
) -> Verdict:
    """Return the strict and the loose verdict on each instruction of an IFBench prompt.

    Raises:
        InstructionError: An id is unknown, or a kwarg unknown or missing.
        InputError: if-verifiable or its data are not installed.
    """
    checks = [
        _bind(instruction_id, kwargs, prompt)
        for instruction_id, kwargs in zip(instruction_ids, kwargs_list, strict=True)
    ]
    variants = loose_variants(response) if response and response.strip() else []
    strict = tuple(bool(variants) and check(variants[0]) for check in checks)
    loose = tuple(
        passed or any(check(variant) for variant in variants[1:])
        for passed, check in zip(strict, checks, strict=True)
    )
    return Verdict(tuple(instruction_ids), strict, loose)


def _bind(instruction_id: str, kwargs: Mapping[str, Any], prompt: str) -> Callable[[str], bool]:
    """Return the checker of an instruction."""
    types = _types()
    if instruction_id not in types:
        raise InstructionError(f"unknown instruction id {instruction_id!r}: not one of IFBench's")
    checker = types[instruction_id](instruction_id)
    given = {name: value for name, value in kwargs.items() if value is not None}
    try:
        checker.build_description(**given)
    except TypeError as error:
        raise InstructionError(f"{instruction_id}: {error}") from None
    wanted: set[str] = set(checker.get_instruction_args_keys())
    if "prompt" in wanted and "prompt" not in given:
        checker.build_description(**given, prompt=prompt)
        wanted.remove("prompt")
    if missing := sorted(wanted - set(given)):
        raise InstructionError(f"{instruction_id}: kwarg {missing[0]!r} is missing")

    def check(response: str) -> bool:
        try:
            return bool(checker.check_following(response))
        except (IndexError, ZeroDivisionError):
            # Theirs look at the first word or sentence without asking whether there is one.
            return False

    return check


@cache
def _types() -> dict[str, Any]:
    try:
        import nltk  # pyright: ignore[reportMissingImports]  # the extra may be missing
    except ModuleNotFoundError as error:
        raise InputError("IFBench needs if-verifiable: pip install 'uniapl[ifbench]'") from error
    for name, place in _RESOURCES:
        try:
            nltk.data.find(place)
        except LookupError as error:
            raise InputError(
                f"IFBench needs NLTK's {name}: python -m nltk.downloader {name}, or point NLTK_DATA at "
                "a folder that holds it"
            ) from error
    download = nltk.download
    # Its module asks the network for one more resource, which no checker reads.
    nltk.download = lambda *_, **__: False
    try:
        from if_verifiable.ifbench.instructions_registry import (  # pyright: ignore[reportMissingImports]
            INSTRUCTION_DICT,
        )
    except ModuleNotFoundError as error:
        raise InputError("IFBench needs if-verifiable: pip install 'uniapl[ifbench]'") from error
    finally:
        nltk.download = download
    return dict(INSTRUCTION_DICT)
