"""Whole runs of several ranks in one launch: `torchrun … rank_runs.py CONFIG FOLDER`. Each rank writes what it met."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from uniapl.config import load_config
from uniapl.distributed.launch import started
from uniapl.errors import InputError, TrainingError
from uniapl.runs import train

KINDS = {
    "none": (),
    "full": ("training.sharding=full",),
    "full, scalar": ("training.sharding=full", "discriminator.form=scalar"),
    "lora": ("model.tuning=lora", "discriminator.backbone=lora"),
}


def raising(completions: list[Any], **_columns: Any) -> list[float]:
    """Fails on the second rank alone."""
    if os.environ["RANK"] == "1":
        raise ValueError("no such thing")
    return [0.0] * len(completions)


def main() -> None:
    config, folder = sys.argv[1], Path(sys.argv[2])
    met: dict[str, Any] = {}

    def run(name: str, *words: str, **options: Any) -> None:
        try:
            train(
                load_config(config, [f"output_dir={folder / name}", *words]), quiet=True, **options
            )
        except (InputError, TrainingError) as error:
            met[name] = [type(error).__name__, str(error), error.is_said_elsewhere]

    with started():
        for name, words in KINDS.items():
            run(f"{name} straight", *words)
            run(f"{name} stopped", *words, on_step=lambda done: done.step < 2)
            run(f"{name} stopped", *words, "training.resume=auto")
        run("raising", rewards=[raising])
        run("missing", "model.path=nowhere/to/be/found")
        (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(met))


if __name__ == "__main__":
    main()
