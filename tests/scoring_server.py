"""A small HTTP server on loopback that answers as vLLM does where a discriminator asks: with real tiny models.

`spoil` changes an answer before it is sent, or hangs up (None), so that every failure can be replayed.
"""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from servers import Reply
from transformers import PreTrainedModel, PreTrainedTokenizerFast

Spoil = Callable[[str, dict[str, Any], dict[str, Any]], Reply | None]
"""Path, request and right answer to what is sent."""


def as_it_is(path: str, body: dict[str, Any], answer: dict[str, Any]) -> Reply | None:
    return 200, {}, json.dumps(answer)


def only(path: str, change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Let `change` return what is sent in the place of the answers of one path: JSON, text, or None to hang up."""

    def spoil(asked: str, body: dict[str, Any], answer: dict[str, Any]) -> Reply | None:
        if asked != path:
            return as_it_is(asked, body, answer)
        changed = change(answer)
        if changed is None or isinstance(changed, tuple):
            return changed
        return 200, {}, changed if isinstance(changed, str) else json.dumps(changed)

    return spoil


class ScoringServer:
    """Serves a language model or a scorer."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        names: tuple[str, ...] = ("served",),
        context: int = 512,
        by_token: bool = False,
        spoil: Spoil = as_it_is,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.names, self.context, self.by_token, self.spoil = names, context, by_token, spoil
        self.asked: list[tuple[str, dict[str, Any]]] = []
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: dict[str, Any]) -> None:
                with lock:  # the models are no more thread-safe than they must be
                    outer.asked.append((self.path, body))
                    right = outer.answer(self.path, body)
                given = outer.spoil(self.path, body, right)
                if given is None:
                    self.close_connection = True
                    return
                status, headers, text = given
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign] - clients go away
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "ScoringServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return what vLLM would."""
        if path == "/v1/models":
            return {"data": [{"id": n, "max_model_len": self.context} for n in self.names]}
        assert body["model"] in self.names
        if path == "/tokenize":
            ids = self._ids(body)
            return {"tokens": ids, "count": len(ids), "max_model_len": self.context}
        if path == "/detokenize":
            return {"prompt": self.tokenizer.decode(body["tokens"])}
        if path == "/pooling":
            return {"data": [self._pooled(i, text) for i, text in enumerate(body["input"])]}
        assert path == "/v1/completions"
        assert body["max_tokens"] == 1
        choices = [
            {"index": i, "text": "x", "prompt_logprobs": self._prompt_logprobs(ids)}
            for i, ids in enumerate(body["prompt"])
        ]
        return {"choices": choices[::-1]}  # the order is told by the index

    def _ids(self, body: dict[str, Any]) -> list[int]:
        if "prompt" in body:
            return self.tokenizer(body["prompt"])["input_ids"]
        text = self.tokenizer.apply_chat_template(
            body["messages"],
            tokenize=False,
            add_generation_prompt=body["add_generation_prompt"],
            **body.get("chat_template_kwargs", {}),
        )
        return self.tokenizer.encode(str(text), add_special_tokens=False)

    @torch.no_grad()
    def _pooled(self, index: int, text: str) -> dict[str, Any]:
        ids = self.tokenizer(text)["input_ids"]
        score = self.model(input_ids=torch.tensor([ids])).logits[0, 0].item()
        rows = [[0.0]] * (len(ids) - 1) + [[score]]
        return {"index": index, "object": "pooling", "data": rows if self.by_token else [score]}

    @torch.no_grad()
    def _prompt_logprobs(self, ids: list[int]) -> list[dict[str, Any] | None]:
        logprobs = self.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        entries: list[dict[str, Any] | None] = [None]
        for place, token in enumerate(ids[1:]):
            best = int(logprobs[place].argmax())
            entries.append(
                {
                    str(i): {"logprob": logprobs[place, i].item(), "decoded_token": "?"}
                    for i in dict.fromkeys((token, best))
                }
            )
        return entries


def hang(seconds: float) -> Callable[[dict[str, Any]], None]:
    """Say nothing for so long, then hang up."""

    def wait(answer: dict[str, Any]) -> None:
        time.sleep(seconds)

    return wait
