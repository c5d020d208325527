"""Makes the miniature again, from seeds: what ships, and what experiments need besides.

    python -m uniapl.miniature.build [--only base|texts|expert|weaker|scorer|larger] [--output DIR]

`base` is model and data; `texts` is one of the data files, the second completions. `expert` is the known expert,
`weaker` one that read a tenth of its texts, `scorer` the reference scorer, `larger` a base of four times the size.
Without `--only` all that ships is made, into the package.

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from uniapl.files import write_folder
from uniapl.miniature import MODEL
from uniapl.miniature.demonstrations import (
    MAX_COMPLETION_TOKENS,
    ROWS,
    SECOND_TEXTS,
    task_of,
    write_data,
    write_second_texts,
)
from uniapl.miniature.known_expert import EXPERT_RECIPE, WEAKER_RECIPE, make_expert, measure
from uniapl.miniature.other_writers import texts_by_writer
from uniapl.miniature.pretraining import Recipe, make_model, mean_loss, pretrain, sample_corpus
from uniapl.miniature.reference_scorer import ScorerRecipe, make_scorer, pair_accuracies
from uniapl.miniature.tokenizer import END_ID, PAD_ID, build_tokenizer

SEED = 0
SHIPPED = MODEL.parent
SHIPPED_PARTS = ("base", "expert")
PARTS = (*SHIPPED_PARTS, "texts", "weaker", "scorer", "larger")
LARGER_WIDTH = 2
"""Of the larger base's layers, in the base's: nearly four times the parameters."""

Say = Callable[[str], None]
"""Receives progress lines."""


def build(output: Path, recipe: Recipe, rows: Mapping[str, int] = ROWS, seed: int = SEED) -> None:
    """Write `output/model` and `output/data`, replacing what is there."""
    say = start_clock()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".building-") as name:
        aside = Path(name)
        texts = sample_corpus(recipe.num_texts, seed)
        say(f"{len(texts)} texts to pre-train on")
        tokenizer = build_tokenizer(text for pair in texts for text in pair)
        model = make_model(len(tokenizer), seed)
        say(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
        pretrain(model, tokenizer, texts, recipe, seed, say)
        say_loss(model, tokenizer, recipe, seed, say)
        save_language_model(model, aside / "model")
        tokenizer.save_pretrained(aside / "model", save_jinja_files=False)
        share_files(aside / "model")
        write_data(aside / "data", tokenizer, rows, random.Random(seed + 1))
        build_texts(aside, aside, seed)
        for part in ("model", "data"):
            shutil.rmtree(output / part, ignore_errors=True)
            (aside / part).rename(output / part)
    say(f"wrote {output / 'model'} and {output / 'data'}")


def build_texts(base: Path, output: Path, seed: int = SEED) -> None:
    """Write `output/data/second_texts.jsonl`: for each row of `base/data/demonstrations.jsonl` another text."""
    name = f"{SECOND_TEXTS}.jsonl"
    (output / "data").mkdir(parents=True, exist_ok=True)
    write_second_texts(
        base / "data" / "demonstrations.jsonl",
        output / "data" / name,
        load_tokenizer(base),
        random.Random(seed + 3),
    )


def build_expert(base: Path, folder: Path, recipe: Recipe, seed: int = SEED) -> None:
    """Train `base/model` on texts of the expert and write the model to `folder`, replacing what is there."""
    say = start_clock()
    tokenizer = load_tokenizer(base)
    model = make_expert(base / "model", tokenizer, held_out_prompts(base), recipe, seed + 2, say)
    torch.manual_seed(seed)
    for name, value in measure(model, tokenizer, read_rows(base, "validation")).items():
        say(f"{name} {value:.3f} on the validation prompts")
    write_model(folder, base, lambda aside: save_language_model(model, aside))
    say(f"wrote {folder}")


def build_scorer(base: Path, folder: Path, recipe: ScorerRecipe, seed: int = SEED) -> None:
    """Train `base/model` to score candidates and write the model to `folder`, replacing what is there."""
    say = start_clock()
    tokenizer = load_tokenizer(base)
    model = make_scorer(base / "model", tokenizer, held_out_prompts(base), recipe, seed + 4, say)
    for name, accuracy in held_out_accuracies(model, base, seed + 5).items():
        say(f"expert above {name}: {accuracy:.3f} of the pairs on validation prompts")
    write_model(folder, base, lambda aside: save_weights(model, aside))
    say(f"wrote {folder}")


def held_out_accuracies(
    model: Qwen3ForSequenceClassification, base: Path, seed: int
) -> dict[str, float]:
    """Return `pair_accuracies` on the prompts of `base/data/validation.jsonl`, with `base/model` as a writer."""
    tokenizer = load_tokenizer(base)
    torch.manual_seed(seed)
    tasks = [(task_of(row), row["completion"]) for row in read_rows(base, "validation")]
    writer = Qwen3ForCausalLM.from_pretrained(base / "model", dtype=torch.float32)
    written = texts_by_writer(tasks, {"base": writer}, tokenizer, random.Random(seed))
    return pair_accuracies(model, tokenizer, [task.prompt for task, _ in tasks], written)


def build_larger(base: Path, folder: Path, recipe: Recipe, seed: int = SEED) -> None:
    """Pre-train a base of four times the size, on the base's texts with its tokenizer, and write it to `folder`."""
    say = start_clock()
    tokenizer = load_tokenizer(base)
    model = make_model(len(tokenizer), seed, LARGER_WIDTH)
    say(f"{model.num_parameters():,} parameters")
    pretrain(model, tokenizer, sample_corpus(recipe.num_texts, seed), recipe, seed, say)
    say_loss(model, tokenizer, recipe, seed, say)
    write_model(folder, base, lambda aside: save_language_model(model, aside))
    say(f"wrote {folder}")


