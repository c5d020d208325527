"""What every rank of a launch does: all cases with the others and alone. `torchrun … rank_cases.py OUTPUT [NAME …]`.

One launch runs all cases, since importing torch takes longer than any of them. The first rank writes how far each case
is from the same case in one process.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from exact import double, exact_policy
from tiny import tiny_tokenizer
from torch import Tensor
from torch import distributed as dist
from trainers import make_recipe, make_trainer

from uniapl.config.methods import METHODS
from uniapl.discriminators.expert import Expert
from uniapl.discriminators.reader import PromptReader
from uniapl.discriminators.scoring import LocalScorer
from uniapl.distributed import ALONE, Ranks
from uniapl.distributed import ranks as ranks_module
from uniapl.distributed.launch import started
from uniapl.distributed.sharding import whole
from uniapl.objective.unified import Objective, Scale
from uniapl.rollout import TransformersGenerator
from uniapl.training import update
from uniapl.training.step import Trainer

MANY = 12
"""Micro-batch tokens that make many micro-batches of a step."""
ONE = 10_000
"""Tokens that make one: the other ranks have none."""
NUM_STEPS = 3

LORA = {
    "model": {"tuning": "lora"},
    "lora": {"rank": 2, "alpha": 4.0},
    "discriminator": {"backbone": "lora"},
}

EXPERT = "a known expert"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{method: (method, {}) for method in METHODS},
    "sft-grpo": ("sft-grpo", {"training": {"steps": 4}}),  # the second half begins
    "scalar": ("uniapl", {"discriminator": {"form": "scalar"}}),
    "one micro-batch": ("uniapl", {"training": {"micro_batch_tokens": ONE}}),
    "one micro-batch, scalar": (
        "uniapl",
        {"discriminator": {"form": "scalar"}, "training": {"micro_batch_tokens": ONE}},
    ),
    "constraint": ("uniapl", {"constraint": {"target": 0.05}}),
    "constraint, scalar": (
        "uniapl",
        {"discriminator": {"form": "scalar"}, "constraint": {"target": 0.6}},
    ),
    "lora": ("uniapl", LORA),
    "lora, scalar": (
        "uniapl",
        {**LORA, "discriminator": {"backbone": "lora", "form": "scalar"}},
    ),
    "gradients of the terms": (
        "uniapl",
        {"training": {"gradients_every": 1}, "objective": {"kl_coef": 0.1}},
    ),
    "gradients of the terms, one micro-batch": (
        "uniapl",
        {"training": {"gradients_every": 1, "micro_batch_tokens": ONE}},
    ),
    "updates per rollout": (
        "uniapl",
        {
            "rollout": {"updates_per_rollout": 3},
            "objective": {"kl_coef": 0.1, "policy_gradient": "gspo"},
        },
    ),
    "pairs": ("mix", {"data": {"pairs": "p"}, "objective": {"pair_weight": 0.5}}),
    "the expert in its group": ("uniapl", {"rollout": {"expert_in_group": True}}),
    "phi": ("mix", {"objective": {"sft_token_weight": "phi"}}),
    EXPERT: ("uniapl", {"discriminator": {"form": "expert", "path": "p"}}),
    "recomputation": ("mix", {"training": {"gradient_checkpointing": True}}),
    "sampled": ("uniapl", {}),
    "sampled, updates per rollout": ("uniapl", {"rollout": {"updates_per_rollout": 3}}),
}
"""Name → method and sections. `sampled`: real tokens of the policy, the others random ones."""

SHARDED = tuple(
    name for name in CASES if not name.startswith(("lora", "gradients", "one micro-batch, "))
)
"""The cases that also run with weights shared out, as `NAME, full`."""


class Case:
    """A trainer after some steps."""

    def __init__(self, name: str, ranks: Ranks) -> None:
        method, sections = CASES[name]
        training = {"micro_batch_tokens": MANY, **sections.get("training", {})}
        sections = {**sections, "training": training}
        judge = None
        if name == EXPERT:
            recipe = make_recipe(method, **sections)
            judge = Expert(recipe, LocalScorer(recipe, exact_policy(2), ranks), PromptReader())
        trainer = make_trainer(method, ranks=ranks, judge=judge, **sections)
        if name.startswith("sampled"):
            trainer.players.generator = TransformersGenerator(
                trainer.players.policy.whole,
                tiny_tokenizer(),
                max_completion_tokens=5,
                eos_token_ids=[4],
                temperature=0.7,
                max_rows=4,
            ).among(ranks)
        self.metrics: list[dict[str, float | None]] = []
        self.token_ids: list[list[tuple[int, ...]]] = []
        for _ in range(NUM_STEPS):
            done = trainer.train_step()
            rollouts = done.rollouts.rollouts if done.rollouts else ()
            self.metrics.append(
                {n: v for n, v in done.metrics.items() if not n.startswith("time/")}
            )
            self.token_ids.append([r.token_ids for r in rollouts])
        self.weights = weights_of(trainer)

    def distance(self, other: "Case") -> dict[str, Any]:
        """Return the largest differences, and whether the tokens are the same."""
        metrics, worst = 0.0, ""
        for row, own in zip(other.metrics, self.metrics, strict=True):
            assert row.keys() == own.keys(), row.keys() ^ own.keys()
            # before p_φ leaves the policy all its log-ratios are 0, and rounding alone correlates
            is_noise = (row.get("discriminator/group_std") or 0.0) < 1e-12
            for name, value in row.items():
                mine = own[name]
                if is_noise and name.endswith("_correlation"):
                    continue
                if value is None or mine is None:
                    assert value is mine, name
                    continue
                if abs(value - mine) > metrics:
                    metrics, worst = abs(value - mine), name
        pairs = zip(self.weights, other.weights, strict=True)
        return {
            "weights": max((a - b).abs().max().item() for a, b in pairs),
            "metrics": metrics,
            "worst_metric": worst,
            "same_tokens": self.token_ids == other.token_ids,
            "num_tokens": sum(len(ids) for step in self.token_ids for ids in step),
        }


def weights_of(trainer: Trainer) -> list[Tensor]:
    """All weights that learn: the policy's and the discriminator's."""
    discriminator: Any = trainer.players.discriminator
    learner = getattr(discriminator, "learner", None)
    learned = list(learner.parameters) if learner else []
    return [whole(p.detach()) for p in [*trainer.players.policy.trainable_parameters(), *learned]]


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def mean_for_sum(ranks: Ranks) -> Any:
    """A fault: gradients, and whatever else is summed, are averaged."""
    original = Ranks.sum_

    def averaged(self: Ranks, tensors: Any, what: str) -> None:
        tensors = list(tensors)
        original(self, tensors, what)
        if "gradients" in what and tensors and tensors[0].is_floating_point():
            for tensor in tensors:
                tensor /= self.size

    return changed(ranks_module.Ranks, "sum_", averaged)


def own_counts(ranks: Ranks) -> Any:
    """A fault: each micro-batch divides by its own counts, not by the step's."""
    original: Callable[..., Objective] = update.unified_objective

    def counted(experts_T: Tensor | None, rollouts: Any, scale: Scale, **options: Any) -> Objective:
        own = replace(scale, num_sft=0 if experts_T is None else len(experts_T))
        if rollouts is not None:
            own = replace(own, num_rewarded=int(rollouts.is_rewarded_T.sum()))
        return original(experts_T, rollouts, own, **options)

    return changed(update, "unified_objective", counted)


