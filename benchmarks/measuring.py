"""Contestants measured in turns, their ratios with spread, and where results are kept.

A machine's speed drifts by far more than what is to be seen, so contestants run A B C A B C … and are
compared inside a round. Rounds are written as they come: a run that is stopped goes on where it was.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Contestant = Callable[[], int]
"""Does the work once and returns how many units (tokens, say) it was."""

_PACKAGES = ("torch", "transformers", "trl", "vllm")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One turn of one contestant."""

    wall_seconds: float
    cpu_seconds: float
    """Of all threads: less sensitive to what else the machine does."""
    units: int
    details: dict[str, float] = field(default_factory=dict[str, float])
    """What else the turn says, by name."""


Round = dict[str, Measurement]
"""One turn of every contestant, by name."""


class Section:
    """One question's rounds and results inside a results file.

    Args:
        name: Key in the file.
        options: What the command was given; `--output`, `--rounds` and `--minutes` change no number.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        self.path: Path = options.output or default_output(options.device)
        self.wanted_rounds: int = options.rounds
        self.deadline = time.monotonic() + 60 * options.minutes
        self.device: str = options.device
        bounds = ("output", "rounds", "minutes")
        setting = {k: v for k, v in vars(options).items() if k not in bounds}
        identity = {"environment": environment(options.device), "setting": setting}
        self.identity: dict[str, Any] = json.loads(json.dumps(identity, default=str))
        self.rounds: list[Round] = []
        previous = read_results(self.path).get(name, {})
        if all(previous.get(key) == value for key, value in self.identity.items()):
            self.rounds = [
                {who: Measurement(**values) for who, values in turns.items()}
                for turns in previous["rounds"]
            ]

    def run(
        self, contestants: Mapping[str, Contestant], finish: Callable[[list[Round]], dict[str, Any]]
    ) -> dict[str, Any]:
        """Measure in this process; every contestant runs once before the first round, uncounted.

        Args:
            contestants: Name → what to run.
            finish: From all rounds to what else the section says (ratios, fits).
        """
        if len(self.rounds) < self.wanted_rounds:
            for contestant in contestants.values():
                contestant()
        turns = {name: partial(measure, c, self.device) for name, c in contestants.items()}
        return self.take_turns(turns, finish)

    def take_turns(
        self,
        turns: Mapping[str, Callable[[], Measurement]],
        finish: Callable[[list[Round]], dict[str, Any]],
    ) -> dict[str, Any]:
        """Take every contestant's turn until there are enough rounds or the minutes are used up.

        Args:
            turns: Name → what measures it once.
            finish: As in `run`.
        """
        longest = 0.0
        while len(self.rounds) < self.wanted_rounds:
            started = time.monotonic()
            if longest and started + longest > self.deadline:
                break
            self.rounds.append({name: turn() for name, turn in turns.items()})
            longest = max(longest, time.monotonic() - started)
            self.write(finish(self.rounds))
            print(f"{self.name}: round {len(self.rounds)} of {self.wanted_rounds}", file=sys.stderr)
        return self.write(finish(self.rounds))

    def write(self, findings: Mapping[str, Any]) -> dict[str, Any]:
        """Put the section into the results file, which is written aside and renamed."""
        section = {
            **self.identity,
            "load_average": os.getloadavg()[0],
            "is_complete": len(self.rounds) >= self.wanted_rounds,
            **findings,
            "rounds": [
                {name: asdict(turn) for name, turn in turns.items()} for turns in self.rounds
            ],
        }
        results = read_results(self.path)
        results[self.name] = section
        if "whole_step_ratio" in findings:
            results["whole_step_ratio"] = findings["whole_step_ratio"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".partial")
        aside.write_text(json.dumps(results, indent=1) + "\n")
        aside.replace(self.path)
        return section


def measure(contestant: Contestant, device: str) -> Measurement:
    """Run it once."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    units = contestant()
    synchronize(device)
    return Measurement(time.perf_counter() - wall, time.process_time() - cpu, units)


def in_own_process(take_turn: Callable[..., T], *arguments: Any, preloaded: str) -> T:
    """Take a turn in a new process, which has a heap that nothing else has used.

    Args:
        take_turn: Of a module, for it is pickled; its arguments too.
        arguments: Given to it.
        preloaded: Module that the parent of such processes imports once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preloaded])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(take_turn, *arguments).result()


def add_measuring_options(parser: argparse.ArgumentParser, *, rounds: int = 7) -> None:
    """Add the options that bound a run and say where its results go."""
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of every contestant")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="no round begins that may end later"
    )
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/DEVICE.json")


def default_output(device: str) -> Path:
    """Return the results file of this kind of device."""
    return Path(__file__).parent / "results" / f"{device}.json"


def read_results(path: Path) -> dict[str, Any]:
    """Return all sections of a results file; none if there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else {}


def synchronize(device: str) -> None:
    """Wait until an accelerator has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def rates(rounds: list[Round], clock: str = "wall_seconds") -> dict[str, Any]:
    """Return units per second of every contestant, by wall clock or by CPU time."""
    names = rounds[0] if rounds else {}
    return {
        n: spread([turns[n].units / getattr(turns[n], clock) for turns in rounds]) for n in names
    }


def ratios(rounds: list[Round], ours: str, clock: str = "wall_seconds") -> dict[str, Any]:
    """Return how many times as fast `ours` is as each other, taken inside rounds."""

    def rate(turn: Measurement) -> float:
        return turn.units / getattr(turn, clock)

    others = [name for name in (rounds[0] if rounds else {}) if name != ours]
    return {
        f"{ours} / {name}": spread([rate(turns[ours]) / rate(turns[name]) for turns in rounds])
        for name in others
    }


def environment(device: str) -> dict[str, Any]:
    """Return what a number depends on besides the options."""
    described = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": _commit(),
        **{name: metadata.version(name) for name in _PACKAGES if util.find_spec(name)},
    }
    if device == "cuda":
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """Return the last commit that touched code that is measured; results are no such code."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    code = ["--", "src", "benchmarks/*.py"]
    try:
        found = subprocess.run(
            [*git, "log", "-1", "--format=%h", *code], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *code], capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + (" and uncommitted changes" if changed.returncode else "")


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table whose numbers line up."""
    cells = [columns, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join((row[0].ljust(widths[0]) if first else first, *rest)))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{_cell(value['median'])} ({_cell(value['min'])} to {_cell(value['max'])})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
