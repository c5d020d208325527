"""A real model trained by every method on one budget and measured on IFEval: `benchmarks/real_model.sh`.

    benchmarks/real_model.sh --model FOLDER --seeds FILE --ifeval FILE [options] [key=value ...]

Prompts are made of `--seeds`; the expert is the model itself, best of several answers by the checkers, revised where
none follows everything (docs/collect.md); `uniapl compare` trains and measures. Nothing is trained or tuned on
IFEval's prompts: the expert's answers to them are only what the policy's lengths and log-probs are held against. The
training prompts have no instruction of five types, whose accuracy is reported apart. What the checkers do not see is
measured without them: how likely answers are as text under the model before training, loops, answers that are none.
No network is needed.

It works in slices: what `--minutes` cuts off goes on with the same command. An evaluation is not interrupted, so a
slice must be longer than one. Exit status: 0, nothing is left; 75, call it again; 1, something failed; 2, wrong
input; 130, Ctrl-C. `key=value` words go to every run; on a GPU: model.dtype=bfloat16 rollout.cache=static
rollout.max_rows=256
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoTokenizer

from benchmarks import finished_arms, real_model_table
from benchmarks.shapes import build_model
from benchmarks.slices import Piece, Slice
from uniapl.comparing import read_plan
from uniapl.comparing.arms import check_plan
from uniapl.config import load_config
from uniapl.errors import InputError
from uniapl.files import write_text
from uniapl.runs.checkpoint import step_name

FAILED, WRONG_INPUT, LEFT, INTERRUPTED = 1, 2, 75, 130
"""Exit statuses."""
CONFIG = "smollm2-135m"
VALIDATION_PROMPTS = 256
BUDGET = ("training.steps=60",)
"""What all arms share beside the config's own; `key=value` words come behind it and win."""
RATES = "optimizer.learning_rate=2e-5,1e-4"
"""What every arm chooses from: the same two values, tuned for none of them."""
OWN_SETTINGS = {"mix": ("objective.sft_weight=1",), "uniapl": ("objective.sft_weight=1",)}
"""Settings of an arm by its method, which are not chosen: demonstrations count as much as rewards."""
METRICS = (
    "uniapl.evaluation.hacks:hack_fraction",
    "uniapl.evaluation.hacks:few_words_fraction",
    "uniapl.evaluation.held_out_types:held_out_types_acc",
    "uniapl.evaluation.held_out_types:trained_types_acc",
)
"""What the checkers do not see, and what training prompts never asked for."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/real_model.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="key=value", help="settings of every run")
    add("--model", type=Path, required=True, help="model folder")
    add("--seeds", type=Path, required=True, help="prompts people wrote, such as Dolly's")
    add("--ifeval", type=Path, required=True, help="IFEval's input_data.jsonl")
    add("--minutes", type=float, default=9.0, help="of this slice")
    add("--output", type=Path, default=Path("runs/real-model"))
    add("--methods", default="grpo,sft-grpo,mix,uniapl", help="as uniapl compare takes them")
    add("--form", choices=("likelihood", "expert"), default="likelihood", help="of uniapl's arms")
    add(
        "--form-path",
        type=Path,
        help="a larger model with the same tokens for that form; without it `likelihood` copies the policy "
        "and `expert` is the model before training, with the demonstration as a hint",
    )
    add("--text-model", type=Path, help="says how likely answers are as text; default: --model")
    add("--run-seeds", default="0", help="of every arm at first")
    add("--more-seeds", default="1,2", help="afterwards; '' for none")
    add("--untuned", action="store_true", help="no grid: the config's settings for all arms")
    add(
        "--grid",
        action="append",
        metavar="ARM:KEY=VALUE[,VALUE…]",
        help="in place of the grids here, as uniapl compare takes it; one value is that arm's own setting",
    )
    add("--asked", type=int, default=2000, help="prompts that the expert is to demonstrate")
    add("--samples", type=int, default=4, help="answers per prompt, the best of which is kept")
    add("--max-repetition", type=float, default=0.1, help="of a kept answer, as collect takes it")
    add("--matched", type=int, default=541, help="IFEval prompts that the expert answers too")
    add("--tokens", type=int, default=512, help="of an answer to IFEval")
    add("--jobs", type=int, default=1, help="runs at the same time")
    options = parser.parse_args(arguments)
    for name in ("minutes", "asked", "samples", "matched", "tokens", "jobs"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be above 0")
    options.text_model = options.text_model or options.model
    for name in ("model", "seeds", "ifeval", "text_model", "form_path"):
        if getattr(options, name) is None:
            continue
        path: Path = getattr(options, name).resolve()
        setattr(options, name, path)
        if not path.exists():
            parser.error(f"--{name.replace('_', '-')}: {path} is not there")
    if options.untuned and options.grid:
        parser.error("--untuned leaves no --grid to choose from")
    for word in options.words:
        if "=" not in word:
            parser.error(f"{word}: must be key=value")
    return options


def settings(options: argparse.Namespace, data: Path) -> list[str]:
    """Return what all runs share, as `key=value` words."""
    return [
        f"model.path={options.model}",
        f"data.demonstrations={data / 'demonstrations.jsonl'}",
        f"data.prompts={data / 'prompts.jsonl'}",
        f"evaluation.prompts={data / 'ifeval.jsonl'}",
        f"evaluation.validation_prompts={data / 'validation.jsonl'}",
        f"evaluation.max_completion_tokens={options.tokens}",
        f"evaluation.metrics=[{','.join(METRICS)}]",
        *BUDGET,
        *options.words,
    ]


def comparison(options: argparse.Namespace, seeds: str) -> tuple[str, list[str], list[str], str]:
    """Return methods, seeds, grids and baseline, as `uniapl compare` takes them."""
    named = {word.partition("=")[0]: word.rpartition("=")[2] for word in options.methods.split(",")}
    if options.grid or options.untuned:
        grids = list(options.grid or [])
    else:
        grids = [f"{name}:{RATES}" for name in named]
        grids += [f"{n}:{word}" for n, m in named.items() for word in OWN_SETTINGS.get(m, ())]
    grids += [f"{n}:{w}" for n, m in named.items() if m == "uniapl" for w in form_words(options)]
    baseline = "grpo" if "grpo" in named else next(iter(named))
    return options.methods, [seeds], grids, baseline


def form_words(options: argparse.Namespace) -> list[str]:
    """Return the settings of an arm with the discriminator that is asked for."""
    words = [] if options.form == "likelihood" else [f"discriminator.form={options.form}"]
    if options.form_path is not None:
        return [*words, f"discriminator.path={options.form_path}"]
    return [*words, "discriminator.hint=true"] if words else []


def compare_words(options: argparse.Namespace, seeds: str, words: Sequence[str]) -> tuple[str, ...]:
    """Return the command that trains and measures the arms."""
    methods, run_seeds, grids, baseline = comparison(options, seeds)
    return (
        *("uniapl.cli", "compare", CONFIG, "--methods", methods, "--seeds", *run_seeds),
        *("--baseline", baseline, "--jobs", str(options.jobs)),
        *("--output", str(options.output / "comparison")),
        *(word for grid in grids for word in ("--grid", grid)),
        *words,
    )


def write_validation(held_out: Path, target: Path, count: int) -> None:
    """Copy the first held-out prompts whose types training knows: types that it lacks must choose no setting either."""
    rows = (row for row in _rows(held_out) if row["held_out"] == "phrasings")
    write_text(target, "".join(json.dumps(row) + "\n" for row in islice(rows, count)))


def join_answers(asked: Path, answered: Path, target: Path) -> None:
    """Write the prompts of `asked`, with the expert's completion where `answered` has one."""
    known = {row["key"]: row["completion"] for row in _rows(answered)}
    rows = [
        row | ({"completion": known[row["key"]]} if row["key"] in known else {})
        for row in _rows(asked)
    ]
    write_text(target, "".join(json.dumps(row) + "\n" for row in rows))


