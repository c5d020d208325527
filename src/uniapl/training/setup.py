"""From a config to the players of a run: data, models, generator, discriminator, rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from uniapl.config.schema import Config
from uniapl.data.chat import Chat
from uniapl.data.mixture import Mixture, hold_out
from uniapl.data.readers import expert_demonstration, load_demonstrations, load_prompts
from uniapl.evaluation import EvaluationSet, load_metrics
from uniapl.instructions import validate_columns
from uniapl.models.language_model import LanguageModel, load_language_model
from uniapl.rewards import NamedReward, check_columns, column_names
from uniapl.rollout import TransformersGenerator
from uniapl.training.discriminator import Discriminator
from uniapl.training.methods import METHODS, uses_discriminator
from uniapl.training.schedules import is_ever_positive
from uniapl.training.trainer import Players, Trainer
from uniapl.types import Demonstration, InputError, Prompt


def load_policy(config: Config) -> tuple[LanguageModel, Chat]:
    """Load the model and its chat template.

    Raises:
        InputError: There is no such model or device.
    """
    path = config.model.path
    path = str(Path(path).expanduser()) if path.startswith("~") else path
    wanted = config.training.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("training.device: there is no CUDA device here")
    has_cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if has_cuda else "cpu")
    dtype = getattr(torch, config.model.dtype)
    policy, tokenizer = load_language_model(path, dtype, device, config.training.logit_chunk_tokens)
    chat = Chat(
        tokenizer,
        generation_config=policy.model.generation_config,
        system_prompt=config.data.system_prompt,
    )
    return policy, chat


@dataclass(slots=True)
class Data:
    """What the run reads, tokenised."""

    demonstrations: list[Demonstration]
    held_out: list[Demonstration]
    prompts: list[Prompt]
    evaluation: EvaluationSet | None


def load_data(config: Config, chat: Chat) -> Data:
    """Read and check everything before the first step.

    Raises:
        InputError: A file is missing or malformed, or does not fit the config.
    """
    limits: dict[str, Any] = {
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "validate_row": validate_columns,
    }
    on = METHODS[config.method].rollouts_on
    demonstrations, held_out = hold_out(
        load_demonstrations(config.data.demonstrations, chat, **limits),
        config.data.held_out_demonstrations,
    )
    prompts: list[Prompt] = []
    if config.data.prompts is not None and on in ("preference", "both"):
        prompts = load_prompts(config.data.prompts, chat, **limits)
    evaluation = None
    if config.evaluation.prompts is not None:
        asked = load_prompts(
            config.evaluation.prompts, chat, limit=config.evaluation.limit, **limits
        )
        metrics = load_metrics(config.evaluation.metrics)
        check_columns(metrics, column_names(asked))
        evaluation = EvaluationSet(asked, [expert_demonstration(p, chat) for p in asked], metrics)
    return Data(demonstrations, held_out, prompts, evaluation)


def _check_sizes(config: Config, data: Data, context: int | None) -> None:
    """Refuse before the first step what would stop a later one: too little data, too long texts."""
    on, wanted = METHODS[config.method].rollouts_on, config.data
    needs_experts = is_ever_positive(config.objective.sft_weight) or uses_discriminator(config)
    if needs_experts and wanted.demonstrations_per_step > len(data.demonstrations):
        raise InputError(
            f"data.demonstrations_per_step: must be at most {len(data.demonstrations)}, the number of "
            f"demonstrations to train on, got {wanted.demonstrations_per_step}"
        )
    shared = wanted.demonstration_prompts_per_step if on == "both" else 0
    if on in ("preference", "both") and wanted.prompts_per_step - shared > len(data.prompts):
        raise InputError(
            f"data.prompts_per_step: must be at most {len(data.prompts) + shared} with "
            f"{len(data.prompts)} preference prompts, got {wanted.prompts_per_step}"
        )
    room = config.rollout.max_completion_tokens
    answered = config.evaluation.max_completion_tokens or room
    demonstrations = [*data.demonstrations, *data.held_out]
    needed = [
        *((d.prompt, len(d.token_ids)) for d in demonstrations),
        *((d.prompt, room) for d in demonstrations if on in ("demonstration", "both")),
        *((p, room) for p in data.prompts),
        *((p, answered) for p in (data.evaluation.prompts if data.evaluation else ())),
    ]
    for prompt, completion_tokens in needed:
        if context is not None and len(prompt.token_ids) + completion_tokens > context:
            raise InputError(
                f"prompt {prompt.id} has {len(prompt.token_ids)} tokens; with {completion_tokens} "
                f"completion tokens it does not fit the model's context of {context}: shorten it or "
                "lower rollout.max_completion_tokens"
            )


def build_trainer(
    config: Config, policy: LanguageModel, chat: Chat, data: Data, rewards: Sequence[NamedReward]
) -> Trainer:
    """Bring the players together; the discriminator and the reference only where a term needs them."""
    text_config = policy.model.config.get_text_config()
    _check_sizes(config, data, getattr(text_config, "max_position_embeddings", None))
    on = METHODS[config.method].rollouts_on
    rolled_out = [d.prompt for d in data.demonstrations] if on in ("demonstration", "both") else []
    columns = column_names([*rolled_out, *data.prompts])
    if on != "none":
        check_columns(rewards, columns)
    generator = TransformersGenerator(
        policy.model,
        chat.tokenizer,
        max_completion_tokens=config.rollout.max_completion_tokens,
        eos_token_ids=chat.eos_token_ids,
        temperature=config.rollout.temperature,
        max_rows=config.rollout.max_rows,
        seed=config.seed,
    )
    discriminator = None
    if uses_discriminator(config):
        discriminator = Discriminator(
            config.discriminator,
            config.optimizer,
            policy.trainable_copy(),
            config.training.micro_batch_tokens,
            config.seed,
        )
    reference = None
    if on != "none" and is_ever_positive(config.objective.kl_coef):
        reference = policy.frozen_copy()
    players = Players(policy, generator, discriminator, reference, rewards, columns)
    mixture = Mixture(data.demonstrations, data.prompts, seed=config.seed)
    return Trainer(config, players, mixture, data.held_out)
