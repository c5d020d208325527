"""The arms of a comparison: what the words of the command say, and whether it is a fair one.

An arm is a method with a grid of settings to choose from. All arms have one budget, and grids of one
size: an arm that may try more settings wins by trying.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from uniapl.config import load_config, overridden_keys
from uniapl.config.methods import METHODS
from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.errors import InputError

TUNING_SEED = 1000
"""Of the runs that choose a setting: a seed that is reported must not have chosen, and seeds may be added later."""
BUDGET = (
    "training.steps",
    "data.demonstrations_per_step",
    "data.prompts_per_step",
    "rollout.group_size",
    "rollout.updates_per_rollout",
    "rollout.max_completion_tokens",
)
"""Keys that all arms share."""
GIVEN = ("method", "seed", "output_dir", "training.resume")
"""Keys that the comparison sets."""

Setting = tuple[str, ...]
"""One point of a grid, as `key=value` words."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One line of the result."""

    name: str
    method: str
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...] = field(default=((),))
    """The points of its grid; one, perhaps empty, where there is nothing to choose."""

    @property
    def is_tuned(self) -> bool:
        """Whether there is something to choose."""
        return len(self.settings) > 1


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a comparison runs."""

    arms: tuple[Arm, ...]
    baseline: str


def read_plan(
    methods: str, seeds: Sequence[str], grids: Sequence[str] = (), baseline: str | None = None
) -> Plan:
    """Read the words of the command.

    Args:
        methods: `grpo,mix,scalar=uniapl`: methods, or names of arms with the method of each.
        seeds: `0,1,2` for all arms, `mix:0,1,2,3,4` for one.
        grids: `mix:optimizer.learning_rate=1e-4,3e-4`; several of one arm are combined, one with a single
            value is a setting of that arm.
        baseline: The arm that the others are compared with; None: the first.

    Raises:
        InputError: A word cannot be read, names an arm that is not there, or gives arms unequal chances.
    """
    named = _methods(methods)
    choices: dict[str, list[list[str]]] = {name: [] for name in named}
    for word in grids:
        name, separator, rest = word.partition(":")
        key, equals, values = rest.partition("=")
        if not (separator and equals and key and values):
            raise InputError(f"--grid {word}: must be METHOD:key=value,value")
        _check_name("--grid", name, named)
        if key in (*GIVEN, *BUDGET) or key.startswith("evaluation."):
            raise InputError(f"--grid {word}: {key} must be the same for all arms")
        choices[name].append([f"{key}={value}" for value in _split(values)])
    seeds_of = _seeds(seeds, named)
    arms = tuple(
        Arm(name, method, seeds_of[name], tuple(product(*choices[name])))
        for name, method in named.items()
    )
    sizes = {arm.name: len(arm.settings) for arm in arms}
    if len(set(sizes.values())) > 1:
        counted = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"--grid: every arm must have as many settings to choose from ({counted})")
    baseline = baseline or arms[0].name
    _check_name("--baseline", baseline, named)
    for name in named:
        if not set(seeds_of[name]) & set(seeds_of[baseline]):
            raise InputError(f"--seeds: {name} must share a seed with the baseline, {baseline}")
    return Plan(arms, baseline)


def check_plan(plan: Plan, path: Any, config: Config) -> None:
    """Load every setting as the runs will, so that a typo is not found after hours.

    Args:
        plan: All arms.
        path: The config file that the runs load.
        config: That file, loaded.

    Raises:
        InputError: A setting is wrong or ignored by its method, or there is nothing to tune or report on.
    """
    if config.evaluation.prompts is None:
        raise InputError("evaluation.prompts: compare needs it: the prompts that the arms answer")
    if any(arm.is_tuned for arm in plan.arms):
        if config.evaluation.validation_prompts is None:
            raise InputError(
                "evaluation.validation_prompts: --grid needs it: the prompts on which settings are chosen"
            )
        if config.evaluation.validation_prompts == config.evaluation.prompts:
            raise InputError(
                "evaluation.validation_prompts: must differ from evaluation.prompts, which report"
            )
    for arm in plan.arms:
        for setting in arm.settings:
            words = (f"method={arm.method}", *setting)
            try:
                Recipe.of(load_config(path, words), overridden_keys(words))
            except InputError as error:
                raise InputError(f"arm {arm.name}: {error}") from None


def budget(config: Config) -> Mapping[str, Any]:
    """Return what all arms share, by key."""
    values = config.model_dump(mode="json")
    return {key: values[key.partition(".")[0]][key.partition(".")[2]] for key in BUDGET}


def _methods(words: str) -> dict[str, str]:
    """Return name → method."""
    named: dict[str, str] = {}
    for word in words.split(","):
        name, _, method = word.strip().partition("=")
        method = method or name
        if method not in METHODS:
            raise InputError(f"--methods: {method!r} is none of {', '.join(METHODS)}")
        if name in named:
            raise InputError(f"--methods: {name} is named twice; write another=METHOD")
        if not name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"--methods: {name!r} is no name: letters, digits, - and _ only")
        named[name] = method
    return named


def _seeds(words: Sequence[str], names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    names = list(names)
    of_all: tuple[int, ...] = ()
    of_one: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, separator, rest = word.rpartition(":")
        try:
            numbers = tuple(int(n) for n in rest.split(","))
        except ValueError:
            raise InputError(f"--seeds {word}: must be integers such as 0,1,2") from None
        if min(numbers) < 0 or len(set(numbers)) < len(numbers) or TUNING_SEED in numbers:
            raise InputError(
                f"--seeds {word}: must be different, at least 0 and not {TUNING_SEED}, which tunes"
            )
        if separator:
            _check_name("--seeds", name, names)
            of_one[name] = numbers
        else:
            of_all = numbers
    if missing := [name for name in names if not (of_one.get(name) or of_all)]:
        raise InputError(f"--seeds: {missing[0]} has none")
    return {name: of_one.get(name) or of_all for name in names}


def _check_name(option: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise InputError(f"{option}: {name!r} is none of the arms {', '.join(names)}")


def _split(values: str) -> list[str]:
    """Split at commas, but not at those inside brackets: a value may be a list."""
    parts, depth = [""], 0
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
