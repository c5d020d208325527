"""Responses per second of CPU time, beside if-verifiable, on the published IFEval responses.

    pip install if-verifiable
    UNIAPL_DATA=folder NLTK_DATA=folder/nltk_data python -m benchmarks.checkers

Both run in one process, in turns, so that a busy machine slows both; the best of three turns
counts. if-verifiable has no strict-only call: its instruction objects are used as it uses them.
"""

import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from if_verifiable import IFEvalSample, evaluate_output_for_sample  # pyright: ignore[reportMissingImports]
from if_verifiable.ifeval.instructions_registry import (  # pyright: ignore[reportMissingImports]
    INSTRUCTION_DICT,
)

from uniapl.instructions import strict, verify
from uniapl.instructions.detection import detect

Row = tuple[IFEvalSample, str]


def read_rows(folder: Path) -> list[Row]:
    """Return every published response with its prompt's instructions."""
    lines = (folder / "ifeval_input_data.jsonl").read_text("utf-8").splitlines()
    prompts = {row["key"]: row for row in map(json.loads, lines)}
    with gzip.open(folder / "ifeval_published_verdicts.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    samples = {
        key: IFEvalSample(key, row["prompt"], row["instruction_id_list"], row["kwargs"])
        for key, row in prompts.items()
    }
    return [(samples[row["key"]], row["response"] or "") for row in rows]


def theirs_strict(sample: IFEvalSample, response: str) -> tuple[bool, ...]:
    """Return if-verifiable's strict verdicts."""
    followed = []
    for name, kwargs in zip(sample.instruction_id_list, sample.kwargs, strict=True):
        instruction = INSTRUCTION_DICT[name](name)
        instruction.build_description(**kwargs)
        followed.append(bool(response.strip() and instruction.check_following(response)))
    return tuple(followed)


def theirs_both(sample: IFEvalSample, response: str) -> object:
    """Return if-verifiable's strict and loose verdicts."""
    return evaluate_output_for_sample("ifeval", sample, response)


def ours_strict(sample: IFEvalSample, response: str) -> tuple[bool, ...]:
    """Return our strict verdicts."""
    return strict(sample.instruction_id_list, sample.kwargs, response, official=True)


def ours_both(sample: IFEvalSample, response: str) -> object:
    """Return our strict and loose verdicts."""
    return verify(sample.instruction_id_list, sample.kwargs, response, official=True)


def responses_per_second(check: Callable[[IFEvalSample, str], object], rows: list[Row]) -> float:
    """Run one check on all rows; nothing is remembered from an earlier turn."""
    detect.cache_clear()
    start = time.process_time()
    for sample, response in rows:
        check(sample, response)
    return len(rows) / (time.process_time() - start)


def main() -> None:
    """Measure and print."""
    rows = read_rows(Path(os.environ["UNIAPL_DATA"]))
    checks = (ours_strict, theirs_strict, ours_both, theirs_both)
    for check in checks:  # load the models
        responses_per_second(check, rows[:400])
    best = dict.fromkeys(checks, 0.0)
    for _ in range(3):
        for check in checks:
            best[check] = max(best[check], responses_per_second(check, rows))
    for ours, theirs in ((ours_strict, theirs_strict), (ours_both, theirs_both)):
        print(
            f"{ours.__name__} {best[ours]:.0f}/s, {theirs.__name__} {best[theirs]:.0f}/s: "
            f"{best[ours] / best[theirs]:.1f} times as fast"
        )


if __name__ == "__main__":
    main()
