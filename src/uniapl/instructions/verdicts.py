"""Does a response follow its instructions? Strict and loose verdicts, and the numbers over many.

A missing or blank response fails every instruction and stays in every mean.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from uniapl.instructions.arguments import InstructionError, clean_kwargs
from uniapl.instructions.table import INSTRUCTIONS, Checker, find
from uniapl.words import composed

Kwargs = Mapping[str, Any]

INSTRUCTION_IDS: tuple[str, ...] = tuple(INSTRUCTIONS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which of its instructions one response follows; three tuples in the same order."""

    instruction_ids: tuple[str, ...]
    strict: tuple[bool, ...]
    """The response as it is."""
    loose: tuple[bool, ...]
    """Any of its loose variants, the response as it is among them."""

    @property
    def all_strict(self) -> bool:
        """Whether every instruction is followed strictly."""
        return all(self.strict)

    @property
    def all_loose(self) -> bool:
        """Whether every instruction is followed loosely."""
        return all(self.loose)


class InstructionAccuracy(TypedDict):
    """How often one type of instruction was followed."""

    count: int
    strict_acc: float
    loose_acc: float


class Summary(TypedDict):
    """IFEval's numbers under lm-evaluation-harness' names, all as fractions.

    The standard errors are those of a mean over prompts (sample deviation over the root of the
    number of prompts), at the instruction level of a ratio of two such means, as instructions of one
    prompt are followed or missed together; None with a single prompt.
    """

    prompt_level_strict_acc: float
    prompt_level_strict_acc_stderr: float | None
    inst_level_strict_acc: float
    inst_level_strict_acc_stderr: float | None
    prompt_level_loose_acc: float
    prompt_level_loose_acc_stderr: float | None
    inst_level_loose_acc: float
    inst_level_loose_acc_stderr: float | None
    num_prompts: int
    num_instructions: int
    instructions: dict[str, InstructionAccuracy]


def validate(instruction_id: str, kwargs: Kwargs) -> None:
    """Check an instruction without a response.

    Raises:
        InstructionError: the id is unknown, or a kwarg is unknown, missing or of the wrong kind.
    """
    clean_kwargs(instruction_id, find(instruction_id).kwargs, kwargs)


def validate_columns(columns: Mapping[str, Any]) -> None:
    """Check a row's `instruction_id_list` and `kwargs`, if it has instructions.

    Raises:
        InstructionError: as `validate`.
    """
    ids = columns.get("instruction_id_list")
    if ids is None:  # any `kwargs` are then somebody else's
        return
    for instruction_id, kwargs in zip(ids, columns["kwargs"], strict=True):
        validate(instruction_id, kwargs)


def follows(
    instruction_id: str, kwargs: Kwargs, response: str | None, *, official: bool = False
) -> bool:
    """Return whether the response, as it is, follows the instruction.

    Args:
        kwargs: None counts as absent, as in the tables where every row has every key.
        official: False: the sound reading, for rewards. True: as IFEval's own code decides, for
            numbers that compare with published ones: keywords, section names and postscript
            markers are regular expressions, text whose language cannot be detected passes a
            language check, capitals are not read in their small form to detect English,
            any JSON value counts as JSON, words, sentences and commas are those of English in any
            script, and text is compared as it was typed, not in Unicode's composed form.

    Raises:
        InstructionError: as `validate`; or, if official, a keyword is no regular expression.
    """
    return strict([instruction_id], [kwargs], response, official=official)[0]


def strict(
    instruction_ids: Sequence[str],
    kwargs_list: Sequence[Kwargs],
    response: str | None,
    *,
    official: bool = False,
) -> tuple[bool, ...]:
    """Return `follows` for each instruction of a prompt; what a reward needs.

    Raises:
        InstructionError: as `follows`; or the two lists are empty or differ in length.
    """
    checks = _bind(instruction_ids, kwargs_list, official)
    return _strict(checks, _read(response, official))


def verify(
    instruction_ids: Sequence[str],
    kwargs_list: Sequence[Kwargs],
    response: str | None,
    *,
    official: bool = False,
) -> Verdict:
    """Return the strict and the loose verdict on each instruction of a prompt.

    Raises:
        InstructionError: as `strict`.
    """
    checks = _bind(instruction_ids, kwargs_list, official)
    response = _read(response, official)
    as_is = _strict(checks, response)
    loose = as_is
    if response is not None and not all(as_is):
        others = loose_variants(response)[1:]
        loose = tuple(
            passed or any(check(other, **kwargs) for other in others)
            for passed, (check, kwargs) in zip(as_is, checks, strict=True)
        )
    return Verdict(tuple(instruction_ids), as_is, loose)


