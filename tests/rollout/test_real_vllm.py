"""A real vLLM server: what the played one stands for (docs/scaling-vllm.md says how to start it).

It serves the miniature, or the folder that UNIAPL_VLLM_MODEL names: on a CPU vLLM 0.32 keeps an old copy of a head that
is tied to the embeddings, as the miniature's is. Started with `--enable-lora --max-lora-rank 16`, it is asked for
adapters too.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from uniapl import miniature
from uniapl.config import load_config
from uniapl.config.recipe import Recipe
from uniapl.models.packing import completion_offsets, pack, sequence_of
from uniapl.runs.rollout_servers import vllm_generator
from uniapl.runs.setup import load_data, load_policy
from uniapl.types import Rollout

URL = os.environ.get("UNIAPL_VLLM_SERVER")
MODEL = os.environ.get("UNIAPL_VLLM_MODEL", str(miniature.MODEL))

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(URL is None, reason="needs a vLLM server: UNIAPL_VLLM_SERVER names none"),
]


class Run:
    def __init__(self, folder: Path, *words: str) -> None:
        own = ["rollout.engine=vllm", f"rollout.servers=[{URL}]", f"output_dir={folder}"]
        own.append(f"model.path={MODEL}")
        recipe = Recipe.of(load_config("miniature", [*own, *words]))
        self.policy, chat = load_policy(recipe.config)
        self.prompts = load_data(recipe, chat).prompts[:6]
        self.generator, self.limit = vllm_generator(recipe.config, self.policy, chat)

    def sample(self) -> list[Rollout]:
        return self.generator.sample(self.prompts, 4)

    def gap(self, rollouts: Any, temperature: float = 1.0) -> float:
        """Mean |log π - log π_sampled|, nats."""
        sequences = [sequence_of(rollout) for rollout in rollouts]
        packed = pack(sequences, 4096)
        own = self.policy.flat_logprobs(packed, completion_offsets(sequences)[-1], temperature)
        sampled = torch.tensor([x for r in rollouts for x in r.sampling_logprobs])
        return (own - sampled).abs().mean().item()

    def move(self) -> None:
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in self.policy.trainable_parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)


def test_log_probs_are_the_policys_before_and_after_an_update(tmp_path: Path):
    run = Run(tmp_path)
    first = run.sample()
    assert run.gap(first) < 1e-4
    run.move()
    assert run.gap(first) > 1e-2  # the weights have moved far enough to tell
    assert run.gap(run.sample()) < 1e-4
    assert any(not rollout.is_truncated for rollout in first)


def test_another_temperature_is_the_policys_too(tmp_path: Path):
    run = Run(tmp_path, "rollout.temperature=0.7")
    assert run.gap(run.sample(), 0.7) < 1e-4


def test_requests_reproduce(tmp_path: Path):
    first, again = Run(tmp_path / "a").sample(), Run(tmp_path / "b").sample()
    assert [r.token_ids for r in first] == [r.token_ids for r in again]


def test_an_adapter_is_the_policys_too(tmp_path: Path):
    """Merged, or apart where the server takes adapters."""
    run = Run(tmp_path, "model.tuning=lora", "lora.rank=8")
    run.sample()
    run.move()
    assert run.gap(run.sample()) < 1e-4
