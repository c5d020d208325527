"""From a config to the players of a run: data, models, generator, discriminator, rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config, DataConfig, Sources
from uniapl.data.chat import Chat
from uniapl.data.mixture import Mixture, hold_out
from uniapl.data.pairs import load_pairs
from uniapl.data.readers import (
    every_turn,
    expert_demonstration,
    load_demonstrations,
    load_prompts,
)
from uniapl.data.shares import Source, read_sources
from uniapl.discriminators import Seen, build_discriminator
from uniapl.discriminators.other_model import load_other_model
from uniapl.distributed import ALONE, Ranks
from uniapl.errors import InputError
from uniapl.evaluation import EvaluationSet, load_metrics
from uniapl.evaluation.reward_model import load_reward_model
from uniapl.instructions import validate_columns
from uniapl.models.adapters import LoraShape
from uniapl.models.devices import find_device
from uniapl.models.language_model import LanguageModel, load_language_model, store_weights
from uniapl.models.recomputation import recomputable_layers
from uniapl.objective.advantages import overlong_penalty
from uniapl.rewards import (
    NamedReward,
    build_reward,
    build_rewards,
    check_columns,
    check_names,
    column_names,
    model_reward,
)
from uniapl.rollout import TransformersGenerator
from uniapl.runs.rollout_servers import shared_vllm_generator
from uniapl.training.players import Players
from uniapl.training.step import Trainer
from uniapl.types import Demonstration, PreferencePair, Prompt


def load_policy(config: Config, ranks: Ranks = ALONE) -> tuple[LanguageModel, Chat]:
    """Load the model and its chat template.

    Args:
        config: Names them.
        ranks: As `load_language_model` takes them.

    Raises:
        InputError: There is no such model or device.
    """
    device, dtype = find_device(config.training.device), getattr(torch, config.model.dtype)
    policy, tokenizer = load_language_model(config.model.path, dtype, device, ranks=ranks)
    policy = prepare_policy(policy, config)
    chat = Chat(
        tokenizer,
        generation_config=policy.model.generation_config,
        system_prompt=config.data.system_prompt,
        template_arguments=config.data.template_arguments,
    )
    # other tools read where to stop from the saved model
    ends = list(chat.eos_token_ids)
    policy.model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    return policy, chat


def prepare_policy(model: LanguageModel, config: Config) -> LanguageModel:
    """Make a loaded model the policy of a run: what learns is chosen here, and what is kept for it."""
    model.recomputes_layers = config.training.gradient_checkpointing
    if model.recomputes_layers:
        recomputable_layers(model.model)
    if config.model.tuning == "full":
        return model
    store_weights(model.model, model.dtype)  # frozen: nothing small is lost in bfloat16
    return model.with_adapter("policy", _lora_shape(config))


def _lora_shape(config: Config) -> LoraShape:
    return LoraShape(config.lora.rank, config.lora.alpha, config.lora.target_modules)


def load_rewards(
    recipe: Recipe, device: torch.device, live: Sequence[NamedReward] | None = None
) -> list[NamedReward]:
    """Load the reward functions, and the reward models onto the policy's device.

    Where the method samples nothing, no reward model takes up memory.

    Args:
        recipe: Of the run.
        device: The policy's.
        live: Rewards that are functions already, in the place of the config's.

    Raises:
        InputError: One of them is not there, or is not what it should be.
    """
    specs: list[dict[str, Any]] = []
    if live is not None:
        return _with_penalty(live, recipe)
    for index, reward in enumerate(recipe.config.rewards):
        spec = reward.model_dump(exclude={"path"})
        if reward.path is not None:
            if not recipe.samples:
                continue
            system_prompt = recipe.config.data.system_prompt
            try:
                model = load_reward_model(reward.path, device, system_prompt)
                spec["function"] = model_reward(model.rewards)
            except InputError as error:
                raise InputError(f"rewards.{index}.path: {error}") from error
        specs.append(spec)
    return _with_penalty(build_rewards(specs), recipe)


def _with_penalty(rewards: Sequence[NamedReward], recipe: Recipe) -> list[NamedReward]:
    """Return all rewards of a run; `overlong` is a name that only one of them may have."""
    found = [*rewards, *_overlong(recipe)]
    check_names(found)
    return found


def _overlong(recipe: Recipe) -> list[NamedReward]:
    """Return the penalty for completions that come close to the limit, where the config asks for it."""
    rollout = recipe.config.rollout
    if not (recipe.samples and rollout.overlong_buffer_tokens):
        return []

    def overlong(completion_ids: list[Sequence[int]], **_columns: Any) -> list[float]:
        lengths = [len(ids) for ids in completion_ids]
        limit, buffer = rollout.max_completion_tokens, rollout.overlong_buffer_tokens
        return overlong_penalty(lengths, limit, buffer).tolist()

    return [build_reward(overlong)]


@dataclass(slots=True)
class Data:
    """What the run reads, tokenised."""

    demonstrations: list[Demonstration]
    held_out: list[Demonstration]
    prompts: list[Prompt]
    pairs: list[PreferencePair]
    evaluation: EvaluationSet | None
    notes: list[str]
    """How many rows the sources with shares gave, one line each."""


def load_data(recipe: Recipe, chat: Chat) -> Data:
    """Read and check everything before the first step.

    Raises:
        InputError: A file is missing or malformed, or does not fit the config.
    """
    config = recipe.config
    limits: dict[str, Any] = {
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "validate_row": validate_columns,
    }
    data = config.data
    loaded, notes = read_sources(
        _sources(data, data.demonstrations),
        partial(load_demonstrations, chat=chat, **limits),
        name="data.demonstrations",
        seed=config.seed,
    )
    trains_every_turn = data.trained_turns == "all"
    demonstrations, held_out = hold_out(
        loaded, recipe.held_out(len(loaded)), trains_every_turn=trains_every_turn
    )
    if trains_every_turn:
        demonstrations = every_turn(demonstrations, chat)
    prompts: list[Prompt] = []
    if data.prompts is not None and recipe.num_preference_prompts:
        read = partial(load_prompts, chat=chat, **limits)
        prompts, more_notes = read_sources(
            _sources(data, data.prompts), read, name="data.prompts", seed=config.seed
        )
        notes += more_notes
    pairs: list[PreferencePair] = []
    if data.pairs is not None:
        pairs = load_pairs(
            data.pairs, chat, columns=data.columns, max_prompt_tokens=data.max_prompt_tokens
        )
    evaluation = None
    if config.evaluation.prompts is not None:
        asked = load_prompts(
            config.evaluation.prompts, chat, limit=config.evaluation.limit, **limits
        )
        metrics = load_metrics(config.evaluation.metrics)
        check_columns(metrics, column_names(asked))
        evaluation = EvaluationSet(asked, [expert_demonstration(p, chat) for p in asked], metrics)
    return Data(demonstrations, held_out, prompts, pairs, evaluation, notes)


def _sources(data: DataConfig, value: Sources) -> list[Source]:
    return [Source(entry.path, entry.share, entry.columns) for entry in data.sources(value)]


def _check_sizes(recipe: Recipe, data: Data, context: int | None) -> None:
    """Refuse before the first step what would stop a later one: too little data, texts that are too long.

    `context` is the greatest number of tokens that the model takes; None if its config does not say.
    """
    config = recipe.config
    if recipe.num_demonstrations > len(data.demonstrations):
        raise InputError(
            f"data.demonstrations_per_step: must be at most {len(data.demonstrations)}, the number of "
            f"demonstrations to train on, got {recipe.num_demonstrations}"
        )
    if recipe.num_preference_prompts > len(data.prompts):
        paired = recipe.num_demonstration_prompts
        raise InputError(
            f"data.prompts_per_step: must be at most {len(data.prompts) + paired} with "
            f"{len(data.prompts)} preference prompts, got {config.data.prompts_per_step}"
        )
    room = config.rollout.max_completion_tokens
    answered = config.evaluation.max_completion_tokens or room
    demonstrations = [*data.demonstrations, *data.held_out]
    needed = [
        *((d.prompt, len(d.token_ids)) for d in demonstrations),
        *((d.prompt, room) for d in demonstrations if recipe.num_demonstration_prompts),
        *((p, room) for p in data.prompts),
        *((p.prompt, max(len(p.chosen_ids), len(p.rejected_ids))) for p in data.pairs),
        *((p, answered) for p in (data.evaluation.prompts if data.evaluation else ())),
    ]
    for prompt, completion_tokens in needed:
        if context is not None and len(prompt.token_ids) + completion_tokens > context:
            raise InputError(
                f"prompt {prompt.id} has {len(prompt.token_ids)} tokens; with {completion_tokens} "
                f"completion tokens it does not fit the model's context of {context}: shorten it or "
                "lower rollout.max_completion_tokens"
            )


def other_roles(
    recipe: Recipe, policy: LanguageModel, other: LanguageModel | None = None
) -> tuple[LanguageModel | None, LanguageModel | None]:
    """Return the discriminator's language model and the reference, with as few weights as they can share.

    A reference that costs nothing is there even if no term asks for it.

    Args:
        recipe: The run.
        policy: Ready to learn.
        other: The model of `discriminator.path`; None: the discriminator begins with the policy's weights.
    """
    config = recipe.config
    adapts = recipe.learns and config.discriminator.backbone == "lora"
    is_hinted = (
        recipe.form == "expert" and config.discriminator.hint and not config.discriminator.servers
    )
    is_own_expert = is_hinted and other is None
    needs_reference = recipe.has_kl or recipe.has_pairs or is_own_expert
    reference = (
        policy.reference() if needs_reference or policy.role or (adapts and not other) else None
    )
    if other is not None:
        other.recomputes_layers = policy.recomputes_layers
        if not recipe.learns or adapts:
            store_weights(other.model.requires_grad_(False), other.dtype)
        return other.with_adapter(
            "discriminator", _lora_shape(config)
        ) if adapts else other, reference
    if is_own_expert:
        return reference, reference
    if adapts:
        assert reference is not None
        backbone = reference.with_adapter("discriminator", _lora_shape(config))
        return backbone, backbone.reference()
    needs_copy = recipe.form in ("likelihood", "scalar")
    return policy.trainable_copy() if needs_copy else None, reference


def build_generator(
    config: Config, policy: LanguageModel, chat: Chat, ranks: Ranks = ALONE
) -> TransformersGenerator:
    """Return what samples the policy in this process as the run does.

    Args:
        config: Of the run, resolved.
        policy: Sampled with the weights that it has at each call.
        chat: Knows the tokenizer and where a turn ends.
        ranks: Each decodes some of the rows.
    """
    return TransformersGenerator(
        policy.whole,
        chat.tokenizer,
        max_completion_tokens=config.rollout.max_completion_tokens,
        eos_token_ids=chat.eos_token_ids,
        temperature=config.rollout.temperature,
        max_rows=config.rollout.max_rows,
        cache=config.rollout.cache,
        seed=config.seed,
    ).among(ranks)


def build_trainer(
    recipe: Recipe,
    policy: LanguageModel,
    chat: Chat,
    data: Data,
    rewards: Sequence[NamedReward],
    ranks: Ranks = ALONE,
) -> Trainer:
    """Bring the players together; the discriminator and the reference only where a term needs them.

    Args:
        recipe: Of the run.
        policy: From `load_policy`.
        chat: Its chat template.
        data: From `load_data`.
        rewards: From `load_rewards`.
        ranks: The processes that share the work.

    Raises:
        InputError: There is too little data for a step, a text does not fit the model's context, or a reward function
            needs a column that no row has.
    """
    config = recipe.config
    text_config = policy.model.config.get_text_config()
    _check_sizes(recipe, data, getattr(text_config, "max_position_embeddings", None))
    rolled_out = data.demonstrations if recipe.num_demonstration_prompts else []
    columns = column_names([*(d.prompt for d in rolled_out), *data.prompts])
    if recipe.samples:
        check_columns(rewards, columns)
    other = load_other_model(config, policy, chat, ranks)
    backbone, reference = other_roles(recipe, policy, other.model if other else None)
    if ranks.in_lockstep:
        policy.shard(keeps_whole=config.rollout.cache == "static")
        for model in (reference, other.model if other and not recipe.learns else None):
            if model:
                model.shard()
    own_chat = other.chat if other else None
    seen = Seen(data.demonstrations, data.held_out, data.prompts)
    discriminator = build_discriminator(recipe, backbone, chat, own_chat, seen, ranks)
    generator, gap = build_generator(config, policy, chat, ranks), None
    if recipe.samples and config.rollout.engine == "vllm":
        generator, gap = shared_vllm_generator(config, policy, chat, ranks)
    players = Players(policy, generator, discriminator, reference, rewards, columns, ranks, gap)
    mixture = Mixture(data.demonstrations, data.prompts, data.pairs, seed=config.seed)
    return Trainer(recipe, players, mixture, data.held_out)
