"""A reference scorer, trained as POLAR is: is the candidate by the writer of the reference?

A sequence-classification model with one label that reads prompt, reference and candidate as one plain text. POLAR
(arXiv 2507.05197) learns by Bradley-Terry from texts of many policies: two texts of one policy for one prompt rank
above a text of another. Here the writers are seven and simple, and a reference is compared with several texts at once.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from uniapl.miniature.demonstrations import new_tasks
from uniapl.miniature.known_expert import fresh_texts
from uniapl.miniature.other_writers import TextsByWriter, texts_by_writer
from uniapl.miniature.pretraining import Recipe, learning_rate, make_optimizer, pretrain
from uniapl.miniature.tokenizer import PAD_ID

PAIR_TEXT = "{prompt}\n{reference}\n\n{prompt}\n{candidate}"
"""What the scorer reads; `{prompt}` is the text of the last user turn. No special token is added."""


@dataclass(frozen=True, slots=True)
class ScorerRecipe:
    """How the scorer is made."""

    num_prompts: int = 2_000
    """Each with two texts of every writer."""
    comparisons: Recipe = field(
        default_factory=lambda: Recipe(
            num_texts=6_000, batch_size=8, learning_rate=1e-3, warmup_steps=50
        )
    )
    """`num_texts` counts references; each is compared with a text of its writer and with `num_others` texts."""
    num_others: int = 3
    expert_fraction: float = 0.5
    """How often the reference is the expert's; otherwise any writer's."""
    sft: Recipe = field(
        default_factory=lambda: Recipe(num_texts=1_000, learning_rate=5e-4, warmup_steps=10)
    )
    """How the writer `tuned` is made of the base."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Token ids of one reference's candidates in `PAIR_TEXT`: the first is by the reference's writer."""

    candidates: tuple[list[int], ...]


def make_scorer(
    base: Path,
    tokenizer: PreTrainedTokenizerFast,
    avoided_prompts: Collection[str],
    recipe: ScorerRecipe,
    seed: int,
    say: Callable[[str], None],
) -> Qwen3ForSequenceClassification:
    """Train a scorer that begins as the base model.

    Args:
        base: Folder of the model to start from, which is also one of the writers.
        tokenizer: The base model's.
        avoided_prompts: Texts of prompts that are never trained on.
        recipe: How many texts, and how they are learned.
        seed: Draws prompts, texts, pairs and the head's first weights.
        say: Receives progress lines.

    Returns:
        The trained model, float32.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    writer = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    texts = fresh_texts(tokenizer, avoided_prompts, recipe.sft.num_texts, rng)
    pretrain(tuned, tokenizer, texts, recipe.sft, seed, say)
    tasks = list(islice(new_tasks(tokenizer, rng, avoided_prompts), recipe.num_prompts))
    written = texts_by_writer(tasks, {"base": writer, "tuned": tuned}, tokenizer, rng)
    say(f"{len(written)} prompts with two texts of every writer")
    prompts = [task.prompt for task, _ in tasks]
    comparisons = [
        _compare(prompts[i], written[i], tokenizer, recipe, rng)
        for i in (n % len(prompts) for n in range(recipe.comparisons.num_texts))
    ]
    model = Qwen3ForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    _train(model, comparisons, recipe.comparisons, rng, say)
    return model


@torch.no_grad()
def pair_accuracies(
    model: Qwen3ForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    written: Sequence[TextsByWriter],
) -> dict[str, float]:
    """Return, per writer, how often the expert's second text ranks above that writer's text.

    Args:
        model: The scorer.
        tokenizer: Its tokenizer.
        prompts: One per entry of `written`.
        written: What `texts_by_writer` returns; the expert's first text is the reference.

    Returns:
        Shares of the prompts for which the writer has a text, by its name; the expert itself is not among them.
    """
    verdicts: dict[str, list[bool]] = {}
    for prompt, texts in zip(prompts, written, strict=True):
        reference, own = texts["expert"]
        names = sorted(set(texts) - {"expert"})
        candidates = [own, *(texts[name][0] for name in names)]
        pairs = [encode_pair(tokenizer, prompt, reference, x) for x in candidates]
        found = shared_scores(model, [pairs])[0]
        for name, score in zip(names, found[1:].tolist(), strict=True):
            verdicts.setdefault(name, []).append(found[0].item() > score)
    return {name: sum(values) / len(values) for name, values in sorted(verdicts.items())}


def encode_pair(
    tokenizer: PreTrainedTokenizerFast, prompt: str, reference: str, candidate: str
) -> list[int]:
    """Return the token ids that the scorer reads."""
    text = PAIR_TEXT.format(prompt=prompt, reference=reference, candidate=candidate)
    return cast("list[int]", tokenizer(text, add_special_tokens=False)["input_ids"])


def scores(model: Qwen3ForSequenceClassification, sequences: Sequence[list[int]]) -> Tensor:
    """Return the logit [sequences] of each, read at its last token; with gradient."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    input_ids = torch.full((len(sequences), int(lengths.max())), PAD_ID)
    for row, ids in enumerate(sequences):
        input_ids[row, : len(ids)] = torch.tensor(ids)
    is_real = torch.arange(input_ids.shape[1]) < lengths[:, None]
    return model(input_ids=input_ids, attention_mask=is_real.long()).logits[:, 0]


