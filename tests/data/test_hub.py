"""Data sets on the hub: a server on this machine stands for the hub, and a small module for the package `datasets`."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace

import pytest
from huggingface_hub import constants

from uniapl.data.rows import Problems
from uniapl.data.sources import read_rows
from uniapl.errors import InputError


class Hub(BaseHTTPRequestHandler):
    """Knows one data set, and counts what it is asked."""

    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        known = self.path == "/api/datasets/owner/name"
        body = json.dumps({"id": "owner/name"} if known else {"error": "no such repository"})
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


class Datasets(ModuleType):
    """What `uniapl` uses of the package: rows that say how they were asked for, from hub or cache."""

    def __init__(self, cached: bool):
        super().__init__("datasets")
        self.config = SimpleNamespace(HF_HUB_OFFLINE=False)
        self.cached = cached

    def load_dataset(self, name, subset, split):
        if self.config.HF_HUB_OFFLINE and not self.cached:
            raise ConnectionError("Couldn't reach it\n(offline)")
        if split == "tset":
            raise ValueError('Unknown split "tset".\nShould be one of ["test"].')
        offline = self.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
        return [{"name": name, "subset": subset, "split": split, "offline": offline}]


@pytest.fixture
def asked(monkeypatch):
    """Start a hub; its address is the libraries' own, and they are not offline."""
    handler = type("Asked", (Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def datasets(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module = Datasets(cached=False)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def read(source):
    return list(read_rows(source, Problems()))


def error_of(source):
    with pytest.raises(InputError) as caught:
        read(source)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "subset", "split"),
    [
        ("owner/name", None, "train"),
        ("owner/name:test", None, "test"),
        ("owner/name/main:test", "main", "test"),
        ("owner/name/1.0-en", "1.0-en", "train"),
        ("owner/name:train[:10%]", None, "train[:10%]"),
    ],
)
def test_name_subset_and_split(asked, source, subset, split):
    [row] = read(source)
    assert (row.number, row.where) == (1, f"{source} row 1")
    assert row.values == {
        "name": "owner/name",
        "subset": subset,
        "split": split,
        "offline": (False, False),
    }
    assert asked == ["/api/datasets/owner/name"]


def test_what_the_hub_does_not_have(asked):
    assert error_of("owner/gone") == (
        "owner/gone: no such file, and the hub has no data set owner/gone that you may read; for a private "
        "one log in first: hf auth login"
    )
    assert error_of("owner/name:tset") == (
        "owner/name:tset: no such file, and not a data set that could be loaded as owner/name/subset:split "
        '(ValueError: Unknown split "tset". Should be one of ["test"].)'
    )


def test_without_a_network_it_is_asked_once(monkeypatch, datasets, capfd, asked):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    start = time.monotonic()
    line = error_of("owner/name/main:test")
    assert time.monotonic() - start < 5
    assert line.startswith(
        "owner/name/main:test: no such file, and the hub cannot be reached (ConnectError: "
    )
    assert line.endswith(
        "); give a local file, or load it once with a network: the copy in the cache is then read"
    )
    assert "\n" not in line
    assert capfd.readouterr() == ("", "")
    datasets.cached = True
    [row] = read("owner/name")
    assert row.values["offline"] == (True, True)
    assert (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE) == (False, False)
    assert asked == []


def test_offline_by_choice_reads_the_cache(monkeypatch, datasets, asked):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    datasets.cached = True
    assert read("owner/name")[0].values["offline"] == (True, True)
    assert asked == []


def test_what_can_only_be_meant_as_a_file(asked, tmp_path):
    assert error_of("a/b/c/d").startswith("no such file: a/b/c/d")
    assert error_of("./name") == "no such file: ./name"
    assert error_of("name") == "no such file: name"
    assert error_of("owner/name.csv.gz").startswith("no such file: owner/name.csv.gz")
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name.jsonl").touch()
    assert error_of("owner/name") == "no such file: owner/name; did you mean owner/name.jsonl?"
    assert error_of("owner/name/main").startswith("no such file: owner/name/main (nor is there")
    assert asked == []
