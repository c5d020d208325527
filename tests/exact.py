"""Float64 models and hand-made batches, for tests that compare with slow references to many digits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from tiny import tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.discriminators.likelihood import Likelihood
from uniapl.discriminators.scalar import Scalar
from uniapl.models.adapters import LoraShape
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, completion_offsets, sequence_of
from uniapl.models.scalar_model import ScalarModel
from uniapl.training.batch import flat_logprobs
from uniapl.types import Demonstration, MixedBatch, Prompt, Reward, Rollout, RolloutBatch

TOLERANCE = 1e-9
"""Absolute and relative, in float64."""
VOCABULARY = 40
TEMPERATURE = 0.7
"""Of hand-made rollouts' π_old."""


def assert_close(actual: Any, expected: Any) -> None:
    """Compare numbers, sequences of numbers or tensors."""
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


@contextmanager
def double() -> Iterator[None]:
    """New tensors are float64."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def exact_model(seed: int = 0, **changes: Any) -> PreTrainedModel:
    """The tiny model in float64; its norms, which round to float32 inside, are replaced."""
    model = tiny_model(changes.pop("vocab_size", VOCABULARY), seed, **changes).double().eval()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                # not all ones: a norm that scales nothing would hide a wrong gradient
                torch.nn.init.normal_(norm.weight, 1.0, 0.2)
                setattr(module, name, norm)
    return model


def exact_policy(seed: int = 0, logit_chunk_tokens: int = 7, **changes: Any) -> LanguageModel:
    return LanguageModel(exact_model(seed, **changes), torch.float32, logit_chunk_tokens)


def plain_logprobs(
    model: PreTrainedModel, sequence: TokenSequence, temperature: float = 1.0
) -> Tensor:
    """Log-probs of one completion: one sequence, one plain forward, one token after the other."""
    model.set_attn_implementation("sdpa")
    ids = [*sequence.prompt_ids, *sequence.completion_ids]
    logits = model(torch.tensor([ids]), use_cache=False).logits[0] / temperature
    first = len(sequence.prompt_ids)
    return torch.stack([logits[t - 1].log_softmax(0)[ids[t]] for t in range(first, len(ids))])


def plain_scalar_logit(model: ScalarModel, sequence: TokenSequence) -> Tensor:
    """d of one sequence: one plain forward, the head on its last token."""
    language_model = model.backbone.model
    language_model.set_attn_implementation("sdpa")
    row = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
    hidden = language_model.base_model(row, use_cache=False).last_hidden_state[0, -1]
    return hidden @ model.head.weight[0]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all gradients (0 where there is none) and forget them."""
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in module.named_parameters()
    }
    module.zero_grad()
    return found


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert any(g.abs().max() > 1e-4 for g in expected.values()), "nothing to compare"
    for name, value in actual.items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-7, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_exactly_zero(found: dict[str, Tensor]) -> None:
    assert all(torch.count_nonzero(g) == 0 for g in found.values())


class RecordingOptimizer(torch.optim.SGD):
    """Keeps the gradients of the last step; moves the weights only if asked to."""

    def __init__(self, module: nn.Module, *, moves: bool = False) -> None:
        super().__init__(module.parameters(), lr=0.0)
        self.module, self.moves = module, moves
        self.last: dict[str, Tensor] = {
            name: torch.zeros_like(p) for name, p in module.named_parameters()
        }
        self.num_steps = 0

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.num_steps += 1
        self.last = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in self.module.named_parameters()
        }
        if self.moves:
            super().step(closure)


def prompt(*ids: int) -> Prompt:
    text = " ".join(map(str, ids))
    return Prompt(id=text, messages=({"role": "user", "content": text},), token_ids=ids)


def demonstration(prompt_: Prompt, *ids: int) -> Demonstration:
    return Demonstration(prompt_, " ".join(map(str, ids)), ids)


def rollout(
    prompt_: Prompt, *ids: int, cut: bool = False, sampled: Sequence[float] | None = None
) -> Rollout:
    return Rollout(
        prompt_,
        " ".join(map(str, ids)),
        ids,
        tuple(sampled or [-1.0] * len(ids)),
        "length" if cut else "stop",
    )


def rewards(*totals: float | None) -> tuple[Reward, ...]:
    return tuple(Reward(total, {"r": total}) for total in totals)


EXPERTS = (
    demonstration(prompt(5, 6, 7), 35, 36, 4),
    demonstration(prompt(8), 37, 38, 39, 14, 4),
    demonstration(prompt(9, 10, 11, 12, 13), 15, 16, 4),
)
"""The third one's prompt is rolled out as a preference prompt: it is in no pair."""