def shared_scores(
    model: Qwen3ForSequenceClassification, groups: Sequence[Sequence[list[int]]]
) -> Tensor:
    """Return what `scores` returns, but read once what the sequences of a group begin with.

    Args:
        model: The scorer; its attention must take a mask of four dimensions, as transformers' `sdpa` does.
        groups: As many sequences in each.

    Returns:
        Logits [groups, sequences in a group], with gradient.
    """
    rows = [_lay_out(group) for group in groups]
    width = max(len(ids) for ids, _, _, _ in rows)
    input_ids = torch.full((len(rows), width), PAD_ID)
    positions = torch.zeros_like(input_ids)
    parts = torch.full_like(input_ids, -1)
    for row, (ids, places, members, _) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        positions[row, : len(ids)] = torch.tensor(places)
        parts[row, : len(ids)] = torch.tensor(members)
    is_seen = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])
    is_past = torch.ones(width, width).tril().bool()
    hidden = model.model(
        input_ids=input_ids, position_ids=positions, attention_mask=(is_seen & is_past)[:, None]
    ).last_hidden_state
    ends = torch.tensor([ends for _, _, _, ends in rows])
    return model.score(hidden[torch.arange(len(rows))[:, None], ends])[..., 0]


def _lay_out(group: Sequence[list[int]]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Lay a group end to end behind what it shares.

    Returns:
        Token ids; their positions in their own sequences; the sequence of each, from 1 on, 0 where all share it; the
        index of each sequence's last token.
    """
    equal = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*group, strict=False))
    num_shared = min(sum(1 for _ in equal), *(len(ids) - 1 for ids in group))
    ids, positions = list(group[0][:num_shared]), list(range(num_shared))
    parts, ends = [0] * num_shared, list[int]()
    for part, sequence in enumerate(group, start=1):
        ids += sequence[num_shared:]
        positions += range(num_shared, len(sequence))
        parts += [part] * (len(sequence) - num_shared)
        ends.append(len(ids) - 1)
    return ids, positions, parts, ends


def bradley_terry_loss(scores_CxN: Tensor) -> Tensor:
    """Return the mean over comparisons and others of −log σ(score of the writer's own text − score of another).

    Args:
        scores_CxN: [comparisons, candidates]; the first candidate of each is by the reference's writer.
    """
    return -torch.nn.functional.logsigmoid(scores_CxN[:, :1] - scores_CxN[:, 1:]).mean()


def _compare(
    prompt: str,
    written: TextsByWriter,
    tokenizer: PreTrainedTokenizerFast,
    recipe: ScorerRecipe,
    rng: random.Random,
) -> Comparison:
    is_expert = rng.random() < recipe.expert_fraction
    writer = "expert" if is_expert else rng.choice(sorted(written))
    reference, own = rng.sample(written[writer], k=2)
    names = rng.sample(sorted(set(written) - {writer}), k=recipe.num_others)
    others = [rng.choice(written[name]) for name in names]
    return Comparison(tuple(encode_pair(tokenizer, prompt, reference, x) for x in (own, *others)))


def _train(
    model: Qwen3ForSequenceClassification,
    comparisons: Sequence[Comparison],
    recipe: Recipe,
    rng: random.Random,
    say: Callable[[str], None],
) -> None:
    order = rng.sample(comparisons, k=len(comparisons))
    size = recipe.batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    optimizer = make_optimizer(model, recipe)
    recent: list[tuple[float, float]] = []
    model.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), recipe)
        found = shared_scores(model, [comparison.candidates for comparison in batch])
        loss = bradley_terry_loss(found)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append((loss.item(), (found[:, :1] > found[:, 1:]).float().mean().item()))
        if (step + 1) % 100 == 0 or step == len(batches) - 1:
            mean_loss, accuracy = (
                sum(values) / len(recent) for values in zip(*recent, strict=True)
            )
            say(f"step {step + 1}/{len(batches)} loss {mean_loss:.3f} accuracy {accuracy:.3f}")
            recent.clear()
    model.eval()
