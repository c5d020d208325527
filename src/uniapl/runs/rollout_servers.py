"""Rollouts from vLLM servers (`rollout.engine: vllm`): asks what they are and says how the policy gets to them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from uniapl.config.schema import Config
from uniapl.data.chat import Chat
from uniapl.distributed import Ranks
from uniapl.errors import InputError
from uniapl.models.language_model import LanguageModel
from uniapl.models.saving import save_plain, write_model_folder
from uniapl.rollout.vllm_generator import (
    GAP_LIMIT,
    GAP_LIMIT_FLOAT32,
    SamplingSettings,
    VllmGenerator,
    ask_servers,
)
from uniapl.rollout.vllm_server import ServerFacts, VllmServer
from uniapl.rollout.vllm_weights import WeightFiles, WeightSync
from uniapl.types import Generator, Prompt, Rollout

FOLDER = "server_weights"
"""In the run folder: weights on their way to the servers."""
_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


def vllm_generator(
    config: Config, policy: LanguageModel, chat: Chat
) -> tuple[VllmGenerator, float]:
    """Return what samples the policy on its servers, and how far log-probs may be apart, nats per token.

    Raises:
        InputError: A server cannot be reached, or is not as the run needs it.
    """
    rollout, key = config.rollout, os.environ.get("VLLM_API_KEY")
    servers = [VllmServer(url.rstrip("/"), rollout.timeout_seconds, key) for url in rollout.servers]
    facts = ask_servers(servers)
    settings = SamplingSettings(
        max_completion_tokens=rollout.max_completion_tokens,
        eos_token_ids=frozenset(chat.eos_token_ids),
        temperature=rollout.temperature,
        seed=config.seed,
        vocabulary=policy.model.config.get_text_config().vocab_size,
    )
    weights = WeightSync(_weight_files(config, policy, facts))
    is_exact = config.model.dtype == facts.dtype == "float32"
    generator = VllmGenerator(servers, weights, chat.tokenizer, settings, facts)
    return generator, GAP_LIMIT_FLOAT32 if is_exact else GAP_LIMIT


class SharedGenerator:
    """The first rank's generator, for all ranks: it alone talks to the servers, and all get its rollouts."""

    def __init__(self, generator: Generator | None, ranks: Ranks) -> None:
        """Prepare.

        Args:
            generator: On the first rank; None on the others.
            ranks: All of them.
        """
        self._generator, self._ranks = generator, ranks

    def sample(self, prompts: Sequence[Prompt], group_size: int) -> list[Rollout]:
        """As `Generator.sample`."""
        return self._ranks.on_first(
            lambda: self._own.sample(prompts, group_size), "rollouts from servers"
        )

    def state_dict(self) -> dict[str, Any]:
        """As `Generator.state_dict`."""
        return self._ranks.on_first(lambda: self._own.state_dict(), "the servers' state")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Generator.load_state_dict`."""
        if self._generator is not None:
            self._generator.load_state_dict(state)

    @property
    def _own(self) -> Generator:
        assert self._generator is not None
        return self._generator


def check_ahead(config: Config, num_ranks: int) -> None:
    """Refuse what several ranks cannot do.

    Raises:
        InputError: They shall sample ahead.
    """
    if config.rollout.ahead and num_ranks > 1:
        raise InputError("rollout.ahead: must be 0 with several ranks, got 1")


def shared_vllm_generator(
    config: Config, policy: LanguageModel, chat: Chat, ranks: Ranks
) -> tuple[Generator, float]:
    """Return what `vllm_generator` returns, for a run of any number of ranks.

    Raises:
        InputError: As `vllm_generator`, on all ranks; or several ranks shall sample ahead.
    """
    if ranks.size == 1:
        return vllm_generator(config, policy, chat)
    check_ahead(config, ranks.size)
    made: list[Generator] = []

    def make() -> float:
        generator, gap = vllm_generator(config, policy, chat)
        made.append(generator)
        return gap

    gap = ranks.on_first(make, "asking rollout.servers")
    return SharedGenerator(made[0] if made else None, ranks), gap


def _weight_files(config: Config, policy: LanguageModel, facts: ServerFacts) -> WeightFiles:
    """Say how the policy is written: an adapter apart where the servers take adapters, else merged."""
    folder = Path(config.output_dir).absolute() / FOLDER
    dtype = _DTYPES.get(facts.dtype, policy.dtype)
    role = policy.role
    if role is None or facts.max_lora_rank is None:
        return WeightFiles(
            folder,
            lambda path: write_model_folder(
                path,
                lambda aside: save_plain(policy.merged() if role else policy.whole, aside, dtype),
            ),
        )
    if config.lora.rank > facts.max_lora_rank:
        raise InputError(
            f"lora.rank: is {config.lora.rank}, and the servers of rollout.servers take at most "
            f"{facts.max_lora_rank}: start vLLM with --max-lora-rank {config.lora.rank}, or without --enable-lora"
        )
    base = role.backbone
    return WeightFiles(
        folder,
        lambda path: write_model_folder(
            path, lambda aside: save_plain(base.plain(None), aside, dtype)
        ),
        lambda path: write_model_folder(path, role.save),
    )
