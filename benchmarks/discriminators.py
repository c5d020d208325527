"""How good the discriminators of a comparison are, on demonstrations that nobody trained on.

    python -m benchmarks.discriminators COMPARISON [--prompts 128]

In every reported run that has left a discriminator the trained policy answers the validation prompts in groups, and the
discriminator scores them and the expert's completions. `accuracy` is the share of pairs (expert, rollout) that it ranks
right, ½ at chance; the others are correlations of its score inside groups: with the reward, the length, and each of the
config's own evaluation metrics. Written to COMPARISON/discriminators.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measuring import print_table, spread
from uniapl.config import load_config
from uniapl.data.readers import expert_demonstration, load_prompts
from uniapl.evaluation import load_metrics
from uniapl.evaluation.pairs import load_discriminator
from uniapl.objective.adversarial import pair_accuracy
from uniapl.objective.reductions import group_correlation
from uniapl.rewards import column_names, score
from uniapl.training.checkpoint import replace_file
from uniapl.training.setup import build_generator, load_policy, load_rewards

OUTPUT = "discriminators.json"


def measure(run: Path, num_prompts: int) -> dict[str, float]:
    """Return the accuracy and the correlations of the discriminator in a run folder.

    Args:
        run: A finished run whose `evaluation.validation_prompts` have the expert's completions.
        num_prompts: The first so many of them, each answered by a group of rollouts.
    """
    config = load_config(run / "config.yaml", [f"model.path={run / 'policy'}"])
    policy, chat = load_policy(config)
    assert config.evaluation.validation_prompts is not None
    prompts = load_prompts(config.evaluation.validation_prompts, chat, limit=num_prompts)
    experts = [expert for p in prompts if (expert := expert_demonstration(p, chat))]
    prompts = [expert.prompt for expert in experts]
    with policy.autocast():
        rollouts = build_generator(config, policy, chat).sample(prompts, config.rollout.group_size)
    scorer = load_discriminator(run, config, policy.device)
    scores = scorer.scores(
        [
            scorer.encode(p.messages if p.is_conversational else p.text, text)
            for p, text in ((s.prompt, s.completion) for s in (*experts, *rollouts))
        ]
    )
    expert_scores = torch.tensor(scores[: len(experts)])[:, None]

    def grouped(values: Sequence[float]) -> Tensor:
        return torch.tensor(values).view(len(experts), -1)

    logits = grouped(scores[len(experts) :])
    is_counted = grouped([float(not r.is_truncated) for r in rollouts]).bool()
    columns = column_names(prompts)
    rewards = score(rollouts, load_rewards(config, policy.device), columns)
    traits = {
        "reward": [r.total for r in rewards],
        "length": [float(len(r.token_ids)) for r in rollouts],
    }
    metrics = load_metrics(config.evaluation.metrics)
    measured = score(rollouts, metrics, columns) if metrics else []
    traits |= {m.name: [values.breakdown[m.name] for values in measured] for m in metrics}
    found = {
        "accuracy": pair_accuracy(expert_scores, logits).expand_as(logits)[is_counted].mean().item()
    }
    for name, values in traits.items():
        has_value = grouped([float(value is not None) for value in values]).bool()
        found[name] = group_correlation(
            logits, grouped([value or 0.0 for value in values]), is_counted & has_value
        )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure every reported run of a comparison that has left a discriminator."""
    parser = argparse.ArgumentParser(description="Discriminators on held-out demonstrations.")
    parser.add_argument("comparison", type=Path, help="output folder of uniapl compare")
    parser.add_argument("--prompts", type=int, default=128, help="validation prompts")
    options = parser.parse_args(arguments)
    comparison = json.loads((options.comparison / "comparison.json").read_text(encoding="utf-8"))
    by_arm: dict[str, list[dict[str, float]]] = {}
    for arm, found in comparison["arms"].items():
        for run in (options.comparison / name for name in found["runs"]):
            if (run / "discriminator").is_dir():
                by_arm.setdefault(arm, []).append(measure(run, options.prompts))
                print(f"measured {run}", file=sys.stderr)
    if not by_arm:
        sys.exit(f"error: {options.comparison}: no run has left a discriminator")
    written = {"num_prompts": options.prompts, "arms": by_arm}
    replace_file(options.comparison / OUTPUT, json.dumps(written, indent=1) + "\n")
    names = list(next(iter(by_arm.values()))[0])
    rows = [
        [arm, *(spread([run[n] for run in runs]) for n in names)] for arm, runs in by_arm.items()
    ]
    print_table("median (least to greatest) of the seeds", ["arm", *names], rows)


if __name__ == "__main__":
    main()
