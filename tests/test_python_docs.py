"""The code of docs/python.md and of the notebook runs as it stands, in order."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import uniapl

# the page leaves a file for Python to close
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

DOCS = Path(__file__).parents[1] / "docs"


def page() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / "python.md").read_text(), re.M | re.S)


def notebook() -> list[str]:
    cells = json.loads((DOCS / "quickstart.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


FEW_TOKENS = "rollout.max_completion_tokens=16"
SMALL_STEPS = (
    "data.demonstrations_per_step=4 data.prompts_per_step=4 data.demonstration_prompts_per_step=2"
).split()
"""Added to the words of the miniature's runs, the docs' own otherwise; a run of a config gets fewer tokens only."""
FEWER = 8
"""Prompts of an evaluation that is asked for by itself, of the miniature's 512."""


def of_small_steps(train: Callable[..., Any]) -> Callable[..., Any]:
    def shorter(config: Any, words: Sequence[str] = (), **rest: Any) -> Any:
        small = SMALL_STEPS if config == "miniature" else []
        return train(config, [*words, FEW_TOKENS, *small], **rest)

    return shorter


def of_few_prompts(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    def shorter(model: Any, prompts: str, **rest: Any) -> Any:
        few = Path("few.jsonl").absolute()
        few.write_text("".join(Path(prompts).read_text().splitlines(keepends=True)[:FEWER]))
        return evaluate(model, few, **rest)

    return shorter


Enter = Callable[[list[str]], list[str]]


@pytest.fixture
def enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Enter]:
    """Runs blocks of code in an empty folder, as a person would who enters them; returns the lines they print."""
    monkeypatch.setattr("uniapl.train", of_small_steps(uniapl.train))
    monkeypatch.setattr("uniapl.evaluate", of_few_prompts(uniapl.evaluate))
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("uniapl")
    handlers, level = [*logger.handlers], logger.level

    def execute(blocks: list[str]) -> list[str]:
        exec("\n\n".join(blocks), {"__name__": "entered"})
        return capsys.readouterr().out.splitlines()

    yield execute
    for handler in [one for one in logger.handlers if one not in handlers]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)


def test_the_page_runs(enter: Enter):
    blocks = page()
    assert len(blocks) == 6
    lines = enter(blocks)
    assert "runs/first" in lines
    assert "False runs/second/checkpoints/step_000003/policy" in lines
    assert "True 6" in lines
    assert "  optimizer.learning_rte: unknown key; did you mean optimizer.learning_rate?" in lines
    assert lines[-1].startswith("uniapl, seed 0: ")


def test_the_notebook_runs_and_holds_no_outputs(enter: Enter, tmp_path: Path):
    cells = json.loads((DOCS / "quickstart.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    lines = enter(notebook())
    assert lines[-1] == "runs/notebook/report/index.html"
    assert (tmp_path / lines[-1]).is_file()
    assert (tmp_path / "runs/shorter").is_dir()
