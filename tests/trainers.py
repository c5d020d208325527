"""A real trainer on a tiny float64 policy; random texts stand in for what the policy would sample."""

from collections.abc import Sequence
from typing import Any

from exact import RandomTexts, config, demonstration, exact_policy, prompt

from uniapl.config.recipe import Recipe
from uniapl.data.mixture import Mixture
from uniapl.discriminators import Discriminator, build_discriminator
from uniapl.distributed import ALONE, Ranks
from uniapl.rewards import NamedReward
from uniapl.runs.setup import other_roles, prepare_policy
from uniapl.training.players import Players
from uniapl.training.step import Trainer
from uniapl.types import Demonstration, PreferencePair

DEMONSTRATIONS = [
    demonstration(prompt(5 + i % 9, 6), 20 + i, *range(21, 22 + i % 3), 4) for i in range(12)
]
PROMPTS = [prompt(10, 11 + i) for i in range(12)]
PAIRS = [
    PreferencePair(prompt(10, 11 + i % 9), "c", "r", (14 + i, 4), (15, *range(16, 17 + i % 4), 4))
    for i in range(20)
]
HELD_OUT = [demonstration(prompt(30 + i), 25 + i, 22, 4) for i in range(6)]

SECTIONS: dict[str, dict[str, Any]] = {
    "data": {
        "demonstrations_per_step": 4,
        "prompts_per_step": 4,
        "demonstration_prompts_per_step": 2,
        "held_out_demonstrations": len(HELD_OUT),
    },
    "rollout": {"group_size": 3, "temperature": 0.7, "max_completion_tokens": 5},
    "discriminator": {"warmup_steps": 0},
    "constraint": {"prompts_per_step": 3},
    "optimizer": {"learning_rate": 0.01},
    "training": {"steps": 12, "checkpoint_every": 0},
}


def make_recipe(method: str, **sections: Any) -> Recipe:
    given = dict(SECTIONS)
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section}
    return Recipe.of(config(method=method, **given))


def length_reward(completion_ids: list[tuple[int, ...]], **_columns: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def make_trainer(
    method: str,
    *,
    mixture: Any = None,
    held_out: Sequence[Demonstration] = HELD_OUT,
    judge: Discriminator | None = None,
    ranks: Ranks = ALONE,
    **sections: Any,
) -> Trainer:
    """Return a trainer of a method.

    Args:
        mixture: Other data than `DEMONSTRATIONS` and `PROMPTS`.
        judge: A discriminator instead of the one that the config names.
        ranks: Those that train together.
        sections: Settings beside `SECTIONS`.
    """
    recipe = make_recipe(method, **sections)
    policy = prepare_policy(exact_policy(), recipe.config)
    backbone, reference = other_roles(recipe, policy)
    if ranks.in_lockstep:  # as `build_trainer` does
        policy.shard()
        if reference:
            reference.shard()
    players = Players(
        policy,
        RandomTexts(policy, recipe.config.rollout.temperature),
        judge or build_discriminator(recipe, backbone, ranks=ranks),
        reference,
        [NamedReward(length_reward, "length")],
        ranks=ranks,
    )
    data = mixture or Mixture(DEMONSTRATIONS, PROMPTS, PAIRS, seed=0)
    return Trainer(recipe, players, data, held_out)


def metrics_of(trainer: Trainer, num_steps: int) -> list[dict[str, float | None]]:
    """Take steps; return their metrics without times."""
    rows = []
    for _ in range(num_steps):
        metrics = trainer.train_step().metrics
        rows.append({n: v for n, v in metrics.items() if not n.startswith("time/")})
    return rows
