"""Rollout tokens per second: this package's generator beside the ones that people use without a server.

    python -m benchmarks.rollouts                          # 8 prompts x 4 completions of the 135M shape on a CPU
    python -m benchmarks.rollouts --mean-length 64         # completions end at random, 64 tokens on average

All sample at temperature 1 from the same weights. Without `--mean-length` nothing ends a turn, so every engine
writes the same number of tokens; with it, a share 1/MEAN of the vocabulary ends a turn, which random weights
sample about evenly: geometric lengths, as uneven as those of a model. Tokens up to the end of a turn count.
"""

import argparse
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from benchmarks import hardware
from benchmarks.measuring import (
    Contestant,
    Round,
    Section,
    add_measuring_options,
    print_table,
    rates,
    ratios,
)
from benchmarks.shapes import (
    PAD,
    SHAPES,
    add_model_options,
    build_model,
    build_tokenizer,
    random_ids,
)
from uniapl.models.language_model import LanguageModel
from uniapl.rollout import TransformersGenerator
from uniapl.types import Prompt

Engine = Callable[["Task"], Contestant]

_PAGE_TOKENS = 32


class Task:
    """The same model, prompts and ends of a turn for every engine."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.shape: str = options.shape
        self.dtype = getattr(torch, options.dtype)
        self.device = torch.device(options.device)
        self.group_size: int = options.group_size
        self.max_tokens: int = options.tokens
        self.prompt_length: int = options.prompt_length
        self.model: PreTrainedModel = build_model(self.shape, self.dtype, self.device)
        self.prompt_ids = random_ids(self.shape, [self.prompt_length] * options.prompts, seed=1)
        self.rows = [list(ids) for ids in self.prompt_ids for _ in range(self.group_size)]
        self.lengths = [self.max_tokens] * len(self.rows)
        """Of the completions that were written last."""
        size = SHAPES[self.shape]["vocab_size"]
        share = round(size / options.mean_length) if options.mean_length else 0
        self.ends = list(range(size - share, size))
        """Token ids that end a turn."""

    def generation_config(self, **changes: Any) -> GenerationConfig:
        """Return transformers' settings for plain sampling, without top-k."""
        return GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_tokens,
            eos_token_id=self.ends or None,
            pad_token_id=PAD,
            **changes,
        )

    def count(self, completions: Sequence[Sequence[int]]) -> int:
        """Return how many tokens were asked for, and check that every completion is there."""
        ends = set(self.ends)
        self.lengths = []
        for ids in completions:
            ended = (place + 1 for place, token in enumerate(ids) if token in ends)
            self.lengths.append(next(ended, len(ids)))
            assert self.lengths[-1] == self.max_tokens or self.ends, "a completion is too short"
        assert len(completions) == len(self.rows), "a completion is missing"
        return sum(self.lengths)


def ours(task: Task, **options: Any) -> Contestant:
    """Sample as training does: log-probs and text included, from weights in float32 whatever the number type."""
    never = SHAPES[task.shape]["vocab_size"]
    model = task.model
    if task.dtype != torch.float32:
        model = build_model(task.shape, torch.float32, task.device)
    policy = LanguageModel(model, task.dtype, logit_chunk_tokens=1024)
    generator = TransformersGenerator(
        policy.model,
        build_tokenizer(task.shape),
        max_completion_tokens=task.max_tokens,
        eos_token_ids=task.ends or [never],
        **options,
    )
    prompts = [Prompt(str(i), (), ids) for i, ids in enumerate(task.prompt_ids)]

    def run() -> int:
        with policy.autocast():
            rollouts = generator.sample(prompts, task.group_size)
        return task.count([rollout.token_ids for rollout in rollouts])

    return run


def generate(task: Task, **changes: Any) -> Contestant:
    """Sample with `model.generate`, one row per completion: what TRL does without vLLM."""
    config = task.generation_config(**changes)
    inputs = torch.tensor(task.rows, device=task.device)

    def run() -> int:
        output = task.model.generate(  # pyright: ignore[reportCallIssue]
            inputs, attention_mask=torch.ones_like(inputs), generation_config=config
        )
        return task.count(output[:, task.prompt_length :].tolist())

    return run