def _rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def make_data(part: Slice, options: argparse.Namespace, data: Path) -> bool:
    """Make prompts, demonstrations, and IFEval with the expert's answers; return whether all are there."""
    prompts, held_out = data / "prompts.jsonl", data / "held_out.jsonl"
    run = load_config(CONFIG, options.words)
    expert = (
        "--local",
        str(options.model),
        "--samples",
        str(options.samples),
        "--temperature",
        "0.6",
        "--dtype",
        run.model.dtype,
        "--revise",
        "--max-repetition",
        str(options.max_repetition),
    )
    words = ("prompts", str(options.seeds), "--output", str(prompts), "--held-out", str(held_out))
    benchmark = ("--exclude", str(options.ifeval), "--max-instructions", "2")
    if not part.run(Piece("prompts", ("uniapl.cli", *words, *benchmark))):
        return False
    write_validation(held_out, data / "validation.jsonl", VALIDATION_PROMPTS)
    demonstrations, answers = data / "demonstrations.jsonl", data / "answers.jsonl"
    # the expert has as many tokens as the policy in training
    limit = str(run.rollout.max_completion_tokens)
    words = (
        "collect",
        str(prompts),
        "--output",
        str(demonstrations),
        "--limit",
        str(options.asked),
    )
    has_demonstrations = part.run(
        Piece("demonstrations", ("uniapl.cli", *words, "--max-tokens", limit, *expert))
    )
    words = (
        "collect",
        str(options.ifeval),
        "--output",
        str(answers),
        "--limit",
        str(options.matched),
    )
    limits = ("--min-pass", "0", "--max-tokens", str(options.tokens))
    if not part.run(Piece("answers", ("uniapl.cli", *words, *limits, *expert))):
        return False
    join_answers(options.ifeval, answers, data / "ifeval.jsonl")
    return has_demonstrations


