"""Experts and scorers behind servers: right answers, and every wrong one in one line that trains on nothing."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from exact import plain_logprobs
from scoring_server import ScoringServer, Spoil, as_it_is, hang, only
from servers import Reply
from tiny import tiny_model, tiny_reward_model, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from uniapl.data.chat import Chat
from uniapl.discriminators.reader import PromptReader, check_context
from uniapl.discriminators.served import ServedExpert, ServedTexts
from uniapl.discriminators.servers import Patience, Servers
from uniapl.errors import InputError, TrainingError
from uniapl.models.packing import TokenSequence
from uniapl.types import Demonstration, Prompt

CPU = torch.device("cpu")
HASTY = Patience(timeout_seconds=20, retries=2, first_wait_seconds=0.01)
SEQUENCES = [TokenSequence((5, 6, 7), (30 + i, 31, 32 + i % 3, 4)) for i in range(20)]
TEXTS = [f"text {i}" for i in range(40)]


@contextmanager
def expert(
    spoil: Spoil = as_it_is, patience: Patience = HASTY, **settings: Any
) -> Iterator[tuple[ServedExpert, ScoringServer]]:
    with ScoringServer(tiny_model(), tiny_tokenizer(), spoil=spoil, **settings) as server:
        yield ServedExpert(Servers([server.url], None, patience), CPU), server


@contextmanager
def scorer(spoil: Spoil = as_it_is, **settings: Any) -> Iterator[ServedTexts]:
    with ScoringServer(tiny_reward_model(), tiny_tokenizer(), spoil=spoil, **settings) as server:
        yield ServedTexts(Servers([f"{server.url}/v1"], None, HASTY))


def test_log_probs_are_the_models() -> None:
    with expert() as (served, server):
        found = served.logprobs(SEQUENCES)
        expected = torch.cat([plain_logprobs(server.model, s, 1.0) for s in SEQUENCES])
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)
        assert server.paths().count("/v1/completions") == 3  # eight at a time


def test_several_servers_are_asked_in_turn() -> None:
    with (
        ScoringServer(tiny_model(), tiny_tokenizer(), context=100) as one,
        ScoringServer(tiny_model(), tiny_tokenizer(), context=90) as other,
    ):
        servers = Servers([one.url, other.url], None, HASTY)
        ServedExpert(servers, CPU).logprobs(SEQUENCES * 2)
        counts = [server.paths().count("/v1/completions") for server in (one, other)]
        assert sorted(counts) == [2, 3]
        assert servers.context == 90


@pytest.mark.parametrize("by_token", [False, True])
def test_scores_are_the_models(by_token: bool) -> None:
    with scorer(by_token=by_token) as served:
        found = served.scores(TEXTS)
        model, tokenizer = tiny_reward_model(), tiny_tokenizer()
        with torch.no_grad():
            expected = [
                model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits.item()
                for text in TEXTS
            ]
        assert found == pytest.approx(expected, abs=1e-5)
        assert served.count_tokens(["abc", "a"]) == [3, 1]


def test_a_prompt_is_rendered_by_the_experts_own_template_once() -> None:
    own = tiny_tokenizer()
    own.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{{ mood }}"
    with ScoringServer(tiny_model(), own) as server:
        servers = Servers([server.url], None, HASTY)
        served = ServedExpert(servers, CPU, template_arguments={"mood": "!"})
        reader = PromptReader(None, "{prompt} ({completion})", served.render)
        asked = Prompt("1", ({"role": "user", "content": "Hi"},), (5, 6))
        plain = tuple(own.encode("[Hi]!"))
        assert reader.prompt_ids(asked) == reader.prompt_ids(asked) == plain
        hinted = reader.prompt_ids(asked, Demonstration(asked, "Ho", (7, 4)))
        assert hinted == tuple(own.encode("[Hi (Ho)]!"))
        assert server.paths().count("/tokenize") == 2
        alone = ServedExpert(servers, CPU, has_template=False)
        assert alone.render(asked.messages) == tuple(own.encode("Hi"))


def changed_choice(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Change the first sequence's choice in an answer."""

    def apply(answer: dict[str, Any]) -> Any:
        choice = next(c for c in answer["choices"] if c["index"] == 0)
        change(choice)
        return answer

    return apply


def shifted(choice: dict[str, Any]) -> None:
    entries = choice["prompt_logprobs"]
    choice["prompt_logprobs"] = [None, *entries[2:], entries[1]]


def with_logprob(value: Any) -> Callable[[dict[str, Any]], None]:
    def change(choice: dict[str, Any]) -> None:
        entry = choice["prompt_logprobs"][4]
        entry["31"] = {"logprob": value}

    return change


def another_token(choice: dict[str, Any]) -> None:
    entry = choice["prompt_logprobs"][-1]
    entry["5"] = entry.pop("4")


