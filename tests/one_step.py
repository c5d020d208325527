"""One update of one policy on a mixed batch, in double precision: what the tests of the update share."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from exact import (
    RecordingOptimizer,
    config,
    demonstration,
    double,
    exact_policy,
    prompt,
)
from torch import Tensor
from uniapl.training.rollout_batch import RolloutBatch

from uniapl.config.schema import Config
from uniapl.training.update import (
    PolicyUpdate,
    StepWeights,
    no_gradient_logprobs,
    weigh_tokens,
)
from uniapl.types import Demonstration

WEIGHTS = StepWeights(sft=0.3, grpo=1.0, adversarial=0.4, kl=0.05)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with double():
        yield


def settings(micro_batch_tokens: int = 10_000, **rollout_settings: Any) -> Config:
    return config(
        rollout={"temperature": 0.7, **rollout_settings},
        objective={"clip_low": 0.1, "clip_high": 0.2},
        training={"steps": 10, "micro_batch_tokens": micro_batch_tokens},
    )


def demonstrations() -> list[Demonstration]:
    """Of new prompts, and one of a prompt that is rolled out too."""
    return [
        demonstration(prompt(5, 6, 7), 35, 36, 4),
        demonstration(prompt(20), 21, 22, 23, 24, 4),
        demonstration(prompt(20, 21), 4),
    ]


def some_credit(batch: RolloutBatch) -> Tensor:
    return torch.randn(batch.num_rollout_tokens, generator=torch.Generator().manual_seed(3))


class Step:
    """One policy, its optimiser and one batch, updated as often as asked."""

    def __init__(
        self,
        batch: RolloutBatch | None,
        *,
        weights: StepWeights = WEIGHTS,
        experts: Sequence[Demonstration] | None = None,
        has_credit: bool = True,
        learning_rate: float = 0.0,
        config_: Config | None = None,
    ) -> None:
        self.config = config_ or settings()
        self.batch, self.weights = batch, weights
        self.experts = demonstrations() if experts is None else list(experts)
        self.policy = exact_policy()
        self.optimizer = RecordingOptimizer(self.policy, learning_rate)
        self.update = PolicyUpdate(self.config, self.policy, self.optimizer)
        self.credit = some_credit(batch) if batch and has_credit else None
        self.tokens = weigh_tokens(batch, self.credit, weights, self.config, CPU) if batch else None
        if batch and weights.kl:
            batch.ref_logprobs = no_gradient_logprobs(
                exact_policy(seed=1), batch.rollout_sequences, 100, self.config.rollout.temperature
            )

    def __call__(self, *, is_first_pass: bool = True) -> dict[str, float | None]:
        return self.update(
            self.experts, self.batch, self.tokens, self.weights, is_first_pass=is_first_pass
        )

    @property
    def gradients(self) -> dict[str, Tensor]:
        return self.optimizer.last
