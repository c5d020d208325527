"""Do two checkouts compute the same numbers? Short runs of every method, metric by metric.

    python -m benchmarks.same_numbers OLD NEW --output FOLDER

Each run is twelve steps of the miniature on one thread, in a process of its own, with a discriminator that acts from
the second step on. Metrics that both sides write must be equal in float32, bit for bit, times and memory aside; in
bfloat16 the largest difference is printed. Finished runs of a side are kept, so a second call repeats only the other.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

STEPS = 12
IGNORED = ("time/", "memory/")
"""What no two runs share."""

CASES: dict[str, tuple[str, ...]] = {
    **{m: (f"method={m}",) for m in "sft grpo sft-grpo mix a-sft a-grpo gad uniapl".split()},
    "lora": ("model.tuning=lora", "discriminator.backbone=lora"),
    "kl": ("objective.kl_coef=0.05",),
    "temperature": ("rollout.temperature=0.7",),
    "scalar-pairs": ("discriminator.form=scalar", "data.pairs=PAIRS"),
    "constraint": ("constraint.target=0.2",),
    "mini-batches": ("rollout.updates_per_rollout=2",),
    "bfloat16": ("model.dtype=bfloat16",),
}
"""Name → overrides of the miniature."""


def main() -> None:
    """Run both sides, compare, and exit with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("new", type=Path, help="the other one")
    parser.add_argument("--output", type=Path, default=Path("runs/same-numbers"))
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    differs = False
    for case in options.cases.split(","):
        sides = [
            _metrics(checkout.resolve(), options.output.resolve() / side, case)
            for side, checkout in (("old", options.old), ("new", options.new))
        ]
        number_type = "bfloat16" if case == "bfloat16" else "float32"
        name, gap = _largest_gap(*sides)
        print(
            f"{case:14} {number_type}: largest difference {gap:.3g}{f' ({name})' if name else ''}"
        )
        differs |= gap > 0 and number_type == "float32"
    sys.exit(differs)


def _metrics(checkout: Path, folder: Path, case: str) -> list[dict[str, Any]]:
    """Return the rows of a case, trained where they are not there yet."""
    run = folder / case
    if not (run / "policy").exists():
        shutil.rmtree(run, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        config = _config(checkout, folder)
        words = [word.replace("PAIRS", str(folder / "pairs.jsonl")) for word in CASES[case]]
        command = [sys.executable, "-c", "from uniapl.cli import main; main()", "train"]
        subprocess.run(
            [*command, str(config), f"output_dir={run}", *words],
            check=True,
            stdout=(folder / f"{case}.log").open("w"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"},
        )
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _config(checkout: Path, folder: Path) -> Path:
    """Write the miniature's config, shorter and without its evaluation, and pairs for the scalar form."""
    source = checkout / "src/uniapl/configs/miniature.yaml"
    config = yaml.safe_load(source.read_text())
    config["training"] |= {"steps": STEPS, "checkpoint_every": 0}
    config["discriminator"] = {"warmup_steps": 1}
    schema = (checkout / "src/uniapl/config/schema.py").read_text()
    if "ramp_steps" in schema:  # a key of the first edition
        config["discriminator"] |= {
            "ramp_steps": 1,
            "pairs_per_prompt": None,
            "demonstrations_per_step": None,
        }
    for section, key in (("model", "path"), ("data", "demonstrations"), ("data", "prompts")):
        config[section][key] = str((source.parent / config[section][key]).resolve())
    del config["evaluation"]
    rows = [
        json.loads(line) for line in Path(config["data"]["demonstrations"]).read_text().splitlines()
    ]
    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in itertools.pairwise(rows)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


def _largest_gap(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> tuple[str | None, float]:
    """Return the metric that differs most, and by how much; a value on one side only differs by infinity."""
    assert len(old) == len(new) == STEPS
    worst: tuple[str | None, float] = (None, 0.0)
    for one, other in zip(old, new, strict=True):
        for name in sorted(one.keys() & other.keys()):
            if name.startswith(IGNORED) or one[name] == other[name]:
                continue
            both = one[name] is not None and other[name] is not None
            gap = abs(one[name] - other[name]) if both else float("inf")
            if gap > worst[1]:
                worst = (f"{name}, step {one['step']}", gap)
    return worst


if __name__ == "__main__":
    main()
