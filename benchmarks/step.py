"""Seconds of one whole mixed step, beside TRL's GRPOTrainer and SFTTrainer on the same work.

    pip install -e '.[bench]'
    python -m benchmarks.step                  # the 135M shape on a CPU
    python -m benchmarks.step --shape 0.6b --device cuda --dtype bfloat16 --prompts 32 --group-size 8 --tokens 192

Contestants, all from the same weights, every completion exactly `--tokens` long, each turn in a process of its own:

- `trl`: one optimiser step of GRPOTrainer on `--prompts` prompts, then one of SFTTrainer on `--demonstrations`.
- `mix`: ours without a discriminator, one optimiser step on the same prompts and demonstrations.
- `uniapl`: ours with one. It rolls out `--paired` demonstration prompts more than TRL does: they count against it.
- `uniapl equal`: the same with as many rollouts as TRL, the paired ones among them: what the extra ones cost.
- `uniapl scalar`: as `uniapl`, with the form that ranks completions instead of the one that scores tokens.

README.md in this folder says what TRL computes in a step and how it is set.
"""

import argparse
import statistics
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.measuring import (
    Measurement,
    Round,
    Section,
    add_measuring_options,
    in_own_process,
    measure,
    print_table,
    ratios,
)
from benchmarks.memory import resident_peak
from benchmarks.shapes import (
    END,
    SHAPES,
    add_model_options,
    build_model,
    build_tokenizer,
    random_ids,
)
from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.cpu.heap import tuned_heap
from uniapl.data.mixture import Mixture
from uniapl.discriminators import build_discriminator
from uniapl.models.language_model import LanguageModel
from uniapl.rewards import NamedReward
from uniapl.rollout import TransformersGenerator
from uniapl.training.players import Players
from uniapl.training.step import Trainer
from uniapl.types import Demonstration, Prompt

LEARNING_RATE = 1e-6


