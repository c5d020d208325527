"""Pre-trains the miniature's base model: a plain loop over texts of similar length.

The corpus teaches one instruction at a time, by a writer who ignores a quarter of them; so the base
model knows every instruction but has never seen two together.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from uniapl.miniature.tasks import Task, sample_task
from uniapl.miniature.tokenizer import END, END_ID, PAD_ID
from uniapl.miniature.writer import write

IGNORED_FRACTION = 0.25
"""How often the writer of the corpus ignores the instruction."""
_BUCKET = 128
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a language model is trained on texts; the defaults made the shipped base."""

    num_texts: int = 44_000
    epochs: int = 1
    batch_size: int = 16
    """Texts per step."""
    learning_rate: float = 2e-3
    warmup_steps: int = 40


def sample_text(rng: random.Random) -> tuple[str, str]:
    """Draw a prompt with no or one instruction and what a careless writer answers."""
    task = sample_task(rng, num_instructions=int(rng.random() < 0.9))
    heard = () if rng.random() < IGNORED_FRACTION else task.instructions
    completion = write(rng, Task(task.topic, task.lead, heard), rng.randint(1, 5))
    return task.prompt, completion


def sample_corpus(number: int, seed: int) -> list[tuple[str, str]]:
    """Draw the texts that a base model learns: prompts and completions."""
    rng = random.Random(seed)
    return [sample_text(rng) for _ in range(number)]


def make_model(vocab_size: int, seed: int, width: int = 1) -> Qwen3ForCausalLM:
    """Make an untrained model, `width` times as wide as the base; twice as wide has four times the parameters."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=192 * width,
        intermediate_size=640 * width,
        num_hidden_layers=4,
        num_attention_heads=6 * width,
        num_key_value_heads=3 * width,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        attention_dropout=0.0,
    )
    return Qwen3ForCausalLM(config)


def pretrain(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[tuple[str, str]],
    recipe: Recipe,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train the model on completions in place; `say` receives progress lines."""
    sequences = [_encode(tokenizer, prompt, completion) for prompt, completion in texts]
    batches = list(_batches(sequences, recipe, random.Random(seed)))
    optimizer = make_optimizer(model, recipe)
    model.train()
    start = time.monotonic()
    for step, batch in enumerate(batches):
        rate = learning_rate(step, len(batches), recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        input_ids, labels = _pad(batch)
        # Padding is on the right, so the causal mask alone keeps it out of sight.
        logits = model(input_ids=input_ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == len(batches) - 1:
            seconds = time.monotonic() - start
            say(f"step {step + 1}/{len(batches)} loss {loss.item():.3f} {seconds:.0f} s")
    model.eval()


@torch.no_grad()
def mean_loss(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, str]]
) -> float:
    """Return −log p of the completions, end of turn included, in nats: the mean over all their tokens."""
    total, num_tokens = 0.0, 0
    for start in range(0, len(texts), _BUCKET):
        chunk = texts[start : start + _BUCKET]
        input_ids, labels = _pad([_encode(tokenizer, *text) for text in chunk])
        logits = model(input_ids=input_ids).logits[:, :-1]
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED, reduction="sum"
        ).item()
        num_tokens += int((labels != _IGNORED).sum())
    return total / num_tokens


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Make the optimizer; matrices decay, vectors do not."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )


def _encode(
    tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str
) -> tuple[list[int], int]:
    """Return the tokens of a conversation and how many of them are the prompt."""
    user = {"role": "user", "content": prompt}
    rendered = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    prompt_ids = cast("list[int]", tokenizer(cast("str", rendered))["input_ids"])
    completion_ids = cast("list[int]", tokenizer(completion + END)["input_ids"])
    return prompt_ids + completion_ids, len(prompt_ids)


def _batches(
    sequences: list[tuple[list[int], int]], recipe: Recipe, rng: random.Random
) -> Iterator[list[tuple[list[int], int]]]:
    """Shuffle, then sort within buckets of batches so that a batch needs little padding."""
    for _ in range(recipe.epochs):
        order = rng.sample(sequences, k=len(sequences))
        size = recipe.batch_size * _BUCKET
        for start in range(0, len(order), size):
            bucket = sorted(order[start : start + size], key=lambda item: len(item[0]))
            batches = [
                bucket[i : i + recipe.batch_size] for i in range(0, len(bucket), recipe.batch_size)
            ]
            yield from rng.sample(batches, k=len(batches))


def _pad(batch: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return input ids, padded on the right, and labels that count completion tokens only."""
    width = max(len(ids) for ids, _ in batch)
    input_ids = torch.full((len(batch), width), PAD_ID)
    labels = torch.full((len(batch), width), _IGNORED)
    for row, (ids, prompt_length) in enumerate(batch):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, prompt_length : len(ids)] = torch.tensor(ids[prompt_length:])
    return input_ids, labels


def learning_rate(step: int, num_steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
    return recipe.learning_rate * warmup * (0.05 + 0.95 * cosine)
