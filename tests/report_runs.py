"""Synthetic run folders in the documented format, with curves and texts of plausible shape."""

import json
import math
import random
from itertools import combinations
from pathlib import Path

import yaml

from uniapl.config.methods import METHODS

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='hacked=1'>{{ 7*7 }}\u2028"

IDS = [
    "punctuation:no_comma",
    "length_constraints:number_words",
    "length_constraints:number_sentences",
    "keywords:existence",
    "keywords:forbidden_words",
    "change_case:english_lowercase",
    "startend:end_checker",
    "startend:quotation",
    "detectable_format:title",
]
KWARGS = {
    "length_constraints:number_words": {"relation": "at least", "num_words": 16},
    "length_constraints:number_sentences": {"relation": "less than", "num_sentences": 5},
    "keywords:existence": {"keywords": ["salt", "wind"]},
    "keywords:forbidden_words": {"forbidden_words": ["blue"]},
    "startend:end_checker": {"end_phrase": "That is all."},
}
TOPICS = ["the sea", "a small garden", "winter", "old clocks", "the night train", "bread"]
SENTENCES = [
    "The grey water moves under a slow wind.",
    "Salt dries white on the stones of the wall.",
    "Two boats come home before the rain does.",
    "Nobody hears the bell except the gulls.",
    "A lamp is lit and the harbour answers it.",
    "Far out, the light turns and turns again.",
]

ARMS = {
    "sft": (0.38, 0.79, 2.6, False),
    "grpo": (0.42, 0.71, 10.1, False),
    "sft-grpo": (0.46, 0.55, 5.2, False),
    "mix": (0.48, 0.79, 1.9, False),
    "a-sft": (0.41, 0.81, 1.8, True),
    "uniapl": (0.52, 0.84, 1.6, True),
}
"""Final strict accuracy, fluency and length distance, and whether there is a discriminator."""


def rise(step: int, steps: int, start: float, end: float, rate: float = 4.0) -> float:
    return end + (start - end) * math.exp(-rate * step / steps)


def metric_row(method: str, step: int, steps: int, noise: random.Random) -> dict:
    strict, _, _, is_adversarial = ARMS.get(method, ARMS["uniapl"])

    def noisy(value: float, spread: float) -> float:
        return value + noise.gauss(0, spread)

    ramp = min(1.0, max(0.0, (step - 10) / 10))
    row = {
        "step": step,
        "objective/loss": noisy(rise(step, steps, 1.4, 0.85), 0.03),
        "objective/sft": None if method == "grpo" else noisy(rise(step, steps, 1.3, 0.81), 0.02),
        "objective/grpo": None if method == "sft" else noisy(-0.01, 0.01),
        "objective/sft_weight": 0.3,
        "objective/grpo_weight": 1.0,
        "reward/mean": noisy(rise(step, steps, 0.36, strict + 0.27), 0.02),
        "reward/std": abs(noisy(0.22, 0.02)),
        "reward/instructions": noisy(rise(step, steps, 0.36, strict + 0.27), 0.02),
        "rollout/completion_tokens_mean": noisy(rise(step, steps, 41, 31), 1.2),
        "rollout/truncated_fraction": max(0, noisy(rise(step, steps, 0.06, 0.01), 0.01)),
        "rollout/zero_std_group_fraction": max(0, noisy(rise(step, steps, 0.1, 0.28), 0.03)),
        "policy/entropy": noisy(rise(step, steps, 1.62, 0.95), 0.03),
        "policy/kl_reference": noisy(rise(step, steps, 0, 0.31), 0.01),
        "policy/clip_fraction": abs(noisy(0.01, 0.004)),
        "policy/ratio_mean": 1.0,
        "optimizer/learning_rate": 3e-4,
        "optimizer/grad_norm": abs(noisy(rise(step, steps, 2.4, 0.8), 0.2)),
        "data/trained_tokens": step * 15000,
        "data/sampled_tokens": step * 6100,
        **gradient_row(method, step, noise),
        "time/step_seconds": abs(noisy(2.1, 0.15)),
        "time/rollout_seconds": abs(noisy(1.1, 0.1)),
        "time/update_seconds": abs(noisy(0.8, 0.05)),
        "memory/peak_gib": 1.21 + 0.0002 * step,
    }
    logit = rise(step, steps, -1.1, -0.15)
    seen = {
        "objective/adversarial": noisy(-0.02, 0.02),
        "discriminator/loss": abs(noisy(0.61, 0.03)),
        "discriminator/accuracy": min(1.0, noisy(rise(step, steps, 0.93, 0.66, 9), 0.045)),
        "discriminator/margin": noisy(rise(step, steps, 1.4, 0.5), 0.1),
        "discriminator/group_std": abs(noisy(0.4, 0.05)),
        "discriminator/length_correlation": noisy(-0.12, 0.09),
        "discriminator/reward_correlation": noisy(0.17, 0.07),
        "discriminator/demonstration_logit": noisy(logit, 0.08),
        "discriminator/preference_logit": noisy(logit - 0.15 * step / steps, 0.08),
        "constraint/distance": rise(step, steps, 0.9, 0.66, 7),
        "constraint/weight": 0.1,
        "constraint/state": 0,
    }
    row |= {name: value if is_adversarial else None for name, value in seen.items()}
    return row | {"objective/adversarial_weight": 0.1 * ramp if is_adversarial else 0.0}


