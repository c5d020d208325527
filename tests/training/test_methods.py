"""What each row of the method table sets, and how it trains."""

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from exact import config, demonstration, double, prompt
from pydantic import ValidationError
from torch import Tensor
from trainers import make_trainer, metrics_of

from uniapl.config.methods import METHODS
from uniapl.config.problems import describe_problems
from uniapl.config.recipe import Recipe
from uniapl.config.schedules import weight_at
from uniapl.config.schema import Config, MethodName
from uniapl.errors import InputError
from uniapl.types import MixedBatch


def of_method(method: str, **sections: Any) -> Config:
    defaults: dict[str, Any] = {
        "data": {"prompts_per_step": 4, "demonstration_prompts_per_step": 2},
        "discriminator": {"warmup_steps": 3},
    }
    merged = {name: {**values, **sections.pop(name, {})} for name, values in defaults.items()}
    return config(method=method, **merged, **sections)


def resolve(config_: Config, overridden: frozenset[str] = frozenset()) -> Config:
    return Recipe.of(config_, overridden).config


def weights(resolved: Config) -> dict[str, list[float]]:
    """The three weights over a run of ten steps."""
    steps = resolved.training.steps
    return {
        name: [weight_at(getattr(resolved.objective, name), step, steps) for step in range(steps)]
        for name in ("sft_weight", "grpo_weight", "adversarial_weight")
    }


MU = [0.0, 0.25, 0.5, *(0.26 + 0.24 * math.cos(math.pi * i / 4) for i in (1, 2, 3)), *[0.02] * 4]
"""CHORD's: a line from 0 to .5 in a fifth of the steps, half a cosine to .02 in the next two fifths."""


def test_every_name_has_a_row_and_every_row_a_name() -> None:
    assert set(METHODS) == set(get_args(MethodName))


@pytest.mark.parametrize(
    ("method", "sft", "grpo", "adversarial"),
    [
        ("sft", [1.0] * 10, [0.0] * 10, [0.0] * 10),
        ("grpo", [0.0] * 10, [1.0] * 10, [0.0] * 10),
        ("sft-grpo", [1.0] * 5 + [0.0] * 5, [0.0] * 5 + [1.0] * 5, [0.0] * 10),
        ("mix", [0.3] * 10, [1.0] * 10, [0.0] * 10),
        ("a-sft", [1.0] * 10, [0.0] * 10, [0.1] * 10),
        ("a-grpo", [0.0] * 10, [1.0] * 10, [0.1] * 10),
        ("gad", [1.0] * 3 + [0.0] * 7, [0.0] * 10, [1.0] * 10),
        ("shaped", [0.3] * 10, [1.0] * 10, [0.1] * 10),
        ("uniapl", [0.3] * 10, [1.0] * 10, [0.1] * 10),
        ("mix-both", [0.3] * 10, [1.0] * 10, [0.0] * 10),
        ("sft-a-grpo", [1.0] * 5 + [0.0] * 5, [0.0] * 5 + [1.0] * 5, [0.1] * 10),
        ("a-sft-a-grpo", [1.0] * 5 + [0.0] * 5, [0.0] * 5 + [1.0] * 5, [0.1] * 10),
        ("chord", MU, [1 - mu for mu in MU], [0.0] * 10),
        ("a-chord", MU, [1 - mu for mu in MU], [0.1] * 10),
    ],
)
def test_the_table(
    method: str, sft: list[float], grpo: list[float], adversarial: list[float]
) -> None:
    recipe = Recipe.of(of_method(method))
    resolved = recipe.config
    expected = {"sft_weight": sft, "grpo_weight": grpo, "adversarial_weight": adversarial}
    assert weights(resolved) == {n: pytest.approx(v) for n, v in expected.items()}
    assert recipe.has_discriminator == any(adversarial)
    assert resolved.discriminator.form == ("scalar" if method == "gad" else "likelihood")


@pytest.mark.parametrize("method", METHODS)
def test_methods_differ_by_their_row_alone(method: str) -> None:
    """Whatever else a config says, it says of every method."""
    one, other = resolve(of_method(method)).model_dump(), resolve(of_method("uniapl")).model_dump()
    for dump in (one, other):
        del dump["method"]
        del dump["discriminator"]["form"]
        for name in ("sft_weight", "grpo_weight", "adversarial_weight"):
            del dump["objective"][name]
    assert one == other


@pytest.mark.parametrize("method", METHODS)
def test_a_resolved_config_resolves_to_itself(method: str) -> None:
    resolved = resolve(of_method(method))
    assert resolve(resolved) == resolved