def measure_text(part: Slice, options: argparse.Namespace, words: Sequence[str]) -> bool:
    """Say of every reported run how likely its answers are as text; return whether all are measured."""
    comparison_folder: Path = options.output / "comparison"
    steps = load_config(CONFIG, list(words)).training.steps
    for number, run in enumerate(real_model_table.reported_runs(comparison_folder)):
        evaluations = comparison_folder / "runs" / run / "evaluations"
        files = {
            name: evaluations / step_name(step) / "samples.jsonl"
            for name, step in ((real_model_table.BEFORE, 0), (real_model_table.AFTER, steps))
        }
        # all runs began with the same answers, and the expert's are the same
        is_first = number == 0
        arms = [f"{n}={f}" for n, f in files.items() if is_first or n == real_model_table.AFTER]
        arms += [] if is_first else ["--without-expert"]
        output = real_model_table.text_file(options.output, run)
        output.parent.mkdir(exist_ok=True)
        command = (
            "benchmarks.fluency",
            "--model",
            str(options.text_model),
            "--output",
            str(output),
        )
        if not part.run(Piece(f"text of {run}", (*command, *arms), can_change=True)):
            return False
    return True


def measure_memory(part: Slice, options: argparse.Namespace, words: Sequence[str]) -> None:
    """Compare planned and measured peak for Qwen3-0.6B's shape, full and LoRA; on CUDA only."""
    if not torch.cuda.is_available():
        print("the memory of Qwen3-0.6B's shape is not measured: there is no CUDA device here")
        return
    shape = options.output / "shape-0.6b"
    if not shape.exists():
        aside = shape.with_suffix(".partial")
        build_model("0.6b", torch.bfloat16, torch.device("cpu")).save_pretrained(aside)
        AutoTokenizer.from_pretrained(options.model).save_pretrained(aside)
        aside.rename(shape)
    tuning = {"full": (), "lora": ("model.tuning=lora", "discriminator.backbone=lora")}
    for name, own in tuning.items():
        run = options.output / f"memory-{name}"
        piece = Piece(
            f"memory {name}",
            (
                *("benchmarks.memory", CONFIG, *words, f"model.path={shape}", f"output_dir={run}"),
                *("model.dtype=bfloat16", "training.steps=2", "training.checkpoint_every=0"),
                *("evaluation.limit=4", *own),
            ),
            can_change=True,
        )
        if not (options.output / f"{piece.name}.done").exists():
            shutil.rmtree(run, ignore_errors=True)  # of a slice that was cut off
        if part.run(piece):
            print(f"{piece.name}: {(options.output / 'logs' / f'{piece.name}.out').read_text()}")


def work(options: argparse.Namespace, part: Slice) -> None:
    """Run every piece that can run."""
    data: Path = options.output / "data"
    data.mkdir(parents=True, exist_ok=True)
    words = settings(options, data)
    if not make_data(part, options, data):
        return
    both = f"{options.run_seeds},{options.more_seeds}" if options.more_seeds else ""
    for name, seeds in (("compare", options.run_seeds), ("compare with more seeds", both)):
        if seeds and not part.run(
            Piece(name, compare_words(options, seeds, words), can_change=True)
        ):
            return
        if not measure_text(part, options, words):
            return
    measure_memory(part, options, words)


def check(options: argparse.Namespace) -> None:
    """Refuse before hours of sampling what `compare` would refuse after them."""
    words = settings(options, options.output / "data")
    methods, seeds, grids, baseline = comparison(options, options.run_seeds)
    check_plan(read_plan(methods, seeds, grids, baseline), CONFIG, load_config(CONFIG, words))


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Work for one slice, print the table so far last, and return the exit status."""
    options = parse(arguments)
    options.output = options.output.resolve()
    try:
        check(options)
        part = Slice(options.output, options.minutes)
        work(options, part)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    if (options.output / "comparison" / "arms").is_dir():
        finished_arms.main([str(options.output / "comparison")])
        real_model_table.main([str(options.output)])
    if part.failed:
        print(f"failed: {', '.join(part.failed)}")
        return FAILED
    print("something is left: call it again" if part.is_left else "nothing is left")
    return LEFT if part.is_left else 0


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job may ignore both
        signal.signal(number, _interrupt)
    sys.exit(main())
