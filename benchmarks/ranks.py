"""What the machinery of several processes costs: `python -m benchmarks.ranks`.

The same run in turns: a plain process, one rank of torchrun (whole models, and shared out over itself), and on as many
cores one process with two threads beside two processes with one thread. A turn is a whole run in processes of its own;
counted is the time of its steps but for the first, in which the system maps its memory. A ratio above 1 says that
the first one is faster.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    Measurement,
    Round,
    Section,
    add_measuring_options,
    print_table,
    ratios,
)
from benchmarks.shapes import SHAPES, save_model
from uniapl.runs.metrics import read_rows

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
CONTESTANTS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "plain": (0, 1, ()),
    "one-rank": (1, 1, ()),
    "one-rank-full": (1, 1, ("training.sharding=full",)),
    "two-threads": (0, 2, ()),
    "two-ranks": (2, 1, ()),
    "two-ranks-full": (2, 1, ("training.sharding=full",)),
}
"""Name → processes of torchrun (0: none), threads of each, and keys."""
PAIRS = (("plain", "one-rank", "one-rank-full"), ("two-threads", "two-ranks", "two-ranks-full"))
"""What is compared: the first with each other."""


def take_turn(contestant: str, model: Path, words: Sequence[str], device: str) -> Measurement:
    """Train in processes of their own; return the seconds of the steps that count."""
    size, threads, keys = CONTESTANTS[contestant]
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        start = (*TORCHRUN, str(size)) if size else (sys.executable,)
        given = (f"model.path={model}", f"output_dir={run}", f"training.device={device}")
        own = (
            "training.gradients_every=0",
            "training.checkpoint_every=0",
            "evaluation.prompts=null",
        )
        subprocess.run(
            [*start, "-m", "uniapl", "train", "miniature", *given, *own, *words, *keys],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        rows = read_rows(run / "metrics.jsonl")[1:]
    stages = ("rollout", "discriminator", "update")
    seconds = {s: sum(row[f"time/{s}_seconds"] or 0.0 for row in rows) for s in stages}
    return Measurement(sum(seconds.values()), 0.0, len(rows), seconds)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and return its section of the results."""
    with tempfile.TemporaryDirectory() as place:
        model = save_model(options.shape, Path(place) / "model")
        words = (
            f"method={options.method}",
            f"training.steps={options.steps + 1}",
            f"model.dtype={options.dtype}",
            *options.overrides,
        )
        turns = {
            name: partial(take_turn, name, model, words, options.device)
            for name in options.contestants
        }

        def findings(rounds: list[Round]) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for ours, *_others in PAIRS:
                if ours in options.contestants:
                    found |= ratios(rounds, ours)
            kept = {f"{pair[0]} / {other}" for pair in PAIRS for other in pair[1:]}
            return {"ratios": {name: value for name, value in found.items() if name in kept}}

        return Section(f"ranks {options.shape}", options).take_turns(turns, findings)


def show(section: dict[str, Any]) -> None:
    """Print the section."""
    rows = [[name, value] for name, value in section["ratios"].items()]
    title = (
        f"ranks, how many times as fast, load {section['load_average']:.1f}, {section['setting']}"
    )
    print_table(title, ["", "median (least to most)"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ranks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--method", default="uniapl")
    parser.add_argument("--steps", type=int, default=3, help="that count, of each turn")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[])
    add_measuring_options(parser, rounds=3)
    show(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
