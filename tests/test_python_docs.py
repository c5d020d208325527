"""The code of docs/python.md and of the notebook runs as it stands, in order."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def page() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / "python.md").read_text(), re.M | re.S)


def notebook() -> list[str]:
    cells = json.loads((DOCS / "quickstart.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(blocks: list[str], folder: Path) -> str:
    """Run blocks of code in one process, as a person would who enters them; return what they print."""
    done = subprocess.run(
        [sys.executable, "-c", "\n\n".join(blocks)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path):
    blocks = page()
    assert len(blocks) == 6
    lines = run(blocks, tmp_path).splitlines()
    assert "runs/first" in lines
    assert "False runs/second/checkpoints/step_000003/policy" in lines
    assert "True 6" in lines
    assert "  optimizer.learning_rte: unknown key; did you mean optimizer.learning_rate?" in lines
    assert lines[-1].startswith("uniapl, seed 0: ")


@pytest.mark.slow
def test_the_notebook_runs_and_holds_no_outputs(tmp_path: Path):
    cells = json.loads((DOCS / "quickstart.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    lines = run(notebook(), tmp_path).splitlines()
    assert lines[-1] == "runs/notebook/report/index.html"
    assert (tmp_path / lines[-1]).is_file()
    assert (tmp_path / "runs/shorter").is_dir()
