"""Lets a model answer a benchmark: loads it, prepares the prompts as it was trained, samples."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from uniapl.config import load_config
from uniapl.data.chat import Chat
from uniapl.data.readers import expert_demonstration, load_prompts
from uniapl.evaluation.benchmark import Decoding, check_prompts
from uniapl.evaluation.evaluate import Check, EvaluationSet, evaluate
from uniapl.models.language_model import load_language_model
from uniapl.rollout import TransformersGenerator
from uniapl.types import InputError, Prompt, Rollout

if TYPE_CHECKING:
    from uniapl.config import Config
    from uniapl.types import Generator

MAX_COMPLETION_TOKENS = 1280
"""As lm-evaluation-harness allows on IFEval."""


def answer_benchmark(
    model: str | Path,
    prompts: str | Path,
    check: Check,
    decoding: Decoding,
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Answer every prompt and check the answers; results and rows as `evaluate` returns them.

    Raises:
        InputError: The model cannot be loaded, or prompts or instructions are wrong.
    """
    path, config = _policy_of(model)
    system_prompt = config.data.system_prompt if config else None
    arguments = dict(config.data.template_arguments) if config else {}
    if not decoding.is_thinking:
        arguments["enable_thinking"] = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # what a run's evaluations used, so that numbers agree; bfloat16 is enough on an accelerator
    dtype_name = config.model.dtype if config else _default_dtype(device)
    policy, tokenizer = load_language_model(path, getattr(torch, dtype_name), device, 1024)
    chat = Chat(
        tokenizer,
        generation_config=policy.model.generation_config,
        system_prompt=system_prompt,
        template_arguments=arguments,
    )
    loaded = load_prompts(prompts, chat)
    check_prompts(loaded, check, prompts)
    limit = decoding.max_completion_tokens or _room(policy.model.config, loaded)
    generator = TransformersGenerator(
        policy.model,
        tokenizer,
        max_completion_tokens=limit,
        eos_token_ids=chat.eos_token_ids,
        temperature=decoding.temperature,
        max_rows=decoding.max_rows,
        seed=decoding.seed,
    )
    experts = [expert_demonstration(prompt, chat) for prompt in loaded]
    settings = {
        **settings,
        "model": str(model),
        "temperature": decoding.temperature,
        "max_completion_tokens": limit,
        "template_arguments": arguments,
        "system_prompt": system_prompt,
        "seed": decoding.seed,
        "dtype": dtype_name,
        "device": device.type,
    }
    answers = AnswerGenerator(generator, decoding.max_rows)
    with policy.autocast():
        return evaluate(answers, EvaluationSet(loaded, experts, check=check), settings)


class AnswerGenerator:
    """A `Generator` whose completions are answers: what a model thinks before them is left out.

    A completion that is cut off while the model thinks is a blank answer. After every few prompts a line
    on stderr says how far it is.
    """

    def __init__(self, generator: "Generator", prompts_per_line: int) -> None:
        self._generator = generator
        self._prompts_per_line = prompts_per_line

    def sample(self, prompts: Sequence[Prompt], group_size: int) -> list[Rollout]:
        """Return rollouts as the inner generator's, but for their text."""
        rollouts: list[Rollout] = []
        for start in range(0, len(prompts), self._prompts_per_line):
            part = prompts[start : start + self._prompts_per_line]
            rollouts += self._generator.sample(part, group_size)
            sys.stderr.write(f"{start + len(part)} of {len(prompts)} prompts answered\n")
        return [replace(r, completion=answer(r.completion)) for r in rollouts]

    def state_dict(self) -> dict[str, Any]:
        """Return the inner generator's."""
        return self._generator.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._generator.load_state_dict(state)


def answer(completion: str) -> str:
    """Return what follows `</think>`; all of a completion that does not think."""
    _, mark, rest = completion.partition("</think>")
    if mark:
        return rest.strip()
    return "" if completion.lstrip().startswith("<think>") else completion


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


def _room(config: Any, prompts: Sequence[Prompt]) -> int:
    """Return how many tokens an answer may have."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(prompt.token_ids) for prompt in prompts)
    if context is None:
        return MAX_COMPLETION_TOKENS
    # at least 1: where not even that fits, the generator says which prompt is too long
    return max(1, min(MAX_COMPLETION_TOKENS, context - longest))
