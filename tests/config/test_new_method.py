"""A method is one row: added to the table and to nothing else, it is configured, checked, planned for and trained."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tiny import save_tiny_model, write_task
from tiny_runs import CONFIG

import uniapl

PACKAGE = Path(uniapl.__file__).parent
ROW = """
METHODS["gentle"] = Method("a gentle mix", 0.25, CONFIGURED, CONFIGURED, "both", form="scalar")
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uniapl.cli", *words],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"},
    )


def test_one_more_row_is_one_more_method(tmp_path: Path) -> None:
    """In a copy of the package, with one line more in config/methods.py."""
    copy = tmp_path / "uniapl"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "miniature/*"))
    with (copy / "config" / "methods.py").open("a") as file:
        file.write(ROW)
    task = write_task(tmp_path / "task")
    model = save_tiny_model(tmp_path / "model", trained=True)
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG.format(model=model, **task).replace("uniapl", "gentle"))
    words = (str(config), f"output_dir={tmp_path / 'run'}", "training.steps=2")
    done = run(tmp_path, "train", *words, "evaluation.prompts=null")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["objective/sft_weight"] for row in rows] == [0.25, 0.25]
    assert rows[-1]["objective/adversarial_weight"] == 0.3
    assert rows[-1]["discriminator/accuracy"] is not None  # it ranks, as the row says
    wrong = run(tmp_path, "train", *words, "objective.sft_weight=0.5")
    assert "method gentle: fixes objective.sft_weight to 0.25" in wrong.stderr
    unknown = run(tmp_path, "train", *words, "method=gentel")
    assert "uniapl, gentle, got 'gentel'; did you mean gentle?" in unknown.stderr