def test_the_staged_arms_begin_their_adversarial_term_in_its_stage() -> None:
    """SFT → A-GRPO credits nothing in its first half; A-SFT → A-GRPO does from the start."""
    for method, first in (("sft-a-grpo", 0.0), ("a-sft-a-grpo", 0.1)):
        recipe = Recipe.of(of_method(method, discriminator={"warmup_steps": 0}))
        acting = [recipe.weights_at(step).adversarial for step in range(10)]
        assert acting == [first] * 5 + [0.1] * 5
        # a discriminator that learns does so in both stages; a frozen one asks for no rollouts before its term acts
        assert recipe.rolls_out(recipe.weights_at(0))
        frozen = Recipe.of(config(method=method, discriminator={"form": "expert", "path": "p"}))
        assert frozen.rolls_out(frozen.weights_at(0)) == (first > 0)
        assert frozen.rolls_out(frozen.weights_at(5))


def test_configured_weights_are_kept() -> None:
    chord = ((0.0, 0.9), (1.0, 0.1))
    resolved = resolve(of_method("mix", objective={"sft_weight": chord, "grpo_weight": 0.5}))
    assert resolved.objective.sft_weight == chord
    assert resolved.objective.grpo_weight == 0.5


def test_gad_switches_where_its_discriminator_is_warm() -> None:
    late = resolve(of_method("gad", discriminator={"warmup_steps": 30}))
    assert weights(late)["sft_weight"] == [1.0] * 10
    at_once = resolve(of_method("gad", discriminator={"warmup_steps": 0}))
    assert weights(at_once)["sft_weight"] == [0.0] * 10


CONTRADICTIONS = [
    (
        "sft",
        {"objective": {"grpo_weight": 0.5}},
        "objective.grpo_weight",
        "method sft: fixes objective.grpo_weight to 0.0; remove objective.grpo_weight=0.5",
    ),
    (
        "grpo",
        {"objective": {"sft_weight": 0.5}},
        "objective.sft_weight",
        "method grpo: fixes objective.sft_weight to 0.0; remove objective.sft_weight=0.5",
    ),
    (
        "sft-grpo",
        {"objective": {"sft_weight": 0.5}},
        "objective.sft_weight",
        "method sft-grpo: fixes objective.sft_weight to 1 for the first half of the steps, then 0; "
        "remove objective.sft_weight=0.5",
    ),
    (
        "sft-grpo",
        {"objective": {"grpo_weight": 0.5}},
        "objective.grpo_weight",
        "method sft-grpo: fixes objective.grpo_weight to 0 for the first half of the steps, then 1; "
        "remove objective.grpo_weight=0.5",
    ),
    (
        "mix",
        {"objective": {"adversarial_weight": 0.2}},
        "objective.adversarial_weight",
        "method mix: fixes objective.adversarial_weight to 0; remove objective.adversarial_weight=0.2",
    ),
    (
        "gad",
        {"objective": {"sft_weight": 0.5}},
        "objective.sft_weight",
        "method gad: fixes objective.sft_weight to 1 during the warm-up of the discriminator, then 0; "
        "remove objective.sft_weight=0.5",
    ),
    (
        "gad",
        {"discriminator": {"form": "likelihood"}},
        "discriminator.form",
        "method gad: needs discriminator.form=scalar",
    ),
    (
        "mix",
        {"discriminator": {"learning_rate": 1e-3}},
        "discriminator.learning_rate",
        "method mix: has no discriminator; remove discriminator.learning_rate",
    ),
    (
        "grpo",
        {"constraint": {"rate": 1.0}},
        "constraint.rate",
        "method grpo: has no constraint; remove constraint.rate",
    ),
    (
        "sft",
        {"rollout": {"group_size": 4}},
        "rollout.group_size",
        "method sft: has no rollout; remove rollout.group_size",
    ),
    ("sft", {}, "rewards.0.weight", "method sft: has no rewards; remove rewards.0.weight"),
    *(
        (
            "sft",
            {section: {key: value}},
            f"{section}.{key}",
            f"method sft: {why}; remove {section}.{key}",
        )
        for section, key, value, why in (
            ("objective", "kl_coef", 0.1, "rolls out nothing"),
            ("objective", "clip_low", 0.1, "rolls out nothing"),
            ("objective", "clip_high", 0.1, "rolls out nothing"),
            ("objective", "advantage_scale", "none", "rolls out nothing"),
            ("objective", "reward_normalisation", "signal", "has no reward term"),
            ("data", "prompts_per_step", 8, "rolls out nothing"),
            ("data", "prompts", "other", "rolls out no preference prompts"),
        )
    ),
    *(
        (
            method,
            {"data": {"prompts": "p"}},
            "data.prompts",
            f"method {method}: rolls out no preference prompts; remove data.prompts",
        )
        for method in ("a-sft", "gad")
    ),
    (
        "a-sft",
        {"objective": {"advantage_scale": "batch"}},
        "objective.advantage_scale",
        "method a-sft: has no reward term; remove objective.advantage_scale",
    ),
    (
        "a-sft",
        {"objective": {"reward_normalisation": "constant"}},
        "objective.reward_normalisation",
        "method a-sft: has no reward term; remove objective.reward_normalisation",
    ),
    (
        "chord",
        {"objective": {"sft_weight": 0.5}},
        "objective.sft_weight",
        "method chord: fixes objective.sft_weight to objective.chord_mu; remove objective.sft_weight=0.5",
    ),
    (
        "a-chord",
        {"objective": {"grpo_weight": 0.5}},
        "objective.grpo_weight",
        "method a-chord: fixes objective.grpo_weight to 1 - objective.chord_mu; remove objective.grpo_weight=0.5",
    ),
    (
        "mix",
        {"objective": {"chord_mu": 0.5}},
        "objective.chord_mu",
        "method mix: has no μ; remove objective.chord_mu",
    ),
    (
        "mix",
        {"rollout": {"expert_in_group": True}},
        "rollout.expert_in_group",
        "method mix: rolls out no demonstration prompts; remove rollout.expert_in_group",
    ),
    (
        "grpo",
        {"data": {"demonstration_prompts_per_step": 2}},
        "data.demonstration_prompts_per_step",
        "method grpo: does not mix kinds of prompts; remove data.demonstration_prompts_per_step",
    ),
]


