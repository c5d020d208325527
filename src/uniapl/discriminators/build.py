"""From a config to the discriminator that it names."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.discriminators.expert import Expert
from uniapl.discriminators.likelihood import Likelihood
from uniapl.discriminators.protocol import Discriminator
from uniapl.discriminators.reader import PromptReader, check_context
from uniapl.discriminators.reference import Reference
from uniapl.discriminators.scalar import Scalar
from uniapl.discriminators.scoring import DealtScorer, LocalScorer, TokenScorer
from uniapl.discriminators.served import ServedExpert, ServedTexts
from uniapl.discriminators.servers import Servers
from uniapl.discriminators.texts import LocalTexts, PairText, TextScorer, check_text_sizes
from uniapl.distributed import ALONE, Ranks
from uniapl.errors import InputError, TrainingError
from uniapl.models.devices import find_device
from uniapl.models.language_model import LanguageModel
from uniapl.models.sequence_classifier import load_sequence_classifier
from uniapl.types import Demonstration, Prompt


@dataclass(frozen=True, slots=True)
class Seen:
    """The data whose prompts a discriminator will be asked about."""

    demonstrations: Sequence[Demonstration] = ()
    held_out: Sequence[Demonstration] = ()
    prompts: Sequence[Prompt] = ()


def build_discriminator(
    recipe: Recipe,
    backbone: LanguageModel | None,
    chat: Chat | None = None,
    own_chat: Chat | None = None,
    seen: Seen | None = None,
    ranks: Ranks = ALONE,
) -> Discriminator | None:
    """Return the discriminator of a run, or None where its method has none.

    Args:
        recipe: The run.
        backbone: The language model that it works with; None where a form needs none in this process.
        chat: How the policy reads prompts; only hints and servers ask for it.
        own_chat: How the backbone reads prompts; None: it reads the policy's token ids.
        seen: The run's data: sizes are checked on it, and `reference` finds the expert's second texts in it.
        ranks: Each judges and learns a part of every step.

    Raises:
        InputError: A model or a server is not there, or the form cannot work with it.
    """
    if recipe.form is None:
        return None
    if recipe.form == "reference":
        return _reference(recipe, seen or Seen(), ranks)
    if recipe.form == "expert":
        return _expert(recipe, backbone, chat, own_chat, seen or Seen(), ranks)
    assert backbone is not None
    if recipe.form == "likelihood":
        return Likelihood(recipe, backbone, PromptReader(own_chat), ranks)
    return Scalar(recipe, backbone, ranks)


def _expert(
    recipe: Recipe,
    backbone: LanguageModel | None,
    chat: Chat | None,
    own_chat: Chat | None,
    seen: Seen,
    ranks: Ranks,
) -> Expert:
    config = recipe.config.discriminator
    template = config.hint_template if config.hint else None
    scorer: TokenScorer
    if config.servers:
        assert chat is not None
        served = _served_expert(recipe, chat)
        scorer, context = (
            DealtScorer(served, ranks, find_device(recipe.config.training.device)),
            served.servers.context,
        )
        reader = PromptReader(None, template, served.render)
    else:
        assert backbone is not None
        scorer = LocalScorer(recipe, backbone, ranks)
        reader = PromptReader(own_chat or (chat if config.hint else None), template)
        text_config = backbone.model.config.get_text_config()
        context = getattr(text_config, "max_position_embeddings", None)
    room = recipe.config.rollout.max_completion_tokens + bool(config.servers)  # it writes one token
    asked = seen.demonstrations if recipe.num_demonstration_prompts else ()
    try:
        check_context(reader, asked, seen.prompts, room=room, context=context)
    except TrainingError as error:  # of a server, before the first step
        raise InputError(f"discriminator.servers: {error}") from None
    return Expert(recipe, scorer, reader)


def _served_expert(recipe: Recipe, chat: Chat) -> ServedExpert:
    config = recipe.config
    served = ServedExpert(
        Servers(config.discriminator.servers, config.discriminator.path),
        find_device(config.training.device),
        has_template=bool(chat.tokenizer.chat_template),
        template_arguments=config.data.template_arguments,
    )
    try:
        served.check_tokens(chat.tokenizer, chat.eos_token_ids[0])
    except TrainingError as error:
        raise InputError(f"discriminator.servers: {error}") from None
    return served


def _reference(recipe: Recipe, seen: Seen, ranks: Ranks) -> Reference:
    config = recipe.config
    scorer = _text_scorer(recipe)
    found = Reference(recipe, scorer, seen.demonstrations, seen.held_out, ranks)
    measured = seen.held_out if recipe.samples_held_out else ()
    try:
        check_text_sizes(
            scorer,
            PairText(config.discriminator.pair_template),
            [*seen.demonstrations, *measured],
            config.rollout.max_completion_tokens,
        )
    except TrainingError as error:
        raise InputError(f"discriminator.servers: {error}") from None
    return found


def _text_scorer(recipe: Recipe) -> TextScorer:
    config = recipe.config
    path = config.discriminator.path
    if config.discriminator.servers:
        return ServedTexts(Servers(config.discriminator.servers, path))
    assert path is not None
    dtype = getattr(torch, config.model.dtype)
    # weights that learn are float32: nothing small is lost
    stored = torch.float32 if recipe.learns else dtype
    try:
        classifier, tokenizer = load_sequence_classifier(
            path, stored, find_device(config.training.device)
        )
    except InputError as error:
        raise InputError(f"discriminator.path: {error}") from error
    classifier.model.requires_grad_(recipe.learns)
    return LocalTexts(classifier, tokenizer, config.training.micro_batch_tokens, dtype)
