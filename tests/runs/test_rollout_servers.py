"""Whole runs whose rollouts come from a server that plays vLLM: equal to runs without, exact when they go on."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from launches import launch
from played_vllm import PlayedVllm
from safetensors.torch import load_file
from tiny_runs import Tiny, assert_same_run, repeatable, rows
from torch import Tensor

from uniapl.config import load_config, overridden_keys
from uniapl.config.recipe import Recipe
from uniapl.distributed import Ranks
from uniapl.errors import InputError, TrainingError
from uniapl.rollout import vllm_server
from uniapl.rollout.vllm_generator import request_seed
from uniapl.runs import train
from uniapl.runs.checkpoint import load_state
from uniapl.runs.rollout_servers import shared_vllm_generator
from uniapl.runs.setup import load_policy

PROMPTS, SIZE, LIMIT = 4, 4, 12
"""Of the tiny config: prompts in a batch, completions of each, tokens."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "_WAITS_SECONDS", (0.01, 0.01))


@pytest.fixture
def server(tiny: Tiny) -> Iterator[PlayedVllm]:
    with PlayedVllm(tiny.model) as played:
        yield played


def words_for(server: PlayedVllm, *words: str) -> list[str]:
    own = ["rollout.engine=vllm", f"rollout.servers=[{server.url}]", "rollout.timeout_seconds=60"]
    return [*own, "training.steps=3", "training.checkpoint_every=1", *words]


class SameDraws:
    """Draws what the transformers generator of a run draws, whatever order requests come in."""

    def __init__(self, seed: int = 0) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._calls: list[Tensor] = []

    def __call__(self, seed: int, num: int, limit: int) -> Tensor:
        places = {
            request_seed(0, call, place): (call, place)
            for call in range(1, 10)
            for place in range(PROMPTS)
        }
        call, place = places[seed]
        while len(self._calls) < call:
            shape = (PROMPTS * SIZE, limit)
            self._calls.append(1 - torch.rand(shape, generator=self._random, dtype=torch.float64))
        return self._calls[call - 1][place * num : (place + 1) * num]


def close(run: Path, other: Path) -> None:
    """Metrics and weights are equal but for the rounding of float32."""
    for row, expected in zip(repeatable(run), repeatable(other), strict=True):
        for name in ("rollout/lag_steps", "policy/sampling_gap"):
            del row[name], expected[name]
        known = {name: value for name, value in expected.items() if value is not None}
        assert {n: v for n, v in row.items() if v is not None} == pytest.approx(
            known, rel=1e-3, abs=2e-5
        )
    weights, others = (load_file(path / "policy/model.safetensors") for path in (run, other))
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=2e-5)


def test_a_run_on_a_server_is_the_run_without(tiny: Tiny, tmp_path: Path):
    with PlayedVllm(tiny.model, draws=SameDraws()) as played:
        run = tiny.train(tmp_path / "server", *words_for(played))
    other = tiny.train(
        tmp_path / "here",
        *("training.steps=3", "training.checkpoint_every=1", "rollout.importance_cap=2"),
    )
    close(run, other)
    assert len(rows(run)) == 3
    assert all(row["policy/sampling_gap"] < 1e-5 for row in rows(run))
    assert all(row["rollout/lag_steps"] == 0 for row in rows(run))
    sampled = [file.read_text() for file in sorted((run / "rollouts").iterdir())]
    assert len(sampled) == 3
    assert load_config(run / "config.yaml").rollout.importance_cap == 2.0


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_run_that_was_interrupted_goes_on_to_the_same_end(
    tiny: Tiny, tmp_path: Path, server: PlayedVllm, ahead: int
):
    words = words_for(server, "training.steps=4", f"rollout.ahead={ahead}")
    straight = tiny.train(tmp_path / "straight", *words)
    given = overridden_keys(words)
    config = tiny.load(tmp_path / "stopped", *words)
    train(config, overridden=given, on_step=lambda done: done.step != 2)
    state = load_state(tmp_path / "stopped/checkpoints/step_000002")
    assert ("ahead" in state) == bool(ahead)
    stopped = tiny.train(tmp_path / "stopped", *words, "training.resume=auto")
    assert_same_run(stopped, straight)
    lags = [row["rollout/lag_steps"] for row in rows(straight)]
    assert lags == ([0, 1, 1, 1] if ahead else [0, 0, 0, 0])


