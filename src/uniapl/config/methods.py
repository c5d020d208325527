"""All methods as rows of one table: a method is what it sets in the one loop, and nothing else.

To add a method, add a row here and a line to docs/method.md. Everything that a row implies is derived in `recipe.py`.
"""

from dataclasses import dataclass
from typing import Literal

from uniapl.config.forms import FormName
from uniapl.config.schedules import Points, Weight

RolloutsOn = Literal["none", "preference", "demonstration", "both"]

CONFIGURED = "configured"
"""The config's own value stands."""
UNTIL_WARM = "until warm"
"""1 while the discriminator warms up, then 0."""
MU = "chord_mu"
"""μ: the value of `objective.chord_mu`."""
REST_OF_MU = "1 - chord_mu"
"""1 - μ."""
UNTIL_HALF: Points = ((0.5, 1.0), (0.5, 0.0))
FROM_HALF: Points = ((0.5, 0.0), (0.5, 1.0))

IN_WORDS: dict[object, str] = {
    UNTIL_WARM: "1 during the warm-up of the discriminator, then 0",
    UNTIL_HALF: "1 for the first half of the steps, then 0",
    FROM_HALF: "0 for the first half of the steps, then 1",
    MU: "objective.chord_mu",
    REST_OF_MU: "1 - objective.chord_mu",
}
"""How a message says the schedules of the table."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row."""

    title: str
    """The method in words, as the report's headline says it."""
    sft: Weight | Literal["configured", "until warm", "chord_mu"]
    """`objective.sft_weight`."""
    grpo: Weight | Literal["configured", "1 - chord_mu"]
    """`objective.grpo_weight`."""
    adversarial: Literal["configured", 0, 1]
    """`objective.adversarial_weight`, λ; the warm-up and ramp of the discriminator act on top."""
    rollouts_on: RolloutsOn
    """Which prompts are rolled out, always `data.prompts_per_step` of them, in steps where a term needs rollouts."""
    form: FormName | None = None
    """`discriminator.form` if the method is defined by it."""
    adversarial_from: float = 0.0
    """Fraction of the steps before which λ is 0."""
    shapes_reward: bool = False
    """Whether λ·d(x, y) is added to the reward instead of being a term of its own."""


METHODS: dict[str, Method] = {
    "sft": Method("supervised fine-tuning (SFT)", 1.0, 0.0, 0, "none"),
    "grpo": Method("reinforcement learning from rewards (GRPO)", 0.0, CONFIGURED, 0, "preference"),
    "sft-grpo": Method("SFT, then GRPO", UNTIL_HALF, FROM_HALF, 0, "preference"),
    "mix": Method("SFT and GRPO in one stage", CONFIGURED, CONFIGURED, 0, "preference"),
    "mix-both": Method(
        "SFT and GRPO in one stage, rollouts on both kinds of prompts",
        CONFIGURED,
        CONFIGURED,
        0,
        "both",
    ),
    "chord": Method("CHORD (SFT fades into GRPO)", MU, REST_OF_MU, 0, "preference"),
    "a-sft": Method("SFT and an adversarial term", 1.0, 0.0, CONFIGURED, "demonstration"),
    "a-grpo": Method("GRPO and an adversarial term", 0.0, CONFIGURED, CONFIGURED, "both"),
    "sft-a-grpo": Method(
        "SFT, then GRPO and an adversarial term",
        UNTIL_HALF,
        FROM_HALF,
        CONFIGURED,
        "both",
        adversarial_from=0.5,
    ),
    "a-sft-a-grpo": Method(
        "SFT, then GRPO, both with an adversarial term", UNTIL_HALF, FROM_HALF, CONFIGURED, "both"
    ),
    "a-chord": Method("CHORD and an adversarial term", MU, REST_OF_MU, CONFIGURED, "both"),
    "gad": Method(
        "adversarial distillation (GAD)", UNTIL_WARM, 0.0, 1, "demonstration", form="scalar"
    ),
    "shaped": Method(
        "SFT and GRPO in one stage, the discriminator's score in the reward",
        CONFIGURED,
        CONFIGURED,
        CONFIGURED,
        "both",
        shapes_reward=True,
    ),
    "uniapl": Method(
        "UniAPL (SFT, GRPO and an adversarial term in one stage)",
        CONFIGURED,
        CONFIGURED,
        CONFIGURED,
        "both",
    ),
}
