"""Texts of several writers for one prompt: what the reference scorer learns to tell apart.

Seven writers: the expert, two models that write less well (the base, and the base after a few steps of SFT) and four
that write as the expert does but for one fault each: they break an instruction, shuffle words, cut or double the text.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from uniapl.instructions import follows
from uniapl.miniature.demonstrations import MAX_COMPLETION_TOKENS, NUM_SENTENCES, another_text
from uniapl.miniature.tasks import Task
from uniapl.miniature.writer import write

SAMPLING_ROWS = 256
_TRIES = 20

TextsByWriter = dict[str, tuple[str, str]]
"""Two texts of each writer for one prompt."""


def texts_by_writer(
    tasks: Sequence[tuple[Task, str]],
    models: Mapping[str, Qwen3ForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
) -> list[TextsByWriter]:
    """Let every writer write twice for each task.

    Args:
        tasks: Each with a text of the expert.
        models: The language models among the writers, by their names as writers; they sample at temperature 1.
        tokenizer: The models'.
        rng: Draws the texts of the other writers; the models draw from torch's global generator.

    Returns:
        Per task two texts of each writer. A writer that found nothing to spoil is missing.
    """
    prompts = [task.prompt for task, _ in tasks for _ in range(2)]
    samples = {name: sample(model, tokenizer, prompts) for name, model in models.items()}
    found: list[TextsByWriter] = []
    for index, (task, text) in enumerate(tasks):
        own = {"expert": (text, another_text(rng, task, text, tokenizer))}
        own |= {n: (x[2 * index], x[2 * index + 1]) for n, x in samples.items()}
        own |= {
            name: (spoil(rng, *own["expert"]), spoil(rng, *own["expert"][::-1]))
            for name, spoil in SPOILERS.items()
        }
        broken = breaking_texts(rng, task)
        found.append(own | ({"breaks": broken} if broken else {}))
    return found


def breaking_texts(rng: random.Random, task: Task) -> tuple[str, str] | None:
    """Return two texts by an expert who did not read one of the instructions and breaks it, or None.

    Some instructions are followed by chance in every text (few words asked, few written); where that holds for all
    of a task, there is None.
    """
    for deaf_to in rng.sample(task.instructions, k=len(task.instructions)):
        heard = tuple(other for other in task.instructions if other is not deaf_to)
        drafts = (
            write(rng, Task(task.topic, task.lead, heard), rng.choice(NUM_SENTENCES))
            for _ in range(_TRIES)
        )
        texts: list[str] = []
        for draft in drafts:
            if not follows(deaf_to.id, deaf_to.kwargs, draft):
                texts.append(draft)
            if len(texts) == 2:
                return texts[0], texts[1]
    return None


def _shuffled(rng: random.Random, text: str, other: str) -> str:
    words = text.split(" ")
    return " ".join(rng.sample(words, k=len(words)))


def _cut(rng: random.Random, text: str, other: str) -> str:
    words = text.split(" ")
    return " ".join(words[: rng.randint(len(words) // 4, len(words) * 3 // 4) or 1])


def _doubled(rng: random.Random, text: str, other: str) -> str:
    return f"{text} {other}"


SPOILERS: dict[str, Callable[[random.Random, str, str], str]] = {
    "shuffles": _shuffled,
    "cuts": _cut,
    "doubles": _doubled,
}
"""Writers that spoil a text of the expert; the second text is another one for the same prompt."""


@torch.no_grad()
def sample(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> list[str]:
    """Sample a completion of each prompt at temperature 1 from torch's global generator."""
    rendered = [
        cast(
            "str",
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            ),
        )
        for prompt in prompts
    ]
    completions: list[str] = []
    for start in range(0, len(rendered), SAMPLING_ROWS):
        batch = tokenizer(
            rendered[start : start + SAMPLING_ROWS], return_tensors="pt", padding=True
        )
        ids = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=MAX_COMPLETION_TOKENS,
        )
        new = ids[:, batch["input_ids"].shape[1] :]
        completions += tokenizer.batch_decode(new, skip_special_tokens=True)
    return completions