def say_loss(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    seed: int,
    say: Say,
) -> None:
    """Say a base model's loss on new texts of its corpus, a twentieth as many as it learned."""
    texts = sample_corpus(recipe.num_texts // 20, seed + 6)
    say(f"loss {mean_loss(model, tokenizer, texts):.4f} nats a token on {len(texts)} new texts")


def start_clock() -> Say:
    """Compute on one thread from now on; return what prints progress with the seconds since, wall and CPU."""
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    start, start_cpu = time.monotonic(), time.process_time()

    def say(line: str) -> None:
        wall, cpu = time.monotonic() - start, time.process_time() - start_cpu
        sys.stderr.write(f"{wall:6.0f} s {cpu:6.0f} s CPU  {line}\n")
        sys.stderr.flush()

    return say


def load_tokenizer(base: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of `base/model`."""
    return AutoTokenizer.from_pretrained(base / "model")


def read_rows(base: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a data file in `base/data`."""
    lines = (base / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def held_out_prompts(base: Path) -> set[str]:
    """Return the texts of the prompts that evaluations ask."""
    return {row["prompt"] for name in ("validation", "test") for row in read_rows(base, name)}


def save_language_model(model: Qwen3ForCausalLM, folder: Path) -> None:
    """Save the files of a language model, all but the tokenizer's; it samples as the miniature does."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        max_new_tokens=MAX_COMPLETION_TOKENS,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    save_weights(model, folder)


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Save a model, rounded to bfloat16 to halve the file."""
    model.bfloat16().save_pretrained(folder)
    share_files(folder)


def write_model(folder: Path, base: Path, save: Callable[[Path], None]) -> None:
    """Write a model folder with the tokenizer of `base/model`, replacing what is there."""

    def write(aside: Path) -> None:
        save(aside)
        copy_tokenizer(base, aside)

    write_folder(folder, write)


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Copy the tokenizer of `base/model`; transformers would save a loaded one with other bytes."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / "model" / name, folder / name)
    share_files(folder)


def share_files(folder: Path) -> None:
    """Let everyone read the files; safetensors keeps its own to its owner, and a wheel would keep it so."""
    for path in folder.iterdir():
        path.chmod(0o644)


def build_part(part: str, base: Path, output: Path) -> None:
    """Make one of `PARTS` from the model and data in `base`; `base` itself from nothing."""
    folder = output / part
    match part:
        case "base":
            build(output, Recipe())
        case "texts":
            build_texts(base, output)
        case "expert":
            build_expert(base, folder, EXPERT_RECIPE)
        case "weaker":
            build_expert(base, folder, WEAKER_RECIPE)
        case "scorer":
            build_scorer(base, folder, ScorerRecipe())
        case "larger":
            build_larger(base, folder, Recipe())
        case _:
            raise ValueError(f"unknown part: {part}")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Rebuild the miniature's models and data.")
    parser.add_argument("--only", choices=PARTS, help="default: all that ships")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder that gets the parts; default, for what ships: the package",
    )
    options = parser.parse_args()
    parts = (options.only,) if options.only else SHIPPED_PARTS
    if options.output is None and not {*parts} <= {*SHIPPED_PARTS, "texts"}:
        parser.error(f"{options.only} does not ship with the package: give --output DIR")
    output = options.output or SHIPPED
    for part in parts:
        build_part(part, output if "base" in parts else SHIPPED, output)


if __name__ == "__main__":
    main()