@pytest.mark.parametrize(("method", "sections", "key", "line"), CONTRADICTIONS)
def test_only_an_explicit_contradiction_is_an_error(
    method: str, sections: dict[str, Any], key: str, line: str
) -> None:
    loaded = of_method(method, **sections)
    with pytest.raises(InputError) as error:
        resolve(loaded, frozenset({key}))
    assert str(error.value) == line
    # a file that several methods share may hold it
    assert weights(resolve(loaded)) == weights(resolve(of_method(method)))


def test_saying_what_the_method_says_anyway_is_no_contradiction() -> None:
    given = of_method("sft", objective={"grpo_weight": 0.0})
    resolve(given, frozenset({"objective.grpo_weight", "rollout.max_completion_tokens"}))
    nothing = of_method("sft", data={"prompts": None}, objective={"kl_coef": 0.0})
    resolve(nothing, frozenset({"data.prompts", "objective.kl_coef"}))


def test_all_contradictions_are_reported_at_once() -> None:
    loaded = of_method("sft", objective={"sft_weight": 0.5, "grpo_weight": 0.5})
    keys = frozenset({"objective.sft_weight", "objective.grpo_weight", "rollout.temperature"})
    with pytest.raises(InputError) as error:
        resolve(loaded, keys)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("method sft: ") for line in lines)


NEEDS = [
    (
        "uniapl",
        {"objective": {"adversarial_weight": 0.0}},
        "objective.adversarial_weight: must be above 0 for method uniapl: without its adversarial term it is "
        "another method",
    ),
    (
        "a-sft",
        {"objective": {"adversarial_weight": ((0, 0), (1, 0))}},
        "objective.adversarial_weight: must be above 0 for method a-sft: without its adversarial term it is "
        "another method",
    ),
    ("mix", {"rewards": ()}, "rewards: required by method mix, got none"),
    (
        "grpo",
        {"data": {"prompts": None}},
        "data.prompts: required by method grpo, which rolls out preference prompts",
    ),
    (
        "a-grpo",
        {"data": {"demonstration_prompts_per_step": 0}},
        "data.demonstration_prompts_per_step: must be at least 1 for method a-grpo, got 0",
    ),
    (
        "a-grpo",
        {"data": {"demonstration_prompts_per_step": 5}},
        "data.demonstration_prompts_per_step: must be at most data.prompts_per_step (4) for method a-grpo, got 5",
    ),
    (
        "gad",
        {"data": {"prompts_per_step": 9, "demonstrations_per_step": 8}},
        "data.prompts_per_step: must be at most data.demonstrations_per_step (8) for method gad, got 9",
    ),
    (
        "gad",
        {"constraint": {"target": 0.6}, "data": {"held_out_demonstrations": 8}},
        "constraint.target: method gad fixes λ to 1; remove it, for it would move λ",
    ),
    (
        "mix",
        {"data": {"pairs": "p"}},
        "data.pairs: nothing learns from them; set objective.pair_weight above 0, or discriminator.form to scalar "
        "in a method with an adversarial term, or remove them",
    ),
]