def mixed_batch() -> RolloutBatch:
    """Four groups of three: uneven, one rollout cut off, rewards missing, a prompt that occurs twice.

    The first two groups answer experts; the third repeats the first one's prompt; in the fourth all
    rewards are equal. Some completions have one token.
    """
    a, b, c = (expert.prompt for expert in EXPERTS)
    return RolloutBatch(
        rollouts=(
            *(rollout(a, 14, 15, 4), rollout(a, 4), rollout(a, 16, 17, 18, 19, 20, cut=True)),
            *(rollout(b, 21, 4), rollout(b, 22, 23, 24, 4), rollout(b, 25, 4)),
            *(rollout(a, 26, 4), rollout(a, 14, 15, 27, 28, 4), rollout(a, 29, 30, 4)),
            *(rollout(c, 31, 4), rollout(c, 4), rollout(c, 32, 33, 34, 4)),
        ),
        group_size=3,
        experts=(*EXPERTS[:2], None, None),
        rewards=rewards(0.0, 1.0, 0.5, 0.25, None, 1.0, None, None, None, 0.1, 0.1, 0.1),
    )


def sampled_elsewhere(batch: RolloutBatch) -> RolloutBatch:
    """The batch as another engine might have sampled it: importance weights below and above a cap."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for r in batch.rollouts:
        sampled = torch.rand(len(r.token_ids), generator=generator) * -8
        found.append(replace(r, sampling_logprobs=tuple(sampled.tolist())))
    return replace(batch, rollouts=tuple(found))


def sequences_of(batch: RolloutBatch) -> list[TokenSequence]:
    return list(map(sequence_of, batch.rollouts))


def per_rollout(values_T: Tensor, batch: RolloutBatch) -> list[Tensor]:
    """Cut the batch's tokens into its rollouts."""
    offsets = completion_offsets(sequences_of(batch))
    return [values_T[a:b] for a, b in pairwise(offsets)]


def drawn() -> MixedBatch:
    """What a step with `mixed_batch` has drawn."""
    return MixedBatch(EXPERTS, ())


def config(**sections: Any) -> Config:
    """A config with defaults apart from the given sections; gradients are never clipped."""
    values: dict[str, Any] = {
        "output_dir": "unused",
        "model": {"path": "unused"},
        "data": {"demonstrations": "d", "prompts": "p"},
        "training": {"steps": 10},
        "optimizer": {"max_grad_norm": 1e9},
        "objective": {"adversarial_weight": 0.1},
    }
    for name, value in sections.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return Config(**values)


def with_random_adapter(model: LanguageModel, name: str, seed: int = 3) -> LanguageModel:
    """A new adapter that is not at its start, where it changes nothing."""
    made = model.with_adapter(name, LoraShape(rank=2, alpha=3.0))
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return made


def _backbone(form: str, micro_batch_tokens: int, settings: dict[str, Any]) -> Any:
    recipe = Recipe.of(
        config(
            discriminator={"form": form, **settings},
            rollout={"temperature": TEMPERATURE},
            training={"micro_batch_tokens": micro_batch_tokens},
        )
    )
    backbone = exact_policy(seed=2)
    if recipe.config.discriminator.backbone == "lora":
        backbone = with_random_adapter(backbone, "discriminator")
    return recipe, backbone


def likelihood(micro_batch_tokens: int = 10_000, **settings: Any) -> Likelihood:
    """p_φ is another model than `exact_policy()`."""
    return Likelihood(*_backbone("likelihood", micro_batch_tokens, settings))


def scalar(micro_batch_tokens: int = 10_000, **settings: Any) -> Scalar:
    """Its head is not at its start, where all logits are 0."""
    made = Scalar(*_backbone("scalar", micro_batch_tokens, settings))
    generator = torch.Generator().manual_seed(4)
    torch.nn.init.normal_(made.model.head.weight, generator=generator)
    return made


def policy_logprobs(sequences: Sequence[TokenSequence]) -> Tensor:
    """Log π of `exact_policy()`, as the loop hands it to a discriminator."""
    recipe = Recipe.of(config(rollout={"temperature": TEMPERATURE}))
    return flat_logprobs(exact_policy(), sequences, recipe)


class RandomTexts:
    """Stands in for the generator: random tokens, the same for the same prompts and seed."""

    def __init__(self, policy: LanguageModel | None = None, temperature: float = 1.0) -> None:
        """With a policy, the log-probs are its own; else all are -1."""
        self.random = torch.Generator().manual_seed(0)
        self.policy, self.temperature = policy, temperature
        self.sampled: list[Rollout] = []

    def sample(self, prompts: Sequence[Prompt], group_size: int) -> list[Rollout]:
        found = []
        for asked in prompts:
            for _ in range(group_size):
                length = int(torch.randint(1, 6, (), generator=self.random))
                ids = torch.randint(14, 40, (length,), generator=self.random).tolist()
                found.append(rollout(asked, *ids, cut=length == 5, sampled=self._own(asked, ids)))
        self.sampled += found
        return found

    def _own(self, asked: Prompt, ids: Sequence[int]) -> list[float] | None:
        if self.policy is None:
            return None
        sequence = TokenSequence(asked.token_ids, tuple(ids))
        with torch.no_grad():
            return plain_logprobs(self.policy.whole, sequence, self.temperature).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.set_state(state["random"])
