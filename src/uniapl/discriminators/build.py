"""From a config to the discriminator that it names."""

from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.discriminators.expert import Expert
from uniapl.discriminators.likelihood import Likelihood
from uniapl.discriminators.protocol import Discriminator
from uniapl.discriminators.reader import PromptReader
from uniapl.discriminators.scalar import Scalar
from uniapl.discriminators.scoring import LocalScorer
from uniapl.distributed import ALONE, Ranks
from uniapl.models.language_model import LanguageModel


def build_discriminator(
    recipe: Recipe,
    backbone: LanguageModel | None,
    chat: Chat | None = None,
    own_chat: Chat | None = None,
    ranks: Ranks = ALONE,
) -> Discriminator | None:
    """Return the discriminator of a run, or None where its method has none.

    Args:
        recipe: The run.
        backbone: The language model that it works with; None where a form needs none in this process.
        chat: How the policy reads prompts; only hints and servers ask for it.
        own_chat: How the backbone does; None: it reads the policy's token ids.
        ranks: Each judges and learns a part of every step.

    Raises:
        InputError: A model or a server cannot be had, or is another one than the form needs.
    """
    config = recipe.config.discriminator
    if recipe.form is None:
        return None
    if recipe.form == "likelihood":
        assert backbone is not None
        return Likelihood(recipe, backbone, PromptReader(own_chat), ranks)
    if recipe.form == "scalar":
        assert backbone is not None
        return Scalar(recipe, backbone, ranks)
    if recipe.form == "expert":
        assert backbone is not None
        template = config.hint_template if config.hint else None
        reader = PromptReader(own_chat or (chat if config.hint else None), template)
        return Expert(recipe, LocalScorer(recipe, backbone, ranks), reader)
    raise AssertionError(recipe.form)
