"""Metrics of steps: meaning, unit and direction of each, and the file that receives one row of them per step."""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from uniapl.files import write_text
from uniapl.known_metrics import Direction, definition
from uniapl.training.term_gradients import PAIRS, TERMS


class StepMetric(NamedTuple):
    """What is known of a metric of a step; `definition` makes a sentence of it."""

    meaning: str
    """One line."""
    unit: str = ""
    """A key of `known_metrics.UNITS`."""
    direction: Direction = "neither"


STEP_METRICS: dict[str, StepMetric] = {
    "objective/loss": StepMetric("The whole objective of the step, as minimised."),
    "objective/sft": StepMetric(
        "Negative log-likelihood of the expert's completions.", "nats per token", "lower"
    ),
    "objective/grpo": StepMetric(
        "Minus the reward advantage times the probability ratio, sum over rewarded tokens divided by N_reward. Its "
        "value says little, its gradient trains."
    ),
    "objective/adversarial": StepMetric(
        "Minus the adversarial advantage times the probability ratio, mean over the tokens that carry one, before λ."
    ),
    "objective/pairs": StepMetric(
        "DPO's loss on the step's chosen and rejected completions, mean over pairs; log 2 = 0.693 where the policy is "
        "the reference.",
        "nats",
        "lower",
    ),
    "objective/pairs_accuracy": StepMetric(
        "Share of the step's pairs whose chosen completion the policy prefers more than the reference does.",
        "%",
        "higher",
    ),
    "objective/pair_weight": StepMetric(
        "Weight of the term of chosen and rejected completions in this step."
    ),
    "objective/sft_weight": StepMetric("Weight of the SFT term in this step."),
    "objective/grpo_weight": StepMetric("Weight of the reward term in this step."),
    "objective/adversarial_weight": StepMetric("λ as it acts in this step, ramp included."),
    **{
        f"objective/{term}_token_weights": StepMetric(
            f"Sum of |token weight| of the {term} term over the step: how much of the update it can cause."
        )
        for term in TERMS
        if term != "kl"
    },
    **{
        f"objective/{term}_grad_norm": StepMetric(
            f"Norm of the {term} term's own gradient, weighted as it acts; the terms' gradients sum to the step's "
            "(training.gradients_every)."
        )
        for term in TERMS
    },
    **{
        f"objective/{one}_{other}_cosine": StepMetric(
            f"Cosine of the angle between the gradients of {one} and {other}: 1 they pull together, 0 they do not "
            "meet, -1 they undo each other."
        )
        for one, other in PAIRS
    },
    "reward/mean": StepMetric("Mean total reward of the step's rollouts.", "", "higher"),
    "reward/std": StepMetric(
        "Standard deviation of the total reward inside groups, mean over groups."
    ),
    "rollout/completion_tokens_mean": StepMetric("Mean length of the step's rollouts.", "tokens"),
    "rollout/truncated_fraction": StepMetric(
        "Share of rollouts that the token limit cut off.", "%", "lower"
    ),
    "rollout/zero_std_group_fraction": StepMetric(
        "Share of groups whose rewards are all equal: they teach nothing about reward.",
        "%",
        "lower",
    ),
    "rollout/lag_steps": StepMetric(
        "Updates between the weights that sampled the batch and its first update: 0 without rollout.ahead."
    ),
    "policy/entropy": StepMetric(
        "Mean -log π_old of the sampled tokens that the KL penalty counts, at rollout.temperature: an estimate of the "
        "policy's entropy.",
        "nats per token",
    ),
    "policy/kl_reference": StepMetric(
        "k3 estimate of KL(policy ‖ reference), mean over the tokens that the KL penalty counts.",
        "nats per token",
    ),
    "policy/ratio_mean": StepMetric(
        "Mean probability ratio π/π_old over the tokens that the KL penalty counts; 1 on a first pass."
    ),
    "policy/clip_fraction": StepMetric(
        "Share of weighted rollout tokens where the clip took the gradient away.", "%"
    ),
    "policy/sampling_gap": StepMetric(
        "Mean |log π_old - log π_sampled| over the tokens that the KL penalty counts: trainer against generator.",
        "nats per token",
        "lower",
    ),
    "discriminator/loss": StepMetric(
        "Loss of the discriminator's update: of likelihood per token of the demonstrations; of scalar per pair, with "
        "log 2 = 0.693 at chance, and once more for data.pairs.",
        "nats",
        "lower",
    ),
    "discriminator/log_ratio": StepMetric(
        "Mean of log p_expert - log π over the rollouts' tokens: minus the reverse KL to the expert, as the "
        "discriminator sees it.",
        "nats per token",
    ),
    "discriminator/held_out_log_ratio": StepMetric(
        "Mean of log p_expert - log π over the tokens of held-out demonstrations.", "nats per token"
    ),
    "discriminator/margin": StepMetric(
        "Held-out demonstrations minus rollouts in log-ratio: above 0 the discriminator tells the expert from the "
        "policy.",
        "nats per token",
    ),
    "discriminator/accuracy": StepMetric(
        "Share of (expert, rollout) pairs ranked right, ties half, before it learned from them.",
        "%",
    ),
    "discriminator/pair_margin": StepMetric("Mean of d(expert) - d(rollout) over those pairs."),
    "discriminator/held_out_accuracy": StepMetric(
        "Share of (held-out demonstration, rollout) pairs ranked right, ties half.", "%"
    ),
    "discriminator/held_out_pair_margin": StepMetric(
        "Mean of d(demonstration) - d(rollout) over those pairs."
    ),
    "discriminator/pairs_accuracy": StepMetric(
        "Share of the step's pairs of data.pairs ranked right, ties half, before it learned from them in this step; "
        "from the second pass over the data on, it has seen them.",
        "%",
    ),
    "discriminator/score": StepMetric(
        "Mean score of the credited rollouts (reference). Where it rises while the accuracy falls, the policy games it."
    ),
    "discriminator/group_std": StepMetric(
        "Spread of d inside groups: without it there is nothing to learn from."
    ),
    "discriminator/length_correlation": StepMetric(
        "Correlation of d with length inside groups; beyond ±0.6 it judges length."
    ),
    "discriminator/repetition_correlation": StepMetric(
        "Correlation of d with the share of repeated 3-grams inside groups; above 0.6 it rewards repetition."
    ),
    "discriminator/reward_correlation": StepMetric(
        "Correlation of d with the reward inside groups."
    ),
    "discriminator/demonstration_logit": StepMetric("Mean d of rollouts on demonstration prompts."),
    "discriminator/preference_logit": StepMetric(
        "Mean d of rollouts on preference prompts; far below hints at reward hacking."
    ),
    "constraint/margin": StepMetric(
        "Moving average of the margin; at 0 or below λ is 0, for the discriminator is wrong.",
        "nats per token",
    ),
    "constraint/distance": StepMetric(
        "Moving average of the distance to the expert: reverse KL in nats per token (likelihood) or pair accuracy on "
        "held-out demonstrations (scalar).",
        "",
        "lower",
    ),
    "constraint/weight": StepMetric("λ before the ramp."),
    "constraint/state": StepMetric(
        "-1 slack (λ at its minimum), 0 active, 1 saturated (λ at its maximum); null while the discriminator is wrong "
        "or has measured nothing."
    ),
    "optimizer/learning_rate": StepMetric("The policy's learning rate."),
    "optimizer/grad_norm": StepMetric(
        "Norm of the policy's gradient before clipping; 0 where no token has a weight."
    ),
    "optimizer/moved_fraction": StepMetric(
        "Share of the policy's weights, of a fixed sample, that the update changed; null where there was none.",
        "%",
    ),
    "optimizer/discriminator_grad_norm": StepMetric(
        "Norm of the discriminator's gradient before clipping."
    ),
    "data/demonstration_epoch": StepMetric("Passes over the demonstrations so far."),
    "data/trained_tokens": StepMetric(
        "Tokens that went through a forward and backward pass so far, prompts included.", "tokens"
    ),
    "data/sampled_tokens": StepMetric("Tokens sampled so far.", "tokens"),
    "time/step_seconds": StepMetric("Duration of the step.", "seconds", "lower"),
    "time/rollout_seconds": StepMetric(
        "Time spent drawing, sampling and rewarding.", "seconds", "lower"
    ),
    "time/update_seconds": StepMetric(
        "Time spent in the policy's forward, backward and update.", "seconds", "lower"
    ),
    "time/discriminator_seconds": StepMetric(
        "Time spent scoring with and training the discriminator.", "seconds", "lower"
    ),
    "memory/peak_gib": StepMetric(
        "Peak memory of the process (CPU) or the device (CUDA).", "GiB", "lower"
    ),
}
"""Name → what is known of it: the one table of step metrics.

A run adds `reward/<name>` for each reward. Metrics of terms that do not act are null.
"""

