"""`expert`: log p_expert - log π_old, with the expert's own log-probs of the policy's tokens.

This is the ideal logit itself, so nothing is learned: E[k_t ∇log π] is minus the gradient of KL(π ‖ p_expert) at each
prefix that the policy visits (on-policy distillation, as one term of the step). With a hint the expert is a model that
first reads the demonstration (self-distillation): then only rollouts of demonstration prompts are credited.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.discriminators.protocol import Judgement, PolicyLogprobs
from uniapl.discriminators.reader import PromptReader
from uniapl.discriminators.scoring import TokenScorer, held_out_log_ratio, judge_tokens
from uniapl.types import Demonstration, MixedBatch, RolloutBatch

MAX_HINTED_PAIRS = 32
"""On at most so many pairs of demonstrations it is measured whether a model can read hints."""


class Expert:
    """A frozen model, in this process or behind a server, that scores the policy's tokens."""

    def __init__(self, recipe: Recipe, scorer: TokenScorer, reader: PromptReader) -> None:
        self.credit_clamp = recipe.config.discriminator.credit_clamp
        self.scorer = scorer
        self.reader = reader

    def judge(
        self, batch: RolloutBatch, data: MixedBatch, policy_logprobs: PolicyLogprobs
    ) -> Judgement:
        """As `Discriminator.judge`."""
        return judge_tokens(batch, self.reader, self.scorer, self.credit_clamp)

    def measure(self, held_out: RolloutBatch, policy_logprobs: PolicyLogprobs) -> dict[str, float]:
        """Return the mean of log p_expert - log π over the held-out demonstrations' tokens, nats.

        A model that reads the demonstration in its prompt is not asked about this very demonstration.
        """
        if self.reader.hint_template is not None:
            return {}
        return held_out_log_ratio(held_out, self.reader, self.scorer, policy_logprobs)

    def learn(self, learning_rate: float) -> dict[str, float]:
        """Learn nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing moves."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing moves."""

    def save(self, folder: Path, chat: Chat, dtype: torch.dtype) -> bool:
        """Write nothing: the expert is where it was."""
        return False


@dataclass(frozen=True, slots=True)
class HintGain:
    """What reading a demonstration does for another one of the same prompt."""

    nats_per_token: float
    """Mean of log p(y₂ | x, y₁) - log p(y₂ | x)."""
    num_pairs: int


def hint_gain(expert: Expert, demonstrations: Sequence[Demonstration]) -> HintGain | None:
    """Measure whether the expert can read hints, on prompts that have two demonstrations; None if there are none.

    If the gain is at or below 0, the hint tells the model nothing of how the expert writes, and its credit is worth
    nothing. The mean is over the tokens of all second demonstrations.
    """
    by_prompt: dict[tuple[int, ...], list[Demonstration]] = {}
    for demonstration in demonstrations:
        by_prompt.setdefault(demonstration.prompt.token_ids, []).append(demonstration)
    pairs = [
        (hint, text)
        for several in by_prompt.values()
        for hint, text in combinations(several, 2)
        if hint.token_ids != text.token_ids
    ][:MAX_HINTED_PAIRS]
    if not pairs:
        return None
    hinted = [expert.reader.sequence(text, hint) for hint, text in pairs]
    plain = [expert.reader.sequence(text) for _, text in pairs]
    gain_T = expert.scorer.logprobs(hinted) - expert.scorer.logprobs(plain)
    return HintGain(gain_T.mean().item(), len(pairs))


def hint_line(
    discriminator: object, demonstrations: Sequence[Demonstration]
) -> tuple[str, bool] | None:
    """Return a line that says whether the expert can read hints, and whether that is good; None without hints."""
    if not isinstance(discriminator, Expert) or discriminator.reader.hint_template is None:
        return None
    name, gain = "discriminator.hint", hint_gain(discriminator, demonstrations)
    if gain is None:
        return (
            f"{name}: no prompt has two demonstrations, so nothing tells whether the model can read hints",
            False,
        )
    found = f"{gain.nats_per_token:+.3f} nats per token, {gain.num_pairs} pairs"
    if gain.nats_per_token <= 0:
        return (
            f"{name}: a demonstration in the prompt makes another one of the same prompt no likelier ({found}): this "
            "model cannot read hints, and its credit tells nothing of the expert"
        ), False
    return f"{name}: a demonstration in the prompt makes another one likelier ({found})", True
