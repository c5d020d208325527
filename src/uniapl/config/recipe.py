"""What a config and its method imply, derived once: checks, setup, step and plan read it and derive nothing again."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from uniapl.config.forms import FORMS, TUNING, FormName
from uniapl.config.methods import (
    CONFIGURED,
    IN_WORDS,
    METHODS,
    MU,
    REST_OF_MU,
    UNTIL_WARM,
    Method,
    RolloutsOn,
)
from uniapl.config.schedules import is_ever_positive, learning_rate_factor, rest_of, weight_at
from uniapl.errors import InputError

if TYPE_CHECKING:  # the schema's checks read this module
    from uniapl.config.schema import Config

PAIRS_PER_STEP = 16
"""Chosen and rejected completions of a step; the loss is their mean, so more would only mean less noise."""
_TERMS = {
    "sft": "objective.sft_weight",
    "grpo": "objective.grpo_weight",
    "adversarial": "λ (objective.adversarial_weight)",
}
"""Fields of `TermWeights` that methods are made of → how a message names them."""
_MAY_REST = (0, UNTIL_WARM)
"""A method that gives a term one of these weights does not promise that it ever acts."""

SERVER_IMPORTANCE_CAP = 2.0
"""`rollout.importance_cap` where a server samples and the config does not say."""

LEAST_WEIGHT, GREATEST_WEIGHT = 0.01, 1.0
"""Between them a constraint moves λ; the least is above 0 so that λ can grow again."""

HELD_OUT_SHARE = 0.05
"""Of the demonstrations, where the config does not say how many; at least what a step measures."""


@dataclass(frozen=True, slots=True)
class TermWeights:
    """The weights of the objective's terms as they act in one step."""

    sft: float
    grpo: float
    adversarial: float
    """λ, warm-up and ramp included."""
    kl: float
    pairs: float = 0.0
    """Of DPO's loss on `data.pairs`."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run, resolved.

    The counts are those of one step. A batch of rollouts serves `updates_per_rollout` steps and holds as many times
    as much.

    Example:
        recipe = Recipe.of(load_config("miniature"))
        recipe.num_demonstration_prompts, recipe.num_preference_prompts  # 8, 14
    """

    config: "Config"
    """With what the method decides filled in: it states what will run."""
    row: Method
    """The method's."""
    rollouts_on: RolloutsOn
    form: FormName | None
    """The discriminator's form; None without a discriminator."""
    learns: bool
    """Whether the discriminator learns along."""
    ranks: bool
    """Whether its credit is one per completion, and its quality a pair accuracy; else both are log-ratios of tokens."""
    reads_demonstration: bool
    """Whether it reads the expert's completion of the prompt, so that it credits demonstration prompts only."""
    shapes_reward: bool
    """Whether λ·d is added to the reward instead of being a term of its own."""
    has_kl: bool
    """Whether the KL term ever acts."""
    has_pairs: bool
    """Whether the policy ever learns from `data.pairs`."""
    moves_lambda: bool
    """Whether a controller moves λ towards `constraint.target`."""
    num_demonstrations: int
    """Demonstrations that a step draws, if any of its terms or the discriminator learns from them."""
    num_demonstration_prompts: int
    """The first so many of them have their prompts rolled out."""
    num_preference_prompts: int
    """Preference prompts that are rolled out."""
    num_pairs: int
    """Chosen and rejected completions that a step draws."""
    num_held_out: int
    """Held-out demonstrations on which a step measures the constraint."""
    samples_held_out: bool
    """Whether their prompts are rolled out too: a discriminator that ranks completions is measured so."""
    old_logprobs: Literal["sampled", "computed"]
    """Where log π_old of rollouts comes from: the policy's own generator in float32; a forward where its rounding is
    too coarse, or another engine has sampled."""

    @classmethod
    def of(cls, config: "Config", overridden: frozenset[str] = frozenset()) -> "Recipe":
        """Resolve a config; one that is resolved already stays as it is.

        Args:
            config: As loaded.
            overridden: Dotted keys given on the command line. A weight in a file that several methods share
                may lack effect for this one; asked for explicitly, it may not.

        Raises:
            InputError: An explicit key contradicts the method.
        """
        row = METHODS[config.method]
        if problems := [*_contradictions(config, row, overridden)]:
            lines = [f"method {config.method}: {problem}" for problem in problems]
            raise InputError("\n".join(lines))
        config = _filled_in(config, row)
        data, objective = config.data, config.objective
        has_discriminator = is_ever_positive(objective.adversarial_weight)
        moves_lambda = has_discriminator and config.constraint.target is not None
        paired = _num_demonstration_prompts(config, row)
        discriminator = config.discriminator
        form = discriminator.form if has_discriminator else None
        ranks = form is not None and FORMS[form].credits == "completion"
        learns = has_discriminator and _learns(config)
        return cls(
            config=config,
            row=row,
            rollouts_on=row.rollouts_on,
            form=form,
            learns=learns,
            ranks=ranks,
            reads_demonstration=form == "reference" or (form == "expert" and discriminator.hint),
            shapes_reward=row.shapes_reward,
            has_kl=row.rollouts_on != "none" and is_ever_positive(objective.kl_coef),
            has_pairs=data.pairs is not None and is_ever_positive(objective.pair_weight),
            moves_lambda=moves_lambda,
            num_demonstrations=data.demonstrations_per_step
            if has_discriminator or paired or is_ever_positive(objective.sft_weight)
            else 0,
            num_demonstration_prompts=paired,
            num_preference_prompts=data.prompts_per_step - paired
            if row.rollouts_on in ("preference", "both")
            else 0,
            num_pairs=PAIRS_PER_STEP if data.pairs is not None else 0,
            num_held_out=config.constraint.prompts_per_step
            if _is_measured(config, ranks=ranks, learns=learns, moves_lambda=moves_lambda)
            else 0,
            samples_held_out=moves_lambda and ranks,
            old_logprobs="sampled"
            if config.model.dtype == "float32" and config.rollout.engine == "transformers"
            else "computed",
        )

    @property
    def has_discriminator(self) -> bool:
        """Whether the adversarial term ever acts."""
        return self.form is not None

    @property
    def samples(self) -> bool:
        """Whether the policy is ever sampled in training."""
        return self.rollouts_on != "none"

    def weights_at(self, step: int, strength: float | None = None) -> TermWeights:
        """Return the terms' weights in `step` (from 0).

        Args:
            step: Updates done before.
            strength: λ before the ramp, where a controller moves it; None: the config's.
        """
        objective, steps = self.config.objective, self.config.training.steps
        pairs = weight_at(objective.pair_weight, step, steps) if self.has_pairs else 0.0
        adversarial = 0.0
        if self.has_discriminator:
            if strength is None:
                strength = weight_at(objective.adversarial_weight, step, steps)
            adversarial = strength * self._ramp(step)
        return TermWeights(
            sft=weight_at(objective.sft_weight, step, steps),
            grpo=weight_at(objective.grpo_weight, step, steps),
            adversarial=adversarial,
            kl=weight_at(objective.kl_coef, step, steps),
            pairs=pairs,
        )

    def rolls_out(self, weights: TermWeights) -> bool:
        """Whether a step with these weights needs rollouts: for a term, or to teach the discriminator."""
        return self.samples and (weights.grpo > 0 or weights.adversarial > 0 or self.learns)

    def draws_demonstrations(self, weights: TermWeights) -> bool:
        """Whether a step with these weights needs demonstrations: for a term, or to roll out their prompts."""
        paired = self.num_demonstration_prompts > 0 and self.rolls_out(weights)
        return weights.sft > 0 or paired or self.learns

    def held_out(self, num_demonstrations: int) -> int:
        """Return how many of the data's demonstrations are held out."""
        asked = self.config.data.held_out_demonstrations
        if asked is not None:
            return asked
        if not self.num_held_out:
            return 0
        return max(math.ceil(HELD_OUT_SHARE * num_demonstrations), self.num_held_out)

    def learning_rates_at(self, step: int) -> tuple[float, float]:
        """Return the learning rates of policy and discriminator in `step` (from 0)."""
        optimizer = self.config.optimizer
        factor = learning_rate_factor(optimizer, step, self.config.training.steps)
        own = self.config.discriminator.learning_rate
        return optimizer.learning_rate * factor, (own or optimizer.learning_rate) * factor

    def idle_terms(self) -> list[str]:
        """Return a line for each term that the method promises and that acts in no step of this run."""
        steps = range(self.config.training.steps)
        strength = 1.0 if self.moves_lambda else None  # a controlled λ is never 0 before the ramp
        acting = {
            term
            for term in _TERMS
            if any(getattr(self.weights_at(step, strength), term) > 0 for step in steps)
        }
        alike = [n for n, row in METHODS.items() if _constant_terms(row) == acting]
        own = self.row.rollouts_on
        like = max(alike, key=lambda name: METHODS[name].rollouts_on == own, default=None)
        rest = f"; the run trains as {like} does" if like and like != self.config.method else ""
        promised = {t for t, w in _weights(self.row).items() if w not in _MAY_REST}
        lines = [
            f"{_TERMS[term]} is 0 in {_every(len(steps))}{self._why_idle(term)}{rest}"
            for term in _TERMS
            if term in promised - acting
        ]
        return [*lines, *self._twin(acting)]

    def _twin(self, acting: set[str]) -> list[str]:
        """Return a line where the discriminator learns what the policy learns, at its rate, from the same start."""
        config = self.config
        own, rate = config.discriminator.learning_rate, config.optimizer.learning_rate
        is_twin = self.form == "likelihood" and not config.discriminator.path
        others = {"grpo"} & acting or self.has_kl or self.has_pairs
        if not is_twin or others or own not in (None, rate) or "adversarial" not in acting:
            return []
        return [
            "the discriminator starts as the policy and learns the same demonstrations at the same rate, so that its "
            "credit is almost 0: give discriminator.learning_rate or discriminator.path, or another discriminator.form"
        ]

    def _why_idle(self, term: str) -> str:
        warm, last = self.config.discriminator.warmup_steps, self.config.training.steps - 1
        if term == "adversarial" and self.has_discriminator and not self._ramp(last):
            return f": discriminator.warmup_steps is {warm}, and λ acts after it"
        return ""

    def _ramp(self, step: int) -> float:
        """Share of λ that acts in `step`: 0 during the discriminator's warm-up, then linear to 1."""
        warm, begin = self.config.discriminator, self.row.adversarial_from
        if step < warm.warmup_steps or step < begin * self.config.training.steps:
            return 0.0
        return min(1.0, (step - warm.warmup_steps + 1) / max(warm.warmup_steps, 1))


