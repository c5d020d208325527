"""Lets a model answer a benchmark: loads it, prepares the prompts as it was trained, samples."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from uniapl.config import load_config
from uniapl.data.chat import Chat
from uniapl.data.readers import expert_demonstration, load_prompts
from uniapl.errors import InputError
from uniapl.evaluation.benchmark import Decoding, check_prompts
from uniapl.evaluation.evaluate import Check, EvaluationSet, check_settings, evaluate
from uniapl.files import fingerprint
from uniapl.models.devices import find_device
from uniapl.models.language_model import LanguageModel, load_language_model
from uniapl.rollout import TransformersGenerator
from uniapl.types import Message, Prompt, Rollout

if TYPE_CHECKING:
    from uniapl.config import Config
    from uniapl.types import Generator

MAX_COMPLETION_TOKENS = 1280
"""As lm-evaluation-harness allows on IFEval."""


@dataclass(frozen=True, slots=True)
class AnsweringModel:
    """A loaded model, and how it reads prompts."""

    policy: LanguageModel
    chat: Chat
    dtype_name: str
    system_prompt: str | None
    """The run's, if the model is one."""
    template_arguments: Mapping[str, Any]
    path: str
    """What was loaded: a folder, or a hub id."""
    run: "Config | None" = None
    """The run's config, if the model is one."""

    @property
    def fingerprint(self) -> str:
        """Changes with the weights and with whatever else lies in the model's folder; of a hub id its revision."""
        if Path(self.path).exists():
            return fingerprint(self.path)
        return str(getattr(self.policy.model.config, "_commit_hash", None))

    def generator(self, decoding: Decoding, max_completion_tokens: int) -> TransformersGenerator:
        """Return a generator; `policy.autocast()` must be around its `sample`."""
        return TransformersGenerator(
            self.policy.model,
            self.chat.tokenizer,
            max_completion_tokens=max_completion_tokens,
            eos_token_ids=self.chat.eos_token_ids,
            temperature=decoding.temperature,
            max_rows=decoding.max_rows,
            seed=decoding.seed,
        )

    @property
    def context(self) -> int | None:
        """How many tokens prompt and answer may have together; None: no limit is known."""
        config = self.policy.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    def room(self, longest_prompt_tokens: int) -> int:
        """Return how many tokens an answer may have: the usual limit, or what the context leaves."""
        if self.context is None:
            return MAX_COMPLETION_TOKENS
        # at least 1: where not even that fits, the generator says which prompt is too long
        return max(1, min(MAX_COMPLETION_TOKENS, self.context - longest_prompt_tokens))

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return a prompt's ids; a model without a chat template continues the text of a single turn."""
        if not self.chat.tokenizer.chat_template and len(messages) == 1:
            return self.chat.encode_prompt(messages[0]["content"])
        return self.chat.encode_prompt(messages)


def load_answering_model(
    model: str | Path,
    *,
    system_prompt: str | None = None,
    template_arguments: Mapping[str, Any] | None = None,
    dtype_name: str | None = None,
) -> AnsweringModel:
    """Load a model folder, a hub id, or a run folder's policy.

    Args:
        system_prompt: Instead of the run's.
        template_arguments: Over the run's.
        dtype_name: `float32` or `bfloat16`, instead of the run's.

    Raises:
        InputError: It cannot be loaded.
    """
    path, config = _policy_of(model)
    if system_prompt is None and config is not None:
        system_prompt = config.data.system_prompt
    arguments = {**(config.data.template_arguments if config else {}), **(template_arguments or {})}
    device = find_device()
    # what a run's evaluations used, so that numbers agree; bfloat16 is enough on an accelerator
    dtype_name = dtype_name or (config.model.dtype if config else _default_dtype(device))
    policy, tokenizer = load_language_model(
        path, getattr(torch, dtype_name), device, key="the model"
    )
    chat = Chat(
        tokenizer,
        generation_config=policy.model.generation_config,
        system_prompt=system_prompt,
        template_arguments=arguments,
    )
    return AnsweringModel(policy, chat, dtype_name, system_prompt, arguments, path, config)


def answer_benchmark(
    model: str | Path,
    prompts: str | Path,
    check: Check,
    decoding: Decoding,
    settings: Mapping[str, Any],
    folder: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Answer every prompt and check the answers; results and rows as `evaluate` returns them.

    Args:
        model: As `load_answering_model`.
        prompts: As `load_prompts`.
        check: The verdict on an answer.
        decoding: How the model answers.
        settings: Recorded with the results, and completed here; `limit` of them is how many prompts are read,
            `columns` what the file calls them.
        folder: Where the results will go; those of other settings are not replaced.

    Raises:
        InputError: The model cannot be loaded, prompts or instructions are wrong, or `folder` holds other results.
    """
    arguments = {} if decoding.is_thinking else {"enable_thinking": False}
    loaded_model = load_answering_model(model, template_arguments=arguments)
    loaded = load_prompts(
        prompts, loaded_model.chat, columns=settings.get("columns"), limit=settings["limit"]
    )
    check_prompts(loaded, check, prompts)
    longest = max(loaded, key=lambda prompt: len(prompt.token_ids))
    limit = decoding.max_completion_tokens or loaded_model.room(len(longest.token_ids))
    if decoding.max_completion_tokens is None and limit < MAX_COMPLETION_TOKENS:
        sys.stderr.write(
            f"warning: all answers end after {limit} tokens instead of {MAX_COMPLETION_TOKENS}: prompt {longest.id} "
            f"has {len(longest.token_ids)} tokens and the model's context {loaded_model.context}\n"
        )
    experts = [expert_demonstration(prompt, loaded_model.chat) for prompt in loaded]
    settings = {
        **settings,
        "model": str(model),
        "weights": loaded_model.fingerprint,
        "temperature": decoding.temperature,
        "max_completion_tokens": limit,
        "template_arguments": loaded_model.template_arguments,
        "system_prompt": loaded_model.system_prompt,
        "seed": decoding.seed,
        "dtype": loaded_model.dtype_name,
        "device": loaded_model.policy.device.type,
    }
    check_settings(folder, settings)
    generator = loaded_model.generator(decoding, limit)
    with loaded_model.policy.autocast():
        answers = _answers(generator, loaded, decoding.max_rows)
    return evaluate(answers, EvaluationSet(loaded, experts, check=check), settings)


def _answers(
    generator: "Generator", prompts: Sequence[Prompt], prompts_per_line: int
) -> list[Rollout]:
    """Return one answer per prompt; a line on stderr after every few of them says how far it is."""
    answers: list[Rollout] = []
    for start in range(0, len(prompts), prompts_per_line):
        answers += generator.sample(prompts[start : start + prompts_per_line], 1)
        sys.stderr.write(f"{len(answers)} of {len(prompts)} prompts answered\n")
    return answers


def _policy_of(model: str | Path) -> tuple[str, "Config | None"]:
    """Return what to load, and the config if `model` is a run folder."""
    folder = Path(model).expanduser()
    if not (folder / "config.yaml").is_file():
        return str(folder if folder.exists() else model), None
    policy = folder / "policy"
    if not policy.is_dir():
        raise InputError(
            f"{model}: the run has no policy/ yet; give a checkpoint's, {folder}/checkpoints/step_*/policy"
        )
    return str(policy), load_config(folder / "config.yaml")


def _default_dtype(device: torch.device) -> str:
    return "float32" if device.type == "cpu" else "bfloat16"