def averaged_shards(ranks: Ranks) -> Any:
    """A fault: FSDP2 averages gradients, as it does unless it is told otherwise."""
    from torch.distributed.fsdp import FSDPModule

    return changed(FSDPModule, "set_gradient_divide_factor", lambda *_: None)


def no_sum(ranks: Ranks) -> Any:
    """A fault: every rank learns from its own micro-batches alone."""
    return changed(ranks_module.Ranks, "sum_gradients", lambda *_: None)


FAULTS: dict[str, Callable[[Ranks], Any]] = {
    "mean for sum": mean_for_sum,
    "counts per rank": own_counts,
    "no sum": no_sum,
    "mean for sum, full": averaged_shards,
}


def main() -> None:
    output, *names = sys.argv[1:]
    found: dict[str, Any] = {}
    with started() as ranks, double():
        for name in names or CASES:
            alone = Case(name, ALONE)
            kinds = {name: ranks}
            if name in SHARDED:
                kinds[f"{name}, full"] = replace(ranks, in_lockstep=True)
            for kind, own in kinds.items():
                together = Case(name, own)
                found[kind] = together.distance(alone)
                theirs = [None] * ranks.size
                dist.all_gather_object(theirs, [w.sum().item() for w in together.weights])
                found[kind]["ranks_agree"] = all(sums == theirs[0] for sums in theirs)
        for fault, planted in FAULTS.items():
            alone = Case("mix", ALONE)
            shards = fault.endswith(", full")
            with planted(ranks):
                found[fault] = Case("mix", replace(ranks, in_lockstep=shards)).distance(alone)
        if ranks.is_first:
            Path(output).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