def _num_demonstration_prompts(config: "Config", row: Method) -> int:
    if row.rollouts_on == "both":
        return config.data.demonstration_prompts_per_step
    return config.data.prompts_per_step if row.rollouts_on == "demonstration" else 0


def _learns(config: "Config") -> bool:
    learns = FORMS[config.discriminator.form].learns
    return learns == "always" or (learns == "unless frozen" and not config.discriminator.frozen)


def _is_measured(config: "Config", *, ranks: bool, learns: bool, moves_lambda: bool) -> bool:
    """Return whether held-out demonstrations say whether the discriminator is right.

    A form that ranks needs them to move λ. A log-ratio that learns has them by default, for they tell when it is
    behind; one that is known has them if there are any.
    """
    held_out = config.data.held_out_demonstrations
    if ranks:
        return moves_lambda
    return (learns and held_out != 0) or (
        bool(held_out) and is_ever_positive(config.objective.adversarial_weight)
    )


def _filled_in(config: "Config", row: Method) -> "Config":
    """Return the config with the values that the row fixes, and without a warm-up where nothing learns."""
    warm = min(1.0, config.discriminator.warmup_steps / config.training.steps)
    meanings = {
        UNTIL_WARM: ((warm, 1.0), (warm, 0.0)),
        MU: config.objective.chord_mu,
        REST_OF_MU: rest_of(config.objective.chord_mu),
    }
    fixed = {
        f"{term}_weight": meanings[value] if isinstance(value, str) else value
        for term, value in _weights(row).items()
        if value != CONFIGURED
    }
    objective = config.objective.model_copy(update=fixed)
    discriminator = config.discriminator
    if row.form:
        discriminator = discriminator.model_copy(update={"form": row.form})
    if not _learns(config.model_copy(update={"discriminator": discriminator})):
        discriminator = discriminator.model_copy(update={"warmup_steps": 0})
    rollout = config.rollout
    if rollout.engine == "vllm" and "importance_cap" not in rollout.model_fields_set:
        rollout = rollout.model_copy(update={"importance_cap": SERVER_IMPORTANCE_CAP})
    return config.model_copy(
        update={"objective": objective, "discriminator": discriminator, "rollout": rollout}
    )


