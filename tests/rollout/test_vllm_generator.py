"""Rollouts from a server that plays vLLM: what is asked, what is checked, and one line for all that can go wrong."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from played_vllm import PlayedVllm
from tiny_runs import Tiny

from uniapl.config.recipe import Recipe
from uniapl.errors import InputError, TrainingError
from uniapl.models.language_model import LanguageModel
from uniapl.rollout import vllm_server
from uniapl.rollout.vllm_generator import VllmGenerator, request_seed
from uniapl.runs.rollout_servers import FOLDER, vllm_generator
from uniapl.runs.setup import load_data, load_policy
from uniapl.types import Prompt

GENERATE = "/inference/v1/generate"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "_WAITS_SECONDS", (0.01, 0.01))


@pytest.fixture
def server(tiny: Tiny) -> Iterator[PlayedVllm]:
    with PlayedVllm(tiny.model) as played:
        yield played


class Run:
    """What a run has when it begins to sample."""

    def __init__(self, tiny: Tiny, folder: Path, *servers: PlayedVllm, words: Any = ()) -> None:
        urls = ",".join(server.url for server in servers)
        config = tiny.load(
            folder,
            "rollout.engine=vllm",
            f"rollout.servers=[{urls}]",
            "rollout.timeout_seconds=20",
            *words,
        )
        recipe = Recipe.of(config)
        self.folder = folder
        self.policy, chat = load_policy(recipe.config)
        self.prompts: list[Prompt] = load_data(recipe, chat).prompts[:3]
        self.generator: VllmGenerator
        self.generator, self.limit = vllm_generator(recipe.config, self.policy, chat)

    def sample(self) -> Any:
        return self.generator.sample(self.prompts, 4)


def move(policy: LanguageModel) -> None:
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.01)


def test_what_is_asked_and_what_comes_back(tiny: Tiny, run_folder: Path, server: PlayedVllm):
    run = Run(tiny, run_folder, server, words=["rollout.max_completion_tokens=3"])
    rollouts = run.sample()
    assert [r.prompt.id for r in rollouts] == [p.id for p in run.prompts for _ in range(4)]
    by_seed = {request["sampling_params"]["seed"]: request for request in server.requests}
    assert by_seed.keys() == {request_seed(0, 1, place) for place in range(3)}
    request = by_seed[request_seed(0, 1, 2)]
    assert request == {
        "token_ids": list(run.prompts[2].token_ids),
        "return_token_ids": True,
        "sampling_params": {
            **{"n": 4, "seed": request_seed(0, 1, 2), "temperature": 1.0, "max_tokens": 3},
            **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "min_tokens": 0},
            **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
            **{"ignore_eos": True, "stop_token_ids": [4], "logprobs": 0, "detokenize": False},
        },
    }
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        assert rollout.is_truncated == (rollout.token_ids[-1] != 4)
        assert "<|end|>" not in rollout.completion
        assert len(rollout.token_ids) == len(rollout.sampling_logprobs)
    assert not (run_folder / FOLDER).exists()  # no weights stay on disk


def test_the_weights_are_proven_at_first_and_brought_before_every_call(
    tiny: Tiny,
    run_folder: Path,
    server: PlayedVllm,
):
    run = Run(tiny, run_folder, server)
    move(run.policy)  # as of a run that goes on: the server starts with the model's own
    run.sample()
    bringing = [path for path in server.paths if path not in ("/server_info", GENERATE)]
    load, check = "/collective_rpc", "/weight_checker"
    named = ["/reset_prefix_cache", "/update_weight_version", "/resume"]
    assert bringing == ["/pause", load, check, check, check, load, check, *named]
    server.paths.clear()
    first = server.version
    for calls in (2, 3):
        move(run.policy)
        run.sample()
        for name, value in run.policy.model.named_parameters():
            assert torch.equal(value, server.model.get_parameter(name)), name
        assert server.version != first
        assert len({r["sampling_params"]["seed"] for r in server.requests}) == 3 * calls
    bringing = [path for path in server.paths if path != GENERATE]
    assert bringing == ["/pause", load, check, *named, "/pause", load, *named]


def test_prompts_are_dealt_to_servers_and_no_dealing_changes_a_seed(
    tiny: Tiny,
    tmp_path: Path,
    server: PlayedVllm,
):
    alone = Run(tiny, tmp_path / "alone", server).sample()
    with PlayedVllm(tiny.model) as other:
        both = Run(tiny, tmp_path / "both", server, other).sample()
        assert len(other.requests) == 1
    assert [r.token_ids for r in both] == [r.token_ids for r in alone]


def test_a_generator_that_goes_on_sends_the_requests_it_would_have_sent(
    tiny: Tiny,
    run_folder: Path,
    server: PlayedVllm,
):
    run = Run(tiny, run_folder, server)
    run.sample()
    state = run.generator.state_dict()
    straight = run.sample()
    again = Run(tiny, run_folder, server)
    again.generator.load_state_dict(state)
    assert again.sample() == straight
    assert again.sample() != straight


ANSWERS = {
    "a stale version": "asked weights .*, a completion says that it comes from .*'default'",
    "no version": "a completion says that it comes from None",
    "two versions": "a completion says that it comes from .*",
    "another prompt": "continues other tokens than those that were sent",
    "a completion too few": r"asked for 4 completions, the answer has numbers \[0, 1, 2\]",
    "a completion twice": "asked for 4 completions",
    "no choices": "the answer has no choices",
    "shifted ids": "the log-probs belong to other tokens",
    "ids of no token": "token ids that are none of the",
    "an empty completion": "a completion has no token ids",
    "a log-prob too few": "the log-probs belong to other tokens",
    "no log-probs": "a completion has no log-probs",
    "no log-prob for a token": "a token has the log-prob -9999.0",
    "a log-prob that is none": "a token has the log-prob None",
    "a probability above 1": "a token has the log-prob 0.5",
    "aborted": "says that it ended by 'abort'",
    "cut early": "a completion of 1 tokens says that it ended by 'length'",
    "more after the end": "a completion goes on after the end of its turn",
    f"500 on {GENERATE}": "status 500: .*EngineCore encountered an issue",
    f"404 on {GENERATE}": "status 404: .*; start vLLM with --enable-scale-out",
    f"nonsense on {GENERATE}": "answers no JSON object: <html>",
    "half an answer": "no connection in 3 tries: ",
}
"""What a server does wrong while it samples → what the user reads."""


@pytest.fixture(scope="module")
def sampling(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Any]]:
    with PlayedVllm(tiny.model) as played:
        yield Run(tiny, tmp_path_factory.mktemp("sampling") / "run", played), played


@pytest.mark.parametrize("fault", ANSWERS)
def test_a_wrong_answer_ends_in_one_line(sampling: tuple[Run, PlayedVllm], fault: str):
    run, server = sampling
    server.fault = fault
    with pytest.raises(TrainingError) as raised:
        run.sample()
    line = str(raised.value)
    assert line.startswith(f"rollout.servers: {server.url}{GENERATE}: ")
    assert re.search(ANSWERS[fault], line), line
    assert len(line.splitlines()) == 1
    server.fault = None
    run.sample()


WEIGHTS = {
    "a missing tensor": "1 of 24 tensors are not taken over from .*, the first is model.layers.1.mlp.up_proj.weight$",
    "a reset that resets nothing": "its weights do not change when they are set to 0$",
    "a cache that stays": "the cache of the old weights stays$",
    "500 on /collective_rpc": "status 500: ",
    "nonsense on /weight_checker": "answers no JSON object",
    "404 on /pause": "status 404: .*; start vLLM with VLLM_SERVER_DEV_MODE=1$",
}
"""What a server does wrong when it gets weights → what the user reads."""


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights_that_do_not_arrive_end_in_one_line(
    tiny: Tiny,
    run_folder: Path,
    server: PlayedVllm,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(vllm_server, "_CACHE_TRIES", 2)
    run = Run(tiny, run_folder, server)
    server.fault = fault
    with pytest.raises(TrainingError, match=WEIGHTS[fault]):
        run.sample()
    assert server.requests == []


def test_a_server_that_loads_its_own_weights_again_is_found_out(
    tiny: Tiny,
    run_folder: Path,
    server: PlayedVllm,
):
    run = Run(tiny, run_folder, server)
    server.fault = "its own weights again"
    run.sample()
    move(run.policy)
    with pytest.raises(TrainingError, match=r"are new, and those of the server stay as they were$"):
        run.sample()


@pytest.mark.parametrize("path", ["/pause", "/collective_rpc", GENERATE])
def test_silence_ends_after_the_time_that_was_allowed(
    tiny: Tiny,
    run_folder: Path,
    server: PlayedVllm,
    path: str,
):
    run = Run(tiny, run_folder, server, words=["rollout.timeout_seconds=1"])
    server.fault = f"silence on {path}"
    with pytest.raises(TrainingError, match=r"no answer within 1 seconds \(rollout.timeout_"):
        run.sample()
    assert server.paths.count(path) in (1, 3)  # never asked again


def test_a_connection_that_breaks_once_costs_nothing(
    tiny: Tiny,
    tmp_path: Path,
    server: PlayedVllm,
):
    straight = Run(tiny, tmp_path / "straight", server).sample()
    server.fault, server.num_failed = "half an answer, once", 0
    assert Run(tiny, tmp_path / "broken", server).sample() == straight


def test_a_server_that_died_ends_in_one_line(tiny: Tiny, run_folder: Path):
    with PlayedVllm(tiny.model) as played:
        run = Run(tiny, run_folder, played)
        run.sample()
    with pytest.raises(TrainingError, match=r"/pause.*: no connection in 3 tries: "):
        run.sample()
    with pytest.raises(InputError, match=r"/server_info.*: no connection in 3 tries: "):
        Run(tiny, run_folder, played)


def test_raw_log_probs_are_refused_before_anything(
    tiny: Tiny,
    run_folder: Path,
    server: PlayedVllm,
):
    server.fault = "raw log-probs"
    with pytest.raises(InputError, match=r"returns raw_logprobs, .* --logprobs-mode processed_"):
        Run(tiny, run_folder, server)


def test_an_adapter_goes_apart_where_servers_take_adapters_and_merged_elsewhere(
    tiny: Tiny,
    tmp_path: Path,
    server: PlayedVllm,
):
    words = ["model.tuning=lora", "lora.rank=4"]
    with PlayedVllm(tiny.model, takes_adapters=True) as adapting:
        runs = []
        for name, of_run in (("apart", adapting), ("merged", server)):
            torch.manual_seed(0)  # of a new adapter's A
            runs.append(Run(tiny, tmp_path / name, of_run, words=words))
        apart, merged = runs
        for run in runs:
            run.sample()
            torch.manual_seed(0)
            with torch.no_grad():
                for parameter in run.policy.trainable_parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        own, other = apart.sample(), merged.sample()
        assert [r.token_ids for r in own] == [r.token_ids for r in other]
        assert adapting.paths.count("/v1/load_lora_adapter") == 2
        assert adapting.paths.count("/collective_rpc") == 2  # of the frozen weights, to prove them
        kept = [path.name for path in (tmp_path / "apart" / FOLDER).iterdir()]
        assert len(kept) == 1  # a server may read the adapter that acts again
        assert kept[0].startswith("adapter-")
        with pytest.raises(InputError, match=r"lora\.rank: is 32, and the servers .* at most 16: "):
            Run(tiny, tmp_path / "large", adapting, words=["model.tuning=lora", "lora.rank=32"])