DEFINITIONS: dict[str, str] = {name: definition(*row) for name, row in STEP_METRICS.items()}
"""Name → what `definitions.json` says, from which the report reads unit and direction again."""


def definitions(reward_names: Iterable[str]) -> dict[str, str]:
    """Return the meaning of every key that a run with these rewards writes."""
    own = {
        f"reward/{name}": f"Mean of the reward {name}, before its weight." for name in reward_names
    }
    return {**DEFINITIONS, **own}


def logged_definition(name: str) -> str:
    """Return the meaning of a metric `…/<function>/<name>` that a reward function logs by itself."""
    *_, function, logged = name.split("/", 2) if name.startswith("reward/") else name.split("/", 1)
    return f"{logged}, as {function} logs it: the mean over its calls."


class MetricsFile:
    """`metrics.jsonl`: one row per step, all of the run's keys in each, null where a value is absent.

    What a reward logs by itself, `reward/<reward>/<name>`, becomes a key of the run when it first comes.
    """

    def __init__(self, path: Path, names: Iterable[str], last_step: int) -> None:
        """Open for appending, after cutting what lies past `last_step` or is torn."""
        self.path = path
        self.names = list(names)
        self._namespaces = tuple(f"{name}/" for name in self.names if name.startswith("reward/"))
        rows = [row for row in read_rows(path) if row["step"] <= last_step]
        self.logged = self._take_up(name for row in rows for name in row)
        """What rewards have logged so far."""
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._stream = path.open("a", encoding="utf-8")

    def _take_up(self, names: Iterable[str]) -> list[str]:
        """Return the names that rewards log and that are new; they are keys of the run from now on."""
        new = [
            name
            for name in dict.fromkeys(names)
            if name.startswith(self._namespaces) and name not in self.names
        ]
        self.names += new
        return new

    def write(self, step: int, metrics: Mapping[str, float | None]) -> dict[str, Any]:
        """Append a row and return it; a metric that has no definition and that no reward logs is a bug.

        Names that rewards log are added to `logged`.
        """
        self.logged += self._take_up(metrics)
        unknown = metrics.keys() - set(self.names)
        assert not unknown, f"metrics without a definition: {sorted(unknown)}"
        row = {"step": step, **{name: _finite(metrics.get(name)) for name in self.names}}
        self._stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._stream.flush()
        return row

    def sync(self) -> None:
        """Make sure that the rows are on disk: a checkpoint must never be ahead of them."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file up to the first torn one; none if there is no file."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    # a text may hold other characters that `splitlines` takes for line breaks
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def peak_gib(device: torch.device) -> float:
    """Return the peak memory so far: of the device, or of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # Unix alone has it

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
