"""A language model that is not the policy: how it is loaded, and how it reads the run's prompts."""

from dataclasses import dataclass

from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.data.chat import Chat, other_chat
from uniapl.discriminators.reader import check_same_tokens
from uniapl.distributed import ALONE, Ranks
from uniapl.errors import InputError
from uniapl.models.language_model import LanguageModel, load_language_model


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A language model that is not the policy, and how it reads."""

    model: LanguageModel
    chat: Chat


def load_other_model(
    config: Config, policy: LanguageModel, chat: Chat, ranks: Ranks = ALONE
) -> OtherModel | None:
    """Load the language model that `discriminator.path` names; None where the discriminator needs none from there.

    Raises:
        InputError: It cannot be loaded, or the policy's tokens mean something else to it.
    """
    discriminator, form = config.discriminator, Recipe.of(config).form
    if form not in ("likelihood", "expert") or not discriminator.path or discriminator.servers:
        return None
    key = "discriminator.path"
    model, tokenizer = load_language_model(
        discriminator.path, policy.dtype, policy.device, key=key, ranks=ranks
    )
    check_same_tokens(chat.tokenizer, tokenizer, f"{key}: {discriminator.path!r}")
    own, other = (m.model.config.get_text_config().vocab_size for m in (policy, model))
    if other < own:
        raise InputError(
            f"{key}: {discriminator.path!r} knows {other} tokens, and the policy may sample {own}"
        )
    known = config.data.template_arguments
    return OtherModel(model, other_chat(tokenizer, known, model.model.generation_config))