WRONG_LOGPROBS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "status 500": (lambda _: (500, {}, "boom"), r"500: boom \(3 times\)"),
    "status 400": (lambda _: (400, {}, "too\nlong"), "400: too long"),
    "hangs up": (lambda _: None, r"no connection .*\(3 times\)"),
    "half an answer": (lambda a: json.dumps(a)[:50], "no JSON"),
    "cut off": (
        lambda a: (200, {"Content-Length": "10000", "Connection": "close"}, json.dumps(a)[:9]),
        "no (connection|answer within)",
    ),
    "a list": (lambda _: [], "without `choices`"),
    "no choices": (lambda a: {**a, "choices": None}, "without `choices`"),
    "one choice": (lambda a: {"choices": a["choices"][:1]}, r"1 of \d `choices`"),
    "twice the same": (lambda a: {"choices": [a["choices"][0]] * 8}, r"8 of \d `choices`"),
    "no log-probs": (
        changed_choice(lambda c: c.pop("prompt_logprobs")),
        "no prompt_logprobs; the expert needs a vLLM server",
    ),
    "short": (changed_choice(lambda c: c["prompt_logprobs"].pop()), "of 6 tokens, asked for 7"),
    "shifted": (changed_choice(shifted), "without token 6 at place 1"),
    "another token": (changed_choice(another_token), "without token 4 at place 6"),
    "a word": (changed_choice(with_logprob("low")), "token 31 at place 4 is 'low', not a number"),
    "NaN": (changed_choice(with_logprob(float("nan"))), "is nan, not a number"),
    "infinite": (changed_choice(with_logprob(float("-inf"))), "is -inf, not a number"),
    "none": (changed_choice(with_logprob(None)), "is None, not a number"),
    "true": (changed_choice(with_logprob(True)), "is True, not a number"),
    "above 0": (changed_choice(with_logprob(0.5)), "is 0.5, above 0"),
}


def assert_one_line(error: BaseException, server: str) -> None:
    assert "\n" not in str(error)
    assert "127.0.0.1" in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize("name", WRONG_LOGPROBS)
def test_wrong_log_probs_end_the_run_in_one_line(name: str) -> None:
    change, expected = WRONG_LOGPROBS[name]
    with expert(only("/v1/completions", change)) as (served, _):
        with pytest.raises(TrainingError, match=expected) as error:
            served.logprobs(SEQUENCES)
        assert_one_line(error.value, served.servers.urls[0])


def test_a_server_that_hangs_is_waited_for_once() -> None:
    patience = Patience(timeout_seconds=1, retries=5)
    spoil = only("/v1/completions", hang(3))
    with expert(patience=patience) as (served, server):
        server.spoil = spoil
        with pytest.raises(TrainingError, match="/v1/completions: no answer within 1 seconds"):
            served.logprobs(SEQUENCES[:1])
        assert server.paths().count("/v1/completions") == 1


def test_a_server_that_dies() -> None:
    with expert() as (served, _):
        served.logprobs(SEQUENCES[:1])
    with pytest.raises(TrainingError, match=r"no connection .*\(3 times\)"):
        served.logprobs(SEQUENCES)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    refused = 0

    def spoil(path: str, body: dict[str, Any], answer: dict[str, Any]) -> Reply | None:
        nonlocal refused
        if path == "/v1/completions" and refused < 2:
            refused += 1
            return status, {}, "busy"
        return as_it_is(path, body, answer)

    with expert(spoil) as (served, server):
        assert len(served.logprobs(SEQUENCES[:2])) == 8
        assert server.paths().count("/v1/completions") == 3


def first_score(value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(answer: dict[str, Any]) -> Any:
        answer["data"][0]["data"] = value
        return answer

    return change


WRONG_SCORES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "status 500": (lambda _: (500, {}, "boom"), "500: boom"),
    "hangs up": (lambda _: None, "no connection"),
    "half an answer": (lambda a: json.dumps(a)[:30], "no JSON"),
    "no data": (lambda a: {"error": "x"}, "without `data`"),
    "too few": (lambda a: {"data": a["data"][1:]}, "15 of 16 `data`"),
    "a vector": (first_score([0.1, 0.2, 0.3]), "3 numbers for a text"),
    "vectors": (first_score([[0.1, 0.2], [0.3, 0.4]]), "2 numbers for a text"),
    "nothing": (first_score([]), "0 numbers for a text"),
    "a word": (first_score(["good"]), "is 'good', not a number"),
    "NaN": (first_score([float("nan")]), "is nan, not a number"),
    "none": (first_score(None), "is None, not a number"),
}


