"""Runs that kill themselves at given moments, as a subprocess: `python kill_driver.py SCENARIOS.json`.

torch is imported once; each attempt of a run is a fork. Prints a JSON list: per scenario the signal that
ended each attempt, and the files it left half-written.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from uniapl.config import load_config
from uniapl.runs import checkpoint, run_log, train
from uniapl.runs.metrics import MetricsFile


def main() -> None:
    results = []
    for scenario in json.loads(Path(sys.argv[1]).read_text()):
        attempts = []
        words = scenario["words"]
        for kill in [*scenario["kills"], None]:
            pid = os.fork()
            if pid == 0:
                attempt(scenario["config"], words, kill)
            _, status = os.waitpid(pid, 0)
            folder = Path(load_config(scenario["config"], words).output_dir)
            left = [str(p.relative_to(folder)) for p in folder.rglob(".*.writing")]
            attempts.append([os.waitstatus_to_exitcode(status), left])
            words = [*scenario["words"], "training.resume=auto"]
        results.append(attempts)
    sys.stdout.write(json.dumps(results))


def attempt(config: str, words: list[str], kill: list[Any] | None) -> None:
    """Train in this process and end it."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if kill:
            moment, count = kill
            MOMENTS[moment](count)
        train(load_config(config, words))
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(owner: Any, name: str, count: int, before: Callable[..., None]) -> None:
    """Let `before` happen, and then death, instead of the nth call of a function."""
    original = getattr(owner, name)
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < count:
            return original(*arguments, **named)
        before(original, *arguments, **named)
        return die()

    setattr(owner, name, counted)


def during_step(count: int) -> None:
    """Both models' gradients are there, the policy's weights have moved."""
    on_call(torch.optim.AdamW, "step", count, lambda original, *a, **k: original(*a, **k))


def during_checkpoint(count: int) -> None:
    on_call(torch, "save", count, lambda _, state, stream: stream.write(b"PK half a file"))


def after_rename(count: int) -> None:
    """The checkpoint is there, but neither the best one is noted nor old ones removed."""
    on_call(checkpoint, "write_best", count, lambda *_: None)


def during_evaluation(count: int) -> None:
    def halve(_: Any, folder: Path, *__: Any) -> None:
        folder.mkdir(parents=True)
        (folder / "samples.jsonl").write_text('{"key": 0')

    on_call(run_log, "write_evaluation", count, halve)


def after_row(count: int) -> None:
    on_call(MetricsFile, "write", count, lambda original, *a: original(*a))


def torn_row(count: int) -> None:
    def halve(_: Any, file: MetricsFile, *__: Any) -> None:
        file._stream.write('{"step": 3, "objective/lo')
        file._stream.flush()

    on_call(MetricsFile, "write", count, halve)


MOMENTS = {
    "during_step": during_step,
    "during_checkpoint": during_checkpoint,
    "after_rename": after_rename,
    "during_evaluation": during_evaluation,
    "after_row": after_row,
    "torn_row": torn_row,
}

if __name__ == "__main__":
    main()
