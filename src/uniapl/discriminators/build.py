"""From a config to the discriminator that it names."""

from uniapl.config.recipe import Recipe
from uniapl.discriminators.likelihood import Likelihood
from uniapl.discriminators.protocol import Discriminator
from uniapl.discriminators.scalar import Scalar
from uniapl.distributed import ALONE, Ranks
from uniapl.models.language_model import LanguageModel


def build_discriminator(
    recipe: Recipe, backbone: LanguageModel | None, ranks: Ranks = ALONE
) -> Discriminator | None:
    """Return the discriminator of a run, or None where its method has none.

    Args:
        recipe: The run.
        backbone: The language model that it learns with.
        ranks: Each judges and learns a part of every step.
    """
    if recipe.form is None:
        return None
    assert backbone is not None
    if recipe.form == "scalar":
        return Scalar(recipe, backbone, ranks)
    return Likelihood(recipe, backbone, ranks)
