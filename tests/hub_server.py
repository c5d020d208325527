"""A hub on loopback that takes models: as much of its interface as pushing needs. `python tests/hub_server.py 8800`.

It knows one user, whose token is `token`, and keeps what it is sent; there is no real one to be had without a network.
"""

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER = "somebody"


class Hub:
    """Models by name → the files that were pushed, by path."""

    def __init__(self, port: int = 0) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(hub, None)

            def do_POST(self) -> None:
                self._answer(hub, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def _answer(self, hub: "Hub", sent: bytes | None) -> None:
                path = self.path.partition("?")[0]
                status, body = 401, {"error": "Invalid username or password."}
                if self.headers.get("Authorization") == "Bearer token":
                    status, body = hub.answer(path.removeprefix("/api/"), sent)
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, path: str, sent: bytes | None) -> tuple[int, dict[str, Any]]:
        """Return status and body of one request."""
        if path == "whoami-v2":
            return 200, {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}}
        if path == "validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "repos/create":
            asked = json.loads(sent or b"")
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != USER:
                return 403, {"error": f"You don't have the rights to create {name}."}
            self.created.append(asked)
            status = 409 if name in self.models else 200
            self.models.setdefault(name, {})
            return status, {"url": f"{self.url}/{name}"}
        kind, owner, name, *rest = path.split("/")
        model = self.models.get(f"{owner}/{name}")
        if kind != "models" or model is None:
            return 404, {"error": "Repository not found"}
        if rest[:1] == ["preupload"]:
            files = json.loads(sent or b"")["files"]
            said = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{"path": file["path"], **said} for file in files]}
        if rest[:1] == ["commit"]:
            for line in (sent or b"").splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    value = item["value"]
                    model[value["path"]] = base64.b64decode(value["content"])
            return 200, {"commitUrl": f"{self.url}/{owner}/{name}/commit/1", "commitOid": "1"}
        return 200, {"id": f"{owner}/{name}", "sha": "0", "siblings": [], "private": True}

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


if __name__ == "__main__":
    Hub(int(sys.argv[1])).http.serve_forever()
