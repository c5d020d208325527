"""A real model trained by every method on one budget and measured on IFEval: `benchmarks/real_model.sh`.

    benchmarks/real_model.sh --model FOLDER --seeds FILE --ifeval FILE [options] [key=value ...]

Prompts are made of `--seeds`; the expert is the model itself, best of several answers by the checkers, revised where
none follows everything (docs/collect.md); `uniapl compare` trains and measures. Nothing is trained or tuned on
IFEval's prompts: the expert's answers to them are only what the policy's lengths and log-probs are held against. No
network is needed.

It works in slices: what `--minutes` cuts off goes on with the same command. An evaluation is not interrupted, so a
slice must be longer than one. Exit status: 0, nothing is left; 75, call it again; 1, something failed; 2, wrong
input; 130, Ctrl-C. `key=value` words go to every run; on a GPU: model.dtype=bfloat16 rollout.cache=static
rollout.max_rows=256
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoTokenizer

from benchmarks import finished_arms
from benchmarks.shapes import build_model
from uniapl.comparing import read_plan
from uniapl.comparing.arms import check_plan
from uniapl.config import load_config
from uniapl.errors import InputError
from uniapl.files import write_text

FAILED, WRONG_INPUT, LEFT, INTERRUPTED = 1, 2, 75, 130
"""Exit statuses."""
CONFIG = "smollm2-135m"
VALIDATION_PROMPTS = 256
GRACE_SECONDS = 120.0
"""What a command has, at the end of a slice, to finish its step and save."""
GRIDS = {
    "sft": "optimizer.learning_rate=2e-6,5e-6,1e-5",
    "grpo": "objective.kl_coef=0,0.02,0.05",
    "sft-grpo": "objective.kl_coef=0,0.02,0.05",
    "mix": "objective.sft_weight=0.1,0.3,1",
}
"""Settings that each method chooses from; those with an adversarial term choose its weight."""
ADVERSARIAL_GRID = "objective.adversarial_weight=0.03,0.1,0.3"


@dataclass(frozen=True, slots=True)
class Piece:
    """A command that makes part of the result."""

    name: str
    words: tuple[str, ...]
    can_change: bool = False
    """Whether other options add to what it made before; else they need another folder."""


class Slice:
    """One call: it runs what is not done yet until the time is up."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder = folder
        self.deadline = time.monotonic() + 60 * minutes
        self.grace = min(GRACE_SECONDS, 15 * minutes)
        self.is_left = False
        self.failed: list[str] = []
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def run(self, piece: Piece) -> bool:
        """Run a piece unless it is done or the time is up; return whether it is done.

        Raises:
            InputError: It was done with other options.
            KeyboardInterrupt: Ctrl-C; the command has saved itself.
        """
        done = self.folder / f"{piece.name}.done"
        command = json.dumps(piece.words)
        if done.exists():
            if done.read_text() == command:
                return True
            if not piece.can_change:
                raise InputError(
                    f"--output: {self.folder} holds {piece.name} made with other options; choose another folder"
                )
        seconds = self.deadline - self.grace - time.monotonic()
        if seconds <= 0:
            self.is_left = True
            return False
        print(f"{piece.name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
        status = self._call(piece, seconds)
        if status == 0:
            write_text(done, command)
        elif status is None:
            self.is_left = True
            print(f"{piece.name}: not finished in this slice", file=sys.stderr)
        else:
            self.failed.append(piece.name)
            print(
                f"{piece.name} failed (status {status}): {self._last_words(piece)}", file=sys.stderr
            )
        return status == 0

    def _call(self, piece: Piece, seconds: float) -> int | None:
        """Return the command's status; None if its time was up."""
        with (
            self._log(piece).open("a") as log,
            (self.folder / "logs" / f"{piece.name}.out").open("w") as out,
        ):
            # a session of its own: Ctrl-C reaches it once, from here
            process = subprocess.Popen(
                [sys.executable, "-m", *piece.words], stdout=out, stderr=log, start_new_session=True
            )
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._stop(process)
                return None
            except KeyboardInterrupt:
                self._stop(process)
                raise

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ask the command to save itself; end it if it does not in time."""
        process.send_signal(signal.SIGINT)
        try:
            process.wait(self.grace)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _log(self, piece: Piece) -> Path:
        return self.folder / "logs" / f"{piece.name}.log"

    def _last_words(self, piece: Piece) -> str:
        lines = self._log(piece).read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (see {self._log(piece)})"


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
    add("--methods", default="sft,grpo,sft-grpo,mix,uniapl", help="as uniapl compare takes them")
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
    for name in ("model", "seeds", "ifeval"):
        path: Path = getattr(options, name).resolve()
        setattr(options, name, path)
        if not path.exists():
            parser.error(f"--{name}: {path} is not there")
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
        *options.words,
    ]


def comparison(options: argparse.Namespace, seeds: str) -> tuple[str, list[str], list[str], str]:
    """Return methods, seeds, grids and baseline, as `uniapl compare` takes them."""
    named = {word.partition("=")[0]: word.rpartition("=")[2] for word in options.methods.split(",")}
    if options.grid or options.untuned:
        grids = options.grid or []
    else:
        grids = [f"{n}:{GRIDS.get(m, ADVERSARIAL_GRID)}" for n, m in named.items()]
    baseline = "grpo" if "grpo" in named else next(iter(named))
    return options.methods, [seeds], grids, baseline


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


def first_lines(source: Path, target: Path, count: int) -> None:
    """Copy the first lines of a file."""
    with source.open(encoding="utf-8") as file:
        write_text(target, "".join(islice(file, count)))


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
    first_lines(held_out, data / "validation.jsonl", VALIDATION_PROMPTS)
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
            break
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
    if part.failed:
        print(f"failed: {', '.join(part.failed)}")
        return FAILED
    print("something is left: call it again" if part.is_left else "nothing is left")
    return LEFT if part.is_left else 0


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job may ignore both
        signal.signal(number, _interrupt)
    sys.exit(main())