@pytest.mark.parametrize(("method", "sections", "line"), NEEDS)
def test_what_a_method_needs_is_said_by_the_config_itself(
    method: str, sections: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValidationError) as error:
        of_method(method, **sections)
    assert describe_problems(error.value, {}) == [line]


@pytest.mark.parametrize(
    ("method", "counts"),
    [
        # demonstrations; their prompts; preference prompts; held out and measured
        ("sft", (24, 0, 0, 0)),
        ("grpo", (0, 0, 22, 0)),
        ("sft-grpo", (24, 0, 22, 0)),
        ("mix", (24, 0, 22, 0)),
        ("a-sft", (24, 22, 0, 8)),
        ("a-grpo", (24, 8, 14, 8)),
        ("gad", (24, 22, 0, 0)),
        ("uniapl", (24, 8, 14, 8)),
    ],
)
def test_what_a_step_draws(method: str, counts: tuple[int, ...]) -> None:
    """All methods that sample roll out equally many prompts."""
    recipe = Recipe.of(config(method=method))
    found = (
        recipe.num_demonstrations,
        recipe.num_demonstration_prompts,
        recipe.num_preference_prompts,
        recipe.num_held_out,
    )
    assert found == counts
    assert sum(counts[1:3]) == (0 if method == "sft" else 22)
    assert recipe.held_out(1000) == (50 if counts[3] else 0)


def test_the_discriminators_rate_is_the_policys_unless_given() -> None:
    optimizer = {"learning_rate": 3e-4, "warmup_steps": 2, "schedule": "linear"}
    follows = Recipe.of(config(optimizer=optimizer))
    own = Recipe.of(config(optimizer=optimizer, discriminator={"learning_rate": 1e-5}))
    for step in range(10):
        rate, discriminator = follows.learning_rates_at(step)
        assert discriminator == rate
        same, other = own.learning_rates_at(step)
        assert same == rate
        assert other == pytest.approx(rate / 30)
    assert follows.learning_rates_at(0)[0] == pytest.approx(1.5e-4)


class SamePrompts:
    """Stands in for the mixture: any method rolls out the same four prompts, two of them the expert's."""

    demonstration_epoch = 0.0

    def next_batch(self, num_demonstrations: int, num_prompts: int, num_pairs: int) -> MixedBatch:
        experts = tuple(demonstration(prompt(5 + i, 6), 20 + i, 21, 4) for i in range(4))
        others = (prompt(10, 11), prompt(12))
        prompts = {0: (), 2: others, 4: (experts[0].prompt, experts[1].prompt, *others)}[
            num_prompts
        ]
        assert num_demonstrations == 4
        return MixedBatch(experts, prompts)


@pytest.fixture
def _double() -> Iterator[None]:
    with double():
        yield


def train(
    method: str, num_steps: int, **discriminator: Any
) -> tuple[list[dict[str, float | None]], dict[str, Tensor]]:
    trainer = make_trainer(
        method,
        mixture=SamePrompts(),
        data={"held_out_demonstrations": 0},
        rollout={"updates_per_rollout": 2},
        discriminator=discriminator,
    )
    return metrics_of(trainer, num_steps), trainer.players.policy.state_dict()


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("form", ["likelihood", "scalar"])
def test_uniapl_is_mix_step_for_step_until_its_discriminator_acts(form: str) -> None:
    mix_rows, mix = train("mix", 6)
    silent_rows, silent = train("uniapl", 6, form=form, warmup_steps=10)
    own = [n for n in mix_rows[0] if n not in ("objective/adversarial", "data/sampled_tokens")]
    for expected, actual in zip(mix_rows, silent_rows, strict=True):
        assert {n: actual.get(n) for n in own} == {n: expected.get(n) for n in own}
        assert actual["objective/adversarial_weight"] == 0.0
    assert all(torch.equal(value, silent[name]) for name, value in mix.items())

    rows, heard = train("uniapl", 6, form=form, warmup_steps=2)
    assert [r["objective/adversarial_weight"] for r in rows] == [0, 0, 0.05, 0.05, 0.1, 0.1]
    assert rows[1]["objective/loss"] == mix_rows[1]["objective/loss"]
    assert rows[2]["objective/loss"] != mix_rows[2]["objective/loss"]
    assert not all(torch.equal(value, heard[name]) for name, value in mix.items())
