"""Which answers become demonstrations: checked and ranked by the prompt's own instructions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from uniapl.experts.answers import Answer
from uniapl.experts.repetition import repetition_fraction, words
from uniapl.instructions import Verdict, revise, verify
from uniapl.thoughts import without_thoughts


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer, and what the checkers say of it."""

    answer: Answer
    completion: str
    """The answer without thoughts, and without blanks at its ends; or its revision."""
    flaw: str | None
    """Why it can be no demonstration whatever it follows; None if it can."""
    verdict: Verdict | None
    """None where the prompt has no instructions; an answer that is no whole text follows none."""
    raw_verdict: Verdict | None
    """The same on the answer before any revision."""
    is_revised: bool = False
    is_beyond_revision: bool = False
    """Whether a revision was tried and no edit sufficed."""

    @property
    def share(self) -> float:
        """Share of the instructions followed strictly; 1 where there are none to check."""
        if self.flaw is not None:
            return 0.0
        return 1.0 if self.verdict is None else _share(self.verdict.strict)

    @property
    def loose_share(self) -> float:
        """The same, read loosely."""
        return 1.0 if self.verdict is None else _share(self.verdict.loose)


def judge(
    answer: Answer,
    columns: Mapping[str, Any],
    *,
    revises: bool = False,
    prompt: str = "",
    max_repetition: float = 1.0,
    begins_thinking: bool = False,
) -> Judged:
    """Check an answer against its prompt's columns `instruction_id_list` and `kwargs`, if it has them.

    Args:
        answer: One of the expert's.
        columns: The prompt's.
        revises: An answer that fails, or was cut off, is replaced by its revision if there is one.
        prompt: Its text, for the revision.
        max_repetition: Share of repeated 3-grams, of the revision if there is one, above which it is flawed.
        begins_thinking: Whether the expert's prompt opens a thought, as `Collection` has it.
    """
    completion = without_thoughts(answer.content, begins_thinking=begins_thinking).strip()
    flaw = _flaw(answer, completion)
    verdict = None
    if ids := columns.get("instruction_id_list"):
        verdict = verify(ids, columns["kwargs"], completion if flaw is None else None)
    judged = Judged(answer, completion, flaw, verdict, verdict)
    if revises and judged.share < 1 and (flaw is None or answer.ending == "length"):
        judged = _revised(judged, columns, prompt)
    if judged.flaw is None and repetition_fraction(words(judged.completion)) > max_repetition:
        return replace(judged, flaw="repeats itself")
    return judged


def _revised(judged: Judged, columns: Mapping[str, Any], prompt: str) -> Judged:
    """Return the judged answer with its revision, or as it was where there is none."""
    ids, kwargs = columns.get("instruction_id_list"), columns.get("kwargs")
    # lone surrogates and the like stay flaws
    if not ids or kwargs is None or _flaw_of_text(judged.completion):
        return judged
    is_cut_off = judged.answer.ending == "length"
    completion = revise(ids, kwargs, judged.completion, prompt, is_cut_off=is_cut_off)
    if completion is None:
        return replace(judged, is_beyond_revision=True)
    verdict = verify(ids, kwargs, completion)
    return replace(judged, completion=completion, flaw=None, verdict=verdict, is_revised=True)


def is_settled(judged: Sequence[Judged], keep: int) -> bool:
    """Whether enough answers, as they came or revised, are perfect already."""
    return len({one.completion for one in judged if one.share == 1}) >= keep


def select(judged: Sequence[Judged], keep: int, min_pass: float) -> list[str]:
    """Return the best completions, at most `keep`.

    By instructions followed strictly, unrevised before revised, by those followed loosely, then first come.

    Args:
        judged: The answers to one prompt, in the order of asking.
        min_pass: Share of the instructions that must be followed strictly, for every completion kept.
    """
    usable = [one for one in judged if one.flaw is None and one.share >= min_pass]
    ranked = sorted(usable, key=lambda one: (-one.share, one.is_revised, -one.loose_share))
    # an expert that repeats itself has shown it once
    return list(dict.fromkeys(one.completion for one in ranked))[:keep]


def _flaw(answer: Answer, completion: str) -> str | None:
    if answer.ending != "stop":
        return f"finish reason {answer.ending}"
    return _flaw_of_text(completion)


def _flaw_of_text(completion: str) -> str | None:
    if not completion:
        return "blank"
    try:
        completion.encode("utf-8")
    except UnicodeEncodeError:
        return "half a surrogate pair"
    return None


def _share(followed: Sequence[bool]) -> float:
    return sum(followed) / len(followed)
