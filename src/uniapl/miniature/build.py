"""Makes the miniature again: tokenizer, base model and data files, from seeds.

    python -m uniapl.miniature.build [--output DIR]

Everything is written beside its place and renamed at the end, so an interrupted build leaves what
was there. The same machine, library versions and number of threads give the same bytes.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from uniapl.miniature import MODEL
from uniapl.miniature.pretraining import Recipe, make_model, pretrain, sample_text
from uniapl.miniature.tasks import Task, sample_task
from uniapl.miniature.tokenizer import END_ID, PAD_ID, build_tokenizer
from uniapl.miniature.writer import keeps_counts, make_plan, write

SEED = 0
MAX_COMPLETION_TOKENS = 80
ROWS = {"demonstrations": 320, "prompts": 1_500, "validation": 512, "test": 512}
"""Data files and how many rows they have; all but `prompts` carry the expert's completion."""


def build(output: Path, recipe: Recipe, rows: Mapping[str, int] = ROWS, seed: int = SEED) -> None:
    """Write `output/model` and `output/data`, replacing what is there."""
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    start = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - start:6.0f} s  {line}\n")
        sys.stderr.flush()

    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".building-") as name:
        aside = Path(name)
        rng = random.Random(seed)
        texts = [sample_text(rng, recipe) for _ in range(recipe.num_texts)]
        say(f"{len(texts)} texts to pre-train on")
        tokenizer = build_tokenizer(text for pair in texts for text in pair)
        model = make_model(len(tokenizer), seed)
        say(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
        pretrain(model, tokenizer, texts, recipe, seed, say)
        save_model(model, tokenizer, aside / "model")
        write_data(aside / "data", tokenizer, rows, random.Random(seed + 1))
        for part in ("model", "data"):
            shutil.rmtree(output / part, ignore_errors=True)
            (aside / part).rename(output / part)
    say(f"wrote {output / 'model'} and {output / 'data'}")


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save an ordinary model folder; the weights are rounded to bfloat16 to halve the file."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        max_new_tokens=MAX_COMPLETION_TOKENS,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors keeps its file to its owner; a wheel would keep it so


def write_data(
    folder: Path, tokenizer: PreTrainedTokenizerFast, rows: Mapping[str, int], rng: random.Random
) -> None:
    """Write the data files; no prompt text occurs twice, in one file or in two."""
    folder.mkdir()
    tasks = expert_tasks(tokenizer, rng)
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
    """Yield new tasks of two or three instructions that the expert could solve, with its text."""
    seen: set[str] = set()
    while True:
        task = sample_task(rng, num_instructions=rng.choice((2, 3)))
        completion = write(rng, task, num_sentences=rng.choice((2, 2, 3)))
        num_tokens = len(tokenizer(completion)["input_ids"]) + 1
        if (
            task.prompt not in seen
            and num_tokens <= MAX_COMPLETION_TOKENS
            and keeps_counts(completion, make_plan(task.instructions))
        ):
            seen.add(task.prompt)
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


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Rebuild the miniature's model and data.")
    parser.add_argument(
        "--output", type=Path, default=MODEL.parent, help="folder that gets model/ and data/"
    )
    build(parser.parse_args().output, Recipe())


if __name__ == "__main__":
    main()
