"""A language model that writes as the expert does, so that the expert's log-probs are known.

It is the base model after many fresh texts of the expert, none of them of a prompt that evaluations ask. What the
expert writes next is nearly random in many places, so this model's accuracy stays below the writer's.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from uniapl.instructions import strict
from uniapl.miniature.demonstrations import expert_tasks
from uniapl.miniature.metrics import fluency, joint
from uniapl.miniature.other_writers import sample
from uniapl.miniature.pretraining import Recipe, mean_loss, pretrain

EXPERT_RECIPE = Recipe(num_texts=80_000, warmup_steps=100)
"""What made the shipped one: 16 CPU minutes on one thread."""
WEAKER_RECIPE = Recipe(num_texts=8_000, warmup_steps=100)
"""A tenth of the texts."""


def make_expert(
    base: Path,
    tokenizer: PreTrainedTokenizerFast,
    avoided_prompts: Collection[str],
    recipe: Recipe,
    seed: int,
    say: Callable[[str], None],
) -> Qwen3ForCausalLM:
    """Train the base model on fresh texts of the expert.

    Args:
        base: Folder of the model to start from.
        tokenizer: The base model's.
        avoided_prompts: Texts of prompts that are never trained on.
        recipe: How many texts, and how they are learned.
        seed: Draws the texts and their order.
        say: Receives progress lines.

    Returns:
        The trained model, float32.
    """
    model = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    texts = fresh_texts(tokenizer, avoided_prompts, recipe.num_texts, random.Random(seed))
    say(f"{len(texts)} texts of the expert")
    pretrain(model, tokenizer, texts, recipe, seed, say)
    return model


def measure(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return how well a model writes: one completion per row, sampled at temperature 1.

    Args:
        model: Whose completions are judged; they are drawn from torch's global generator.
        tokenizer: The model's.
        rows: Of a data file with completions of the expert.

    Returns:
        `strict` (share of the prompts whose instructions are all followed), `fluency`, `joint`, and `nll`: the model's
        surprise at the expert's completions, mean over tokens, nats.
    """
    prompts = [row["prompt"] for row in rows]
    completions = sample(model, tokenizer, prompts)
    columns = {
        name: [row[name] for row in rows] for name in ("instruction_id_list", "kwargs", "topic")
    }
    followed = [
        all(strict(row["instruction_id_list"], row["kwargs"], completion))
        for row, completion in zip(rows, completions, strict=True)
    ]
    shares = {
        "strict": followed,
        "fluency": fluency(prompts, completions, **columns),
        "joint": joint(prompts, completions, **columns),
    }
    found = {name: sum(map(float, values)) / len(rows) for name, values in shares.items()}
    texts = [(row["prompt"], row["completion"]) for row in rows]
    return found | {"nll": mean_loss(model, tokenizer, texts)}


def fresh_texts(
    tokenizer: PreTrainedTokenizerFast,
    avoided_prompts: Collection[str],
    number: int,
    rng: random.Random,
) -> list[tuple[str, str]]:
    """Return that many prompts and completions of the expert; no prompt is one of `avoided_prompts`."""
    avoided = frozenset(avoided_prompts)
    texts = (
        (task.prompt, completion)
        for task, completion in expert_tasks(tokenizer, rng)
        if task.prompt not in avoided
    )
    return list(islice(texts, number))
