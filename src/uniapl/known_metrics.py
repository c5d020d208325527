"""Every metric of an evaluation whose name uniapl gives: label, meaning, unit and direction, said once.

Evaluations write the meaning into the run folder, terminal and report read the rest. Metrics of a user's own have
a docstring instead, and `direction_of` reads it. Metrics of steps have a table of their own (`runs/metrics.py`), which
the report knows only from the run folder: `definition` writes unit and direction into it, `read_definition` finds them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Direction = Literal["higher", "lower", "neither"]

BETTER: Mapping[Direction, str] = MappingProxyType(
    {"higher": "higher is better", "lower": "lower is better", "neither": "neither is better"}
)

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "": "",
        "%": "a fraction",
        "of 1": "from 0 to 1",
        **{unit: f"in {unit}" for unit in ("tokens", "nats", "nats per token", "seconds", "GiB")},
    }
)
"""Unit → how a definition says it. `%`: a fraction in files, written as a percentage; blank: a number without one."""

FEWEST_SEEDS = 3
"""Of an arm, before one that differs is called better: what one seed says, another may take back."""


@dataclass(frozen=True, slots=True)
class KnownMetric:
    """One metric."""

    label: str
    unit: str
    """A key of `UNITS`."""
    direction: Direction
    meaning: str
    """One or more sentences."""

    @property
    def definition(self) -> str:
        """The meaning with unit and direction, as `definitions.json` says it."""
        return definition(self.meaning, self.unit, self.direction)


def definition(meaning: str, unit: str, direction: Direction) -> str:
    """Return what `definitions.json` says of a metric: the meaning, then a sentence of unit and direction.

    Args:
        meaning: One or more sentences.
        unit: A key of `UNITS`.
        direction: Which side is better; of "neither" nothing is said.

    Example:
        definition("Mean length.", "tokens", "lower")  # "Mean length. In tokens; lower is better."
    """
    parts = [UNITS[unit], "" if direction == "neither" else BETTER[direction]]
    counted = "; ".join(part for part in parts if part)
    return f"{meaning} {counted[0].upper()}{counted[1:]}." if counted else meaning


def read_definition(text: str) -> tuple[str, Direction]:
    """Return unit and direction of a text that `definition` wrote; of any other blank and "neither"."""
    last = re.split(r"(?<=[.?]) ", text)[-1]
    for unit in UNITS:
        for direction in BETTER:
            if definition("", unit, direction).strip() == last:
                return unit, direction
    return "", "neither"


_OF_INSTRUCTIONS = {
    "prompt_level_strict_acc": KnownMetric(
        "Prompts followed, strict",
        "%",
        "higher",
        "Share of prompts all of whose instructions are followed.",
    ),
    "inst_level_strict_acc": KnownMetric(
        "Instructions followed, strict",
        "%",
        "higher",
        "Share of all instructions that are followed.",
    ),
    "prompt_level_loose_acc": KnownMetric(
        "Prompts followed, loose",
        "%",
        "higher",
        "As prompt_level_strict_acc, if dropping the first or last line or the asterisks may help.",
    ),
    "inst_level_loose_acc": KnownMetric(
        "Instructions followed, loose",
        "%",
        "higher",
        "As inst_level_strict_acc, read loosely.",
    ),
}

_OF_PAIRS = {
    "pairs_accuracy": KnownMetric(
        "Pairs ranked right",
        "%",
        "higher",
        "Share of labelled pairs whose chosen completion has the higher score, ties half.",
    ),
    "margin_mean": KnownMetric(
        "Margin, chosen minus rejected",
        "",
        "higher",
        "Score of the chosen minus that of the rejected completion, mean over pairs.",
    ),
}

_OF_COMPLETIONS = {
    "completion_tokens_w1": KnownMetric(
        "Length distance to the expert, W1",
        "tokens",
        "lower",
        "Wasserstein-1 distance of the two length distributions; 0 = the same.",
    ),
    "expert_nll": KnownMetric(
        "Surprise at the expert",
        "nats per token",
        "lower",
        "Negative log-likelihood of the expert's completions under the policy.",
    ),
    "truncated_fraction": KnownMetric(
        "Cut off by the token limit",
        "%",
        "lower",
        "Share of completions cut off by the token limit.",
    ),
    "completion_tokens_mean": KnownMetric(
        "Completion length",
        "tokens",
        "neither",
        "Mean length of the policy's completions, with the end of turn.",
    ),
    "expert_completion_tokens_mean": KnownMetric(
        "The expert's completion length",
        "tokens",
        "neither",
        "Mean length of the expert's completions.",
    ),
    "completion_tokens_ks": KnownMetric(
        "Length distance to the expert, KS",
        "of 1",
        "lower",
        "Kolmogorov-Smirnov distance of the two length distributions: 0 = the same, 1 = no overlap.",
    ),
    "logprob_mean": KnownMetric(
        "Log-prob of own completions",
        "nats per token",
        "neither",
        "Log-prob per token that the policy gives its own completions, mean over completions.",
    ),
    "expert_logprob_mean": KnownMetric(
        "Log-prob of the expert's completions",
        "nats per token",
        "higher",
        "Log-prob per token that the policy gives the expert's completions, mean over completions.",
    ),
    "logprob_w1": KnownMetric(
        "Log-prob distance to the expert, W1",
        "nats per token",
        "lower",
        "Wasserstein-1 distance of those two distributions over completions.",
    ),
    "logprob_ks": KnownMetric(
        "Log-prob distance to the expert, KS",
        "of 1",
        "lower",
        "Kolmogorov-Smirnov distance of those two distributions.",
    ),
    "base_logprob_mean": KnownMetric(
        "Log-prob of own completions before training",
        "nats per token",
        "neither",
        "As logprob_mean, but under the model before training: how far the policy has moved.",
    ),
    "expert_base_logprob_mean": KnownMetric(
        "Log-prob of the expert's before training",
        "nats per token",
        "neither",
        "As expert_logprob_mean, but under the model before training.",
    ),
    "base_logprob_w1": KnownMetric(
        "Distance in the base's log-prob, W1",
        "nats per token",
        "lower",
        "As logprob_w1, but under the model before training: do both surprise it alike?",
    ),
    "base_logprob_ks": KnownMetric(
        "Distance in the base's log-prob, KS",
        "of 1",
        "lower",
        "As logprob_ks, but under the model before training.",
    ),
    "entropy": KnownMetric(
        "Entropy, estimated",
        "nats per token",
        "neither",
        "Mean -log π of the policy's own tokens: an estimate of its entropy if evaluation.temperature is 1.",
    ),
    "repetition_fraction": KnownMetric(
        "Repeated 3-grams",
        "%",
        "neither",
        "Share of a completion's word 3-grams that it had before, mean over completions.",
    ),
    "distinct_1": KnownMetric(
        "Distinct words",
        "%",
        "neither",
        "Different words over all words of all completions; depends on how much text there is.",
    ),
    "distinct_2": KnownMetric(
        "Distinct word pairs",
        "%",
        "neither",
        "Different word pairs over all word pairs of all completions.",
    ),
    "expert_bigram_f1": KnownMetric(
        "Word pairs shared with the expert, F1",
        "of 1",
        "higher",
        "Overlap of a completion's word pairs with those of the expert's completion of the same prompt "
        "(ROUGE-2 F1), mean over prompts.",
    ),
}

KNOWN: Mapping[str, KnownMetric] = MappingProxyType(
    {**_OF_INSTRUCTIONS, **_OF_PAIRS, **_OF_COMPLETIONS}
)
"""Name → metric, in the order in which tables show them."""

INSTRUCTION_METRICS = tuple(_OF_INSTRUCTIONS)
"""What every evaluation with instructions measures."""
COMPLETION_METRICS = tuple(_OF_COMPLETIONS)
"""What an evaluation of a policy measures besides: its completions, and how near they are to the expert's."""


def direction_of(name: str, meaning: str, *, is_fraction: bool) -> Direction:
    """Return which side of a metric is better.

    Args:
        name: Known or not.
        meaning: First line of the docstring, where it is a user's own: it may say "lower is better".
        is_fraction: Whether all its values lie in [0, 1]: then higher is better unless the meaning says otherwise;
            of any other it is not known.
    """
    if known := KNOWN.get(name):
        return known.direction
    if BETTER["lower"] in meaning:
        return "lower"
    return "higher" if is_fraction else "neither"


def is_sure(low: float | None, high: float | None, num_seeds: int) -> bool:
    """Return whether a difference of arms is a finding: seeds enough, and a 95 % interval that excludes 0."""
    if low is None or high is None or num_seeds < FEWEST_SEEDS:
        return False
    return low > 0 or high < 0
