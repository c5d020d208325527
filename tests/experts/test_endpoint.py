"""An endpoint as the expert, against real HTTP servers on loopback."""

import asyncio
import json
import threading
import time
from itertools import count
from typing import Any

import pytest
from servers import PATIENCE_SECONDS, Reply, Server, completion

from uniapl.errors import InputError
from uniapl.experts import (
    Answer,
    Endpoint,
    EndpointExpert,
    Failure,
    Outcome,
    request_settings,
)
from uniapl.experts.answers import make_request
from uniapl.experts.endpoint import Pace

KEY = "sk-loopback-0123456789"


def ask(url: str, texts: list[str], **options: Any) -> dict[str, Answer | Failure]:
    """Ask one question per text; returns outcomes by text."""
    names = ("temperature", "top_p", "max_tokens", "seed", "extra_body")
    sampling = {name: options.pop(name) for name in names if name in options}
    settings = request_settings("m", **sampling)
    expert = EndpointExpert(Endpoint(url, **options), settings)
    requests = [make_request(settings, [{"role": "user", "content": t}], 0) for t in texts]

    async def collect() -> list[Outcome]:
        return [o async for outcomes in expert.answers(iter(requests)) for o in outcomes]

    outcomes = asyncio.run(collect())
    assert len(outcomes) == len(texts)
    return {request.messages[0]["content"]: outcome for request, outcome in outcomes}


def refuse(status: int, body: Any = "no", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, body if isinstance(body, str) else json.dumps(body)


def test_what_is_sent_and_what_comes_back():
    with Server(lambda body: completion(body["messages"][-1]["content"] + "!")) as server:
        extra = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": None}
        outcomes = ask(
            server.url, ["a"], temperature=0.5, max_tokens=9, api_key=KEY, extra_body=extra
        )
    assert outcomes == {"a": Answer("a!", "stop", f"served at {server.url}", 5, 3)}
    (body,) = server.bodies
    own = request_settings("m", temperature=0.5, max_tokens=9, extra_body=extra)
    request = make_request(own, [{"role": "user", "content": "a"}], 0)
    assert 0 < request.seed == body.pop("seed") < 2**31
    assert body == {
        "path": "/v1/chat/completions",
        "model": "m",
        "messages": [{"role": "user", "content": "a"}],
        "temperature": 0.5,
        "max_tokens": 9,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_request_is_known_by_everything_that_decides_its_answer():
    turns = [{"role": "user", "content": "a"}]

    def key(messages: Any = turns, sample: int = 0, **settings: Any) -> str:
        return make_request(request_settings("m", **settings), messages, sample).key

    others = [
        key(sample=1),
        key([{"role": "user", "content": "b"}]),
        key([{"role": "system", "content": "s"}, *turns]),
        key(temperature=1.0),
        key(temperature=0.5),
        key(top_p=0.5),
        key(max_tokens=5),
        key(seed=1),
        key(extra_body={"top_k": 1}),
        make_request(request_settings("n"), turns, 0).key,
    ]
    assert len({key(), *others}) == 11
    assert key() == key(list(turns))
    seeds = {make_request(request_settings("m"), turns, sample).seed for sample in range(50)}
    assert len(seeds) == 50


def test_a_field_that_an_endpoint_refuses_can_be_left_out():
    with Server(lambda _: completion("x")) as server:
        ask(server.url, ["a"], extra_body={"seed": None, "random_seed": 3})
    assert "seed" not in server.bodies[0]
    assert server.bodies[0]["random_seed"] == 3
    for name in ("messages", "stream", "n", "seed", "temperature"):
        with pytest.raises(InputError, match=f"--extra-body cannot set {name}"):
            request_settings("m", extra_body={name: 1})


@pytest.mark.parametrize(
    ("reply", "content", "finish_reason"),
    [
        (completion("cut", "length"), "cut", "length"),
        (completion(None, "content_filter"), "", "content_filter"),
        (completion("x", choices=[{"message": {"content": "y"}}]), "y", "unknown"),
        (
            completion(
                None,
                choices=[
                    {
                        "finish_reason": "stop",
                        "message": {"content": "said", "reasoning_content": "thought", "refusal": None},
                    }
                ],
            ),
            "said",
            "stop",
        ),
    ],
)  # fmt: skip
def test_content_and_finish_reason(reply: Reply, content: str, finish_reason: str):
    with Server(lambda _: reply) as server:
        answer = ask(server.url, ["a"])["a"]
    assert isinstance(answer, Answer)
    assert (answer.content, answer.finish_reason) == (content, finish_reason)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        "[]",
        '{"choices": []}',
        '{"error": {"message": "upstream"}}',
        '{"choices": [{}]}',
    ],
)
def test_a_malformed_body_is_a_failure_that_shows_it(body: str):
    with Server(lambda _: (200, {}, body)) as server:
        failure = ask(server.url, ["a"], retries=0)["a"]
    assert failure == Failure("malformed answer", f"{server.url}: no chat completion: {body}")


