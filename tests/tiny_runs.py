"""Runs on the tiny model: how tests configure, start and compare them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tiny_model, write_task

from uniapl import cli
from uniapl.comparing.processes import Command
from uniapl.config import load_config, overridden_keys
from uniapl.config.schema import Config
from uniapl.runs import train

CONFIG = """\
method: uniapl
output_dir: unset
model: {{path: {model}}}
data:
  demonstrations: {demonstrations}
  prompts: {prompts}
  demonstrations_per_step: 4
  prompts_per_step: 4
  demonstration_prompts_per_step: 2
  held_out_demonstrations: 2
constraint: {{prompts_per_step: 2}}
rollout: {{group_size: 4, max_completion_tokens: 12}}
discriminator: {{warmup_steps: 1, learning_rate: 3e-3}}
optimizer: {{learning_rate: 1e-3}}
training: {{steps: 4, checkpoint_every: 2, rollouts_logged_per_step: 3}}
evaluation: {{prompts: {test}, limit: 6}}
"""
UNREPEATABLE = ("time/", "memory/")
"""Metrics that differ between equal runs."""


@dataclass(frozen=True)
class Tiny:
    """A trained tiny model, a task, and a config file that joins them."""

    model: Path
    task: dict[str, str]
    config: Path

    def load(self, folder: Path, *words: str) -> Config:
        return load_config(self.config, [f"output_dir={folder}", *words])

    def train(self, folder: Path, *words: str) -> Path:
        return train(self.load(folder, *words), overridden=overridden_keys(words)).folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.getbasetemp() / "tiny"
    config = folder / "tiny.yaml"
    model, task = folder / "model", write_task(folder / "task")
    if not config.exists():  # every conftest that imports this fixture has its own instance
        save_tiny_model(model, trained=True)
        config.write_text(CONFIG.format(model=model, **task))
    return Tiny(model, task, config)


def run_here(
    commands: Sequence[Command], jobs: int, variables: Mapping[str, str]
) -> Iterator[tuple[Command, int]]:
    """What `run_all` does, in this process: loading torch takes longer than a tiny run."""
    assert jobs >= 1
    for command in commands:
        assert command.words[1:3] == ("-m", "uniapl.cli")
        with (
            pytest.MonkeyPatch.context() as patch,
            command.log.open("a") as log,
            redirect_stderr(log),
            redirect_stdout(log),
        ):
            for name, value in variables.items():
                patch.setenv(name, value)
            status = cli.main(command.words[3:])
        yield command, status


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics; NaN and infinity are no JSON."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} in metrics.jsonl")

    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def repeatable(folder: Path) -> list[dict[str, Any]]:
    """The metrics that equal runs share, bit for bit."""
    return [
        {name: value for name, value in row.items() if not name.startswith(UNREPEATABLE)}
        for row in rows(folder)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """All that two equal runs must have in common, besides their metrics."""
    parts = ("rollouts/*", "evaluations/*/*", "policy/*", "adapter/*", "discriminator/*")
    files = [file for part in parts for file in folder.glob(part)]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def assert_same_run(run: Path, other: Path) -> None:
    assert repeatable(run) == repeatable(other)
    assert contents(run).keys() == contents(other).keys()
    differing = [name for name, data in contents(run).items() if contents(other)[name] != data]
    assert differing == []
    leftovers = [p for p in run.rglob(".*") if p.name not in (".lock", ".metadata")]
    assert leftovers == []
