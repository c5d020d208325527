"""`reference`: a scorer that reads the expert's completion of this very prompt beside the rollout.

The paper's discriminator is of this kind: a fixed POLAR model (arXiv 2507.05197). Its score is a credit per completion
and a term of its own. Rollouts of prompts without a demonstration are not credited. One that learns ranks another text
of the expert above rollouts; the reference itself would teach it to look for the same text twice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.discriminators.health import ranking
from uniapl.discriminators.learner import Learner
from uniapl.discriminators.protocol import Judgement, PolicyLogprobs
from uniapl.discriminators.scoring import judge_completions
from uniapl.discriminators.texts import LocalTexts, PairText, SecondTexts, TextScorer, answer_of
from uniapl.distributed import ALONE, Ranks
from uniapl.errors import InputError
from uniapl.models.devices import find_device
from uniapl.objective.adversarial import bradley_terry_loss
from uniapl.types import Demonstration, MixedBatch, RolloutBatch


class Reference:
    """d(x, y | y*): the scorer's logit of one text that holds prompt, reference and rollout."""

    def __init__(
        self,
        recipe: Recipe,
        scorer: TextScorer,
        demonstrations: Sequence[Demonstration],
        held_out: Sequence[Demonstration] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare.

        Args:
            recipe: The run.
            scorer: A `LocalTexts` if it learns.
            demonstrations: All that are trained on; the expert's second texts are found among them.
            held_out: Demonstrations that only measure; second texts are found among them, too.
            ranks: Each scores some of the texts; all get all scores.

        Raises:
            InputError: The scorer learns or moves λ, and no prompt has two demonstrations.
        """
        config = recipe.config
        self.scorer, self.ranks = scorer, ranks
        self.write = PairText(config.discriminator.pair_template)
        self.device = find_device(config.training.device)
        self.seconds = SecondTexts([*demonstrations, *held_out])
        self.learner: Learner | None = None
        self.running_std: float | None = None
        if recipe.learns:
            assert isinstance(scorer, LocalTexts)
            _need_seconds("discriminator.frozen: false", "demonstrations", demonstrations)
            self.learner = Learner(scorer.classifier, recipe, ranks)
        if recipe.samples_held_out:
            _need_seconds("constraint.target", "held-out demonstrations", held_out)

    def judge(
        self, batch: RolloutBatch, data: MixedBatch, policy_logprobs: PolicyLogprobs
    ) -> Judgement:
        """As `Discriminator.judge`; a truncated rollout is not credited: its last token is not its end."""
        logits_GxN, is_counted_GxN, health = self._rank(batch, learns=self.learner is not None)
        if is_counted_GxN.any():
            health["score"] = logits_GxN[is_counted_GxN].mean().item()
        judgement, self.running_std = judge_completions(
            batch, logits_GxN, is_counted_GxN, self.running_std, health
        )
        return judgement

    def measure(self, held_out: RolloutBatch, policy_logprobs: PolicyLogprobs) -> dict[str, float]:
        """Return how often it ranks another held-out text of the expert above rollouts of the prompt."""
        if not held_out.rollouts:
            return {}
        *_, found = self._rank(held_out, learns=False)
        return {f"discriminator/held_out_{name}": value for name, value in found.items()}

    def _rank(
        self, batch: RolloutBatch, *, learns: bool
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Return d of the rollouts (0 for one not judged), which are judged, and how fresh texts rank above them."""
        size = batch.group_size
        paired = {g: expert for g, expert in enumerate(batch.experts) if expert is not None}
        judged = [
            i
            for i, rollout in enumerate(batch.rollouts)
            if i // size in paired and not (rollout.is_truncated or rollout.is_expert)
        ]
        second = {g: self.seconds.other(expert) for g, expert in paired.items()}
        fresh = [group for group, other in second.items() if other is not None]
        texts = [self._text(paired[i // size], batch.rollouts[i].answer) for i in judged] + [
            self._text(paired[group], second[group] or "") for group in fresh
        ]
        found = self.ranks.spread(texts, self.scorer.scores, "scoring rollouts")
        scores = torch.tensor(found, device=self.device)
        flat = scores.new_zeros(len(batch.rollouts))
        flat[judged] = scores[: len(judged)]
        is_counted = torch.zeros(len(batch.rollouts), dtype=torch.bool, device=self.device)
        is_counted[judged] = True
        logits_GxN, is_counted_GxN = flat.view(-1, size), is_counted.view(-1, size)
        health = ranking(scores[len(judged) :], logits_GxN[fresh], is_counted_GxN[fresh])
        if learns:
            health["loss"] = self._add_gradient(texts, scores, _pairs(judged, fresh, size))
        return logits_GxN, is_counted_GxN, health

    def _text(self, expert: Demonstration, candidate: str) -> str:
        return self.write(expert.prompt, answer_of(expert), candidate)

    def _add_gradient(
        self, texts: Sequence[str], scores: Tensor, pairs: Sequence[tuple[int, int]]
    ) -> float:
        """Leave the gradient of the mean loss over pairs of a better and a worse text; return that mean."""
        if not pairs:
            return 0.0
        assert isinstance(self.scorer, LocalTexts)
        better, worse = torch.tensor(pairs, device=self.device).unbind(1)
        values = scores.detach().requires_grad_()
        loss = bradley_terry_loss(values[better], values[worse]).mean()
        (slopes,) = torch.autograd.grad(loss, values)
        in_pairs = sorted({i for pair in pairs for i in pair})
        in_pairs = [i for i, is_own in self.ranks.deal(in_pairs) if is_own]
        self.scorer.backward([texts[i] for i in in_pairs], slopes[in_pairs].tolist())
        return loss.item()

    def learn(self, learning_rate: float) -> dict[str, float]:
        """As `Discriminator.learn`; a frozen scorer learns nothing."""
        return self.learner.update(learning_rate) if self.learner else {}

    def state_dict(self) -> dict[str, Any]:
        """As `Discriminator.state_dict`."""
        learned = self.learner.state_dict() if self.learner else {}
        return learned | {"running_std": self.running_std}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Discriminator.load_state_dict`."""
        if self.learner:
            self.learner.load_state_dict(state)
        self.running_std = state["running_std"]

    def save(self, folder: Path, chat: Chat, dtype: torch.dtype) -> bool:
        """Write what it has learned, an ordinary sequence-classification folder; a frozen one is where it was."""
        if self.learner is None:
            return False
        assert isinstance(self.scorer, LocalTexts)
        self.scorer.save(folder, dtype)
        return True


def _pairs(judged: Sequence[int], fresh: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Return the places of a fresh text and of a rollout of the same group among the scored texts."""
    return [
        (len(judged) + place, i)
        for place, group in enumerate(fresh)
        for i, rollout in enumerate(judged)
        if rollout // size == group
    ]


def _need_seconds(key: str, kind: str, demonstrations: Sequence[Demonstration]) -> None:
    if not SecondTexts(demonstrations).num_prompts:
        raise InputError(
            f"{key}: discriminator.form reference is told right from wrong by a second text of the expert, and none "
            f"of the {len(demonstrations)} {kind} shares its prompt with another one; collect several per prompt, or "
            "leave the key out"
        )
