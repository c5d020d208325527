"""Float64 models and hand-made batches, for tests that compare with slow references to many digits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tiny import tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from uniapl.training.discriminator import Discriminator
from uniapl.training.rollout_batch import RolloutBatch, sequence_of

from uniapl.config.schema import Config
from uniapl.models.adapters import LoraShape
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence
from uniapl.models.scalar_model import ScalarModel
from uniapl.training.update import no_gradient_logprobs
from uniapl.types import Demonstration, Prompt, Reward, Rollout

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
    model = tiny_model(VOCABULARY, seed, **changes).double().eval()
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


class RecordingOptimizer(torch.optim.SGD):
    """Keeps the gradients of the last step; moves the weights only if the rate is above 0."""

    def __init__(self, module: nn.Module, learning_rate: float = 0.0) -> None:
        super().__init__(module.parameters(), lr=learning_rate)
        self.module = module
        self.last: dict[str, Tensor] = {}
        self.num_steps = 0

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.num_steps += 1
        self.last = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in self.module.named_parameters()
        }
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


def rewards(*totals: float | None) -> list[Reward]:
    return [Reward(total, {"r": total}) for total in totals]


def mixed_batch(*, mask_truncated: bool = True, group_size: int = 3) -> RolloutBatch:
    """Four groups of three: uneven, one rollout cut off, rewards missing, a prompt that occurs twice.

    The first two groups answer experts; the third repeats the first one's prompt; in the fourth all
    rewards are equal. The third expert is in no pair. Some completions have one token.
    """
    a, b, c = prompt(5, 6, 7), prompt(8), prompt(9, 10, 11, 12, 13)
    return RolloutBatch(
        rollouts=[
            *(rollout(a, 14, 15, 4), rollout(a, 4), rollout(a, 16, 17, 18, 19, 20, cut=True)),
            *(rollout(b, 21, 4), rollout(b, 22, 23, 24, 4), rollout(b, 25, 4)),
            *(rollout(a, 26, 4), rollout(a, 14, 15, 27, 28, 4), rollout(a, 29, 30, 4)),
            *(rollout(c, 31, 4), rollout(c, 4), rollout(c, 32, 33, 34, 4)),
        ],
        group_size=group_size,
        experts=[
            demonstration(a, 35, 36, 4),
            demonstration(b, 37, 38, 39, 14, 4),
            demonstration(c, 15, 16, 4),
        ],
        num_pairs=2,
        mask_truncated=mask_truncated,
        rewards=rewards(0.0, 1.0, 0.5, 0.25, None, 1.0, None, None, None, 0.1, 0.1, 0.1),
    )


def config(**sections: Any) -> Config:
    """A config with defaults apart from the given sections; gradients are never clipped."""
    values: dict[str, Any] = {
        "output_dir": "unused",
        "model": {"path": "unused"},
        "data": {"demonstrations": "d", "prompts": "p"},
        "training": {"steps": 10},
        "optimizer": {"max_grad_norm": 1e9},
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


def discriminator(form: str, micro_batch_tokens: int = 10_000, **settings: Any) -> Discriminator:
    """Its language model differs from the policy's, and a scalar head is not at its zero start."""
    settings = {"form": form, "max_grad_norm": 1e9, **settings}
    config_ = config(discriminator=settings)
    backbone = exact_policy(seed=2)
    if config_.discriminator.backbone == "lora":
        backbone = with_random_adapter(backbone, "discriminator")
    made = Discriminator(
        config_.discriminator,
        config_.optimizer,
        backbone,
        micro_batch_tokens,
        seed=0,
    )
    if isinstance(made.model, ScalarModel):
        generator = torch.Generator().manual_seed(4)
        torch.nn.init.normal_(made.model.head.weight, generator=generator)
    return made


def judged_batch(*, mask_truncated: bool = True) -> RolloutBatch:
    """A batch whose π_old is known, but for the expert that is in no pair."""
    batch = mixed_batch(mask_truncated=mask_truncated)
    batch.old_logprobs = no_gradient_logprobs(exact_policy(), batch.sequences, 100, TEMPERATURE)
    batch.old_logprobs[-len(batch.experts[-1].token_ids) :] = torch.nan
    return batch


def plain_logits(made: Discriminator, batch: RolloutBatch) -> list[Tensor]:
    """d of every sequence by plain forwards, with gradient."""
    policy = exact_policy()
    logits = []
    for sequence in batch.sequences:
        if isinstance(made.model, ScalarModel):
            logits.append(plain_scalar_logit(made.model, sequence))
        else:
            old = plain_logprobs(policy.model, sequence, TEMPERATURE).detach()
            ratios = plain_logprobs(made.model.model, sequence) - old
            logits.append(made.config.logit_scale * ratios.mean())
    return logits


def plain_pair_loss(better: Tensor, worse: Tensor, s: float, rho: float) -> Tensor:
    margin = better - worse
    loss = -(1 - s) * margin.sigmoid().log() - s * (-margin).sigmoid().log()
    return loss + rho * (better**2 + worse**2)


def plain_scalar_logit(model: ScalarModel, sequence: TokenSequence) -> Tensor:
    """d of one sequence: one plain forward, the head on its last token."""
    language_model = model.backbone.model
    language_model.set_attn_implementation("sdpa")
    row = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
    hidden = language_model.base_model(row, use_cache=False).last_hidden_state[0, -1]
    return hidden @ model.head.weight[0]


def plain_loss(made: Discriminator, batch: RolloutBatch, logits: Sequence[Tensor]) -> Tensor:
    """The equation of the design, pair by pair."""
    s, rho = made.config.label_smoothing, made.config.logit_penalty
    losses = []
    for i in range(batch.num_pairs):
        expert = logits[len(batch.rollouts) + i]
        group = range(i * batch.group_size, (i + 1) * batch.group_size)
        counted = [
            j for j in group if not (batch.rollouts[j].is_truncated and batch.mask_truncated)
        ]
        losses += [
            plain_pair_loss(expert, logits[j], s, rho)
            for j in counted[: made.config.pairs_per_prompt]
        ]
    total = torch.stack(losses).mean()
    if not isinstance(made.model, ScalarModel):
        experts = [plain_logprobs(made.model.model, sequence_of(d)) for d in batch.experts]
        total = total - made.config.likelihood_weight * torch.cat(experts).mean()
    return total