def test_too_many_requests_waits_as_long_as_the_server_says():
    replies = iter([refuse(429, "slow down", Retry_After="1.2"), completion("x")])
    with Server(lambda _: next(replies)) as server:
        outcomes = ask(server.url, ["a"], retries=1)
    assert isinstance(outcomes["a"], Answer)
    first, second = server.times
    # without the header the client would have waited half a second at most
    assert second - first >= 1.2


def test_a_failing_server_is_asked_again_so_often_and_no_more():
    numbers = count()
    with Server(lambda _: refuse(500) if next(numbers) < 2 else completion("x")) as server:
        assert isinstance(ask(server.url, ["a"], retries=2)["a"], Answer)
    assert len(server.bodies) == 3
    numbers = count()
    with Server(lambda _: refuse(503, {"error": {"message": "busy\nnow"}})) as server:
        failure = ask(server.url, ["a"], retries=1)["a"]
    assert failure == Failure("status 503", f"{server.url}/chat/completions: 503: busy now")
    assert len(server.bodies) == 2


def test_a_refused_prompt_is_not_asked_again_and_costs_no_other():
    def reply(body: dict[str, Any]) -> Reply:
        is_long = body["messages"][0]["content"] == "long"
        return refuse(400, {"error": {"message": "too long"}}) if is_long else completion("x")

    with Server(reply) as server:
        outcomes = ask(server.url, ["a", "long", "b"])
    assert [type(outcomes[text]) for text in ("a", "long", "b")] == [Answer, Failure, Answer]
    assert outcomes["long"] == Failure(
        "status 400", f"{server.url}/chat/completions: 400: too long"
    )
    assert len(server.bodies) == 3


def test_a_server_that_says_nothing_is_given_up():
    has_ended = threading.Event()

    def hang(_: dict[str, Any]) -> Reply:
        has_ended.wait(PATIENCE_SECONDS)
        return completion("late")

    with Server(hang) as server:
        failure = ask(server.url, ["a"], timeout_seconds=0.3, retries=0)["a"]
        has_ended.set()
    assert failure == Failure("time-out", f"{server.url}: no answer within 0.3 seconds")


@pytest.mark.parametrize("order", [(completion("x"), None), (None, completion("x"))])
def test_a_connection_that_breaks_is_a_failure_first_or_later(order: tuple[Reply, ...]):
    replies = iter(order)
    with Server(lambda _: next(replies)) as server:
        outcomes = ask(server.url, ["a", "b"], retries=0, concurrency=1)
    failure, answer = (outcomes["ab"[order.index(reply)]] for reply in (None, completion("x")))
    assert isinstance(failure, Failure)
    assert failure.kind == "no connection"
    assert isinstance(answer, Answer)


def test_nobody_there_is_wrong_input():
    with Server(lambda _: completion("x")) as server:
        pass
    with pytest.raises(InputError, match=f"^{server.url}: cannot be reached: "):
        ask(server.url, ["a"], retries=0)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"set OPENAI_API_KEY to a valid key \(401: bad key \*\*\*\)$"),
        (404, r"no such address, or no model m \(404: bad key \*\*\*\)$"),
    ],
)
def test_a_wrong_key_or_model_ends_it_at_once_without_telling_the_key(status: int, message: str):
    with (
        Server(lambda _: refuse(status, {"error": {"message": f"bad key {KEY}"}})) as server,
        pytest.raises(InputError, match=message) as caught,
    ):
        ask(server.url, ["a", "b", "c"], api_key=KEY, concurrency=1)
    assert len(server.bodies) == 1
    # what `--debug` prints
    assert caught.value.__suppress_context__
    assert KEY not in repr(Endpoint(server.url, api_key=KEY))


