"""What an expert is asked and what it says: the carriers of a collection."""

import hashlib
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from uniapl.types import Message
from uniapl.words import is_ended

UNKNOWN = "unknown"
"""Of an expert that does not say why an answer ended."""

_ENDED = frozenset(
    "stop stopped stop_sequence stop_token stop_str eos eos_token end end_turn end_of_turn end_of_text endoftext "
    "end_of_sequence eos_found im_end eot_id complete completed done finish finished normal success".split()
)
"""How servers that speak OpenAI's protocol, or pass on another one, say `stop`."""

_CUT_OFF = frozenset(
    "length max_length model_length max_tokens max_new_tokens max_output_tokens max_completion_tokens max_token "
    "token_limit max_tokens_exceeded model_context_window_exceeded context_length_exceeded incomplete".split()
)
"""How they say `length`."""

_SMALL_THEN_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to ask for."""

    messages: tuple[Message, ...]
    """As the expert receives them, the system turn included."""
    key: str
    """Identifies the request for ever: equal keys, equal requests."""

    @property
    def seed(self) -> int:
        """The request's own, below 2³¹: answers to one prompt differ, and come back where seeds are honoured."""
        return int(self.key[:8], 16) >> 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What an expert said."""

    content: str
    """Thoughts included, where the expert does not keep them apart."""
    finish_reason: str
    """Why it ended, in the expert's own word; `unknown` where it says nothing. `ending` is what it means."""
    source: str
    """Who answered, as it names itself, and where."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """As the expert counts them, thoughts included."""

    @property
    def ending(self) -> str:
        """`stop`: the expert ended its turn; `length`: it was cut off; anything else in its own word.

        Where it says nothing, a text that ends as a sentence does counts as ended.
        """
        reason = _SMALL_THEN_CAPITAL.sub("_", self.finish_reason.strip("<|> \t\n")).lower()
        reason = re.sub(r"[\s-]", "_", reason)
        reason = re.sub(r"^(finish|stop)_reason[._]", "", reason)
        if reason in _ENDED or (reason == UNKNOWN and is_ended(self.content)):
            return "stop"
        return "length" if reason in _CUT_OFF else self.finish_reason


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer, after all retries."""

    kind: str
    """Few words that many failures share, such as `status 500`."""
    message: str
    """One line."""


Outcome = tuple[Request, Answer | Failure]


class Expert(Protocol):
    """Whoever writes the demonstrations."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything but the messages that decides an answer, as JSON; part of each request's key."""
        ...

    def answers(self, requests: Iterator[Request]) -> AsyncGenerator[list[Outcome], None]:
        """Yield outcomes as they come, each request's once, in any order.

        Requests are drawn as they are needed, so that neither they nor their answers fill the memory.

        Raises:
            InputError: No request can succeed: a wrong address, key or model.
            TrainingError: A local model fails.
        """
        ...


def make_request(settings: Mapping[str, Any], messages: Sequence[Message], sample: int) -> Request:
    """Return a prompt's request number `sample`, from 0.

    Args:
        settings: The expert's.
    """
    turns = tuple(messages)
    identity = {"settings": settings, "messages": [dict(turn) for turn in turns], "sample": sample}
    text = json.dumps(identity, sort_keys=True)
    return Request(turns, hashlib.sha256(text.encode()).hexdigest())
