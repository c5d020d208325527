"""Tiny runs with rewards of one's own: a model, a task and a folder for the config and the functions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny import save_tiny_model, write_task

from uniapl.config import load_config
from uniapl.runs import train


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), trained=True)


@pytest.fixture
def run(model, tmp_path) -> Callable[..., Path]:
    """Write a config with these sections into `project`, train by it, and return the run folder."""
    project = tmp_path / "project"
    task = write_task(project / "task")

    def run(name="run", words=(), **sections):
        content = {
            "method": "grpo",
            "output_dir": str(tmp_path / name),
            "model": {"path": str(model)},
            "data": {**task, "prompts_per_step": 2, **sections.pop("data", {})},
            "rollout": {"group_size": 2, "max_completion_tokens": 12},
            "training": {"steps": 2, **sections.pop("training", {})},
            **sections,
        }
        del content["data"]["test"]
        file = project / "config.yaml"
        file.write_text(yaml.safe_dump(content))
        return train(load_config(file, words))

    run.project, run.test = project, task["test"]
    return run


@pytest.fixture
def rows():
    """Read a file of JSON lines."""

    def rows(file):
        return [json.loads(line) for line in file.read_text().splitlines()]

    return rows
