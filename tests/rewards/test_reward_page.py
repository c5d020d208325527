"""Every example of docs/rewards.md, run as a reader would."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from tiny import save_tiny_reward_model

from uniapl import cli

PAGE = (Path(__file__).parents[2] / "docs/rewards.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = [text for kind, text in BLOCKS if kind == "python" and text.startswith("# rewards.py\n")]
SCRIPTS = [text for kind, text in BLOCKS if kind == "python" and text not in FILES]
CONFIGS = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
COMMANDS = [text for kind, text in BLOCKS if kind == "sh"]


@pytest.fixture
def project(run, monkeypatch):
    """The reader's folder: functions, a reward model, and data with the column that an example reads."""
    (run.project / "rewards.py").write_text("\n\n".join(FILES))
    save_tiny_reward_model(run.project / "judge")
    for file in (run.project / "task").iterdir():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for i, row in enumerate(rows):
            row["answer"] = "a" if i % 2 else None
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(run.project)
    return run.project


def test_the_page_has_the_examples_that_are_run_here():
    assert (len(FILES), len(SCRIPTS), len(CONFIGS), len(COMMANDS)) == (4, 1, 5, 1)
    assert len(FILES) + len(SCRIPTS) + len(CONFIGS) + len(COMMANDS) == len(BLOCKS)


@pytest.mark.parametrize("sections", CONFIGS, ids=lambda c: c["rewards"][-1]["function"])
def test_configs(run, project, rows, sections):
    if metrics := sections.get("evaluation"):
        sections = {**sections, "evaluation": {**metrics, "prompts": run.test}}
    folder = run(**sections)
    names = [one.get("name", one["function"].rpartition(":")[2]) for one in sections["rewards"]]
    metrics = rows(folder / "metrics.jsonl")
    for name in names:
        assert any(row[f"reward/{name}"] is not None for row in metrics)
    if names == ["patient"]:
        assert [row["reward/patient/limit"] for row in metrics] == [20.0, 12.5]
        assert rows(folder / "rollouts/step_000001.jsonl")[0]["extra"].keys() == {"words"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts(project, script):
    exec(compile(script, "docs/rewards.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(run, project, rows, tmp_path, command):
    run("first", **CONFIGS[0])
    text = (project / "config.yaml").read_text()
    (project / "my.yaml").write_text(text.replace(str(tmp_path / "first"), str(tmp_path / "next")))
    program, *words = shlex.split(command)
    assert program == "uniapl"
    assert cli.main(words) == 0
    saved = yaml.safe_load((tmp_path / "next/config.yaml").read_text())
    assert saved["rewards"][1]["arguments"] == {"limit": 3}