def test_the_next_batch_is_sampled_while_the_step_trains(
    tiny: Tiny, run_folder: Path, server: PlayedVllm
):
    """The servers are asked for it before the step has ended: they wait here until it has."""
    words = words_for(server, "rollout.ahead=1", "rollout.updates_per_rollout=2")
    words += ["training.steps=4", "training.checkpoint_every=2", "data.prompts_per_step=2"]
    words += ["data.demonstration_prompts_per_step=1", "data.demonstrations_per_step=2"]
    may_answer = threading.Event()
    generate = server._inference_v1_generate

    def wait(body: dict[str, Any], query: Any) -> dict[str, Any]:
        if len(server.requests) >= PROMPTS:
            assert may_answer.wait(60)
        return generate(body, query)

    server._inference_v1_generate = wait  # type: ignore[method-assign]
    given = overridden_keys(words)
    train(
        tiny.load(run_folder, *words), overridden=given, on_step=lambda _: may_answer.set() or True
    )
    assert [row["rollout/lag_steps"] for row in rows(run_folder)] == [0, 0, 2, 2]


GAPS = {
    "log-probs of the places before": "step 2: the log-probs of rollout.servers lie .* from the policy's own",
    "log-probs of another temperature": "step 2: the log-probs of rollout.servers lie",
    "a stale version": "a completion says that it comes from",
    "500 on /inference/v1/generate": "status 500",
    "its own weights again": "those of the server stay as they were",
}


@pytest.mark.parametrize("fault", GAPS)
def test_nothing_is_learned_from_wrong_numbers(
    tiny: Tiny, run_folder: Path, server: PlayedVllm, fault: str
):
    words = words_for(server)

    def spoil(done: Any) -> None:
        server.fault = fault if done.step == 1 else server.fault

    with pytest.raises(TrainingError, match=GAPS[fault]) as raised:
        train(tiny.load(run_folder, *words), overridden=overridden_keys(words), on_step=spoil)
    assert len(str(raised.value).splitlines()) == 1
    assert len(rows(run_folder)) == 1
    assert [p.name for p in (run_folder / "checkpoints").glob("step_*")] == ["step_000001"]


def test_what_is_resolved_for_a_server(tiny: Tiny, run_folder: Path):
    def resolve(*words: str) -> Recipe:
        own = ["rollout.engine=vllm", "rollout.servers=[http://127.0.0.1:1]"]
        return Recipe.of(tiny.load(run_folder, *own, *words))

    assert resolve().config.rollout.importance_cap == 2.0
    assert resolve("rollout.importance_cap=null").config.rollout.importance_cap is None
    assert resolve("rollout.importance_cap=3").config.rollout.importance_cap == 3.0
    assert resolve().old_logprobs == "computed"
    here = Recipe.of(tiny.load(run_folder))
    assert (here.old_logprobs, here.config.rollout.importance_cap) == ("sampled", None)
    assert Recipe.of(resolve().config).config == resolve().config


def test_two_ranks_share_what_the_first_one_samples(
    tiny: Tiny, tmp_path: Path, server: PlayedVllm
) -> None:
    words = words_for(server, "discriminator.warmup_steps=1")
    alone = tiny.train(tmp_path / "alone", *words)
    done = launch(
        2, "-m", "uniapl", "train", str(tiny.config), f"output_dir={tmp_path / 'two'}", *words
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for one, two in zip(repeatable(alone), repeatable(tmp_path / "two"), strict=True):
        for name, value in one.items():
            expected = None if value is None else pytest.approx(value, rel=1e-3, abs=1e-4)
            assert two[name] == expected, name


def test_ahead_is_refused_for_several_ranks(tiny: Tiny, tmp_path: Path, server: PlayedVllm) -> None:
    config = tiny.load(tmp_path, *words_for(server, "rollout.ahead=1"))
    policy, chat = load_policy(config)
    with pytest.raises(InputError, match=r"rollout\.ahead: must be 0 with several ranks, got 1"):
        shared_vllm_generator(config, policy, chat, Ranks(rank=0, size=2))
