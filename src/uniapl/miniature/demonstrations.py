"""The data files: tasks with the expert's completions, and a second completion for the demonstrations' prompts."""

import json
import random
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from uniapl.miniature.grammar import TOPICS
from uniapl.miniature.tasks import LEADS, Instruction, Task, sample_task
from uniapl.miniature.writer import keeps_counts, make_plan, write

MAX_COMPLETION_TOKENS = 80
NUM_SENTENCES = (2, 2, 3)
"""How many sentences the expert plans; one of them is drawn for each text."""
ROWS = {"demonstrations": 320, "prompts": 1_500, "validation": 512, "test": 512}
"""Data files and how many rows they have; all but `prompts` carry the expert's completion."""
SECOND_TEXTS = "second_texts"
"""The data file with a second completion for each row of `demonstrations`."""


def write_data(
    folder: Path, tokenizer: PreTrainedTokenizerFast, rows: Mapping[str, int], rng: random.Random
) -> None:
    """Write the data files of `rows`; no prompt text occurs twice, in one file or in two."""
    folder.mkdir()
    tasks = new_tasks(tokenizer, rng)
    key = 0
    for name, number in rows.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for _ in range(number):
                task, completion = next(tasks)
                row = make_row(key, task)
                if name != "prompts":
                    row["completion"] = completion
                file.write(json.dumps(row) + "\n")
                key += 1


def expert_tasks(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> Iterator[tuple[Task, str]]:
    """Yield tasks of two or three instructions that the expert could solve, with its text."""
    while True:
        task = sample_task(rng, num_instructions=rng.choice((2, 3)))
        completion = write(rng, task, rng.choice(NUM_SENTENCES))
        if is_solved(task, completion, tokenizer):
            yield task, completion


def is_solved(task: Task, completion: str, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the expert's text has the counts that it planned and fits the token limit."""
    num_tokens = len(tokenizer(completion)["input_ids"]) + 1
    return num_tokens <= MAX_COMPLETION_TOKENS and keeps_counts(
        completion, make_plan(task.instructions)
    )


def new_tasks(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, seen: Collection[str] = ()
) -> Iterator[tuple[Task, str]]:
    """Yield what `expert_tasks` yields, but no prompt of `seen` and none twice."""
    prompts = set(seen)
    for task, completion in expert_tasks(tokenizer, rng):
        if task.prompt not in prompts:
            prompts.add(task.prompt)
            yield task, completion


def make_row(key: int, task: Task) -> dict[str, Any]:
    """Return a task in IFEval's columns, with its topic."""
    return {
        "key": key,
        "prompt": task.prompt,
        "instruction_id_list": [instruction.id for instruction in task.instructions],
        "kwargs": [dict(instruction.kwargs) for instruction in task.instructions],
        "topic": task.topic.name,
    }


def write_second_texts(
    demonstrations: Path, output: Path, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> None:
    """Write another completion of the expert for each row of a data file; it never equals the row's own."""
    rows = [json.loads(line) for line in demonstrations.read_text("utf-8").splitlines()]
    with output.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            completion = another_text(rng, task_of(row), row["completion"], tokenizer)
            file.write(json.dumps(row | {"completion": completion}) + "\n")


def another_text(
    rng: random.Random, task: Task, text: str, tokenizer: PreTrainedTokenizerFast
) -> str:
    """Return another text of the expert for a task that it can solve."""
    while True:
        other = write(rng, task, rng.choice(NUM_SENTENCES))
        if other != text and is_solved(task, other, tokenizer):
            return other


def task_of(row: Mapping[str, Any]) -> Task:
    """Return the task of a row that `make_row` made."""
    pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
    instructions = tuple(Instruction(name, values) for name, values in pairs)
    topic = TOPICS[row["topic"]]
    lead = next(x for x in LEADS if row["prompt"].startswith(x.format(topic=topic.name)))
    return Task(topic, lead, instructions)
