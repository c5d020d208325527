"""A model on this machine as the expert, behind any `Generator`."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from uniapl.experts.answers import Answer, Outcome, Request
from uniapl.thoughts import OPENING
from uniapl.types import Generator, Message, Prompt


class GeneratorExpert:
    """Answers in batches, each with a generator of its own seed.

    The seed comes from the batch's requests, so that a collection that was killed samples what an
    uninterrupted one would have: a batch is kept as a whole.

    Args:
        make_generator: Seed → Generator.
        encode: Messages → token ids of the prompt.
        settings: What decides an answer, the weights included.
        source: How the model is named.
        max_rows: Answers sampled at the same time.
    """

    def __init__(
        self,
        make_generator: Callable[[int], Generator],
        encode: Callable[[Sequence[Message]], tuple[int, ...]],
        *,
        settings: Mapping[str, Any],
        source: str,
        max_rows: int,
    ) -> None:
        self.settings = settings
        self._make_generator = make_generator
        self._encode = encode
        self._source = source
        self._max_rows = max_rows

    async def answers(self, requests: Iterator[Request]) -> AsyncGenerator[list[Outcome], None]:
        """Yield the answers batch by batch."""
        while batch := list(islice(requests, self._max_rows)):
            yield self._answer(batch)
            await asyncio.sleep(0)  # the only moment at which Ctrl-C is heard

    def _answer(self, batch: Sequence[Request]) -> list[Outcome]:
        prompts = [Prompt(r.key, r.messages, self._encode(r.messages)) for r in batch]
        keys = hashlib.sha256("".join(request.key for request in batch).encode())
        generator = self._make_generator(int(keys.hexdigest()[:8], 16))
        rollouts = generator.sample(prompts, 1)
        return [
            (
                request,
                Answer(
                    content=(OPENING if rollout.begins_thinking else "") + rollout.completion,
                    finish_reason=rollout.finish_reason,
                    source=self._source,
                    prompt_tokens=len(rollout.prompt.token_ids),
                    completion_tokens=len(rollout.token_ids),
                ),
            )
            for request, rollout in zip(batch, rollouts, strict=True)
        ]
