"""UniAPL: learn from an expert's demonstrations and from preferences in one training stage.

    import uniapl

    run = uniapl.train("miniature", ["output_dir=runs/first"])
    print(run.results["prompt_level_strict_acc"], run.policy)

Importing the package loads nothing heavy; each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uniapl.config import Config, load_config
    from uniapl.errors import InputError, TrainingError
    from uniapl.evaluation import Decoding, evaluate_benchmark
    from uniapl.evaluation.benchmark import evaluate_model as evaluate
    from uniapl.evaluation.pairs import evaluate_pairs
    from uniapl.rewards import NamedReward
    from uniapl.runs import Run, train
    from uniapl.types import (
        Demonstration,
        Generator,
        MixedBatch,
        PreferencePair,
        Prompt,
        Reward,
        RewardFunction,
        Rollout,
    )

__version__ = "0.2.0"

__all__ = [
    "Config",
    "Decoding",
    "Demonstration",
    "Generator",
    "InputError",
    "MixedBatch",
    "NamedReward",
    "PreferencePair",
    "Prompt",
    "Reward",
    "RewardFunction",
    "Rollout",
    "Run",
    "TrainingError",
    "__version__",
    "evaluate",
    "evaluate_benchmark",
    "evaluate_pairs",
    "load_config",
    "train",
]

_HOMES = {
    "InputError": "uniapl.errors",
    "TrainingError": "uniapl.errors",
    "Config": "uniapl.config",
    "Decoding": "uniapl.evaluation",
    "NamedReward": "uniapl.rewards",
    "Run": "uniapl.runs",
    "evaluate": "uniapl.evaluation.benchmark",
    "evaluate_benchmark": "uniapl.evaluation",
    "evaluate_pairs": "uniapl.evaluation.pairs",
    "load_config": "uniapl.config",
    "train": "uniapl.runs",
}
"""Where a public name is defined, if not in `uniapl.types`."""
_NAMES_AT_HOME = {"evaluate": "evaluate_model"}
"""How it is called there, if otherwise."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'uniapl' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "uniapl.types")), _NAMES_AT_HOME.get(name, name))


def __dir__() -> list[str]:
    return __all__
