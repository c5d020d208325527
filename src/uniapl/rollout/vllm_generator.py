"""Samples rollouts from vLLM servers: token ids out, token ids and log-probs back, nothing tokenised twice.

Before every call the servers get the policy's weights (`vllm_weights`), and every completion must say that it was
sampled by these and no others. A request's seed comes from the run's seed, the number of the call and the place of
its prompt, so that a resumed run asks for the same. What vLLM samples by default, from a model folder's settings for
example, never counts: each request says everything.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from uniapl.errors import InputError, TrainingError
from uniapl.rollout.completions import CompletionReader, check_room
from uniapl.rollout.decoding import Decoded
from uniapl.rollout.vllm_server import ADAPTER, KEY, Connection, ServerFacts, VllmServer
from uniapl.rollout.vllm_weights import WeightSync, WrittenWeights
from uniapl.servers import import_openai
from uniapl.types import Prompt, Rollout

T = TypeVar("T")

GAP_LIMIT, GAP_LIMIT_FLOAT32 = 0.1, 0.01
"""Largest mean |log π_old - log π_sampled| of a step, nats: bfloat16 alone makes .04, two engines in float32 1e-5.
Wrong temperatures, prompts or weights make more than either."""
_SEEDS = 2**53
"""JSON's integers are exact up to here; vLLM adds a sibling's number to the seed."""
_NO_LOGPROB = -9999.0
"""vLLM sends it where it has none."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """What every request asks for."""

    max_completion_tokens: int
    eos_token_ids: frozenset[int]
    """The tokens that end a turn."""
    temperature: float
    seed: int
    """The run's."""
    vocabulary: int
    """Number of token ids that the model knows."""