def distinct_words(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Reward of both sides, cheap and uneven inside a group: share of distinct words."""
    words = [completion.split() for completion in completions]
    return [
        len(set(w)) / max(len(w), 1) + 1e-3 * (zlib.crc32(repr(w).encode()) % 97) for w in words
    ]


def num_steps_of(options: argparse.Namespace) -> int:
    """Return how many steps there is work for: those of a turn, and one more, for which TRL's trainers wait."""
    steps: int = options.warm_ups + 2
    return steps


class Work:
    """Prompts and demonstrations as token ids, the same for both sides, new ones in every step."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tokenizer = build_tokenizer(options.shape)
        num_steps = num_steps_of(options)
        num_prompts, num_shown = options.prompts * num_steps, options.demonstrations * num_steps
        length, tokens, shape = options.prompt_length, options.tokens, options.shape
        self.prompts = random_ids(shape, [length] * num_prompts, seed=1)
        self.shown = list(
            zip(
                random_ids(shape, [length] * num_shown, seed=2),
                random_ids(shape, [tokens - 1] * num_shown, seed=3),
                strict=True,
            )
        )
        """Prompt and completion of each demonstration; the end of the turn is not in them."""

    def text(self, ids: tuple[int, ...]) -> str:
        """Return the text that tokenises to these ids."""
        return " ".join(self.tokenizer.convert_ids_to_tokens(list(ids)))


class Ours:
    """The package's own trainer on that work."""

    def __init__(self, work: Work) -> None:
        options = work.options
        self.work = work
        model = build_model(options.shape, torch.float32, torch.device(options.device))
        self.policy = LanguageModel(model, getattr(torch, options.dtype), 1024)
        self.expert = self.policy.trainable_copy()

    def trainer(self, method: str, num_rolled_out: int, form: str = "likelihood") -> Trainer:
        """Return a trainer that rolls out so many prompts a step.

        Args:
            method: `uniapl` or `mix`.
            num_rolled_out: Prompts.
            form: The discriminator's.
        """
        options, end = self.work.options, END
        recipe = self._recipe(method, num_rolled_out, form)
        generator = TransformersGenerator(
            self.policy.model,
            self.work.tokenizer,
            max_completion_tokens=options.tokens,
            eos_token_ids=[SHAPES[options.shape]["vocab_size"]],  # never sampled
            cache=options.cache,
        )
        players = Players(
            self.policy,
            generator,
            build_discriminator(recipe, self.expert),
            reference=None,
            rewards=[NamedReward(distinct_words, "distinct_words")],
        )
        prompts = [Prompt(f"p{i}", _turn(""), ids) for i, ids in enumerate(self.work.prompts)]
        shown = [
            Demonstration(Prompt(f"d{i}", _turn(""), prompt), "", (*completion, end))
            for i, (prompt, completion) in enumerate(self.work.shown)
        ]
        return Trainer(recipe, players, Mixture(shown, prompts, seed=0), held_out=[])

    def _recipe(self, method: str, num_rolled_out: int, form: str) -> Recipe:
        options = self.work.options
        config = Config.model_validate(
            {
                "method": method,
                "output_dir": "nowhere",
                "model": {"path": "nowhere", "dtype": options.dtype},
                "data": {
                    "demonstrations": "nowhere",
                    "prompts": "nowhere",
                    "demonstrations_per_step": options.demonstrations,
                    "prompts_per_step": num_rolled_out,
                    "demonstration_prompts_per_step": options.paired,
                    "held_out_demonstrations": 0,
                },
                "rollout": {
                    "group_size": options.group_size,
                    "max_completion_tokens": options.tokens,
                },
                "rewards": [{"function": "benchmarks.step:distinct_words"}],
                # λ acts from the first step on
                "discriminator": {"warmup_steps": 0, "form": form},
                "optimizer": {"learning_rate": LEARNING_RATE},
                "training": {
                    "steps": 10_000,
                    "micro_batch_tokens": options.micro_batch_tokens,
                },
            }
        )
        return Recipe.of(config)


def _turn(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


CONTESTANTS = ("uniapl", "uniapl equal", "uniapl scalar", "mix")
"""Ours; TRL comes after them."""


def trainer_of(name: str, ours: Ours) -> Trainer:
    """Return the trainer of one of our contestants."""
    num_prompts, num_paired = ours.work.options.prompts, ours.work.options.paired
    if name == "mix":
        return ours.trainer("mix", num_prompts)
    if name == "uniapl equal":
        return ours.trainer("uniapl", num_prompts)
    form = "scalar" if name == "uniapl scalar" else "likelihood"
    return ours.trainer("uniapl", num_prompts + num_paired, form)


def metrics_of_a_step(trainer: Trainer) -> dict[str, float | None]:
    """Take a step of one of our contestants."""
    return trainer.train_step().metrics


def take_turn(options: argparse.Namespace, name: str) -> Measurement:
    """Take a contestant's steps and return what the last one took; for a process of its own.

    Returns:
        With the details `peak_memory_gib` and, of ours, the share of each stage, `share_of_*`.
    """
    torch.set_num_threads(options.threads)
    work = Work(options)
    found: dict[str, float | None] = {}
    with ExitStack() as context:
        if name == "trl":  # its heap is glibc's, as when a user starts it
            from benchmarks.trl_steps import TrlSteps

            step: Callable[[], Any] = context.enter_context(TrlSteps(work, LEARNING_RATE)).step
        else:
            if options.device == "cpu":  # as a run does
                context.enter_context(tuned_heap(for_speed=True))
            step = partial(metrics_of_a_step, trainer_of(name, Ours(work)))

        def contestant() -> int:
            found.update(step() or {})
            return 1

        for _ in range(options.warm_ups):
            contestant()
        measured = measure(contestant, options.device)
        on_cuda = options.device == "cuda"
        peak = torch.cuda.max_memory_allocated() if on_cuda else resident_peak()
    details = {"peak_memory_gib": peak / 2**30}
    if found:
        details |= {f"share_of_{stage}": share for stage, share in _shares(found).items()}
    return replace(measured, details=details)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return its section of the results."""

    def findings(rounds: list[Round]) -> dict[str, Any]:
        def medians(value: Callable[[Measurement], float]) -> dict[str, float]:
            return {n: statistics.median(value(r[n]) for r in rounds) for n in rounds[0]}

        found: dict[str, Any] = {
            "seconds": medians(lambda turn: turn.wall_seconds),
            "stage_shares": {
                name: {
                    key.removeprefix("share_of_"): statistics.median(
                        turns[name].details[key] for turns in rounds
                    )
                    for key in rounds[0][name].details
                    if key.startswith("share_of_")
                }
                for name in CONTESTANTS
            },
            "peak_memory_gib": medians(lambda turn: turn.details["peak_memory_gib"]),
        }
        if options.without_trl:
            return found
        for clock in ("wall_seconds", "cpu_seconds"):
            prefix = "" if clock == "wall_seconds" else "cpu_time_"
            found[f"{prefix}ratios"] = {
                name: ratios(rounds, name, clock)[f"{name} / trl"] for name in CONTESTANTS
            }
        return found | {"whole_step_ratio": found["ratios"]["uniapl"]}

    names = CONTESTANTS if options.without_trl else (*CONTESTANTS, "trl")
    turns = {
        name: partial(in_own_process, take_turn, options, name, preloaded="uniapl.training.step")
        for name in names
    }
    return Section(f"step {options.shape}", options).take_turns(turns, findings)


def _shares(metrics: dict[str, float | None]) -> dict[str, float]:
    total = metrics["time/step_seconds"] or 1.0
    names = ("rollout", "discriminator", "update")
    shares = {name: (metrics.get(f"time/{name}_seconds") or 0.0) / total for name in names}
    return shares | {"rest": 1 - sum(shares.values())}


def show(section: dict[str, Any]) -> None:
    """Print the section."""
    rows = []
    for name, seconds in section["seconds"].items():
        wall, cpu = (section.get(k, {}).get(name, "") for k in ("ratios", "cpu_time_ratios"))
        shares = section["stage_shares"].get(name, {})
        stages = [shares.get(stage, "") for stage in ("rollout", "discriminator", "update", "rest")]
        rows.append([name, seconds, wall, cpu, *stages, section["peak_memory_gib"].get(name, "")])
    columns = ["step of", "seconds", "faster than TRL by", "by CPU time", "share of rollout"]
    columns += ["discriminator", "update", "rest", "peak GiB"]
    print_table(f"step, {section['setting']}", columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    add_measuring_options(parser)
    parser.add_argument("--prompts", type=int, default=4, help="preference prompts of a step")
    parser.add_argument("--demonstrations", type=int, default=8, help="of a step")
    parser.add_argument("--paired", type=int, default=1, help="demonstration prompts rolled out")
    parser.add_argument("--group-size", type=int, default=8, help="both sides' default")
    parser.add_argument("--prompt-length", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64, help="of every completion")
    parser.add_argument(
        "--micro-batch-tokens", type=int, help="of both sides; default: 16384, on a CPU 2048"
    )
    parser.add_argument(
        "--warm-ups",
        type=int,
        default=2,
        help="steps of a turn before the one that counts: the first ones of a process pay for its memory",
    )
    parser.add_argument("--without-trl", action="store_true", help="our own contestants only")
    parser.add_argument("--cache", choices=("dynamic", "static"), help="default: static on CUDA")
    options = parser.parse_args(arguments)
    options.micro_batch_tokens = options.micro_batch_tokens or (
        16384 if options.device == "cuda" else 2048
    )
    options.cache = options.cache or ("static" if options.device == "cuda" else "dynamic")
    show(run(options))


if __name__ == "__main__":
    main()