@pytest.mark.parametrize("name", WRONG_SCORES)
def test_wrong_scores_end_the_run_in_one_line(name: str) -> None:
    change, expected = WRONG_SCORES[name]
    with scorer(only("/pooling", change)) as served:
        with pytest.raises(TrainingError, match=expected) as error:
            served.scores(TEXTS)
        assert_one_line(error.value, served.servers.urls[0])


def with_swapped_letters() -> PreTrainedTokenizerFast:
    """A tokenizer in which two tokens have each other's number."""
    text = tiny_tokenizer().backend_tokenizer.to_str()
    vocabulary = json.loads(text)
    ids = vocabulary["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    swapped = tiny_tokenizer()
    made = PreTrainedTokenizerFast(
        tokenizer_object=type(swapped.backend_tokenizer).from_str(json.dumps(vocabulary)),
        eos_token="<|end|>",
        pad_token="<pad>",
    )
    made.chat_template = swapped.chat_template
    return made


def test_the_same_tokenizer_is_accepted() -> None:
    with expert() as (served, server):
        served.check_tokens(tiny_tokenizer(), 4)
        assert "/detokenize" in server.paths()


def test_another_tokenizer_is_refused_token_for_token() -> None:
    with ScoringServer(tiny_model(), with_swapped_letters()) as server:
        served = ServedExpert(Servers([server.url], None, HASTY), CPU)
        expected = r"another tokenizer than the policy's: token \d+, 'a', reads 'b' there"
        with pytest.raises(InputError, match=expected) as error:
            served.check_tokens(tiny_tokenizer(), 4)
        assert_one_line(error.value, server.url)


@pytest.mark.parametrize("answer", [{}, {"prompt": 3}, []])
def test_a_server_that_does_not_say_what_tokens_mean(answer: Any) -> None:
    with (
        expert(only("/detokenize", lambda _: answer)) as (served, _),
        pytest.raises(TrainingError, match="no text of token ids"),
    ):
        served.check_tokens(tiny_tokenizer(), 4)


@pytest.mark.parametrize("answer", [{}, {"tokens": []}, {"tokens": ["a"]}, {"tokens": "12"}, []])
def test_a_server_that_does_not_render(answer: Any) -> None:
    with (
        expert(only("/tokenize", lambda _: answer)) as (served, _),
        pytest.raises(TrainingError, match="no token ids of the prompt"),
    ):
        served.render([{"role": "user", "content": "Hi"}])


def test_the_model_is_found_by_its_name() -> None:
    with ScoringServer(tiny_model(), tiny_tokenizer(), names=("big", "small")) as server:
        assert Servers([server.url], "small", HASTY).model == "small"
        with pytest.raises(InputError, match="serves several models; name one of big, small"):
            Servers([server.url], None, HASTY)
        with pytest.raises(InputError, match="serves no model 'other', but big, small"):
            Servers([server.url], "other", HASTY)


def test_servers_of_different_models_are_refused() -> None:
    with (
        ScoringServer(tiny_model(), tiny_tokenizer(), names=("a",)) as one,
        ScoringServer(tiny_model(), tiny_tokenizer(), names=("b",)) as other,
        pytest.raises(InputError, match="different models, a, b"),
    ):
        Servers([one.url, other.url], None, HASTY)


def test_nobody_there_before_the_first_step() -> None:
    with ScoringServer(tiny_model(), tiny_tokenizer()) as server:
        url = server.url
    with pytest.raises(InputError, match=r"discriminator\.servers: http.*no connection"):
        Servers([url], None, HASTY)
    with pytest.raises(InputError, match="a key belongs into VLLM_API_KEY"):
        Servers(["http://key@127.0.0.1:1"], None, HASTY)


def test_what_the_expert_cannot_read_is_refused() -> None:
    with expert(context=20) as (served, _):
        long = TokenSequence(tuple(range(5, 15)), tuple(range(30, 40)))
        with pytest.raises(TrainingError, match="20 tokens and one more must fit"):
            served.logprobs([long])
        reader = PromptReader(None, None, served.render)
        asked = Prompt("7", ({"role": "user", "content": "Write"},), (5, 6))
        check_context(reader, [], [asked], room=12, context=20)  # eight tokens by its template
        with pytest.raises(InputError, match="prompt 7 has 8 tokens; with 13"):
            check_context(reader, [], [asked], room=13, context=20)
        hinting = PromptReader(None, "{prompt}{completion}", served.render)
        with pytest.raises(InputError, match="prompt 7 with its hint has 11 tokens"):
            check_context(
                hinting, [Demonstration(asked, "abc", (7, 8, 9))], [], room=12, context=20
            )


def test_the_policys_chat_reads_the_same_ids() -> None:
    """The server renders as the local model would: the ids are equal."""
    with expert() as (served, _):
        turns = ({"role": "user", "content": "Write now"},)
        assert served.render(turns) == Chat(tiny_tokenizer()).encode_prompt(turns)
