"""A small HTTP server that plays vLLM: it answers on vLLM's paths with a real model, and misbehaves on demand.

What it answers was written down from vLLM 0.32. A real one does not fit a test: gigabytes, and a minute to start.
"""

import copy
import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch
from safetensors.torch import load_file
from servers import PATIENCE_SECONDS
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from uniapl.models.adapters import merge_adapter
from uniapl.rollout.decoding import decode

Draws = Callable[[int, int, int], Tensor]
"""Seed, number of completions, length limit → uniform numbers (0, 1], [completions, limit], float64."""


def seeded(seed: int, num: int, limit: int) -> Tensor:
    """Draw as a server would: the seed alone decides."""
    generator = torch.Generator().manual_seed(seed)
    return 1 - torch.rand((num, limit), generator=generator, dtype=torch.float64)


class PlayedVllm:
    """A server on loopback. `fault` names what it does wrong from then on; None: nothing.

    Args:
        model: Folder of the model that it starts with.
        takes_adapters: Whether it was started with `--enable-lora`.
        draws: What decides its samples.
    """

    def __init__(self, model: Path, *, takes_adapters: bool = False, draws: Draws = seeded) -> None:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model = self.base = loaded.eval()
        self.own = model
        self.takes_adapters, self.draws = takes_adapters, draws
        self.fault: str | None = None
        self.version, self.is_paused = "default", False
        self.paths: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.num_failed = 0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign] - clients hang up
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "PlayedVllm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End; nothing listens any more."""
        self._is_over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"] or 0))
                self._answer(json.loads(text or b"{}"))

            def _answer(self, body: dict[str, Any]) -> None:
                parts = urlsplit(self.path)
                status, text = outer.reply(parts.path, parse_qs(parts.query), body)
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if outer.is_half(parts.path):
                    data = data[: len(data) // 2]
                    self.close_connection = True
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def is_half(self, path: str) -> bool:
        """Whether an answer breaks off; `half an answer, once` does so for the first."""
        if path != "/inference/v1/generate":
            return False
        with self._lock:
            self.num_failed += 1
            is_first = self.num_failed == 1
        return self.fault == "half an answer" or (self.fault == "half an answer, once" and is_first)

    def reply(self, path: str, query: dict[str, Any], body: dict[str, Any]) -> tuple[int, str]:
        """Return status and text."""
        fault = self.fault
        with self._lock:
            self.paths.append(path)
        if fault == f"silence on {path}":
            self._is_over.wait(PATIENCE_SECONDS)
        if fault == f"500 on {path}":
            return 500, json.dumps({"error": {"message": "EngineCore encountered an issue"}})
        if fault == f"404 on {path}":
            return 404, json.dumps({"detail": "Not Found"})
        if fault == f"nonsense on {path}":
            return 200, "<html>"
        name = path.strip("/").replace("/", "_")
        with self._lock:
            answer = getattr(self, f"_{name}")(body, query)
        return 200, json.dumps(answer)

    def _server_info(self, _body: dict[str, Any], query: dict[str, Any]) -> dict[str, Any]:
        assert query["config_format"] == ["json"]
        mode = "raw_logprobs" if self.fault == "raw log-probs" else "processed_logprobs"
        model = {"logprobs_mode": mode, "dtype": "torch.float32", "max_model_len": 512}
        lora = {"max_lora_rank": 16} if self.takes_adapters else None
        return {"vllm_config": {"model_config": model, "lora_config": lora}}

    def _pause(self, _body: dict[str, Any], query: dict[str, Any]) -> dict[str, Any]:
        assert query["mode"] == ["abort"]
        self.is_paused = True
        return {"status": "paused"}

    def _resume(self, *_: Any) -> dict[str, Any]:
        self.is_paused = False
        return {"status": "resumed"}

    def _collective_rpc(self, body: dict[str, Any], _query: Any) -> dict[str, Any]:
        assert self.is_paused
        assert body["method"] == "reload_weights"
        folder = Path(body["kwargs"]["weights_path"])
        assert folder.is_absolute()
        folder = self.own if self.fault == "its own weights again" else folder
        self.base = copy.deepcopy(self.base)
        left_out = "model.layers.1.mlp.up_proj.weight" if self.fault == "a missing tensor" else None
        with torch.no_grad():
            for name, value in load_file(folder / "model.safetensors").items():
                if name != left_out:
                    self.base.get_parameter(name).copy_(value)
        self.model = self.base
        return {"results": [None]}

    def _weight_checker(self, body: dict[str, Any], _query: Any) -> dict[str, Any]:
        if body["action"] == "reset":
            self.base = copy.deepcopy(self.base)
            if self.fault != "a reset that resets nothing":
                for parameter in self.base.parameters():
                    parameter.data.zero_()
            return {"status": "reset"}
        found = {
            name: hashlib.sha256(parameter.detach().numpy().tobytes()).hexdigest()
            for name, parameter in self.base.named_parameters()
        }
        if body["action"] == "checksum":
            return {"checksums": found}
        mismatches = sorted(n for n in found if found[n] != body["baseline"].get(n))
        return {"match": not mismatches, "mismatches": mismatches}

    def _reset_prefix_cache(self, *_: Any) -> dict[str, Any]:
        return {"success": self.fault != "a cache that stays"}

    def _update_weight_version(self, body: dict[str, Any], _query: Any) -> dict[str, Any]:
        if self.fault != "a stale version":
            self.version = body["new_version"]
        return {"success": True, "new_version": body["new_version"]}

    def _v1_load_lora_adapter(self, body: dict[str, Any], _query: Any) -> str:
        assert self.takes_adapters
        assert body["load_inplace"]
        self.model = merge_adapter(copy.deepcopy(self.base), Path(body["lora_path"])).eval()
        return "Success"

    def _inference_v1_generate(self, body: dict[str, Any], _query: Any) -> dict[str, Any]:
        assert not self.is_paused
        assert not self.takes_adapters or body["model"] == "uniapl-policy"
        self.requests.append(body)
        asked = body["sampling_params"]
        assert asked["ignore_eos"]
        num, limit = asked["n"], asked["max_tokens"]
        with torch.no_grad():
            decoded = decode(
                self.model,
                [body["token_ids"]] * num,
                self.draws(asked["seed"], num, limit),
                max_tokens=limit,
                temperature=asked["temperature"],
                eos_token_ids=asked["stop_token_ids"],
            )
        choices = []
        for index, one in enumerate(decoded):
            entries = [
                {"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": []}
                for token, logprob in zip(one.token_ids, one.logprobs, strict=True)
            ]
            choices.append(
                {
                    "index": index,
                    "finish_reason": "stop" if one.has_ended else "length",
                    "stop_reason": None,
                    "token_ids": one.token_ids,
                    "logprobs": {"content": entries},
                    "weight_versions": [
                        {"version": self.version, "start": 0, "end": len(one.token_ids)}
                    ],
                }
            )
        prompt = body["token_ids"] if body.get("return_token_ids") else None
        answer = {"choices": choices, "prompt_token_ids": prompt}
        self._spoil(answer)
        return answer

    def _spoil(self, answer: dict[str, Any]) -> None:
        """Do to an answer what `fault` says."""
        choices, fault = answer["choices"], self.fault
        first = choices[0]
        entries = first["logprobs"]["content"]
        if fault == "another prompt":
            answer["prompt_token_ids"] = [1, *answer["prompt_token_ids"]]
        if fault == "a completion too few":
            choices.pop()
        if fault == "a completion twice":
            choices[-1]["index"] = 0
        if fault == "no choices":
            del answer["choices"]
        if fault == "no version":
            first["weight_versions"] = None
        if fault == "two versions":
            length = len(first["token_ids"])
            span = first["weight_versions"][0]
            first["weight_versions"] = [{**span, "end": 1}, {**span, "start": 1, "end": length}]
        if fault == "shifted ids":
            for entry in entries:
                entry["token_id"] += 1
        if fault == "ids of no token":
            first["token_ids"][0] = entries[0]["token_id"] = 10**6
        if fault == "an empty completion":
            first["token_ids"] = []
        if fault == "a log-prob too few":
            entries.pop()
        if fault == "no log-probs":
            first["logprobs"] = None
        if fault == "no log-prob for a token":
            entries[0]["logprob"] = -9999.0
        if fault == "a log-prob that is none":
            entries[0]["logprob"] = None
        if fault == "a probability above 1":
            entries[0]["logprob"] = 0.5
        if fault == "aborted":
            first["finish_reason"] = "abort"
        if fault == "cut early":
            first["token_ids"], first["finish_reason"] = [5], "length"
        if fault == "more after the end":
            first["token_ids"], first["finish_reason"] = [4, 4], "stop"
        if fault == "log-probs of the places before":
            for choice in choices:
                content = choice["logprobs"]["content"]
                values = [entry["logprob"] for entry in content]
                for entry, value in zip(content, [0.0, *values], strict=False):
                    entry["logprob"] = value
        if fault == "log-probs of another temperature":
            for choice in choices:
                for entry in choice["logprobs"]["content"]:
                    entry["logprob"] *= 1.5
