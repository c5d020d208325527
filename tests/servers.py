"""Servers on loopback: a real one with the miniature, one that counts before it, one that misbehaves."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from uniapl.miniature import MODEL

PATIENCE_SECONDS = 600
"""A busy machine is no failure."""

Reply = tuple[int, dict[str, str], str]
"""Status, headers, body."""


class Server:
    """Answers POSTs with `reply(body)` and remembers every body and its headers.

    `reply` is called with the JSON body; None hangs up without an answer.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], Reply | None]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    outer.bodies.append({**json.loads(text), "path": self.path})
                    outer.headers.append({name.lower(): v for name, v in self.headers.items()})
                    outer.times.append(time.monotonic())
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                try:
                    given = reply(json.loads(text))
                finally:
                    with lock:
                        outer.in_flight -= 1
                if given is None:
                    self.close_connection = True
                    return
                status, headers, body = given
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign] - clients are killed
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def completion(content: str | None, finish_reason: str = "stop", **changes: Any) -> Reply:
    """Return a chat completion as endpoints send it."""
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "served",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        **changes,
    }
    return 200, {}, json.dumps(body)


def forward_to(url: str) -> Callable[[dict[str, Any]], Reply]:
    """Return a reply that asks another server."""

    def reply(body: dict[str, Any]) -> Reply:
        request = urllib.request.Request(
            f"{url}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
                return response.status, {}, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, {}, error.read().decode()

    return reply


@contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """Serve the miniature with `transformers serve`; yields its URL, the model's name is `folder`."""
    shutil.copytree(MODEL, folder)
    # Without it the server takes its architecture, Qwen3, for Qwen's chat format and returns prompts as well.
    config = folder / "tokenizer_config.json"
    content = {"close": "<|end|>", "content": "text"}
    template = {"start_anchor": "<|assistant|>", "fields": {"content": content}}
    config.write_text(json.dumps({**json.loads(config.read_text()), "response_template": template}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        sys.executable,
        "-c",
        "from transformers.cli.transformers import main; main()",
        "serve",
    ]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    process = subprocess.Popen(
        [*words, str(folder), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not start")
