"""What an expert is asked and what it says: the carriers of a collection."""

import hashlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from uniapl.types import Message


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
    """`stop` if the expert ended its turn; anything else is no demonstration."""
    source: str
    """Who answered, as it names itself, and where."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """As the expert counts them, thoughts included."""


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
