"""The command as its user meets it: a subprocess, its texts and its exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from uniapl import cli
from uniapl.types import TrainingError

CONFIG = """\
output_dir: runs/test
model: {path: some/model}
data: {demonstrations: d.jsonl, prompts: p.jsonl}
training: {steps: 4}
"""


def uniapl(*words: str | Path, cwd: Path | None = None, **environment: str):
    return subprocess.run(
        [sys.executable, "-m", "uniapl.cli", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "x"], "unknown command 'trian'; did you mean train? (commands: "),
        (["config", "shwo"], "unknown command 'config shwo'; did you mean show? (commands: "),
        (["xyzzy"], "unknown command 'xyzzy' (commands: "),
        (["--quiet"], "unknown option --quiet; see `uniapl --help`"),
        (["train"], "the following arguments are required: CONFIG; see `uniapl train --help`"),
        (["report"], "the following arguments are required: RUN; see `uniapl report --help`"),
        (
            ["config"],
            "the following arguments are required: show|reference; see `uniapl config --help`",
        ),
        (["report", "a", "--out", "b"], "unknown option --out; see `uniapl --help`"),
        (
            ["train", "x.yaml", "--seed", "1"],
            "unknown option --seed; options of a config are written seed=VALUE",
        ),
        (
            ["train", "x.yaml", "--lr=1"],
            "unknown option --lr=1; options of a config are written optimizer.learning_rate=VALUE",
        ),
        (
            ["compare", "miniature"],
            "the following arguments are required: --methods; see `uniapl compare --help`",
        ),
        (["train", "no-such.yaml"], "no-such.yaml: no such file"),
        (
            ["train", "miniature", "seed=x"],
            "miniature: 1 problem(s)\n  seed: must be an integer, got 'x'\n",
        ),
        (
            ["train", "miniature", "--preview", "sed=1"],
            "miniature: 1 problem(s)\n  sed: unknown key",
        ),
        (
            ["config", "show", "miniature", "seed"],
            "miniature: 1 problem(s)\n  'seed': an override is",
        ),
    ],
)
def test_wrong_input_is_one_message_and_status_2(words: list[str], message: str):
    done = uniapl(*words)
    assert done.stderr.startswith(f"error: {message}")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.returncode == 2


def test_no_command_prints_the_help_and_fails():
    done = uniapl()
    assert done.stderr.startswith("usage: uniapl COMMAND")
    assert done.stderr.endswith("error: a command is missing\n")
    assert done.returncode == 2


def test_help_is_one_screen_and_names_every_command():
    done = uniapl("--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 24
    assert max(map(len, done.stdout.splitlines())) <= 80
    for command in ("train", "compare", "evaluate", "prompts", "collect", "report", "config show"):
        assert f"\n  {command}" in done.stdout
    assert uniapl("train", "--help").stdout.startswith("usage: uniapl train")


def test_version():
    from uniapl import __version__

    assert uniapl("--version").stdout == f"uniapl {__version__}\n"


def test_show_prints_a_config_that_loads_again(config: Path, tmp_path: Path):
    shown = uniapl("config", "show", config, "seed=7", "optimizer.learning_rate=2e-6")
    assert shown.returncode == 0
    again = tmp_path / "again.yaml"
    again.write_text(shown.stdout)
    assert "seed: 7" in shown.stdout
    assert uniapl("config", "show", again).stdout == shown.stdout


def test_reference_is_printed():
    done = uniapl("config", "reference", PYTHONIOENCODING="utf-8")
    assert done.stdout.startswith("# Config reference")


def test_traceback_only_on_request(config: Path):
    for words, environment in (
        (["--debug"], {}),
        ([], {"UNIAPL_DEBUG": "1"}),
    ):
        done = uniapl("config", "show", config, "seed=x", *words, **environment)
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1] == "  seed: must be an integer, got 'x'"
        assert done.returncode == 2


def test_a_closed_pipe_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "uniapl.cli", "config", "reference"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "uniapl.cli", "config", "reference"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.stderr.startswith("error: [Errno 28]")
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            TrainingError("step 3: the loss is not finite"),
            1,
            "error: step 3: the loss is not finite\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
    ],
)
def test_a_failed_run(
    error: BaseException,
    status: int,
    text: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_train", fail)
    assert cli.main(["train", str(config)]) == status
    assert capsys.readouterr().err == text


def test_train_receives_config_overrides_and_preview(config: Path, monkeypatch: pytest.MonkeyPatch):

    calls: list[tuple[object, ...]] = []

    def train(config: object, *, overridden: frozenset[str], preview: bool) -> Path:
        calls.append((config, overridden, preview))
        return Path("run")

    monkeypatch.setattr("uniapl.runs.train", train)
    # Overrides on both sides of an option are overrides all the same.
    assert cli.main(["train", str(config), "seed=1", "--preview", "method=mix"]) == 0
    assert cli.main(["train", str(config)]) == 0
    from uniapl.config import load_config

    assert calls == [
        (load_config(config, ["seed=1", "method=mix"]), frozenset({"seed", "method"}), True),
        (load_config(config), frozenset(), False),
    ]


def test_compare_receives_plan_folder_and_jobs(config: Path, monkeypatch: pytest.MonkeyPatch):
    """Overrides reach the config wherever they stand, even after options that take many words."""
    from uniapl.comparing import read_plan
    from uniapl.config import load_config

    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("uniapl.comparing.compare", lambda *words: calls.append(words))
    options = ["--methods", "sft,mix", "--seeds", "0,1", "mix:0,1,2", "training.steps=9"]
    grid = [
        "--grid",
        "sft:optimizer.weight_decay=0,0.9",
        "mix:optimizer.weight_decay=0,0.9",
        "model.path=x",
    ]
    assert cli.main(["compare", str(config), *options, *grid, "--jobs", "2"]) == 0
    assert cli.main(["compare", str(config), *options, "--output", "o", "--baseline", "mix"]) == 0
    plan = read_plan("sft,mix", ["0,1", "mix:0,1,2"], grid[1:3])
    other = read_plan("sft,mix", ["0,1", "mix:0,1,2"], baseline="mix")
    assert calls == [
        (
            load_config(config, ["training.steps=9", "model.path=x"]),
            plan,
            Path("runs/test-comparison"),
            2,
        ),
        (load_config(config, ["training.steps=9"]), other, Path("o"), 1),
    ]


def test_report_receives_runs_and_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import uniapl.report

    calls: list[tuple[object, ...]] = []

    def build_report(runs: list[Path], output: Path | None) -> Path:
        calls.append((runs, output))
        return Path("page.html")

    monkeypatch.setattr(uniapl.report, "build_report", build_report)
    assert cli.main(["report", "a", "b", "--output", "c.html"]) == 0
    assert cli.main(["report", "a"]) == 0
    assert calls == [([Path("a"), Path("b")], Path("c.html")), ([Path("a")], None)]
    assert capsys.readouterr().out == "report: page.html\n" * 2
