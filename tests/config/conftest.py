from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

MINIMAL = {
    "output_dir": "runs/test",
    "model": {"path": "some/model"},
    "data": {"demonstrations": "d.jsonl", "prompts": "p.jsonl"},
    "training": {"steps": 4},
}


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    """A config file with the required keys only."""
    path = tmp_path / "minimal.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a config file."""

    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write
