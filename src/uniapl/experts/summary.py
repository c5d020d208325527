"""What a collection gave: how much was kept and why the rest was not, by instruction, length and source."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from uniapl.experts.selection import Judged
from uniapl.instructions import Verdict, aggregate
from uniapl.thoughts import CLOSING
from uniapl.words import num_written_words

_NOT_FOLLOWED = "instructions not followed"


@dataclass(slots=True)
class Asked:
    """What became of the requests of one run."""

    num_answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """By kind."""
    first_failure: str | None = None
    has_given_up: bool = False
    """Whether so many requests failed in a row that the rest was not asked."""


class Tally:
    """Counts prompts as they are decided.

    How well the expert follows instructions is measured on the first answer to each prompt: later ones are
    asked for only where it failed.
    """

    def __init__(self) -> None:
        self.num_prompts = 0
        self.num_answers = 0
        self.num_open = 0
        """Prompts whose answers are not all there, because a request failed."""
        self.num_demonstrations = 0
        self.num_revised = 0
        """Demonstrations that are no answer as it came."""
        self.num_beyond_revision = 0
        """Answers that failed and that no edit could mend."""
        self.num_closed_thoughts = 0
        """Demonstrations with a `</think>` that nothing opened."""
        self._left_out: Counter[str] = Counter()
        self._finish_reasons: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._words: list[int] = []
        self._first_verdicts: list[Verdict] = []

    def add(self, judged: Sequence[Judged], kept: Sequence[str], *, is_open: bool) -> None:
        """Count one prompt.

        Args:
            judged: Its answers, in the order of asking.
            kept: The completions that became demonstrations.
            is_open: Whether an answer is missing.
        """
        self.num_prompts += 1
        self.num_open += is_open
        self.num_answers += len(judged)
        self.num_demonstrations += len(kept)
        self.num_closed_thoughts += sum(CLOSING in completion for completion in kept)
        self._words += [num_written_words(completion) for completion in kept]
        self.num_beyond_revision += sum(one.is_beyond_revision for one in judged)
        for one in judged:
            self._finish_reasons[one.answer.finish_reason] += 1
            self._sources[one.answer.source] += 1
            self._tokens["prompt"] += one.answer.prompt_tokens or 0
            self._tokens["completion"] += one.answer.completion_tokens or 0
        if judged and judged[0].raw_verdict is not None:
            self._first_verdicts.append(judged[0].raw_verdict)
        if not kept:
            flaws = [one.flaw or _NOT_FOLLOWED for one in judged]
            self._left_out[flaws[0] if flaws else "no answer"] += 1

    def summary(self, asked: Asked) -> dict[str, Any]:
        """Return everything as JSON.

        Args:
            asked: The run's requests; the other answers come from the cache.
        """
        followed = aggregate(self._first_verdicts) if self._first_verdicts else {}
        words = sorted(self._words)
        return {
            "num_prompts": self.num_prompts,
            "num_demonstrations": self.num_demonstrations,
            "num_revised": self.num_revised,
            "num_beyond_revision": self.num_beyond_revision,
            "num_closed_thoughts": self.num_closed_thoughts,
            "num_answers": self.num_answers,
            "num_asked": asked.num_answered,
            "num_from_cache": self.num_answers - asked.num_answered,
            "num_open_prompts": self.num_open,
            "failed_requests": dict(asked.failures.most_common()),
            "prompts_left_out": dict(self._left_out.most_common()),
            "finish_reasons": dict(self._finish_reasons.most_common()),
            "sources": dict(self._sources.most_common()),
            "prompt_tokens": self._tokens["prompt"],
            "completion_tokens": self._tokens["completion"],
            "words_per_demonstration": (
                {"min": words[0], "median": median(words), "max": words[-1]} if words else None
            ),
            "first_answers": followed,
        }


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return a summary for a terminal."""
    kept, prompts = summary["num_demonstrations"], summary["num_prompts"]
    revised = f", {summary['num_revised']} of them revised" if summary["num_revised"] else ""
    lines = [f"{kept} demonstrations from {prompts} prompts{revised}"]
    if beyond := summary["num_beyond_revision"]:
        lines += [f"  {beyond:6} answers failed, and no edit could mend them"]
    lines += [
        f"  {count:6} prompts without: {reason}"
        for reason, count in summary["prompts_left_out"].items()
    ]
    reasons = ", ".join(f"{reason} {n}" for reason, n in summary["finish_reasons"].items())
    origin = f"{summary['num_asked']} asked, {summary['num_from_cache']} from the cache"
    lines += [f"{summary['num_answers']} answers ({origin}): {reasons or 'none'}"]
    lines += [f"  {n:6} requests failed: {kind}" for kind, n in summary["failed_requests"].items()]
    if words := summary["words_per_demonstration"]:
        lines += [f"words: median {words['median']:g}, {words['min']} to {words['max']}"]
    if first := summary["first_answers"]:
        share, count = first["prompt_level_strict_acc"], first["num_prompts"]
        lines += [f"first answers that follow all instructions: {share:.3f} of {count}; by type:"]
        by_type = sorted(first["instructions"].items(), key=lambda item: -item[1]["strict_acc"])
        lines += [f"  {a['strict_acc']:.3f} {a['count']:6}  {name}" for name, a in by_type]
    if closed := summary["num_closed_thoughts"]:
        lines += [
            f"{closed} demonstrations hold a {CLOSING} that nothing opened, and are whole: if the endpoint's "
            "template opens the thought, say --begins-thinking (the answers stay in the cache)"
        ]
    if len(summary["sources"]) > 1:
        lines += ["answers come from more than one source:"]
        lines += [f"  {count:6}  {source}" for source, count in summary["sources"].items()]
    return lines
