"""An endpoint that speaks OpenAI's protocol as the expert: vLLM, SGLang, llama.cpp, OpenRouter, OpenAI, ...

The `openai` client sends, waits and retries: connections that fail, time-outs and the statuses 408, 409, 429 and
5xx, after 0.5, 1, 2, 4, then 8 seconds (less up to a quarter, at random), or after the server's `Retry-After`,
where that is no more than two minutes; it does not retry what has to wait longer.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from uniapl.errors import InputError
from uniapl.experts.answers import UNKNOWN, Answer, Failure, Outcome, Request
from uniapl.servers import async_client, check_address, import_openai, said

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_OWN_FIELDS = ("messages", "model", "n", "stream", "temperature", "top_p", "max_tokens", "seed")
"""Fields of a request that `extra_body` may leave out, but not set."""

_PATH = "/chat/completions"

_MAX_DIGITS = 300
"""Of an integer in an answer; a float has the rest."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach it, and how fast."""

    url: str
    """The base, such as http://localhost:8000/v1."""
    api_key: str | None = field(default=None, repr=False)
    """None: for servers that ask for none."""
    concurrency: int = 8
    """Requests in flight, at most."""
    requests_per_minute: float | None = None
    """Retries count; None: as many as the concurrency gives."""
    timeout_seconds: float = 600.0
    """Without a byte from the server."""
    retries: int = 5

    def __post_init__(self) -> None:
        """Check everything that can be checked without asking.

        Raises:
            InputError: The address or a number makes no sense.
        """
        check_address(self.url, "--endpoint", "OPENAI_API_KEY", "http://localhost:8000/v1")
        if (base := self.url.rstrip("/").removesuffix(_PATH)) != self.url.rstrip("/"):
            raise InputError(f"--endpoint is the base that {_PATH} is added to: {base}")
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise InputError("OPENAI_API_KEY is blank or holds characters that no key has")
        for name, value, least in (
            ("--concurrency", self.concurrency, 1),
            ("--retries", self.retries, 0),
        ):
            if not least <= value <= 1000:
                raise InputError(f"{name} must be between {least} and 1000, got {value}")
        for name, value in (
            ("--timeout", self.timeout_seconds),
            ("--requests-per-minute", self.requests_per_minute),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} must be above 0, got {value:g}")


def request_settings(
    model: str,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    extra_body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the fields that all requests share; None is left to the endpoint.

    Args:
        seed: Each request gets its own, made of this one, its messages and its number.
        extra_body: Further fields; null leaves one out, such as `seed` where an endpoint refuses it.

    Raises:
        InputError: `extra_body` sets a field that has an option of its own.
    """
    extra = dict(extra_body or {})
    for name in _OWN_FIELDS:
        if extra.get(name) is not None:
            raise InputError(
                f"--extra-body cannot set {name}: it has an option or is not supported"
            )
    fields = {"model": model, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    given = {name: value for name, value in fields.items() if value is not None}
    return {**given, "seed": seed, **extra}


class EndpointExpert:
    """Asks many prompts at a time, never more than `concurrency` and `requests_per_minute` allow.

    The address is no part of `settings`: a server that moved to another port or machine is the same expert. Two
    different models of the same name need caches of their own; each answer names its address.
    """

    def __init__(self, endpoint: Endpoint, settings: Mapping[str, Any]) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            InputError: The package `openai` is missing.
        """
        self._openai = import_openai("asking an endpoint", "collect")
        self.settings = settings
        self._endpoint = endpoint
        self._has_answered = False

    async def answers(self, requests: Iterator[Request]) -> AsyncGenerator[list[Outcome], None]:
        """Yield the outcomes that have come since the last ones.

        Raises:
            InputError: The key, the address or the model is wrong, or nothing listens there.
        """
        in_flight: set[asyncio.Task[Outcome]] = set()
        async with self._client() as client:
            try:
                while True:
                    free = self._endpoint.concurrency - len(in_flight)
                    for request in islice(requests, free):
                        in_flight.add(asyncio.create_task(self._ask(client, request)))
                    if not in_flight:
                        return
                    done, in_flight = await asyncio.wait(
                        in_flight, return_when=asyncio.FIRST_COMPLETED
                    )
                    # before an error of one, the answers of the others: they are paid for
                    if outcomes := [task.result() for task in done if not task.exception()]:
                        yield outcomes
                    for task in done:
                        task.result()
            finally:
                for task in in_flight:
                    task.cancel()
                await asyncio.gather(*in_flight, return_exceptions=True)

    def _client(self) -> "AsyncOpenAI":
        rate = self._endpoint.requests_per_minute
        return async_client(
            self._endpoint.url,
            self._endpoint.api_key,
            timeout_seconds=self._endpoint.timeout_seconds,
            retries=self._endpoint.retries,
            before_requests=() if rate is None else [Pace(rate)],
        )

    async def _ask(self, client: "AsyncOpenAI", request: Request) -> Outcome:
        import httpx2  # comes with openai

        openai, url = self._openai, self._endpoint.url
        try:
            response = await client.post(_PATH, cast_to=httpx2.Response, body=self._body(request))
        except openai.APITimeoutError:
            seconds = f"{self._endpoint.timeout_seconds:g} seconds"
            return request, Failure("time-out", f"{url}: no answer within {seconds}")
        except openai.APIConnectionError as error:
            reason = self._line(error.__cause__ or error)
            # a dropped connection is not: somebody listens
            if not self._has_answered and isinstance(error.__cause__, httpx2.ConnectError):
                raise InputError(f"{url}: cannot be reached: {reason}") from None
            return request, Failure("no connection", f"{url}: {reason}")
        except openai.APIStatusError as error:
            self._has_answered = True
            return request, self._refusal(error)
        try:
            answer = _parse(response.text, url, self.settings)
        except (ValueError, RecursionError):
            said = self._line(response.text)
            hint = "" if self._has_answered else self._path_hint()
            return request, Failure("malformed answer", f"{url}: no chat completion: {said}{hint}")
        self._has_answered = True
        return request, answer

    def _body(self, request: Request) -> dict[str, Any]:
        body = {**self.settings, "messages": [dict(turn) for turn in request.messages]}
        if self.settings["seed"] is not None:
            body["seed"] = request.seed
        return {name: value for name, value in body.items() if value is not None}

    def _refusal(self, error: "APIStatusError") -> Failure:
        """Return what one refused request is.

        Raises:
            InputError: Every other one would be refused too.
        """
        message = error.body.get("message") if isinstance(error.body, dict) else None
        said = self._line(message or error.response.text)
        where = self._endpoint.url.rstrip("/") + _PATH
        if error.status_code == 401:
            # `from None`: the traceback of `--debug` would print what the server says, unredacted
            raise InputError(f"{where}: set OPENAI_API_KEY to a valid key (401: {said})") from None
        if error.status_code == 404:
            model = self.settings["model"]
            raise InputError(
                f"{where}: no such address, or no model {model} (404: {said}){self._path_hint()}"
            ) from None
        return Failure(f"status {error.status_code}", f"{where}: {error.status_code}: {said}")

    def _path_hint(self) -> str:
        """Return a hint where the base lacks the path that nearly every server has."""
        base = self._endpoint.url.rstrip("/")
        if re.search(r"/v\d", base):
            return ""
        return f"; is it {base}/v1?"

    def _line(self, text: object) -> str:
        return said(text, self._endpoint.api_key)


class Pace:
    """Lets requests start at even intervals, so that no minute has more than so many.

    No bursts: a server's limit is rarely in step with our minutes.
    """

    def __init__(self, per_minute: float) -> None:
        self._interval = 60.0 / per_minute
        self._next = 0.0

    async def __call__(self, _request: object) -> None:
        """Wait for the next turn."""
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next)
        self._next = turn + self._interval
        await asyncio.sleep(turn - now)


