"""Who takes part in a run: models, generator and reward functions, built by `setup.py` and used by the step."""

from collections.abc import Sequence
from dataclasses import dataclass

from uniapl.discriminators import Discriminator
from uniapl.distributed import ALONE, Ranks
from uniapl.models.language_model import LanguageModel
from uniapl.rewards import NamedReward
from uniapl.types import Generator


@dataclass(slots=True)
class Players:
    """The models and functions of a run; the discriminator and the reference only where a term needs them."""

    policy: LanguageModel
    generator: Generator
    discriminator: Discriminator | None
    reference: LanguageModel | None
    rewards: Sequence[NamedReward]
    columns: Sequence[str] = ()
    """Columns of the data that reward functions receive; a row without one passes None."""
    ranks: Ranks = ALONE
    """This process among those that train; each has players of its own."""
    max_sampling_gap: float | None = None
    """Largest mean |log π_old - log π_sampled| of a step, nats; None where the policy itself samples."""
