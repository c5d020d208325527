"""How uniapl talks to servers: which addresses make sense, the client that sends, what they say in one line.

The `openai` client sends. It knows time-outs, keys and certificates, and posts to any path, so that servers with
paths of their own (vLLM's, for weights) need no second client.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from uniapl.errors import InputError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_MESSAGE_CHARACTERS = 200
"""As much of what a server says as fits a line."""


def check_address(url: str, name: str, key_variable: str, example: str) -> None:
    """Refuse what is no address of a server, and one that holds a key: what stands in a URL ends in logs.

    Args:
        url: As the user gave it.
        name: Of the option, for messages.
        key_variable: Environment variable that a key belongs into.
        example: An address as it should be.

    Raises:
        InputError: It is no such address.
    """
    if "@" in url or "?" in url:
        raise InputError(f"{name}: a key belongs into {key_variable}, not into the URL")
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of a port or a bracket
        is_address = False
    if not is_address:
        raise InputError(f"{name} must be like {example}, got {url}")


def import_openai(purpose: str, extra: str) -> ModuleType:
    """Return the package `openai`.

    Args:
        purpose: What needs it, for the message.
        extra: Of uniapl, which brings it.

    Raises:
        InputError: It is missing.
    """
    try:
        return import_module("openai")
    except ModuleNotFoundError as error:
        raise InputError(f"{purpose} needs openai: pip install 'uniapl[{extra}]'") from error


def async_client(
    url: str,
    api_key: str | None,
    *,
    timeout_seconds: float,
    retries: int = 0,
    before_requests: Sequence[Callable[..., Any]] = (),
) -> "AsyncOpenAI":
    """Return a client for one event loop; nothing is sent yet.

    Args:
        url: Paths are added to it.
        api_key: None: for servers that ask for none.
        timeout_seconds: Without a byte from the server.
        retries: The client's own: after failed connections, time-outs and the statuses 408, 409, 429 and 5xx.
        before_requests: Awaited before every request, retries included.
    """
    openai = import_module("openai")
    # as hooks of the HTTP client, because the openai client's own retries count too
    hooks = {"request": list(before_requests)}
    with _own_environment(url):
        return openai.AsyncOpenAI(
            base_url=url,
            api_key=api_key or "none",
            timeout=timeout_seconds,
            max_retries=retries,
            http_client=openai.DefaultAsyncHttpx2Client(event_hooks=hooks),
        )


def said(text: object, api_key: str | None) -> str:
    """Return text of a server or library in one short line, without the key."""
    line = " ".join(str(text).split())
    if api_key is not None:
        line = line.replace(api_key, "***")
    if len(line) <= _MESSAGE_CHARACTERS:
        return line
    return line[: _MESSAGE_CHARACTERS - 3] + "..."


@contextmanager
def _own_environment(url: str) -> Iterator[None]:
    """Hide OpenAI's variables from its client, which would send what they hold (OPENAI_ORG_ID) to any address.

    OpenAI itself may have them. The key is uniapl's to give: it is named in the command's help.
    """
    host = urlsplit(url).hostname or ""
    is_openai = host == "openai.com" or host.endswith(".openai.com")
    hidden = {} if is_openai else {n: v for n, v in os.environ.items() if n.startswith("OPENAI_")}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