def continuous(task: Task) -> Contestant:
    """Sample with transformers' continuous batching; a fresh manager per call, as fresh weights need."""
    config = task.generation_config()
    size: dict[str, Any] = {}
    if task.device.type == "cpu":
        # it would size its cache by a GPU's memory and take most of this machine's
        num_tokens = len(task.rows) * (task.prompt_length + task.max_tokens + 2 * _PAGE_TOKENS)
        size = {"num_blocks": num_tokens // _PAGE_TOKENS, "page_size": _PAGE_TOKENS}
        size |= {"max_batch_tokens": max(512, len(task.rows))}
    own = ContinuousBatchingConfig(allow_block_sharing=False, **size)

    def run() -> int:
        outputs = task.model.generate_batch(  # pyright: ignore[reportCallIssue]
            task.rows, generation_config=config, continuous_batching_config=own
        )
        return task.count([output.generated_tokens for output in outputs.values()])

    return run


def vllm(task: Task) -> Contestant:
    """Sample with vLLM, whose weights are loaded once: an upper mark, as it is not asked to take updates."""
    import tempfile

    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder:
        task.model.save_pretrained(folder)
        build_tokenizer(task.shape).save_pretrained(folder)
        engine = LLM(
            folder, dtype=str(task.dtype).removeprefix("torch."), gpu_memory_utilization=0.5
        )
    params = SamplingParams(
        temperature=1.0, max_tokens=task.max_tokens, ignore_eos=True, stop_token_ids=task.ends
    )
    prompts = [{"prompt_token_ids": row} for row in task.rows]

    def run() -> int:
        outputs = engine.generate(prompts, params, use_tqdm=False)
        return task.count([list(output.outputs[0].token_ids) for output in outputs])

    return run


ENGINES: dict[str, Engine] = {
    "ours": ours,
    "ours static": lambda task: ours(task, cache="static"),
    "generate": generate,
    "generate static": lambda task: generate(task, cache_implementation="static"),
    "continuous": continuous,
    "vllm": vllm,
}


def default_engines(device: str) -> list[str]:
    """Return what makes sense here: fixed shapes are for CUDA, vLLM is an extra."""
    absent = {"ours static", "generate static", "vllm"} if device == "cpu" else set()
    if not util.find_spec("vllm"):
        absent |= {"vllm"}
    return [name for name in ENGINES if name not in absent]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return its section of the results."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    task = Task(options)
    bandwidth = hardware.measured_bandwidth(options.device)
    flops = hardware.measured_flops(options.device, task.dtype)

    def findings(rounds: list[Round]) -> dict[str, Any]:
        limits = hardware.decoding_limits(
            task.model, task.lengths, task.prompt_length, bandwidth, flops
        )
        return {
            "tokens_per_second": rates(rounds),
            "ratios": ratios(rounds, "ours"),
            "cpu_time_ratios": ratios(rounds, "ours", "cpu_seconds"),
            "limits_tokens_per_second": limits,
            "bytes_per_second": bandwidth,
            "operations_per_second": flops,
        }

    name = f"rollouts {options.shape}" + (" uneven" if options.mean_length else "")
    contestants = {engine: ENGINES[engine](task) for engine in options.engines}
    return Section(name, options).run(contestants, findings)


def show(section: dict[str, Any]) -> None:
    """Print the section."""
    rows = []
    for name, rate in section["tokens_per_second"].items():
        wall, cpu = (
            section[key].get(f"ours / {name}", "") for key in ("ratios", "cpu_time_ratios")
        )
        rows.append([name, rate, wall, cpu])
    limits = section["limits_tokens_per_second"]
    rows += [[f"limit of {what}", limit, "", ""] for what, limit in limits.items()]
    columns = ["engine", "tokens/s", "ours is faster by", "by CPU time"]
    print_table(f"rollouts, {section['setting']}", columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollouts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    add_measuring_options(parser)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--prompt-length", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of a completion")
    parser.add_argument(
        "--mean-length", type=int, help="of completions that end; default: none does"
    )
    parser.add_argument("--engines", type=lambda text: text.split(","), help="comma-separated")
    options = parser.parse_args(arguments)
    options.engines = options.engines or default_engines(options.device)
    show(measure(options))


if __name__ == "__main__":
    main()
