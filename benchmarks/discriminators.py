"""How good the discriminators of a comparison are, on demonstrations that nobody trained on.

    python -m benchmarks.discriminators COMPARISON [--prompts 128]

In every reported run that has left a discriminator the trained policy answers the validation prompts in groups, and the
discriminator scores them and the expert's completions. `accuracy` is the share of pairs (expert, rollout) that it ranks
right, ½ at chance; `counted` the share of rollouts that are in pairs, the others being cut off; the rest are
correlations of its score inside groups: with the reward, the length, and each of the config's own evaluation metrics.
Written to COMPARISON/discriminators.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measuring import print_table, spread
from uniapl.config import load_config
from uniapl.config.recipe import Recipe
from uniapl.data.readers import expert_demonstration, load_prompts
from uniapl.errors import InputError
from uniapl.evaluation import load_metrics
from uniapl.evaluation.pairs import load_discriminator
from uniapl.evaluation.reward_model import Given, LikelihoodRatio
from uniapl.files import write_text
from uniapl.objective.adversarial import pair_accuracy
from uniapl.objective.reductions import group_correlation, mean_group_std
from uniapl.rewards import column_names, score
from uniapl.runs.setup import build_generator, load_policy, load_rewards
from uniapl.types import Demonstration, Prompt, Rollout

OUTPUT = "discriminators.json"


def measure(run: Path, num_prompts: int) -> dict[str, float | None]:
    """Return the accuracy and the correlations of the discriminator in a run folder.

    Args:
        run: A finished run.
        num_prompts: The first so many of its validation prompts with the expert's completion; each gets a group.

    Raises:
        InputError: There are no such prompts.
    """
    config = load_config(run / "config.yaml", [f"model.path={run / 'policy'}"])
    source = config.evaluation.validation_prompts
    if source is None:
        raise InputError(f"{run}: has no evaluation.validation_prompts")
    policy, chat = load_policy(config)
    answered = [expert_demonstration(p, chat) for p in load_prompts(source, chat)]
    experts = [expert for expert in answered if expert is not None][:num_prompts]
    if not experts:
        raise InputError(f"{source}: has no completion of the expert's to compare with")
    prompts = [expert.prompt for expert in experts]
    with policy.autocast():
        rollouts = build_generator(config, policy, chat).sample(prompts, config.rollout.group_size)
    scorer = load_discriminator(run, config, policy.device)
    sequences: list[Demonstration | Rollout] = [*experts, *rollouts]
    if isinstance(scorer, LikelihoodRatio):  # of the tokens that were sampled, as in training
        scores = scorer.scores([scorer.read(s) for s in sequences])
    else:
        scores = scorer.scores([scorer.encode(_given(s.prompt), s.completion) for s in sequences])
    counts = [not r.is_truncated for r in rollouts]
    judged = Judged(
        torch.tensor(scores[: len(experts)]),
        torch.tensor(scores[len(experts) :]).view(len(experts), -1),
        torch.tensor(counts).view(len(experts), -1),
    )
    columns = column_names(prompts)
    totals = [
        reward.total
        for reward in score(rollouts, load_rewards(Recipe.of(config), policy.device), columns)
    ]
    metrics = load_metrics(config.evaluation.metrics)
    measured = score(rollouts, metrics, columns) if metrics else []
    return {
        "accuracy": judged.accuracy(),
        "counted": sum(counts) / len(counts),
        "with reward": judged.correlation(totals),
        "with length": judged.correlation([float(len(r.token_ids)) for r in rollouts]),
        **{
            f"with {m.name}": judged.correlation([v.breakdown[m.name] for v in measured])
            for m in metrics
        },
    }


@dataclass(frozen=True, slots=True)
class Judged:
    """What a discriminator said of groups of rollouts and of the expert's completions."""

    experts: Tensor
    """[groups]"""
    rollouts: Tensor
    """[groups, group_size]"""
    is_counted: Tensor
    """[groups, group_size]: False on rollouts that were cut off."""

    def accuracy(self) -> float | None:
        """Share of the pairs in which the expert's completion ranks higher, ties half; None without pairs."""
        right = pair_accuracy(self.experts[:, None], self.rollouts)[self.is_counted]
        return right.mean().item() if right.numel() else None

    def correlation(self, values: Sequence[float | None]) -> float | None:
        """Correlation with a number per rollout, both centred in their group; None where nothing varies."""
        has_value = torch.tensor([value is not None for value in values]).view_as(self.is_counted)
        table = torch.tensor([value or 0.0 for value in values]).view_as(self.rollouts)
        is_counted = self.is_counted & has_value
        varies = [mean_group_std(x, is_counted) for x in (self.rollouts, table)]
        return group_correlation(self.rollouts, table, is_counted) if all(varies) else None


def _given(prompt: Prompt) -> Given:
    return prompt.messages if prompt.is_conversational else prompt.text


def main(arguments: list[str] | None = None) -> None:
    """Measure every reported run of a comparison that has left a discriminator."""
    parser = argparse.ArgumentParser(description="Discriminators on held-out demonstrations.")
    parser.add_argument("comparison", type=Path, help="output folder of uniapl compare")
    parser.add_argument("--prompts", type=int, default=128, help="validation prompts")
    options = parser.parse_args(arguments)
    file = options.comparison / "comparison.json"
    if not file.exists():
        sys.exit(f"error: {file} is not there: has the comparison finished?")
    by_arm: dict[str, list[dict[str, float | None]]] = {}
    try:
        for arm, found in json.loads(file.read_text(encoding="utf-8"))["arms"].items():
            for run in (options.comparison / name for name in found["runs"]):
                if (run / "discriminator").is_dir():
                    by_arm.setdefault(arm, []).append(measure(run, options.prompts))
                    print(f"measured {run}", file=sys.stderr)
    except InputError as error:
        sys.exit(f"error: {error}")
    if not by_arm:
        sys.exit(f"error: {options.comparison}: no run has left a discriminator")
    written = {"num_prompts": options.prompts, "arms": by_arm}
    write_text(options.comparison / OUTPUT, json.dumps(written, indent=1, allow_nan=False) + "\n")
    names = list(next(iter(by_arm.values()))[0])
    rows = [
        [arm, *(_spread([run[n] for run in runs]) for n in names)] for arm, runs in by_arm.items()
    ]
    print_table("median (least to greatest) of the seeds", ["arm", *names], rows)


def _spread(values: Sequence[float | None]) -> dict[str, float] | str:
    numbers = [value for value in values if value is not None]
    return spread(numbers) if numbers else ""


if __name__ == "__main__":
    main()