_TEXT_PARTS = ("text", "output_text")
"""Kinds of parts that are the answer; thoughts, tool calls and refusals are not."""


def _text_of(content: Any) -> str:
    """Return an answer's text: text, or the text parts of a list of parts; blank where there is none.

    Raises:
        ValueError: It is something else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(map(_text_of, content))
    if not isinstance(content, Mapping):
        raise ValueError("no content of a message")
    if content.get("type", "text") not in _TEXT_PARTS:
        return ""
    text = content.get("text")
    return _text_of(text.get("value") if isinstance(text, Mapping) else text)


def _number(value: Any) -> int | None:
    """Return a number of tokens as an endpoint counts them, who may send it as a float or as text; None if it is none.

    Counting is no reason to lose an answer.
    """
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parse(text: str, url: str, settings: Mapping[str, Any]) -> Answer:
    """Return the answer in a response's body; what an endpoint adds, such as `reasoning_content`, is left.

    Args:
        text: The body.
        url: Where it comes from.
        settings: The request's; an answer without a reason that is shorter than its limit has ended.

    Raises:
        ValueError: It is no chat completion.
        RecursionError: It is nested too deeply to be one.
    """
    # an integer of thousands of digits is no number to Python, and no reason to lose the rest
    body = _mapping(json.loads(text.removeprefix("\ufeff"), parse_int=_digits))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise ValueError("no choices")
    message = choices[0].get("message")
    if not isinstance(message, Mapping):
        raise ValueError("no message")
    usage = _mapping(body.get("usage"))
    tokens = _number(usage.get("completion_tokens"))
    reason = choices[0].get("finish_reason")
    if not isinstance(reason, str) or not reason.strip():
        reason = _unsaid_reason(tokens, settings.get("max_tokens"))
    model = body.get("model")
    named = model if isinstance(model, str) and model else "a model without a name"
    return Answer(
        content=_text_of(message.get("content")),
        finish_reason=reason,
        source=f"{named} at {url}",
        prompt_tokens=_number(usage.get("prompt_tokens")),
        completion_tokens=tokens,
    )


def _unsaid_reason(tokens: int | None, limit: Any) -> str:
    """Return why an answer ended whose endpoint does not say so: by its length, where that is known."""
    if tokens is None or not isinstance(limit, int):
        return UNKNOWN
    return "stop" if tokens < limit else "length"


def _digits(text: str) -> int | float:
    return int(text) if len(text) <= _MAX_DIGITS else float(text)