def _constant_terms(row: Method) -> set[str] | None:
    """Return the terms of a method that keeps them all the time; None of one that changes them on its way."""
    weights = _weights(row)
    if row.shapes_reward:
        return None
    if any(weight not in (0, 1, CONFIGURED) for weight in weights.values()):
        return None
    return {term for term, weight in weights.items() if weight}


def _every(steps: int) -> str:
    return "the run's only step" if steps == 1 else f"every one of the {steps} steps"


def _weights(row: Method) -> dict[str, object]:
    return {"sft": row.sft, "grpo": row.grpo, "adversarial": row.adversarial}


def _contradictions(config: "Config", row: Method, overridden: frozenset[str]) -> Iterator[str]:
    """Yield what is wrong with keys that the user gave explicitly and the method fixes or ignores."""
    for term, own in _weights(row).items():
        key, given = f"objective.{term}_weight", getattr(config.objective, f"{term}_weight")
        if key in overridden and own not in (CONFIGURED, given):
            yield f"fixes {key} to {IN_WORDS.get(own, own)}; remove {key}={given}"
    if row.form and "discriminator.form" in overridden and config.discriminator.form != row.form:
        yield f"needs discriminator.form={row.form}"
    idle = _idle_keys(config, row)
    yield from (f"{idle[key]}; remove {key}" for key in sorted(overridden & idle.keys()))
    without: set[str] = {"discriminator", "constraint"} if row.adversarial == 0 else set()
    if row.rollouts_on == "none":
        without |= {"rollout", "rewards"}
    for key in sorted(overridden - {"rollout.max_completion_tokens"}):  # evaluations read it
        section = key.partition(".")[0].partition("[")[0]
        if section in without:
            yield f"has no {key.partition('.')[0]}; remove {key}"


