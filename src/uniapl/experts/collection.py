"""The collection itself: what is still to be asked, and what comes of what has been answered.

Both are functions of the prompts and the cache alone, so that a collection that was interrupted, or is
repeated, ends as one that ran through.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from uniapl.experts.answers import Answer, Expert, Failure, Request, make_request
from uniapl.experts.cache import AnswerCache
from uniapl.experts.selection import Judged, is_settled, judge, select
from uniapl.experts.summary import Asked, Tally
from uniapl.types import INSTRUCTING, Message, Prompt

_SECONDS_PER_LINE = 10.0
"""Between two lines that say how far it is."""


@dataclass(frozen=True, slots=True)
class Collection:
    """Demonstrations of some prompts by one expert.

    Answers to a prompt are asked for one after the other, and no more than its demonstrations need: once `keep` of
    them follow every instruction, another could not displace them, unless they were revised.
    """

    prompts: Sequence[Prompt]
    """As the demonstrations will have them."""
    expert: Expert
    cache: AnswerCache
    system_prompt: str | None = None
    """Put before prompts that have no system turn; no part of the demonstrations."""
    samples: int = 1
    """Answers asked for per prompt, at most."""
    keep: int = 1
    """Demonstrations per prompt, at most."""
    min_pass: float = 1.0
    """Share of the instructions that a demonstration follows."""
    revises: bool = False
    """Whether answers that fail are edited until they follow their instructions; the cache keeps them as they came."""
    max_repetition: float = 1.0
    """Share of its 3-grams that a demonstration may have had before."""
    begins_thinking: bool = False
    """Whether the expert's answers begin inside a thought, because its template writes `<think>` itself."""
    max_failures_in_a_row: int = 20
    """After so many, each after all its retries, the rest is not asked."""

    async def ask(self) -> Asked:
        """Ask for every answer that is missing; each is in the cache before the next is waited for.

        Raises:
            InputError: No request can succeed.
            TrainingError: A local model failed, or the cache cannot be written.
        """
        asked = Asked()
        progress = _Progress(len(self.prompts))
        pending: Sequence[Prompt] = self.prompts
        for sample in range(self.samples):
            unsettled: list[Prompt] = []
            requests = self._requests(sample, pending, unsettled)
            in_a_row = 0
            async with aclosing(self.expert.answers(requests)) as batches:
                async for outcomes in batches:
                    answers = [(r.key, a) for r, a in outcomes if isinstance(a, Answer)]
                    self.cache.add(answers)
                    asked.num_answered += len(answers)
                    for failure in (f for _, f in outcomes if isinstance(f, Failure)):
                        asked.failures[failure.kind] += 1
                        asked.first_failure = asked.first_failure or failure.message
                    in_a_row = 0 if answers else in_a_row + len(outcomes)
                    progress.show(asked)
                    if in_a_row >= self.max_failures_in_a_row:
                        asked.has_given_up = True
                        return asked
            pending = unsettled
        return asked

    def demonstrations(self, tally: Tally) -> Iterator[dict[str, Any]]:
        """Yield rows that `data.demonstrations` reads, in the order of the prompts.

        Args:
            tally: Counts every prompt on the way.
        """
        for prompt in self.prompts:
            judged = self._judged(prompt)
            completions = select(judged, self.keep, self.min_pass)
            is_open = not is_settled(judged, self.keep) and len(judged) < self.samples
            revised = {one.completion for one in judged if one.is_revised}
            tally.add(judged, completions, is_open=is_open)
            tally.num_revised += len(revised.intersection(completions))
            for number, completion in enumerate(completions, start=1):
                yield _row(prompt, completion, number if self.keep > 1 else None)

    def _requests(
        self, sample: int, prompts: Sequence[Prompt], unsettled: list[Prompt]
    ) -> Iterator[Request]:
        """Yield request number `sample` of the prompts that need it; fills `unsettled` on the way."""
        for prompt in prompts:
            judged = self._judged(prompt)
            if is_settled(judged, self.keep) or len(judged) >= self.samples:
                continue
            unsettled.append(prompt)
            # fewer: an earlier request of the prompt failed; more: answered in an earlier run
            if len(judged) == sample:
                yield self._request(prompt, sample)

    def _judged(self, prompt: Prompt) -> list[Judged]:
        """Return the answers there are, up to the one that settled the prompt."""
        judged: list[Judged] = []
        while len(judged) < self.samples and not is_settled(judged, self.keep):
            answer = self.cache.get(self._request(prompt, len(judged)).key)
            if answer is None:
                break
            about = prompt.columns.get("seed_prompt") or prompt.text
            judged.append(
                judge(
                    answer,
                    prompt.columns,
                    revises=self.revises,
                    prompt=str(about),
                    max_repetition=self.max_repetition,
                    begins_thinking=self.begins_thinking,
                )
            )
        return judged

    def _request(self, prompt: Prompt, sample: int) -> Request:
        return make_request(self.expert.settings, self._messages(prompt), sample)

    def _messages(self, prompt: Prompt) -> tuple[Message, ...]:
        has_system = any(turn["role"] in INSTRUCTING for turn in prompt.messages)
        if self.system_prompt is None or has_system:
            return prompt.messages
        return ({"role": "system", "content": self.system_prompt}, *prompt.messages)


class _Progress:
    """A line on stderr now and then."""

    def __init__(self, num_prompts: int) -> None:
        self._num_prompts = num_prompts
        self._shown = time.monotonic()

    def show(self, asked: Asked) -> None:
        """Say how far it is, unless a line was written just now."""
        if time.monotonic() - self._shown < _SECONDS_PER_LINE:
            return
        self._shown = time.monotonic()
        failed = f", {asked.failures.total()} failed" if asked.failures else ""
        sys.stderr.write(f"{asked.num_answered} answers to {self._num_prompts} prompts{failed}\n")


def _row(prompt: Prompt, completion: str, number: int | None) -> dict[str, Any]:
    """Return a demonstration; with a number, its key is its own and `prompt_key` the prompt's."""
    columns = {name: value for name, value in prompt.columns.items() if name != "completion"}
    own = (columns.pop("key", None), columns.get("id"))
    key = next((name for name in own if isinstance(name, int | str)), prompt.id)
    keys = {"key": key} if number is None else {"key": f"{key}-{number}", "prompt_key": key}
    if not prompt.is_conversational:
        return {**keys, "prompt": prompt.text, "completion": completion, **columns}
    turn = {"role": "assistant", "content": completion}
    turns = [dict(message) for message in prompt.messages]
    return {**keys, "prompt": turns, "completion": [turn], **columns}
