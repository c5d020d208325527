"""Which answers become demonstrations: checked and ranked by the prompt's own instructions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uniapl.experts.answers import Answer, without_thoughts
from uniapl.instructions import Verdict, verify


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer, and what the checkers say of it."""

    answer: Answer
    completion: str
    """The answer without thoughts, and without blanks at its ends."""
    flaw: str | None
    """Why it can be no demonstration whatever it follows; None if it can."""
    verdict: Verdict | None
    """None where the prompt has no instructions; a flawed answer follows none."""

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


def judge(answer: Answer, columns: Mapping[str, Any]) -> Judged:
    """Check an answer against its prompt's columns `instruction_id_list` and `kwargs`, if it has them."""
    completion = without_thoughts(answer.content).strip()
    flaw = _flaw(answer, completion)
    verdict = None
    if ids := columns.get("instruction_id_list"):
        verdict = verify(ids, columns["kwargs"], completion if flaw is None else None)
    return Judged(answer, completion, flaw, verdict)


def is_settled(judged: Sequence[Judged], keep: int) -> bool:
    """Whether no further answer could change what `select` keeps: enough are already perfect."""
    return len({one.completion for one in judged if one.share == 1}) >= keep


def select(judged: Sequence[Judged], keep: int, min_pass: float) -> list[str]:
    """Return the best completions, at most `keep`: by instructions followed strictly, loosely, then first come.

    Args:
        judged: The answers to one prompt, in the order of asking.
        min_pass: Share of the instructions that must be followed strictly, for every completion kept.
    """
    usable = [one for one in judged if one.flaw is None and one.share >= min_pass]
    ranked = sorted(usable, key=lambda one: (-one.share, -one.loose_share))
    # an expert that repeats itself has shown it once
    return list(dict.fromkeys(one.completion for one in ranked))[:keep]


def _flaw(answer: Answer, completion: str) -> str | None:
    if answer.finish_reason != "stop":
        return f"finish reason {answer.finish_reason}"
    if not completion:
        return "blank"
    try:
        completion.encode("utf-8")
    except UnicodeEncodeError:
        return "half a surrogate pair"
    return None


def _share(followed: Sequence[bool]) -> float:
    return sum(followed) / len(followed)
