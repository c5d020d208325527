"""UniAPL: learn from an expert's demonstrations and from preferences in one training stage.

    from uniapl import load_config, train

    run_folder = train(load_config("miniature", ["output_dir=runs/first"]))

Importing the package loads nothing heavy; each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uniapl.config import Config, load_config
    from uniapl.errors import InputError, TrainingError
    from uniapl.evaluation import evaluate, evaluate_benchmark
    from uniapl.evaluation.pairs import evaluate_pairs
    from uniapl.runs import train
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

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Demonstration",
    "Generator",
    "InputError",
    "MixedBatch",
    "PreferencePair",
    "Prompt",
    "Reward",
    "RewardFunction",
    "Rollout",
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
    "evaluate": "uniapl.evaluation",
    "evaluate_benchmark": "uniapl.evaluation",
    "evaluate_pairs": "uniapl.evaluation.pairs",
    "load_config": "uniapl.config",
    "train": "uniapl.runs",
}
"""Where a public name is defined, if not in `uniapl.types`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'uniapl' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "uniapl.types")), name)


def __dir__() -> list[str]:
    return __all__