def _idle_keys(config: "Config", row: Method) -> dict[str, str]:
    """Return key → reason for single options of which a method makes no use."""
    idle: dict[str, str] = {}
    if row.rollouts_on in ("none", "demonstration") and config.data.prompts is not None:
        idle["data.prompts"] = "rolls out no preference prompts"
    if row.rollouts_on != "both":
        idle["data.demonstration_prompts_per_step"] = "does not mix kinds of prompts"
    if row.rollouts_on in ("none", "preference"):
        idle["rollout.expert_in_group"] = "rolls out no demonstration prompts"
    if MU not in (row.sft, row.grpo):
        idle["objective.chord_mu"] = "has no μ"
    if row.grpo == 0.0:
        for key in ("advantage_scale", "reward_normalisation"):
            idle[f"objective.{key}"] = "has no reward term"
    form = row.form or config.discriminator.form
    useful = FORMS[form].keys
    if FORMS[form].learns == "unless frozen" and config.discriminator.frozen:
        useful = useful - {"learning_rate", "warmup_steps"}
    for key in TUNING - useful if row.adversarial != 0 else ():
        idle[f"discriminator.{key}"] = f"discriminator.form {form} has no use for it"
    if row.rollouts_on == "none":
        keys = ["clip_low", "clip_high", "policy_gradient", "advantage_scale"]
        if is_ever_positive(config.objective.kl_coef):
            keys.append("kl_coef")
        idle |= dict.fromkeys((f"objective.{key}" for key in keys), "rolls out nothing")
        idle["data.prompts_per_step"] = "rolls out nothing"
    return idle