def gradient_row(method: str, step: int, noise: random.Random) -> dict:
    """Gradients of the terms, measured in every tenth step."""
    is_adversarial = ARMS.get(method, ARMS["uniapl"])[-1]
    acting = {"sft": method != "grpo", "grpo": method != "sft", "adversarial": is_adversarial}
    row: dict = {}
    for term, acts in acting.items():
        is_measured = acts and step % 10 == 1
        row[f"objective/{term}_grad_norm"] = abs(noise.gauss(0.3, 0.1)) if is_measured else None
    for one, other in combinations(acting, 2):
        is_measured = acting[one] and acting[other] and step % 10 == 1
        row[f"objective/{one}_{other}_cosine"] = noise.gauss(0.1, 0.1) if is_measured else None
    return row


def sample_row(index: int, strict: float, shift: float, noise: random.Random) -> dict:
    ids = random.Random(index).sample(IDS, 2 + index % 2)
    followed = [noise.random() < strict ** (1 / len(ids)) for _ in ids]
    loose = [was or noise.random() < 0.1 for was in followed]
    length = max(4, round(noise.gauss(30 + shift, 6 + abs(shift) / 2)))
    topic = TOPICS[index % len(TOPICS)]
    asked = " ".join(f"({name.partition(':')[2].replace('_', ' ')})" for name in ids)
    expert_length = max(4, round(random.Random(index).gauss(30, 6)))
    return {
        "key": f"task-{index}",
        "prompt": f"Write about {topic}. {asked}",
        "response": " ".join(noise.choices(SENTENCES, k=max(1, length // 9))),
        "finish_reason": "stop",
        "completion_tokens": length,
        "expert_completion": " ".join(random.Random(index).choices(SENTENCES, k=3)),
        "expert_completion_tokens": expert_length,
        "logprob_mean": -abs(noise.gauss(0.7 + abs(shift) / 40, 0.15)),
        "expert_logprob_mean": -abs(random.Random(index).gauss(0.8 + abs(shift) / 30, 0.18)),
        "instruction_id_list": ids,
        "kwargs": [KWARGS.get(name, {}) | {"language": None} for name in ids],
        "follow_instruction_list_strict": followed,
        "follow_instruction_list_loose": loose,
        "follow_all_strict": all(followed),
        "follow_all_loose": all(loose),
        "metrics": {"fluency": round(noise.random(), 3), "joint": float(all(followed))},
    }


def results_of(step: int, rows: list[dict], fluency: float, distance: float) -> dict:
    n = len(rows)
    by_instruction: dict[str, dict] = {}
    for row in rows:
        checks = zip(
            row["instruction_id_list"],
            row["follow_instruction_list_strict"],
            row["follow_instruction_list_loose"],
            strict=True,
        )
        for name, strict, loose in checks:
            entry = by_instruction.setdefault(name, {"strict": 0, "loose": 0, "n": 0})
            entry["strict"] += strict
            entry["loose"] += loose
            entry["n"] += 1
    for entry in by_instruction.values():
        entry["strict"] /= entry["n"]
        entry["loose"] /= entry["n"]
    total = sum(entry["n"] for entry in by_instruction.values())
    fractions = {
        "prompt_level_strict_acc": sum(row["follow_all_strict"] for row in rows) / n,
        "inst_level_strict_acc": sum(e["strict"] * e["n"] for e in by_instruction.values()) / total,
        "prompt_level_loose_acc": sum(row["follow_all_loose"] for row in rows) / n,
        "inst_level_loose_acc": sum(e["loose"] * e["n"] for e in by_instruction.values()) / total,
        "fluency": fluency,
        "joint": sum(row["follow_all_strict"] for row in rows) / n * fluency,
    }
    errors = {f"{name}_stderr": math.sqrt(v * (1 - v) / n) for name, v in fractions.items()}
    return {
        "step": step,
        "n": n,
        **fractions,
        **errors,
        "truncated_fraction": 0.0,
        "completion_tokens_mean": sum(row["completion_tokens"] for row in rows) / n,
        "expert_completion_tokens_mean": sum(row["expert_completion_tokens"] for row in rows) / n,
        "completion_tokens_w1": distance,
        "expert_nll": 0.8 + distance / 20,
        "by_instruction": by_instruction,
        "settings": {"temperature": 0.0},
        "expert": {
            "prompt_level_strict_acc": 0.985,
            "inst_level_strict_acc": 0.993,
            "prompt_level_loose_acc": 0.985,
            "inst_level_loose_acc": 0.993,
            "fluency": 1.0,
            "joint": 0.985,
        },
    }


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_evaluations(folder: Path, method: str, seed: int, steps: list[int], n: int) -> None:
    strict, fluency, distance, _ = ARMS.get(method, ARMS["uniapl"])
    for step in steps:
        noise = random.Random(f"{method}-{seed if step else 0}-{step}")
        now = rise(step, steps[-1], 0.11, strict)
        off = rise(step, steps[-1], 10.7, distance)
        rows = [sample_row(index, now, off, noise) for index in range(n)]
        where = folder / "evaluations" / f"step_{step:06d}"
        write_lines(where / "samples.jsonl", rows)
        results = results_of(step, rows, rise(step, steps[-1], 0.91, fluency), off)
        (where / "results.json").write_text(json.dumps(results), encoding="utf-8")


def write_rollouts(folder: Path, steps: int, noise: random.Random) -> None:
    for step in range(1, steps + 1, max(1, steps // 30)):
        rows = []
        for index in range(4):
            row = sample_row(index, 0.4, 3, noise)
            checks = zip(
                row["instruction_id_list"],
                row["kwargs"],
                row["follow_instruction_list_strict"],
                strict=True,
            )
            rows.append(
                {
                    "prompt": row["prompt"],
                    "completion": row["response"],
                    "finish_reason": "stop",
                    "reward": 0.5,
                    "reward_breakdown": {"instructions": 0.5},
                    "advantage": round(noise.gauss(0, 1), 3),
                    "discriminator_logit": round(noise.gauss(-0.3, 0.5), 3),
                    "expert_completion": row["expert_completion"] if index % 2 else None,
                    "instructions": [
                        {"id": name, "kwargs": kwargs, "followed": was}
                        for name, kwargs, was in checks
                    ],
                }
            )
        write_lines(folder / "rollouts" / f"step_{step:06d}.jsonl", rows)


def write_run(
    folder: Path,
    method: str = "uniapl",
    seed: int = 0,
    steps: int = 60,
    evaluations: tuple[int, ...] | None = None,
    n: int = 40,
    **settings: object,
) -> Path:
    """Write a run folder; `settings` are further top-level keys of the config."""
    noise = random.Random(f"{method}-{seed}")
    folder.mkdir(parents=True)
    config = {
        "method": method,
        "seed": seed,
        "output_dir": str(folder),
        "model": {"path": "models/miniature", "dtype": "float32"},
        "data": {
            "demonstrations": "data/demonstrations.jsonl",
            "prompts": "data/prompts.jsonl",
            "demonstrations_per_step": 24,
            "prompts_per_step": 22,
        },
        "rollout": {"group_size": 8, "temperature": 1.0},
        "constraint": {"target": 0.65},
        "training": {"steps": steps},
        "evaluation": {"best_metric": "prompt_level_strict_acc"},
        **settings,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    environment = {
        "format": 1,
        "created": "2025-11-23T14:05:00Z",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"python": "3.11.9", "torch": "2.11.0", "uniapl": "0.1.0"},
        "platform": "Linux x86_64",
        "device": "cpu",
        "threads": 4,
        "command": ["uniapl", "train", "tiny.yaml", f"seed={seed}"],
    }
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    rows = [metric_row(method, step, steps, noise) for step in range(1, steps + 1)]
    definitions = {
        name: f"What {name} means, in one line, as the run wrote it."
        for name in rows[0]
        if name != "step"
    }
    definitions |= {"method": METHODS[method].title}
    definitions |= {"fluency": "Share of fluent sentences.", "joint": "Followed and fluent."}
    definitions |= {"prompt_level_strict_acc": "Share of prompts all of whose instructions hold."}
    (folder / "definitions.json").write_text(json.dumps(definitions), encoding="utf-8")
    write_lines(folder / "metrics.jsonl", rows)
    write_evaluations(folder, method, seed, list(evaluations or (0, steps)), n)
    write_rollouts(folder, steps, noise)
    return folder


def poison(run: Path) -> None:
    """Put markup wherever a run can carry text."""
    for path in [*run.glob("evaluations/*/samples.jsonl"), *run.glob("rollouts/*.jsonl")]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            text = dict.fromkeys(("prompt", "response", "completion", "key"), HOSTILE)
            row |= text | {"expert_completion": HOSTILE, "metrics": {HOSTILE: HOSTILE}}
            row["instruction_id_list"] = [HOSTILE for _ in row.get("instruction_id_list", ())]
            row["kwargs"] = [{HOSTILE: HOSTILE} for _ in row["instruction_id_list"]]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    definitions = json.loads((run / "definitions.json").read_text())
    poisoned = dict.fromkeys(definitions, HOSTILE)
    (run / "definitions.json").write_text(json.dumps(poisoned))
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"command": [HOSTILE]}))


def write_comparison(folder: Path) -> Path:
    """Write a comparison of three arms of three seeds; of six differences one interval holds 0."""

    def value(mean: float, half: float) -> dict:
        return {"mean": mean, "low": mean - half, "high": mean + half, "by_seed": [mean] * 3}

    arms, names = {}, ("prompt_level_strict_acc", "completion_tokens_w1", "joint")
    halves = dict(zip(names, (0.055, 0.6, 0.04), strict=True))
    for method in ("grpo", "mix", "uniapl"):
        strict, fluency, distance, _ = ARMS[method]
        runs = [f"runs/{method}-seed-{seed}" for seed in range(3)]
        for seed, run in enumerate(runs):
            write_run(folder / run, method=method, seed=seed, evaluations=(0, 30, 60))
        means = zip(names, (strict, distance, strict * fluency), strict=True)
        arms[method] = {
            "setting": [],
            "seeds": [0, 1, 2],
            "metrics": {name: value(mean, halves[name]) for name, mean in means},
            "cost": {"trained_tokens": 900000.0, "sampled_tokens": 366000.0, "seconds": 126.0},
            "runs": runs,
        }
    base = {name: arms["grpo"]["metrics"][name]["mean"] for name in names}
    differences = {
        method: {
            "seeds": [0, 1, 2],
            "metrics": {
                name: value(arms[method]["metrics"][name]["mean"] - base[name], halves[name] * 1.2)
                for name in names
            },
        }
        for method in ("mix", "uniapl")
    }
    comparison = {
        "format": 1,
        "baseline": "grpo",
        "best_metric": "prompt_level_strict_acc",
        "num_prompts": 512,
        "definitions": {"joint": "Followed and fluent."},
        "arms": arms,
        "differences": differences,
        "before": {"prompt_level_strict_acc": 0.11},
        "expert": {"prompt_level_strict_acc": 0.985},
    }
    (folder / "comparison.json").write_text(json.dumps(comparison), encoding="utf-8")
    return folder
