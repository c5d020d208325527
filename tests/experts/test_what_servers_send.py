"""What OpenAI-compatible servers really send, from real HTTP servers on loopback."""

import asyncio
import json
import os
from typing import Any

import pytest
from servers import Server, completion

from uniapl.errors import InputError
from uniapl.experts import Answer, Endpoint, EndpointExpert, Failure, judge, request_settings
from uniapl.experts.answers import make_request

KEY = "sk-loopback-0123456789"


def ask(url: str, **options: Any) -> Answer | Failure:
    """Ask one question."""
    settings = request_settings("m", max_tokens=options.pop("max_tokens", None))
    expert = EndpointExpert(Endpoint(url, **options), settings)
    request = make_request(settings, [{"role": "user", "content": "a"}], 0)

    async def outcome() -> Answer | Failure:
        (found,) = [o async for outcomes in expert.answers(iter([request])) for _, o in outcomes]
        return found

    return asyncio.run(outcome())


WHOLE = "A calm sea rests under the sky."
BODY = {"choices": [{"finish_reason": "stop", "message": {"content": WHOLE}}]}


def answer_of(choice: dict[str, Any], *, usage: Any = None, **options: Any) -> Answer | Failure:
    """Ask a server that answers with this choice."""
    body = {"model": "served", "choices": [choice], "usage": usage}
    with Server(lambda _: (200, {}, json.dumps(body))) as server:
        return ask(server.url, **options)


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        *(
            (r, "stop")
            for r in (
                "stop",
                "eos_token",
                "eos",
                "end_turn",
                "STOP",
                "stop_sequence",
                "Stop ",
                "COMPLETE",
            )
        ),
        *((r, "stop") for r in ("FINISH_REASON_STOP", "end-of-turn", None, "", 7)),
        *(
            (r, "length")
            for r in ("length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens")
        ),
        *(
            (r, "stop")
            for r in ("FinishReason.STOP", "finish_reason.stop", "endTurn", "stopSequence")
        ),
        *(
            (r, "stop")
            for r in ("eos_found", "<|im_end|>", "STOP_REASON_END_TURN", "<|endoftext|>")
        ),
        *(
            (r, "length")
            for r in ("maxTokens", "FinishReason.MAX_TOKENS", "STOP_REASON_MAX_TOKENS", "Length")
        ),
        ("FINISH_REASON_UNSPECIFIED", "FINISH_REASON_UNSPECIFIED"),
        ("content_filter", "content_filter"),
        ("tool_calls", "tool_calls"),
        ("SAFETY", "SAFETY"),
    ],
)
def test_what_servers_say_of_an_end(reason: Any, ending: str):
    message = {"role": "assistant", "content": WHOLE, "tool_calls": []}
    found = answer_of({"finish_reason": reason, "message": message})
    assert isinstance(found, Answer)
    assert (found.content, found.ending) == (WHOLE, ending)
    flaw = judge(found, {}).flaw
    assert flaw == (None if ending == "stop" else f"finish reason {ending}")


@pytest.mark.parametrize(
    ("content", "usage", "max_tokens", "ending"),
    [
        ("A calm sea rests", None, None, "unknown"),
        (WHOLE, None, None, "stop"),
        ("海很平静。", None, None, "stop"),
        ("A calm sea rests", {"completion_tokens": 4}, 9, "stop"),
        (WHOLE, {"completion_tokens": 9}, 9, "length"),
        (WHOLE, {"completion_tokens": "9"}, 9, "length"),
    ],
)
def test_an_end_without_a_word(content: str, usage: Any, max_tokens: int | None, ending: str):
    found = answer_of({"message": {"content": content}}, usage=usage, max_tokens=max_tokens)
    assert isinstance(found, Answer)
    assert found.ending == ending


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": WHOLE},
            ],
            WHOLE,
        ),
        (
            [{"type": "text", "text": "A "}, {"type": "output_text", "text": {"value": "sea."}}],
            "A sea.",
        ),
        (["A ", "sea."], "A sea."),
        ([{"type": "reasoning", "text": "hm"}, {"type": "refusal", "refusal": "no"}], ""),
        ({"type": "text", "text": "A sea."}, "A sea."),
        ([], ""),
        (None, ""),
    ],
)
def test_content_in_parts(content: Any, text: str):
    found = answer_of({"finish_reason": "stop", "message": {"content": content}})
    assert isinstance(found, Answer)
    assert found.content == text


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": [{"message": {"content": 5}}]}',
        '{"choices": null}',
        "[1]",
        "[" * 200_000,
        "<html>login</html>",
        '{"choices": [{"delta": {"content": "A"}}]}',
    ],
)
def test_what_is_no_chat_completion(body: str):
    with Server(lambda _: (200, {}, body)) as server:
        found = ask(server.url)
    assert isinstance(found, Failure)
    assert found.kind == "malformed answer"


def test_a_byte_order_mark_loses_no_answer():
    with Server(lambda _: (200, {}, "\ufeff" + json.dumps(BODY))) as server:
        found = ask(server.url)
    assert isinstance(found, Answer)
    assert found.content == WHOLE


def test_odd_counts_lose_no_answer():
    body = (
        '{"model": 7, "choices": [{"finish_reason": "stop", "logprob": NaN, "message": {"content": "A sea."}}],'
        ' "usage": {"prompt_tokens": 5.5, "completion_tokens": %s}}' % ("9" * 5000)
    )
    with Server(lambda _: (200, {}, body)) as server:
        found = ask(server.url)
    assert found == Answer("A sea.", "stop", f"a model without a name at {server.url}", 5, None)


def test_a_base_without_its_path_gets_a_hint():
    with Server(lambda _: (404, {}, '{"detail": "Not Found"}')) as server:
        base = server.url.removesuffix("/v1")
        with pytest.raises(InputError, match=rf"; is it {base}/v1\?$"):
            ask(base)
        with pytest.raises(InputError, match=r"Not Found\S*\)$"):
            ask(server.url)
    with Server(lambda _: (200, {}, "<html>")) as server:
        found = ask(server.url.removesuffix("/v1"))
        assert isinstance(found, Failure)
        assert found.message.endswith("/v1?")
    with pytest.raises(
        InputError, match=r"is the base that /chat/completions is added to: http://h/v1$"
    ):
        Endpoint("http://h/v1/chat/completions")


def test_variables_of_openai_go_to_no_other_address(monkeypatch: pytest.MonkeyPatch):
    secrets = {
        "OPENAI_ORG_ID": "org-secret",
        "OPENAI_PROJECT_ID": "proj-secret",
        "OPENAI_ADMIN_KEY": "admin-secret",
        "OPENAI_CUSTOM_HEADERS": "X-Mine: header-secret\nAuthorization: Bearer other-secret",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/secret",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    with Server(lambda _: completion("x")) as server:
        ask(server.url, api_key=KEY)
    (headers,) = server.headers
    assert "secret" not in json.dumps(headers)
    assert headers["authorization"] == f"Bearer {KEY}"
    assert {name: os.environ[name] for name in secrets} == secrets
