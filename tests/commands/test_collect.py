"""`uniapl collect` as its user meets it: `transformers serve` with the miniature, kills, wrong words, secrets."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import GREEDY, collect, plain, summary
from servers import PATIENCE_SECONDS, Reply, Server, completion, forward_to, transformers_serve

from uniapl.data.chat import Chat
from uniapl.data.readers import load_demonstrations
from uniapl.miniature import DATA, MODEL

KEY = "sk-loopback-0123456789"
MODEL_NAME = ("--model", "m")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL and name of the miniature behind `transformers serve`."""
    folder = tmp_path_factory.mktemp("served") / "miniature"
    with transformers_serve(folder) as url:
        yield url, str(folder)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Eight prompts of the miniature's task."""
    path = tmp_path / "prompts.jsonl"
    lines = (DATA / "prompts.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:8]))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "uniapl.cli", "collect", *map(str, words)]


def test_the_endpoint_and_the_same_model_here_say_the_same(
    served: tuple[str, str], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    url, name = served
    there, here = tmp_path / "there.jsonl", tmp_path / "here.jsonl"
    options = (*GREEDY, "--min-pass", "0.3")
    assert collect(prompts, "--output", there, "--endpoint", url, "--model", name, *options) == 0
    assert f"wrote {there}\n" in capsys.readouterr().out
    assert collect(prompts, "--output", here, "--local", MODEL, *options) == 0
    assert rows(there) == rows(here)
    first = rows(there)[0]
    assert set(first) == {"key", "prompt", "completion", "instruction_id_list", "kwargs", "topic"}
    counted, local = summary(there), summary(here)
    assert counted["num_asked"] == counted["finish_reasons"]["stop"] == 8
    assert counted["first_answers"] == local["first_answers"]
    assert 0 < counted["num_demonstrations"] == len(rows(there)) < 8
    assert counted["completion_tokens"] == local["completion_tokens"]
    from transformers import AutoTokenizer

    demonstrations = load_demonstrations(there, Chat(AutoTokenizer.from_pretrained(MODEL)))
    assert [d.prompt.columns["topic"] for d in demonstrations] == [r["topic"] for r in rows(there)]


def test_the_best_of_several_comes_back_where_the_server_honours_seeds(
    served: tuple[str, str], prompts: Path, tmp_path: Path
):
    url, name = served
    # one at a time: this server's seed is the whole process's
    options = ("--samples", "2", "--keep", "2", "--limit", "3", "--concurrency", "1")
    outputs = [tmp_path / "1.jsonl", tmp_path / "2.jsonl", tmp_path / "3.jsonl"]
    for output, seed in zip(outputs, "001", strict=True):
        words = ("--endpoint", url, "--model", name, "--temperature", "1", "--min-pass", "0")
        assert collect(prompts, "--output", output, *words, *options, "--seed", seed) == 0
    assert rows(outputs[0]) == rows(outputs[1])
    assert rows(outputs[0]) != rows(outputs[2])
    answers = [row["completion"] for row in rows(outputs[0])]
    assert len(set(answers)) == len(answers)
    assert any(row["key"].endswith("-2") for row in rows(outputs[0]))


def test_killed_half_way_it_goes_on_and_asks_nothing_twice(
    served: tuple[str, str], prompts: Path, tmp_path: Path
):
    url, name = served
    forward, num_answered, num_in_flight = forward_to(url), 3, 2
    held, release, lock, number = threading.Semaphore(0), threading.Event(), threading.Lock(), [0]

    def reply(body: dict[str, Any]) -> Reply:
        with lock:
            number[0] += 1
            is_held = number[0] > num_answered
        if is_held and not release.is_set():
            held.release()
            release.wait(PATIENCE_SECONDS)
        return forward(body)

    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    words = ("--model", name, *GREEDY, "--min-pass", "0", "--concurrency", str(num_in_flight))
    with Server(reply) as proxy:
        asked = ("--output", broken, "--endpoint", proxy.url, *words)
        process = subprocess.Popen(command(prompts, *asked), stderr=subprocess.PIPE)
        for _ in range(num_in_flight):
            assert held.acquire(timeout=PATIENCE_SECONDS)
        process.kill()
        process.communicate()
        assert not broken.exists()
        first = [body["messages"] for body in proxy.bodies]
        release.set()
        assert collect(prompts, *asked) == 0
        second = [body["messages"] for body in proxy.bodies[len(first) :]]
        assert (len(first), len(second)) == (num_answered + num_in_flight, 8 - num_answered)
        unanswered = [turns for turns in first if turns in second]
        assert len(unanswered) == num_in_flight
        assert collect(prompts, *asked) == 0
        assert len(proxy.bodies) == len(first) + len(second)
    assert collect(prompts, "--output", whole, "--endpoint", url, *words) == 0
    assert broken.read_text() == whole.read_text()
    assert len(rows(whole)) == 8
    assert (summary(broken)["num_asked"], summary(broken)["num_from_cache"]) == (0, 8)


def test_ctrl_c_keeps_every_answer(tmp_path: Path):
    prompts = plain(tmp_path / "prompts.jsonl", "a", "b", "hang", "c")
    hanging, release = threading.Event(), threading.Event()

    def reply(body: dict[str, Any]) -> Reply:
        if body["messages"][0]["content"] == "hang":
            hanging.set()
            release.wait(PATIENCE_SECONDS)
        return completion("x")

    output = tmp_path / "out.jsonl"
    with Server(reply) as server:
        words = ("--output", output, "--endpoint", server.url, *MODEL_NAME, "--concurrency", "1")
        process = subprocess.Popen(
            command(prompts, *words),
            stderr=subprocess.PIPE,
            text=True,
            # a shell that runs the tests in the background lets its children ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert hanging.wait(PATIENCE_SECONDS)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        release.set()
        assert process.returncode == 130
        assert stderr.splitlines()[-1] == "interrupted"
        assert "Traceback" not in stderr
        assert not output.exists()
        assert collect(prompts, *words) == 0
    assert [body["messages"][0]["content"] for body in server.bodies] == [
        *"ab",
        "hang",
        "hang",
        "c",
    ]
    assert len(rows(output)) == 4


def test_what_failed_is_said_and_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prompts = plain(tmp_path / "prompts.jsonl", "a", "b", "a", "c")
    is_down = [True]

    def reply(body: dict[str, Any]) -> Reply:
        is_bad = body["messages"][0]["content"] == "b" and is_down[0]
        return (500, {}, "out of memory") if is_bad else completion("x")

    output = tmp_path / "out.jsonl"
    # the repeated prompt is left out; its key would have to be another anyway
    lines = prompts.read_text().splitlines()
    lines[2] = json.dumps({"key": "again", "prompt": "a"})
    prompts.write_text("\n".join(lines))
    with Server(reply) as server:
        words = ("--output", output, "--endpoint", server.url, *MODEL_NAME, "--retries", "0")
        assert collect(prompts, *words) == 1
        shown = capsys.readouterr()
        assert shown.err.endswith(
            "error: 1 of 3 prompts lack an answer "
            f"(first: {server.url}/chat/completions: 500: out of memory); "
            "the same command again asks for what is missing\n"
        )
        assert "2 demonstrations from 3 prompts\n" in shown.out
        assert "1 requests failed: status 500\n" in shown.out
        assert [row["key"] for row in rows(output)] == ["a", "c"]
        assert summary(output)["num_repeated_prompts"] == 1
        is_down[0] = False
        assert collect(prompts, *words) == 0
    assert [row["key"] for row in rows(output)] == ["a", "b", "c"]
    assert len(server.bodies) == 4
    assert not list(tmp_path.glob(".*"))


def test_answers_from_another_server_are_shown_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts = plain(tmp_path / "prompts.jsonl", "a", "b")
    output = tmp_path / "out.jsonl"
    with Server(lambda _: completion("x")) as one, Server(lambda _: completion("y")) as other:
        words = ("--output", output, *MODEL_NAME)
        assert collect(prompts, *words, "--endpoint", one.url, "--limit", "1") == 0
        assert "more than one source" not in capsys.readouterr().out
        assert collect(prompts, *words, "--endpoint", other.url) == 0
    assert len(other.bodies) == 1
    shown = capsys.readouterr().out
    assert "answers come from more than one source:\n" in shown
    assert f"served at {one.url}\n" in shown


def test_no_demonstration_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "out.jsonl"
    output.write_text("of an earlier run")
    with Server(lambda _: completion("cut off", "length")) as server:
        prompts = plain(tmp_path / "prompts.jsonl", "a")
        words = ("--output", output, "--endpoint", server.url, *MODEL_NAME)
        assert collect(prompts, *words) == 1
    assert "no answer became a demonstration" in capsys.readouterr().err
    assert output.read_text() == "of an earlier run"
    assert summary(output)["prompts_left_out"] == {"finish reason length": 1}


def test_the_key_is_nowhere(tmp_path: Path):
    """Not in what is written, and not in what is printed, however much is asked to be printed."""
    prompts = plain(tmp_path / "prompts.jsonl", "a", "b", "c")

    def reply(body: dict[str, Any]) -> Reply:
        said = {"error": {"message": f"key {KEY} is not good enough"}}
        status = {"a": 200, "b": 500, "c": 401}[body["messages"][0]["content"]]
        return completion("x") if status == 200 else (status, {}, json.dumps(said))

    environment = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug"}
    shown = ""
    with Server(reply) as server:
        for limit, status in (("2", 1), ("3", 2)):
            words = ("--output", tmp_path / "out.jsonl", "--endpoint", server.url, *MODEL_NAME)
            options = ("--retries", "0", "--limit", limit, "--concurrency", "1", "--debug")
            done = subprocess.run(
                command(prompts, *words, *options),
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
                env=environment,
            )
            assert done.returncode == status, done.stderr
            shown += done.stdout + done.stderr
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
    assert "Traceback" in shown
    assert "key *** is not good enough" in shown
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"served at" in written
    for secret in (KEY, KEY[3:]):
        assert secret not in shown
        assert secret.encode() not in written


def test_an_endpoint_needs_no_torch(tmp_path: Path):
    prompts = plain(tmp_path / "prompts.jsonl", "a")
    code = (
        "import sys; from uniapl.cli import main; status = main(sys.argv[1:]); "
        "print(status, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    with Server(lambda _: completion("x")) as server:
        words = [
            "collect",
            prompts,
            "--output",
            tmp_path / "out",
            "--endpoint",
            server.url,
            *MODEL_NAME,
        ]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


URL = ("--endpoint", "http://127.0.0.1:9/v1", *MODEL_NAME)
LOCAL = ("--local", str(MODEL))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give an --endpoint, or a --local model; one of the two"),
        ((*URL, *LOCAL), "give an --endpoint, or a --local model; one of the two"),
        (URL[:2], "--endpoint needs --model"),
        ((*LOCAL, "--model", "m"), "--model has no effect on a --local model"),
        ((*URL, "--dtype", "bfloat16"), "--dtype has no effect on an --endpoint"),
        ((*LOCAL, "--top-p", "0.5"), "--top-p has no effect on a --local model"),
        ((*URL, "--keep", "2"), "--keep must be between 1 and --samples 1, got 2"),
        ((*URL, "--keep", "0"), "--keep must be between 1 and --samples 1, got 0"),
        ((*URL, "--samples", "2", "--temperature", "0"), "--temperature 0 gives the same answer"),
        ((*URL, "--min-pass", "1.5"), "--min-pass must be between 0 and 1, got 1.5"),
        ((*URL, "--max-repetition", "1.5"), "--max-repetition must be between 0 and 1, got 1.5"),
        ((*URL, "--temperature", "nan"), "--temperature must be between 0 and 2, got nan"),
        ((*URL, "--max-tokens", "0"), "--max-tokens must be at least 1, got 0"),
        ((*URL, "--extra-body", "{"), "--extra-body is not JSON: "),
        ((*URL, "--extra-body", "[]"), "--extra-body must be a JSON object, got []"),
        ((*LOCAL, "--extra-body", '{"top_k": 1}'), "--extra-body of a --local model may only be"),
        ((*URL, "--limit", "0"), "limit must be at least 1, got 0"),
        (("--endpoint", "127.0.0.1", *MODEL_NAME), "--endpoint must be like http://"),
        (("--endpoint", "http://[::1", *MODEL_NAME), "--endpoint must be like http://"),
        (("--endpoint", "http://localhost:abc/v1", *MODEL_NAME), "--endpoint must be like http://"),
        (("--endpoint", "ftp://me:secret@a/v1", *MODEL_NAME), "--endpoint: a key belongs into"),
        ((*URL, "--extra-body", '{"x": NaN}'), "--extra-body is not JSON: NaN"),
        ((*URL, "--retries", "0"), "http://127.0.0.1:9/v1: cannot be reached: "),
    ],
)
def test_wrong_words_are_one_line(
    words: tuple[str, ...],
    message: str,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert collect(prompts, "--output", tmp_path / "out.jsonl", *words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "out.jsonl").exists()


def test_the_output_never_overwrites_the_prompts(prompts: Path, capsys: pytest.CaptureFixture[str]):
    assert collect(prompts, "--output", prompts, *URL) == 2
    assert capsys.readouterr().err == "error: --output would overwrite the prompts\n"


@pytest.mark.parametrize(
    ("output", "cache", "message"),
    [
        ("out.jsonl", "out.jsonl", "the cache would overwrite --output"),
        ("out.jsonl", "out.summary.json", "the cache would overwrite the summary"),
        ("out.jsonl", "prompts.jsonl", "the cache would overwrite the prompts"),
        ("folder", "c.sqlite", "--output: {tmp_path}/folder is a folder"),
        ("prompts.jsonl/out.jsonl", "c.sqlite", "--output: {tmp_path}/prompts.jsonl/out.jsonl: "),
    ],
)
def test_files_that_cannot_be_are_refused_before_the_first_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, cache: str, message: str
):
    prompts = plain(tmp_path / "prompts.jsonl", "a")
    (tmp_path / "folder").mkdir()
    with Server(lambda _: completion("x")) as server:
        words = ("--endpoint", server.url, *MODEL_NAME, "--cache", tmp_path / cache)
        assert collect(prompts, "--output", tmp_path / output, *words) == 2
        assert not server.bodies
    error = capsys.readouterr().err
    assert error.startswith("error: " + message.format(tmp_path=tmp_path))
    assert error.count("\n") == 1


def test_columns_that_no_file_can_hold_are_found_before_the_first_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a", "topic": "\\ud800"}\n')
    with Server(lambda _: completion("x")) as server:
        words = ("--output", tmp_path / "out", "--endpoint", server.url, *MODEL_NAME)
        assert collect(prompts, *words) == 2
        assert not server.bodies
    assert "`topic` holds half a surrogate pair" in capsys.readouterr().err


def test_instructions_are_checked_before_the_first_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts = tmp_path / "prompts.jsonl"
    row = {"prompt": "a", "instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]}
    prompts.write_text('{"prompt": "fine"}\n' + json.dumps(row))
    with Server(lambda _: completion("x")) as server:
        words = ("--output", tmp_path / "out", "--endpoint", server.url, *MODEL_NAME)
        assert collect(prompts, *words) == 2
    assert capsys.readouterr().err.startswith(f"error: {prompts}:2: ")
    assert server.bodies == []


def test_another_server_with_a_model_of_the_same_name_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts, out = plain(tmp_path / "p.jsonl", "a"), tmp_path / "out.jsonl"
    for text in ("first", "second"):
        with Server(lambda _, text=text: completion(text)) as server:
            assert collect(prompts, "--output", out, "--endpoint", server.url, *MODEL_NAME) == 0
        shown = capsys.readouterr().out
        is_said = "all answers are from the cache, and from another address" in shown
        assert is_said == (text == "second")


def test_an_endpoint_whose_template_opens_the_thought(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts, out = plain(tmp_path / "p.jsonl", "a"), tmp_path / "out.jsonl"
    with Server(lambda _: completion("a plan\n</think>\n\nan answer")) as server:
        words = (prompts, "--output", out, "--endpoint", server.url, *MODEL_NAME)
        assert collect(*words) == 0
        assert json.loads(out.read_text())["completion"] == "a plan\n</think>\n\nan answer"
        assert "1 demonstrations hold a </think> that nothing opened" in capsys.readouterr().out
        assert collect(*words, "--begins-thinking") == 0
        assert json.loads(out.read_text())["completion"] == "an answer"
        assert summary(out)["num_asked"] == 0
        assert "that nothing opened" not in capsys.readouterr().out
        assert collect(prompts, "--output", out, "--local", "m", "--begins-thinking") == 2


@pytest.mark.parametrize("flag", ["--system-prompt", "--model"])
def test_options_that_no_request_can_hold(
    prompts: Path, flag: str, capsys: pytest.CaptureFixture[str]
):
    words = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "m", flag, "a\ud83c")
    assert collect(prompts, "--output", prompts.with_name("o"), *words) == 2
    assert f"{flag} holds half a surrogate pair" in capsys.readouterr().err