def test_the_key_is_in_no_failure():
    with Server(lambda _: refuse(418, f"<p>your key\n{KEY}</p>" + "x" * 500)) as server:
        failure = ask(server.url, ["a"], api_key=KEY)["a"]
    assert isinstance(failure, Failure)
    assert KEY not in failure.message
    assert "your key ***</p>xxx" in failure.message
    assert len(failure.message) < 300


def test_so_many_at_a_time_and_no_more():
    together = threading.Barrier(3, timeout=PATIENCE_SECONDS)

    def reply(_: dict[str, Any]) -> Reply:
        together.wait()
        return completion("x")

    with Server(reply) as server:
        ask(server.url, [str(number) for number in range(9)], concurrency=3)
    assert server.most_in_flight == 3
    assert len(server.bodies) == 9


def test_requests_are_drawn_only_as_they_are_needed():
    drawn = 0

    def requests(settings: dict[str, Any]):
        nonlocal drawn
        for number in range(1000):
            drawn += 1
            yield make_request(settings, [{"role": "user", "content": str(number)}], 0)

    async def first(url: str) -> None:
        settings = request_settings("m")
        stream = EndpointExpert(Endpoint(url, concurrency=4), settings).answers(requests(settings))
        await anext(stream)
        await stream.aclose()

    with Server(lambda _: completion("x")) as server:
        asyncio.run(first(server.url))
    assert drawn == 4


def test_no_request_leaves_before_its_turn():
    async def leave() -> list[float]:
        pace, now = Pace(per_minute=600), asyncio.get_running_loop().time
        start, left = now(), []

        async def one() -> None:
            await pace(None)
            left.append(now() - start)

        await asyncio.gather(*(one() for _ in range(4)))
        await asyncio.sleep(0.15)  # a pause earns nothing but its own turn
        await asyncio.gather(one(), one())
        return left

    left = asyncio.run(leave())
    # late is what a busy machine is; early would be a fault
    assert all(time >= turn - 0.01 for time, turn in zip(left, (0, 0.1, 0.2, 0.3), strict=False))
    assert left[5] - left[3] >= 0.15 + 0.1 - 0.01


def test_the_pace_holds_for_retries_too():
    numbers = count()
    with Server(lambda _: refuse(500) if next(numbers) == 0 else completion("x")) as server:
        start = time.monotonic()
        options = {"requests_per_minute": 120, "concurrency": 3, "retries": 1}
        ask(server.url, ["a", "b", "c"], **options)
    assert len(server.bodies) == 4
    # the retry has the fourth turn, at 1.5 seconds; of its own it would come after half a second
    assert max(server.times) - start >= 1.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000/v1"}, "--endpoint must be like http://localhost:8000/v1"),
        ({"url": "ftp://a/v1"}, "--endpoint must be like"),
        ({"url": f"http://user:{KEY}@host/v1"}, "a key belongs into OPENAI_API_KEY"),
        ({"url": f"http://host/v1?key={KEY}"}, "a key belongs into OPENAI_API_KEY"),
        ({"api_key": f"{KEY}\nx"}, "OPENAI_API_KEY is blank or holds characters"),
        ({"api_key": ""}, "OPENAI_API_KEY is blank or holds characters"),
        ({"concurrency": 0}, "--concurrency must be between 1 and 1000, got 0"),
        ({"retries": -1}, "--retries must be between 0 and 1000, got -1"),
        ({"timeout_seconds": 0.0}, "--timeout must be above 0, got 0"),
        ({"requests_per_minute": float("nan")}, "--requests-per-minute must be above 0, got nan"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message) as caught:
        Endpoint(**{"url": "http://localhost/v1", **options})
    assert KEY not in str(caught.value)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(InputError, match=r"needs openai: pip install 'uniapl\[collect\]'$"):
        EndpointExpert(Endpoint("http://localhost/v1"), request_settings("m"))
