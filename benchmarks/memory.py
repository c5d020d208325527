"""Peak memory, planned beside measured: `python -m benchmarks.memory [options] CONFIG [key=value ...]`.

Prints one JSON object: both peaks in bytes and their ratio. The run is a process of its own. On a CPU the
measured peak is its largest resident memory above that after all imports; on CUDA what its tensors took at most.

    --shape 135m   a model of that shape with random weights and the miniature's tokenizer, in the config's place
    --ranks W      W processes of torchrun; the peak of each, and the largest beside what `plan --devices W` says
    --load         stop when everything is loaded, before the first step; nothing is planned
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.shapes import SHAPES, save_model
from uniapl.config import load_config


def measure(config: str, words: Sequence[str], *, only_loads: bool) -> int:
    """Train in this process and return the peak in bytes."""
    import peft  # noqa: F401
    import torch
    import torch._dynamo  # what training would import at its first checkpointed forward

    from uniapl.runs import train

    before = resident_peak()
    if only_loads:
        load(config, words)
    else:
        train(load_config(config, words), quiet=True)
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resident_peak() - before


def load(config: str, words: Sequence[str]) -> None:
    """Do what a run does before its first step."""
    from uniapl.config.recipe import Recipe
    from uniapl.distributed.launch import started
    from uniapl.runs.setup import build_trainer, load_data, load_policy, load_rewards

    recipe = Recipe.of(load_config(config, words))
    with started(shards=recipe.config.training.sharding == "full") as ranks:
        policy, chat = load_policy(recipe.config, ranks)
        data = load_data(recipe, chat)
        rewards = load_rewards(recipe, policy.device)
        build_trainer(recipe, policy, chat, data, rewards, ranks)


def resident_peak() -> int:
    """Return the largest resident memory of this process so far, bytes: `ru_maxrss` would inherit its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found[1]) * 1024


def compare(
    config: str,
    words: Sequence[str],
    *,
    shape: str | None = None,
    ranks: int = 0,
    only_loads: bool = False,
) -> dict[str, Any]:
    """Plan here, train in children.

    Args:
        config: Of the run.
        words: Its `key=value` words.
        shape: Of a model with random weights in the config's place.
        ranks: Processes that train together; 0 is one process without a launcher.
        only_loads: Only load models, plan nothing.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if shape:
            words = [*words, f"model.path={save_model(shape, folder / 'model')}"]
        child = ["-m", "benchmarks.memory", "--peaks", place, *["--load"] * only_loads]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        done = subprocess.run(
            [sys.executable, *(launcher if ranks else []), *child, config, *words],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if done.returncode:
            sys.exit(done.returncode)  # it has said why
        peaks = [int(file.read_text()) for file in sorted(folder.glob("rank*.peak"))]
        found: dict[str, Any] = {"measured": max(peaks)}
        if ranks:
            found["ranks"] = peaks
        if only_loads:
            return found
        from uniapl.planning.plan import here, plan_run

        loaded = load_config(config, words)
        planned = plan_run(loaded, devices=here(loaded, max(1, ranks))).peak
    return {"planned": planned, **found, "ratio": round(planned / max(peaks), 3)}


def main() -> None:
    """Compare, or be a child that trains."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--ranks", type=int, default=0)
    parser.add_argument("--load", action="store_true")
    parser.add_argument(
        "--peaks", type=Path, help=argparse.SUPPRESS
    )  # where a child writes its peak
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[])
    options = parser.parse_args()
    if options.peaks is None:
        found = compare(
            options.config,
            options.overrides,
            shape=options.shape,
            ranks=options.ranks,
            only_loads=options.load,
        )
        sys.stdout.write(json.dumps(found) + "\n")
        return
    peak = measure(options.config, options.overrides, only_loads=options.load)
    (options.peaks / f"rank{os.environ.get('RANK', '0')}.peak").write_text(str(peak))


if __name__ == "__main__":
    main()
