"""`uniapl push` and `uniapl train --push-to-hub`, to a hub on loopback."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import USER, Hub
from tiny_runs import Tiny, tiny

from uniapl import cli

__all__ = ["tiny"]  # the fixture


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


def in_own_process(*words: str | Path, url: str, token: str = "token"):
    """As a user starts it, who has set the hub's variables."""
    own = {
        "HF_ENDPOINT": url,
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
    }
    return subprocess.run(
        [sys.executable, "-m", "uniapl", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **own},
    )


Uniapl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def uniapl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Uniapl:
    """Runs a command in this process; returns its status, its output and its errors.

    huggingface_hub has read its variables when it was imported, so they are set where it keeps them.
    """

    def run(*words: str | Path, url: str, token: str = "token") -> tuple[int, str, str]:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", token)
        capsys.readouterr()
        status = cli.main([*map(str, words)])
        output, errors = capsys.readouterr()
        return status, output, errors

    return run


QUICK = ("training.steps=1", "training.checkpoint_every=0", "evaluation.limit=1")


def test_a_run_is_pushed_when_it_is_done_and_again_by_hand(
    tiny: Tiny, hub: Hub, tmp_path: Path, uniapl: Uniapl
):
    run, name = tmp_path / "run", f"{USER}/first"
    train = ["train", tiny.config, f"output_dir={run}", *QUICK, "--push-to-hub", name]
    done = in_own_process(*train, url=hub.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"pushed: {hub.url}/{name}"
    policy = {file.name: file.read_bytes() for file in (run / "policy").iterdir()}
    assert hub.models == {name: policy}
    assert b"post-trained with `uniapl`" in policy["README.md"]
    assert [asked["visibility"] for asked in hub.created] == ["private"]
    # into the repository that is there, and into a new one for all
    hub.models[name].clear()
    for words in ([name], [f"{USER}/second", "--public"]):
        status, output, errors = uniapl("push", run, *words, url=hub.url)
        assert (status, output) == (0, f"pushed: {hub.url}/{words[0]}\n"), errors
    assert hub.models == {name: policy, f"{USER}/second": policy}
    assert hub.created[-1]["visibility"] == "public"


def test_what_cannot_be_pushed_is_one_line_and_trains_nothing(
    tiny: Tiny, hub: Hub, tmp_path: Path, uniapl: Uniapl
):
    run = tmp_path / "run"
    train = ["train", tiny.config, f"output_dir={run}", *QUICK, "--push-to-hub"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    cases = [
        ("first", hub.url, "token", "first: must be OWNER/NAME"),
        (f"{USER}/first", hub.url, "wrong", "cannot be pushed: the hub answers 401: Invalid user"),
        (f"{USER}/first", nowhere, "token", "cannot be pushed: Connect"),
    ]
    for name, url, token, said in cases:
        status, output, errors = uniapl(*train, name, url=url, token=token)
        assert (status, output) == (2, "")
        (line,) = errors.splitlines()
        assert line.startswith(f"error: {name}: ")
        assert said in line
        assert not run.exists()
    assert hub.models == {}


def test_a_hub_that_refuses_leaves_the_run_as_it_was(
    tiny: Tiny, hub: Hub, tmp_path: Path, uniapl: Uniapl
):
    run = tiny.train(tmp_path / "run", *QUICK)
    status, _, errors = uniapl("push", run, "others/first", url=hub.url)
    assert status == 1
    (line,) = errors.splitlines()
    assert line.startswith("error: others/first: cannot be pushed: the hub answers 403: You don't")
    assert "with a token that may write there" in line
    assert (run / "policy/model.safetensors").exists()
    for folder, said in ((tmp_path, "is no run folder"), (tiny.model, "is no run folder")):
        status, _, errors = uniapl("push", folder, f"{USER}/first", url=hub.url)
        assert (status, said in errors) == (2, True)
