"""The connection to vLLM servers that score: which model they serve, requests in turn, retries, answers as JSON.

Only failed connections and the statuses 429 and 5xx are tried again. A server that hangs, dies, or answers anything
else ends the run in one line: its last checkpoint stays, and nothing is learned from half an answer.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from uniapl.errors import InputError, TrainingError
from uniapl.servers import async_client, check_address, import_openai, said

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY = "VLLM_API_KEY"
"""The environment variable that holds the servers' key, if they ask for one."""

CONCURRENCY = 16
"""Requests in flight per server, at most."""

LONGEST_WAIT_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server."""

    timeout_seconds: float = 300.0
    """For a whole answer; it is not asked again after that."""
    retries: int = 4
    first_wait_seconds: float = 0.5
    """Before the first retry; twice as long before each further one."""


PATIENCE = Patience()


Request = tuple[str, str, Mapping[str, Any] | None]
"""A server, a path below it, and a body; without one it is a GET."""


class Answer(NamedTuple):
    """What a server has said."""

    where: str
    """The address asked, for messages."""
    content: Any
    """Parsed JSON."""


class Servers:
    """Servers of one model, asked in turn.

    Requests run in a thread of their own, so that a notebook's event loop does not matter.
    """

    def __init__(
        self, urls: Sequence[str], model: str | None, patience: Patience | None = None
    ) -> None:
        """Connect, and find the model.

        Args:
            urls: Of the servers, with or without `/v1`.
            model: Its name; None: the only one that is served.
            patience: None: `PATIENCE`.

        Raises:
            InputError: A server cannot be reached, or does not serve the model.
        """
        self._openai = import_openai("discriminator.servers", "collect")
        self.patience = patience or PATIENCE
        self.urls = [url.rstrip("/").removesuffix("/v1") for url in urls]
        for url in self.urls:
            check_address(url, "discriminator.servers", KEY, "http://localhost:8000")
        self._key = os.environ.get(KEY)
        self._turn = count()
        try:
            listed = self._exchange([(url, "/v1/models", None) for url in self.urls])
            served = [
                self._served(url, model, answer)
                for url, answer in zip(self.urls, listed, strict=True)
            ]
        except TrainingError as error:
            raise InputError(f"discriminator.servers: {error}") from None
        if len({name for name, _ in served}) > 1:
            raise InputError(
                f"discriminator.servers: they serve different models, {', '.join(n for n, _ in served)}; "
                "name the one to ask in discriminator.path"
            )
        self.model = served[0][0]
        contexts = [context for _, context in served if context is not None]
        self.context = min(contexts, default=None)
        """Most tokens that all of them read, if they say so."""

    def post(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Send requests, to each server its share, and return the answers in their order.

        Args:
            path: Below the servers' addresses.
            bodies: Without `model`, which is added.

        Raises:
            TrainingError: A server does not answer, refuses, or does not answer with JSON.
        """
        return self._exchange(
            [
                (self.urls[next(self._turn) % len(self.urls)], path, {"model": self.model, **body})
                for body in bodies
            ]
        )

    def _exchange(self, requests: Sequence[Request]) -> list[Answer]:
        """Send requests at the same time and wait for all answers; of several errors, the first one counts."""

        async def everything() -> list[Answer]:
            async with AsyncExitStack() as stack:
                lines = {
                    url: _Line(
                        await stack.enter_async_context(
                            async_client(
                                url, self._key, timeout_seconds=self.patience.timeout_seconds
                            )
                        )
                    )
                    for url in {url for url, _, _ in requests}
                }
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._ask(lines, *one)) for one in requests]
            return [task.result() for task in tasks]

        found: Future[list[Answer]] = Future()

        def wait() -> None:
            try:
                found.set_result(asyncio.run(everything()))
            except BaseException as error:  # raised again where it is awaited
                found.set_exception(error)

        # a daemon: who gives up waiting (a second Ctrl-C) must not wait for the server
        Thread(target=wait, daemon=True).start()
        try:
            return found.result()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def _served(self, url: str, model: str | None, answer: Answer) -> tuple[str, int | None]:
        """Return the model's name at a server, and how many tokens it reads.

        Raises:
            InputError: It is not the only one, or not there.
            TrainingError: The server does not say.
        """
        where, content = answer
        entries = content.get("data") if isinstance(content, Mapping) else None
        found = {
            entry["id"]: entry.get("max_model_len")
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, Mapping) and isinstance(entry.get("id"), str)
        }
        if not found:
            raise TrainingError(f"{where}: no list of models, but {self._line(content)}")
        names = ", ".join(found)
        if model is None and len(found) > 1:
            raise InputError(
                f"discriminator.path: {url} serves several models; name one of {names}"
            )
        name = model or next(iter(found))
        if name not in found:
            raise InputError(f"discriminator.path: {url} serves no model {name!r}, but {names}")
        context = found[name]
        return name, context if isinstance(context, int) else None

    async def _ask(
        self, lines: Mapping[str, "_Line"], url: str, path: str, body: Mapping[str, Any] | None
    ) -> Answer:
        """Send one request (None: GET) until it is answered, refused, or was tried often enough."""
        where, patience, openai = f"{url}{path}", self.patience, self._openai
        wait, reason = patience.first_wait_seconds, ""
        async with lines[url].slots:
            for attempt in range(patience.retries + 1):
                if attempt:
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                try:
                    async with asyncio.timeout(patience.timeout_seconds):
                        text = await _send(lines[url].client, path, body)
                    return Answer(where, self._parsed(text, where))
                except (TimeoutError, openai.APITimeoutError):
                    seconds = f"{patience.timeout_seconds:g} seconds"
                    raise TrainingError(f"{where}: no answer within {seconds}") from None
                except openai.APIConnectionError as error:
                    reason = f"no connection ({self._line(error.__cause__ or error)})"
                except openai.APIStatusError as error:
                    reason = f"{error.status_code}: {self._line(error.response.text)}"
                    if error.status_code == 401:
                        reason = f"set {KEY} to a valid key ({reason})"
                    if error.status_code != 429 and error.status_code < 500:
                        raise TrainingError(f"{where}: {reason}") from None
        times = f" ({patience.retries + 1} times)" if patience.retries else ""
        raise TrainingError(f"{where}: {reason}{times}")

    def _parsed(self, text: str, where: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise TrainingError(f"{where}: no JSON, but {self._line(text)!r}") from None

    def _line(self, text: object) -> str:
        return said(text, self._key)


class _Line:
    """A connection to one server, and how many requests it may carry at a time."""

    def __init__(self, client: "AsyncOpenAI") -> None:
        self.client = client
        self.slots = asyncio.Semaphore(CONCURRENCY)


async def _send(client: "AsyncOpenAI", path: str, body: Mapping[str, Any] | None) -> str:
    import httpx2  # comes with openai

    if body is None:
        response = await client.get(path, cast_to=httpx2.Response)
    else:
        response = await client.post(path, cast_to=httpx2.Response, body=body)
    return response.text
