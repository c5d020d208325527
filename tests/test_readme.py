"""README: short, true, and its commands run as they stand, in order, in an empty folder."""

import io
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tiny_runs import run_here

import uniapl
from uniapl import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()

SHORTER = (
    "training.steps=2 rollout.group_size=2 rollout.max_completion_tokens=16 evaluation.limit=4 "
    "data.demonstrations_per_step=4 data.prompts_per_step=4 data.demonstration_prompts_per_step=2 "
    "discriminator.warmup_steps=0 constraint.prompts_per_step=4 data.held_out_demonstrations=4"
).split()
"""Added to what would train for minutes: `train` and `compare` of the miniature, in README's own words otherwise."""


def commands(heading: str) -> list[str]:
    """Return the indented lines under a heading, without comments."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (\S.*)$", section, re.M)
    return [line.partition("  #")[0].strip() for line in lines]


def test_it_is_one_that_is_read():
    lines = TEXT.splitlines()
    assert len(lines) < 100
    assert max(map(len, lines)) <= 120


def test_every_link_leads_somewhere():
    targets = re.findall(r"\]\(([^)#]+)", TEXT)
    assert len(targets) > 20
    missing = [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
    assert not missing


def test_its_commands_run_in_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """In this process, the runs of the comparison too: loading torch takes longer than any of them."""
    words = [shlex.split(line) for line in commands("Your own data")]
    install, *rest = words
    assert install[:2] == ["pip", "install"]  # skipped: the tests run in what it would install
    lines = [line for line in rest if line[0] == "uniapl"]
    assert [line[1] for line in lines] == "init train plan plan train report chat compare".split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("uniapl.comparing.comparison.run_all", run_here)
    for line in lines:
        trains = line[1] == "compare" or (line[1] == "train" and "--preview" not in line)
        monkeypatch.setattr("sys.stdin", io.StringIO("Name a sea.\n"))
        status = cli.main([*line[1:], *(SHORTER if trains else [])])
        assert status == 0, (line, capsys.readouterr().err[-2000:])
    assert (tmp_path / "runs/my/report/index.html").is_file()
    found = json.loads((tmp_path / "runs/my-comparison/comparison.json").read_text())
    assert list(found["arms"]) == ["grpo", "mix", "uniapl"]


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    block = [line for line in commands("Your own data") if line.startswith("run")]
    # what `grpo` has no use for is an error, and the call itself is README's
    short = [
        word for word in SHORTER if word.partition(".")[0] in ("training", "rollout", "evaluation")
    ]
    train = uniapl.train
    monkeypatch.setattr(
        "uniapl.train", lambda config, words, **rest: train(config, [*words, *short], **rest)
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "my.yaml"]) == 0

    def brevity(completions: list[str], **columns: object) -> list[float]:
        return [-len(text) / 100 for text in completions]

    names = {"uniapl": uniapl, "brevity": brevity}
    exec("\n".join(block), names)
    run = names["run"]
    assert isinstance(run, uniapl.Run)
    assert (len(run.metrics), run.policy) == (2, Path("runs/my/policy"))


def test_make_demo_installs_what_the_demo_needs():
    def plan(*words: str) -> str:
        return subprocess.run(
            ["make", "--dry-run", "--always-make", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    said = plan("demo")
    assert "-c constraints.txt -e '.[report]'" in said
    assert "dev" not in said
    assert "uniapl report runs/demo" in said