class Pending:
    """Completions that servers are sampling; training may go on meanwhile."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        completions: "Future[list[Decoded]]",
        reader: CompletionReader,
    ) -> None:
        self._prompts, self._completions, self._reader = prompts, completions, reader

    def completions(self) -> list[Decoded]:
        """Wait for all of them.

        Raises:
            TrainingError: A server has failed.
        """
        return self._completions.result()

    def rollouts(self) -> list[Rollout]:
        """As `completions`, with prompts and texts."""
        return self._reader.rollouts(self._prompts, self.completions())


class VllmGenerator:
    """A `Generator` over vLLM servers.

    Args:
        servers: Prompts are dealt to them in turn.
        weights: Brings them the policy's weights.
        tokenizer: Decodes completions.
        settings: Of every request.
        facts: What the servers say of themselves (`ask_servers`).

    Example:
        servers = [VllmServer("http://127.0.0.1:8000", 600.0)]
        generator = VllmGenerator(servers, weights, tokenizer, settings, ask_servers(servers))
        rollouts = generator.sample(prompts, group_size=8)
    """

    def __init__(
        self,
        servers: Sequence[VllmServer],
        weights: WeightSync,
        tokenizer: PreTrainedTokenizerBase,
        settings: SamplingSettings,
        facts: ServerFacts,
    ) -> None:
        self._servers, self._weights, self._settings = servers, weights, settings
        self._reader = CompletionReader(tokenizer)
        self._facts = facts
        self._num_calls = 0

    def sample(self, prompts: Sequence[Prompt], group_size: int) -> list[Rollout]:
        """As `Generator.sample`.

        Raises:
            InputError: A prompt is empty or leaves no room in the servers' context.
            TrainingError: A server cannot be reached, is silent, or answers what it should not.
        """
        return self.begin(prompts, group_size).rollouts()

    def begin(self, prompts: Sequence[Prompt], group_size: int) -> Pending:
        """Bring the servers the policy as it is now and let them sample; do not wait for what they sample.

        Raises:
            InputError: As `sample`.
            TrainingError: A server does not take over the weights.
        """
        settings = self._settings
        for prompt in prompts:
            context = self._facts.context
            check_room(prompt, settings.max_completion_tokens, context, "the servers' context")
        written = self._weights.write()
        in_background(lambda: self._bring(written)).result()
        self._weights.clean_up(written)
        self._num_calls += 1
        requests = [
            self._request(prompt, group_size, place) for place, prompt in enumerate(prompts)
        ]
        return Pending(
            [prompt for prompt in prompts for _ in range(group_size)],
            in_background(lambda: self._ask(prompts, requests, written.version)),
            self._reader,
        )

    def sampled_before(
        self, prompts: Sequence[Prompt], group_size: int, completions: Sequence[Decoded]
    ) -> Pending:
        """Return what `begin` returned before the run was interrupted.

        Args:
            prompts: As given then.
            group_size: As given then.
            completions: What came of it.
        """
        done: Future[list[Decoded]] = Future()
        done.set_result(list(completions))
        return Pending([p for p in prompts for _ in range(group_size)], done, self._reader)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to send the same requests: how many calls there were."""
        return {"num_calls": self._num_calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._num_calls = state["num_calls"]

    def _request(self, prompt: Prompt, group_size: int, place: int) -> dict[str, Any]:
        settings = self._settings
        request: dict[str, Any] = {
            "token_ids": list(prompt.token_ids),
            "return_token_ids": True,
            "sampling_params": {
                "n": group_size,
                "seed": request_seed(settings.seed, self._num_calls, place),
                "temperature": settings.temperature,
                "top_p": 1.0,
                "top_k": 0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "max_tokens": settings.max_completion_tokens,
                "min_tokens": 0,
                # the run's ends of turn alone, not those of the server's model folder
                "ignore_eos": True,
                "stop_token_ids": sorted(settings.eos_token_ids),
                "logprobs": 0,
                "detokenize": False,
            },
        }
        if self._weights.uses_adapter:
            request["model"] = ADAPTER
        return request

    async def _bring(self, written: WrittenWeights) -> None:
        async with _connected(self._servers) as connections:
            await _together(self._weights.bring(written, c) for c in connections)

    async def _ask(
        self, prompts: Sequence[Prompt], requests: Sequence[dict[str, Any]], version: str
    ) -> list[Decoded]:
        async with _connected(self._servers) as connections:

            async def ask(place: int) -> list[Decoded]:
                connection = connections[place % len(connections)]
                answer = await connection.generate(requests[place])
                try:
                    return self._read(answer, requests[place], version)
                except ValueError as error:
                    what = f"prompt {prompts[place].id}: {error}"
                    raise connection.server.failed("/inference/v1/generate", what) from None

            groups = await _together(ask(place) for place in range(len(requests)))
        return [completion for group in groups for completion in group]

    def _read(self, answer: dict[str, Any], request: dict[str, Any], version: str) -> list[Decoded]:
        """Return the completions of an answer.

        Raises:
            ValueError: Something in it is not as asked for.
        """
        size = request["sampling_params"]["n"]
        choices = answer.get("choices")
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise ValueError("the answer has no choices")
        places = [choice.get("index") for choice in choices]
        if sorted(places, key=str) != sorted(range(size), key=str):
            raise ValueError(f"asked for {size} completions, the answer has numbers {places}")
        if answer.get("prompt_token_ids") != request["token_ids"]:
            raise ValueError("the answer continues other tokens than those that were sent")
        ordered = sorted(choices, key=lambda choice: choice["index"])
        return [read_choice(choice, self._settings, version) for choice in ordered]


def read_choice(choice: dict[str, Any], settings: SamplingSettings, version: str) -> Decoded:
    """Return one completion of an answer.

    Args:
        choice: As vLLM sends it.
        settings: What was asked for.
        version: Of the weights that must have sampled it.

    Raises:
        ValueError: Something is missing, does not fit, or comes from other weights.
    """
    tokens, limit = choice.get("token_ids"), settings.max_completion_tokens
    known = settings.vocabulary
    if not isinstance(tokens, list) or not tokens:
        raise ValueError("a completion has no token ids")
    if not all(type(t) is int and 0 <= t < known for t in tokens):
        raise ValueError(f"a completion has token ids that are none of the {known} there are")
    reason, has_ended = choice.get("finish_reason"), tokens[-1] in settings.eos_token_ids
    is_whole = has_ended if reason == "stop" else reason == "length" and len(tokens) == limit
    if not is_whole or len(tokens) > limit:
        raise ValueError(f"a completion of {len(tokens)} tokens says that it ended by {reason!r}")
    if settings.eos_token_ids.intersection(tokens[:-1]):
        raise ValueError("a completion goes on after the end of its turn")
    spans = choice.get("weight_versions")
    if spans != [{"version": version, "start": 0, "end": len(tokens)}]:
        raise ValueError(f"asked weights {version}, a completion says that it comes from {spans}")
    return Decoded(tokens, _logprobs(choice.get("logprobs"), tokens), has_ended)


def _logprobs(value: Any, tokens: Sequence[int]) -> list[float]:
    """Return the log-probs of a completion's tokens.

    Raises:
        ValueError: One is missing, belongs to another token or is none.
    """
    entries = value.get("content") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("a completion has no log-probs")
    if [entry.get("token_id") for entry in entries] != list(tokens):
        raise ValueError("the log-probs belong to other tokens than those of the completion")
    found = [entry.get("logprob") for entry in entries]
    for number in found:
        is_logprob = isinstance(number, int | float) and math.isfinite(number)
        if not (is_logprob and _NO_LOGPROB < number <= 1e-3):
            raise ValueError(f"a token has the log-prob {number}")
    return [min(float(number), 0.0) for number in found]


def request_seed(seed: int, call: int, place: int) -> int:
    """Return the seed of a request: the same for the same run, call and place of the prompt in it."""
    digest = hashlib.sha256(f"{seed}/{call}/{place}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _SEEDS


def ask_servers(servers: Sequence[VllmServer]) -> ServerFacts:
    """Return what the servers of a run say of themselves.

    Raises:
        InputError: One cannot be reached, is not as a run needs it, or they differ.
    """
    import_openai(f"{KEY}: asking vLLM", "vllm")

    async def ask() -> list[ServerFacts]:
        async with _connected(servers) as connections:
            return await _together(connection.facts() for connection in connections)

    try:
        first, *others = in_background(ask).result()
    except TrainingError as error:
        raise InputError(str(error)) from error
    for server, other in zip(servers[1:], others, strict=True):
        if other != first:
            raise InputError(
                f"{KEY}: the servers must be alike: {servers[0].url} is {first}, {server.url} is {other}"
            )
    return first


def in_background(work: Callable[[], Coroutine[Any, Any, T]]) -> "Future[T]":
    """Run a coroutine on a thread with an event loop of its own: where we are called there may be one already.

    The thread dies with the process, so that a signal need not wait for a server.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(asyncio.run(work()))
        except BaseException as error:  # raised again where the result is asked for
            done.set_exception(error)

    Thread(target=run, daemon=True, name="rollouts").start()
    return done


async def _together(work: Iterable[Awaitable[T]]) -> list[T]:
    """Return all results; the first error ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _connected(servers: Sequence[VllmServer]) -> AsyncIterator[list[Connection]]:
    """Connect to all servers, for one event loop."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(server.connect()) for server in servers]
