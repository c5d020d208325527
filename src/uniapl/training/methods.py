"""All methods as rows of one table: what they set in the one loop, and nothing else."""

from dataclasses import dataclass
from typing import Literal

from uniapl.config.schema import Config, MethodName, Points, Weight
from uniapl.training.schedules import is_ever_positive
from uniapl.types import InputError

RolloutsOn = Literal["none", "preference", "demonstration", "both"]

CONFIGURED = "configured"
"""The weight is the config's own."""
UNTIL_HALF: Points = ((0.5, 1.0), (0.5, 0.0))
FROM_HALF: Points = ((0.5, 0.0), (0.5, 1.0))
UNTIL_WARM = "until warm"
"""1 while the discriminator warms up, then 0."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row."""

    sft: float | Points | Literal["configured", "until warm"]
    """`objective.sft_weight`."""
    grpo: float | Points | Literal["configured"]
    """`objective.grpo_weight`."""
    adversarial: Literal["configured", 0, 1]
    """`objective.adversarial_weight`, λ; the warm-up and ramp of the discriminator act on top."""
    rollouts_on: RolloutsOn
    """Which prompts are rolled out, always `data.prompts_per_step` of them."""
    form: Literal["scalar"] | None = None
    """`discriminator.form` if the method is defined by it."""


METHODS: dict[MethodName, Method] = {
    "sft": Method(1.0, 0.0, 0, "none"),
    "grpo": Method(0.0, CONFIGURED, 0, "preference"),
    "sft-grpo": Method(UNTIL_HALF, FROM_HALF, 0, "preference"),
    "mix": Method(CONFIGURED, CONFIGURED, 0, "preference"),
    "a-sft": Method(1.0, 0.0, CONFIGURED, "demonstration"),
    "a-grpo": Method(0.0, CONFIGURED, CONFIGURED, "both"),
    "gad": Method(UNTIL_WARM, 0.0, 1, "demonstration", form="scalar"),
    "uniapl": Method(CONFIGURED, CONFIGURED, CONFIGURED, "both"),
}
"""`sft-grpo` rolls out only while its reward term acts."""


def resolve(config: Config, overridden: frozenset[str] = frozenset()) -> Config:
    """Fill in what the method decides, so that the config states what will run.

    Args:
        config: As loaded.
        overridden: Dotted keys given on the command line. A weight in a file that several methods share
            may lack effect for this one; asked for explicitly, it may not.

    Raises:
        InputError: An explicit key contradicts the method, or the method needs what is not there.
    """
    row = METHODS[config.method]
    problems = _contradictions(config, row, overridden) + _missing(config, row)
    if problems:
        raise InputError(f"method {config.method}: " + f"\nmethod {config.method}: ".join(problems))
    warm = min(1.0, config.discriminator.warmup_steps / config.training.steps)
    weights: dict[str, object] = {}
    for key, value in (
        ("sft_weight", row.sft),
        ("grpo_weight", row.grpo),
        ("adversarial_weight", row.adversarial),
    ):
        if value == UNTIL_WARM:
            weights[key] = ((warm, 1.0), (warm, 0.0))
        elif value != CONFIGURED:
            weights[key] = value
    form = row.form or config.discriminator.form
    return config.model_copy(
        update={
            "objective": config.objective.model_copy(update=weights),
            "discriminator": config.discriminator.model_copy(update={"form": form}),
        }
    )


def uses_discriminator(config: Config) -> bool:
    """Return whether a resolved config has an adversarial term at any time."""
    return is_ever_positive(config.objective.adversarial_weight)


def _contradictions(config: Config, row: Method, overridden: frozenset[str]) -> list[str]:
    fixed: dict[str, tuple[object, Weight]] = {
        "objective.sft_weight": (row.sft, config.objective.sft_weight),
        "objective.grpo_weight": (row.grpo, config.objective.grpo_weight),
        "objective.adversarial_weight": (row.adversarial, config.objective.adversarial_weight),
    }
    problems = [
        f"fixes {key} to {_in_words(own)}; remove {key}={given}"
        for key, (own, given) in fixed.items()
        if key in overridden and own != CONFIGURED and own != given
    ]
    if row.form and "discriminator.form" in overridden and config.discriminator.form != row.form:
        problems.append(f"needs discriminator.form={row.form}")
    has_discriminator = row.adversarial != 0
    without = {"discriminator", "constraint"} if not has_discriminator else set[str]()
    if row.rollouts_on == "none":
        without |= {"rollout", "rewards"}
    idle = _idle_keys(config, row)
    problems += [f"{idle[key]}; remove {key}" for key in sorted(overridden & idle.keys())]
    problems += [
        f"has no {key.partition('.')[0]}; remove {key}"
        for key in sorted(overridden)
        if key.partition(".")[0].partition("[")[0] in without
        and key != "rollout.max_completion_tokens"
    ]
    return problems


def _idle_keys(config: Config, row: Method) -> dict[str, str]:
    """Return key → reason for single options that a method makes no use of."""
    idle: dict[str, str] = {}
    if row.rollouts_on in ("none", "demonstration") and config.data.prompts is not None:
        idle["data.prompts"] = "rolls out no preference prompts"
    if row.rollouts_on != "both":
        idle["data.demonstration_prompts_per_step"] = "does not mix kinds of prompts"
    if row.grpo == 0.0:
        idle["objective.advantage_scale"] = "has no reward term"
    if row.rollouts_on == "none":
        keys = ["clip_low", "clip_high", "advantage_scale"]
        if is_ever_positive(config.objective.kl_coef):
            keys.append("kl_coef")
        idle |= dict.fromkeys((f"objective.{key}" for key in keys), "rolls out nothing")
        idle["data.prompts_per_step"] = "rolls out nothing"
    return idle


def _missing(config: Config, row: Method) -> list[str]:
    problems: list[str] = []
    data = config.data
    if row.rollouts_on in ("preference", "both") and data.prompts is None:
        problems.append("needs data.prompts")
    if row.rollouts_on == "demonstration" and data.prompts_per_step > data.demonstrations_per_step:
        problems.append(
            f"rolls out demonstration prompts only: data.prompts_per_step {data.prompts_per_step} "
            f"must not exceed data.demonstrations_per_step {data.demonstrations_per_step}"
        )
    if row.rollouts_on == "both" and data.demonstration_prompts_per_step == 0:
        problems.append("needs data.demonstration_prompts_per_step of at least 1")
    if row.adversarial == CONFIGURED and not is_ever_positive(config.objective.adversarial_weight):
        problems.append(
            "needs objective.adversarial_weight above 0 (without it, it is another method)"
        )
    if config.constraint.target is not None and row.adversarial != 0:
        if not isinstance(config.objective.adversarial_weight, (int, float)):
            problems.append(
                "constraint.target moves λ: objective.adversarial_weight must be a number"
            )
        if row.adversarial == 1:
            problems.append("fixes λ to 1: remove constraint.target, which would move it")
        elif data.held_out_demonstrations < config.constraint.prompts_per_step:
            problems.append(
                "constraint.target needs data.held_out_demonstrations of at least "
                f"constraint.prompts_per_step ({config.constraint.prompts_per_step})"
            )
    if row.grpo != 0.0 and not config.rewards:
        problems.append("needs rewards")
    return problems


def _in_words(value: object) -> str:
    if value == UNTIL_WARM:
        return "1 during the warm-up of the discriminator, then 0"
    if value == UNTIL_HALF:
        return "1 for the first half of the steps, then 0"
    if value == FROM_HALF:
        return "0 for the first half of the steps, then 1"
    return str(value)