def loose_variants(response: str) -> list[str]:
    """Return the texts of which one has to follow a loose instruction; the response comes first.

    The response, without its first line, without its last, without both; then the same four
    without asterisks. Blank ones and repetitions are left out.
    """
    lines = response.split("\n")
    shortened = [lines[1:], lines[:-1], lines[1:-1]]
    variants = [response, *("\n".join(part).strip() for part in shortened)]
    variants += [variant.replace("*", "") for variant in variants]
    return [variant for variant in dict.fromkeys(variants) if variant.strip()]


def aggregate(verdicts: Iterable[Verdict]) -> Summary:
    """Return the accuracies over the verdicts of all prompts.

    Raises:
        InstructionError: there are no verdicts.
    """
    verdicts = list(verdicts)
    if not verdicts:
        raise InstructionError("no verdicts to aggregate")
    by_id: dict[str, list[tuple[bool, bool]]] = {}
    for verdict in verdicts:
        pairs = zip(verdict.strict, verdict.loose, strict=True)
        for instruction_id, pair in zip(verdict.instruction_ids, pairs, strict=True):
            by_id.setdefault(instruction_id, []).append(pair)
    all_pairs = [pair for pairs in by_id.values() for pair in pairs]
    all_strict = [verdict.all_strict for verdict in verdicts]
    all_loose = [verdict.all_loose for verdict in verdicts]
    return {
        "prompt_level_strict_acc": _mean(all_strict),
        "prompt_level_strict_acc_stderr": _standard_error(all_strict),
        "inst_level_strict_acc": _mean([pair[0] for pair in all_pairs]),
        "inst_level_strict_acc_stderr": _clustered_error([v.strict for v in verdicts]),
        "prompt_level_loose_acc": _mean(all_loose),
        "prompt_level_loose_acc_stderr": _standard_error(all_loose),
        "inst_level_loose_acc": _mean([pair[1] for pair in all_pairs]),
        "inst_level_loose_acc_stderr": _clustered_error([v.loose for v in verdicts]),
        "num_prompts": len(verdicts),
        "num_instructions": len(all_pairs),
        "instructions": {
            instruction_id: {
                "count": len(pairs),
                "strict_acc": _mean([pair[0] for pair in pairs]),
                "loose_acc": _mean([pair[1] for pair in pairs]),
            }
            for instruction_id, pairs in sorted(by_id.items())
        },
    }


def _bind(
    instruction_ids: Sequence[str], kwargs_list: Sequence[Kwargs], official: bool
) -> list[tuple[Checker, dict[str, Any]]]:
    """Return each instruction's checker with its clean kwargs."""
    if isinstance(instruction_ids, str):
        raise InstructionError(f"instruction ids must be a list, got {instruction_ids!r}")
    if not instruction_ids:
        raise InstructionError("no instructions to check")
    if len(instruction_ids) != len(kwargs_list):
        raise InstructionError(
            f"{len(instruction_ids)} instruction ids, but {len(kwargs_list)} kwargs; one each is needed"
        )
    bound = []
    for instruction_id, kwargs in zip(instruction_ids, kwargs_list, strict=True):
        instruction = find(instruction_id)
        cleaned = clean_kwargs(instruction_id, instruction.kwargs, kwargs)
        if not official:
            cleaned = {name: _composed(value) for name, value in cleaned.items()}
        bound.append((instruction.checker(official), cleaned))
    return bound


def _composed(value: Any) -> Any:
    """Return a kwarg's texts in Unicode's composed form."""
    if isinstance(value, tuple):
        return tuple(map(_composed, value))
    return composed(value) if isinstance(value, str) else value


def _read(response: str | None, official: bool) -> str | None:
    """Return the response that checkers read: the sound ones see one spelling of each character."""
    return response if official or not isinstance(response, str) else composed(response)


def _strict(checks: list[tuple[Checker, dict[str, Any]]], response: str | None) -> tuple[bool, ...]:
    if response is None:
        return (False,) * len(checks)
    if not isinstance(response, str):
        raise InstructionError(f"a response must be a string, got {type(response).__name__}")
    if not response.strip():
        return (False,) * len(checks)
    return tuple(check(response, **kwargs) for check, kwargs in checks)


def _mean(passed: Sequence[bool]) -> float:
    return sum(passed) / len(passed)


def _standard_error(passed: Sequence[bool]) -> float | None:
    if len(passed) < 2:
        return None
    mean = _mean(passed)
    return math.sqrt(mean * (1 - mean) / (len(passed) - 1))


def _clustered_error(prompts: Sequence[Sequence[bool]]) -> float | None:
    """Return the standard error of the mean over all instructions, with prompts drawn at random."""
    if len(prompts) < 2:
        return None
    total = sum(map(len, prompts))
    mean = sum(map(sum, prompts)) / total
    squares = sum((sum(passed) - mean * len(passed)) ** 2 for passed in prompts)
    return math.sqrt(squares * len(prompts) / (len(prompts) - 1)) / total
