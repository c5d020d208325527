"""Completion tokens trained per second, and the share of the machine's arithmetic that is put to use.

    python -m benchmarks.training

Forward and backward of the log-probs of every completion token, no optimiser. Contestants, on the same
completions of uneven lengths:

- `shared`: ours. Packed without padding; a prompt is forwarded once for its group.
- `unshared`: ours, where every completion has a prompt of its own, of the same length.
- `padded`: the usual way. Prompt and completion per row, padded to the longest, head on completion positions only,
  in chunks that are recomputed in the backward pass.

Utilisation counts what the contestant's own tokens need (`hardware.training_flops`), not what is recomputed, and
divides by the data sheet's number where it is known, else by the best matrix product of this run.
"""

import argparse
import random
import statistics
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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
from benchmarks.shapes import PAD, add_model_options, build_model, random_ids
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, pack

LOGIT_CHUNK_TOKENS = 1024


class Completions:
    """Groups of completions, uneven: a quarter of `--tokens` to all of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        count = options.prompts * options.group_size
        draw = random.Random(4)
        shortest = max(1, options.tokens // 4)
        lengths = [draw.randint(shortest, options.tokens) for _ in range(count)]
        self.completions = random_ids(options.shape, lengths, seed=5)
        self.num_tokens = sum(lengths)
        self.lengths = lengths

    def sequences(self, *, is_shared: bool) -> list[TokenSequence]:
        """Return them with prompts that a group shares, or one each."""
        options = self.options
        repeats = options.group_size if is_shared else 1
        num_prompts = len(self.completions) // repeats
        prompts = random_ids(options.shape, [options.prompt_length] * num_prompts, seed=6)
        repeated = [ids for ids in prompts for _ in range(repeats)]
        return [TokenSequence(*both) for both in zip(repeated, self.completions, strict=True)]

    def flops(self, policy: LanguageModel, *, is_shared: bool) -> float:
        """Return the operations that training on them needs; a prompt's last token alone predicts."""
        options = self.options
        repeats = options.group_size if is_shared else 1
        prompts = [(options.prompt_length, 0)] * (len(self.lengths) // repeats)
        own = [(length, options.prompt_length) for length in self.lengths]
        head = hardware.head_weights(policy.model)
        unpredicted = 6.0 * head * len(prompts) * options.prompt_length
        return hardware.training_flops(policy.model, [*prompts, *own]) - unpredicted


def packed(policy: LanguageModel, completions: Completions, *, is_shared: bool) -> Contestant:
    """Train on packed rows, as the policy's update does."""
    sequences = completions.sequences(is_shared=is_shared)

    def run() -> int:
        for micro in pack(sequences, completions.options.micro_batch_tokens):
            policy.logprobs(micro.to(policy.device)).sum().backward()
        policy.zero_grad()
        return completions.num_tokens

    return run


def padded(policy: LanguageModel, completions: Completions) -> Contestant:
    """Train on rows of prompt and completion, padded on the right to the longest of a micro-batch."""
    sequences = completions.sequences(is_shared=False)
    options = completions.options
    size = max(1, options.micro_batch_tokens // (options.prompt_length + options.tokens))

    def run() -> int:
        policy.model.set_attn_implementation("sdpa")
        for start in range(0, len(sequences), size):
            _padded_logprobs(policy, sequences[start : start + size]).sum().backward()
        policy.zero_grad()
        return completions.num_tokens

    return run


def _padded_logprobs(policy: LanguageModel, sequences: list[TokenSequence]) -> Tensor:
    rows = [[*s.prompt_ids, *s.completion_ids] for s in sequences]
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows], device=policy.device)
    lengths = torch.tensor([len(row) for row in rows], device=policy.device)
    starts = torch.tensor([len(s.prompt_ids) for s in sequences], device=policy.device)
    places = torch.arange(width, device=policy.device)
    with policy.autocast():
        hidden = policy.model.base_model(
            input_ids=ids, attention_mask=places < lengths[:, None], use_cache=False
        ).last_hidden_state
    is_target = (places >= starts[:, None]) & (places < lengths[:, None])
    sources, targets = hidden[:, :-1][is_target[:, 1:]], ids[:, 1:][is_target[:, 1:]]
    chunks = zip(sources.split(LOGIT_CHUNK_TOKENS), targets.split(LOGIT_CHUNK_TOKENS), strict=True)
    parts = [checkpoint(_chunk, policy, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.cat(parts)  # pyright: ignore[reportArgumentType]


def _chunk(policy: LanguageModel, hidden: Tensor, targets: Tensor) -> Tensor:
    with policy.autocast():
        logits = policy.head(hidden)
    logits = logits.float()
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return its section of the results."""
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    model = build_model(options.shape, torch.float32, torch.device(options.device))
    policy = LanguageModel(model, dtype, LOGIT_CHUNK_TOKENS)
    completions = Completions(options)
    peak = hardware.peak_flops(options.device, dtype)
    contestants = {
        "shared": packed(policy, completions, is_shared=True),
        "unshared": packed(policy, completions, is_shared=False),
        "padded": padded(policy, completions),
    }
    needed = {name: completions.flops(policy, is_shared=name == "shared") for name in contestants}

    def findings(rounds: list[Round]) -> dict[str, Any]:
        seconds = {n: statistics.median(r[n].wall_seconds for r in rounds) for n in contestants}
        return {
            "tokens_per_second": rates(rounds),
            "ratios": ratios(rounds, "shared"),
            "cpu_time_ratios": ratios(rounds, "shared", "cpu_seconds"),
            "utilisation": {n: needed[n] / seconds[n] / peak for n in contestants},
            "peak_operations_per_second": peak,
        }

    return Section(f"training {options.shape}", options).run(contestants, findings)


def show(section: dict[str, Any]) -> None:
    """Print the section."""
    rows = []
    for name, rate in section["tokens_per_second"].items():
        wall, cpu = (section[k].get(f"shared / {name}", "") for k in ("ratios", "cpu_time_ratios"))
        rows.append([name, rate, wall, cpu, section["utilisation"][name]])
    columns = ["layout", "completion tokens/s", "shared is faster by", "by CPU time", "utilisation"]
    print_table(f"training, {section['setting']}", columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    add_measuring_options(parser)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--prompt-length", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64, help="of the longest completion")
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    show(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
