"""How the cost of rollouts and of the update grows: with group size, completion length, prompts and layers.

    python -m benchmarks.scaling

Every axis is varied alone. A straight line is fitted to the medians; the residual says how far the worst point is
from it. The peak memory of an update is measured apart, in fresh processes: against the number of sequences in a
step, which must not matter, and against the micro-batch, which must.
"""

import argparse
import resource
import statistics
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import (
    Contestant,
    Round,
    Section,
    add_measuring_options,
    in_own_process,
    print_table,
)
from benchmarks.shapes import SHAPES, add_model_options, build_model, build_tokenizer, random_ids
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, pack
from uniapl.rollout import TransformersGenerator
from uniapl.types import Prompt

AXES = ("group_size", "tokens", "prompts", "layers")
FACTORS = (1, 2, 3, 4)
"""Every axis takes these multiples of its least value."""
MEMORY_FACTORS = (1, 4)


def load_policy(options: argparse.Namespace, num_layers: int) -> LanguageModel:
    """Return a model of the shape, cut to so many layers."""
    device = torch.device(options.device)
    model = build_model(options.shape, torch.float32, device, num_hidden_layers=num_layers)
    return LanguageModel(model, getattr(torch, options.dtype), 1024)


def rollout(policy: LanguageModel, options: argparse.Namespace, size: dict[str, int]) -> Contestant:
    """Sample completions of exactly that length."""
    generator = TransformersGenerator(
        policy.model,
        build_tokenizer(options.shape),
        max_completion_tokens=size["tokens"],
        eos_token_ids=[SHAPES[options.shape]["vocab_size"]],  # never sampled
    )
    ids = random_ids(options.shape, [options.prompt_length] * size["prompts"], seed=1)
    prompts = [Prompt(str(i), (), prompt) for i, prompt in enumerate(ids)]

    def run() -> int:
        with policy.autocast():
            return len(generator.sample(prompts, size["group_size"]))

    return run


def update(policy: LanguageModel, options: argparse.Namespace, size: dict[str, int]) -> Contestant:
    """Forward and backward of as many completion tokens."""
    prompts = random_ids(options.shape, [options.prompt_length] * size["prompts"], seed=1)
    count = size["prompts"] * size["group_size"]
    completions = random_ids(options.shape, [size["tokens"]] * count, seed=2)
    repeated = [prompt for prompt in prompts for _ in range(size["group_size"])]
    sequences = [TokenSequence(*both) for both in zip(repeated, completions, strict=True)]

    def run() -> int:
        for micro in pack(sequences, size["micro_batch_tokens"]):
            policy.logprobs(micro.to(policy.device)).sum().backward()
        policy.zero_grad(set_to_none=False)  # the gradients' memory stays, as in a step
        return count

    return run


def sizes(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Return name → size of every point; the first point of each axis is the same."""
    least = {
        "group_size": options.group_size,
        "tokens": options.tokens,
        "prompts": options.prompts,
        "micro_batch_tokens": options.micro_batch_tokens,
        "layers": max(1, SHAPES[options.shape]["num_hidden_layers"] // max(FACTORS)),
    }
    return {f"{a} {least[a] * f}": least | {a: least[a] * f} for a in AXES for f in FACTORS}


def fit(points: dict[int, float]) -> dict[str, Any]:
    """Return the line through size → seconds, and how far the worst point is from it, as a share."""
    x, y = np.array(list(points)), np.array(list(points.values()))
    slope, intercept = np.polyfit(x, y, 1)
    residual = np.abs(slope * x + intercept - y) / y
    return {
        "seconds": points,
        "seconds_per_unit": float(slope),
        "seconds_at_zero": float(intercept),
        "worst_residual": float(residual.max()),
    }


def peak_memory(options: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Return the peak of an update in GiB by number of sequences, and by micro-batch."""
    base = {"group_size": options.group_size, "tokens": options.tokens}
    row = options.tokens + options.prompt_length
    by_sequences = {
        f * options.prompts * options.group_size: base
        | {"prompts": options.prompts * f, "micro_batch_tokens": 2 * row}
        for f in MEMORY_FACTORS
    }
    by_micro_batch = {
        2 * row * f: base | {"prompts": options.prompts * 4, "micro_batch_tokens": 2 * row * f}
        for f in MEMORY_FACTORS
    }
    found: dict[str, dict[int, float]] = {}
    for name, points in (("sequences", by_sequences), ("micro_batch_tokens", by_micro_batch)):
        found[name] = {}
        for value, size in points.items():
            # a process each: its peak never falls
            found[name][value] = in_own_process(
                _update_peak, options, size, preloaded="uniapl.training.step"
            )
    return found


def _update_peak(options: argparse.Namespace, size: dict[str, int]) -> float:
    torch.set_num_threads(options.threads)
    policy = load_policy(options, max(1, SHAPES[options.shape]["num_hidden_layers"] // 4))
    contestant = update(policy, options, size)
    contestant()
    contestant()  # with the gradients of the first in place
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return its section of the results."""
    torch.set_num_threads(options.threads)
    memory = peak_memory(options)
    points = sizes(options)
    policies = {n: load_policy(options, n) for n in {size["layers"] for size in points.values()}}
    contestants: dict[str, Contestant] = {}
    for name, size in points.items():
        policy = policies[size["layers"]]
        contestants[f"rollout {name}"] = rollout(policy, options, size)
        contestants[f"update {name}"] = update(policy, options, size)

    def findings(rounds: list[Round]) -> dict[str, Any]:
        fits: dict[str, Any] = {}
        for stage in ("rollout", "update"):
            for axis in AXES:
                seconds = {
                    size[axis]: statistics.median(
                        turns[f"{stage} {name}"].cpu_seconds
                        if options.device == "cpu"
                        else turns[f"{stage} {name}"].wall_seconds
                        for turns in rounds
                    )
                    for name, size in points.items()
                    if name.startswith(f"{axis} ")
                }
                fits[f"{stage} by {axis}"] = fit(seconds)
        return {"fits": fits, "update_peak_gib": memory}

    return Section(f"scaling {options.shape}", options).run(contestants, findings)


def show(section: dict[str, Any]) -> None:
    """Print the section."""
    rows = [
        [name, *found["seconds"].values(), found["seconds_at_zero"], found["worst_residual"]]
        for name, found in section["fits"].items()
    ]
    columns = ["cost", *(f"x{f}" for f in FACTORS), "at zero", "worst residual"]
    print_table(f"scaling, seconds (CPU time on a CPU), {section['setting']}", columns, rows)
    for name, peaks in section["update_peak_gib"].items():
        print_table(f"peak GiB of an update by {name}", [*map(str, peaks)], [[*peaks.values()]])


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    add_measuring_options(parser, rounds=3)
    parser.add_argument("--prompts", type=int, default=2, help="least number")
    parser.add_argument("--group-size", type=int, default=2, help="least number")
    parser.add_argument("--prompt-length", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16, help="least number of a completion")
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    show(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
