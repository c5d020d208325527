"""One vLLM server as a run sees it: what it serves, its weights, its samples; and the ways in which it fails.

Every status is checked, every answer is read to its end, and nothing waits for ever: whatever a server does that it
should not ends the run in one line. Only a connection that fails is tried again: what a request asks for is the same
the second time, its seed included. The routes are those of `vllm serve` in development mode with `--enable-scale-out`.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from uniapl.errors import InputError, TrainingError
from uniapl.servers import async_client, said

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY = "rollout.servers"
ADAPTER = "uniapl-policy"
"""What a server calls the policy's adapter."""
_WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Before a connection is tried again."""
_GENERATE, _LOAD_ADAPTER = "/inference/v1/generate", "/v1/load_lora_adapter"
_HINTS = {
    _GENERATE: "start vLLM with --enable-scale-out",
    _LOAD_ADAPTER: "start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
}
_HINT = "start vLLM with VLLM_SERVER_DEV_MODE=1"
"""For all other paths that a server does not know."""
_CACHE_TRIES = 20
"""A prefix cache is emptied once nothing uses its blocks any more: asked again after a tenth of a second."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself."""

    dtype: str
    """Of its weights, such as `float32`."""
    context: int
    """Tokens of prompt and completion together, at most."""
    max_lora_rank: int | None
    """The largest adapter that it takes; None: none."""


@dataclass(frozen=True, slots=True)
class VllmServer:
    """Where a server is, and how long it may stay silent."""

    url: str
    """The root, such as http://127.0.0.1:8000, without `/v1`."""
    timeout_seconds: float
    api_key: str | None = field(default=None, repr=False)

    def connect(self) -> "Connection":
        """Return a connection for one event loop, to be used as an async context."""
        return Connection(self)

    def failed(self, path: str, what: str) -> TrainingError:
        """Return the error in which a run ends."""
        return TrainingError(f"{KEY}: {self.url}{path}: {what}")


class Connection:
    """Asks one server."""

    def __init__(self, server: VllmServer) -> None:
        self.server = server
        self._openai = import_module("openai")
        self._client: AsyncOpenAI = async_client(
            server.url, server.api_key, timeout_seconds=server.timeout_seconds
        )

    async def __aenter__(self) -> "Connection":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def facts(self) -> ServerFacts:
        """Return what the server says of itself.

        Raises:
            InputError: Its log-probs are not those of the distribution that it samples from.
            TrainingError: It does not answer as vLLM does.
        """
        path = "/server_info?config_format=json"
        config = _mapping((await self._get(path)).get("vllm_config"))
        model, lora = _mapping(config.get("model_config")), _mapping(config.get("lora_config"))
        context, dtype = model.get("max_model_len"), model.get("dtype")
        if not isinstance(context, int) or not isinstance(dtype, str):
            raise self.server.failed(path, "does not say max_model_len and dtype of its model")
        mode = model.get("logprobs_mode")
        if mode != "processed_logprobs":
            raise InputError(
                f"{KEY}: {self.server.url} returns {mode}, which are not the log-probs of what it samples from: "
                "start vLLM with --logprobs-mode processed_logprobs"
            )
        rank = lora.get("max_lora_rank")
        return ServerFacts(dtype.removeprefix("torch."), context, rank if lora else None)

    async def pause(self) -> None:
        """Stop sampling, so that no token is sampled by weights that are half old."""
        await self._expect("/pause?mode=abort", {}, status="paused")

    async def resume(self) -> None:
        """Sample again."""
        await self._expect("/resume", {}, status="resumed")

    async def reload(self, folder: str) -> None:
        """Take over the weights of a model folder that the server's machine can read under the same path."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        await self._post("/collective_rpc", body)

    async def load_adapter(self, folder: str) -> None:
        """Take over an adapter folder in the place of the adapter before."""
        body = {"lora_name": ADAPTER, "lora_path": folder, "load_inplace": True}
        await self._ask("POST", _LOAD_ADAPTER, body)

    async def name_weights(self, version: str) -> None:
        """Empty the prefix cache, whose keys and values are the old weights', and give the new ones a name."""
        for _ in range(_CACHE_TRIES):
            if (await self._post("/reset_prefix_cache", {})).get("success") is True:
                break
            await asyncio.sleep(0.1)
        else:
            raise self.server.failed("/reset_prefix_cache", "the cache of the old weights stays")
        await self._expect("/update_weight_version", {"new_version": version}, new_version=version)

    async def checksums(self) -> dict[str, str]:
        """Return a checksum of each of its tensors."""
        path = "/weight_checker"
        found = (await self._post(path, {"action": "checksum"})).get("checksums")
        if not isinstance(found, dict) or not found:
            raise self.server.failed(path, "names no tensor")
        return found

    async def zero_weights(self) -> None:
        """Set all its weights to 0."""
        await self._expect("/weight_checker", {"action": "reset"}, status="reset")

    async def changed_tensors(self, checksums: Mapping[str, str]) -> list[str]:
        """Return the names of tensors that are others than when the checksums were taken."""
        path = "/weight_checker"
        found = await self._post(path, {"action": "compare", "baseline": dict(checksums)})
        changed = found.get("mismatches")
        if not isinstance(changed, list) or found.get("match") is not (not changed):
            raise self.server.failed(path, f"does not compare: {self._line(found)}")
        return changed

    async def generate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request, unread."""
        return await self._post(_GENERATE, request)

    async def _expect(self, path: str, body: Mapping[str, Any], **wanted: str) -> None:
        found = await self._post(path, body)
        for name, value in wanted.items():
            if found.get(name) != value:
                raise self.server.failed(path, f"{name} is not {value}: {self._line(found)}")

    async def _get(self, path: str) -> dict[str, Any]:
        return self._object(path, await self._ask("GET", path))

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._object(path, await self._ask("POST", path, body))

    def _object(self, path: str, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.server.failed(path, f"answers no JSON object: {self._line(text)}")
        return found

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> str:
        """Return an answer's text.

        Raises:
            TrainingError: There is none, or its status is an error.
        """
        import httpx2  # comes with openai

        openai, server = self._openai, self.server
        for wait in (*_WAITS_SECONDS, None):
            try:
                if method == "GET":
                    response = await self._client.get(path, cast_to=httpx2.Response)
                else:
                    response = await self._client.post(path, cast_to=httpx2.Response, body=body)
                return response.text
            except openai.APITimeoutError:
                silence = (
                    f"no answer within {server.timeout_seconds:g} seconds (rollout.timeout_seconds)"
                )
                raise server.failed(path, silence) from None
            except openai.APIConnectionError as error:
                if wait is None:
                    reason = self._line(error.__cause__ or error)
                    tries = len(_WAITS_SECONDS) + 1
                    raise server.failed(path, f"no connection in {tries} tries: {reason}") from None
                await asyncio.sleep(wait)
            except openai.APIStatusError as error:
                hint = f"; {_HINTS.get(path, _HINT)}" if error.status_code == 404 else ""
                text = self._line(error.response.text)
                raise server.failed(path, f"status {error.status_code}: {text}{hint}") from None
        raise AssertionError("the last try returns or raises")

    def _line(self, text: object) -> str:
        return said(text, self.server.api_key)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
