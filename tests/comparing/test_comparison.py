"""Whole comparisons of tiny runs: what they hold, that they go on, and what they refuse."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Tiny, run_here

from uniapl import cli
from uniapl.comparing import compare, read_plan
from uniapl.comparing.comparison import Job
from uniapl.comparing.outcomes import as_array, measures
from uniapl.comparing.processes import Command
from uniapl.errors import InputError, TrainingError
from uniapl.evaluation import evaluate
from uniapl.evaluation.bootstrap import value_by_seed

GRID = ("sft:optimizer.learning_rate=1e-9,1e-2", "mix:objective.sft_weight=0.3,1")


def words(tiny: Tiny) -> list[str]:
    return ["training.steps=2", f"evaluation.validation_prompts={tiny.task['prompts']}"]


@pytest.fixture(autouse=True)
def _run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uniapl.comparing.comparison.run_all", run_here)


@pytest.fixture(scope="session")
def compared(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A tuned comparison of two arms and two seeds: four runs that tune, five that report."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    plan = read_plan("sft,mix", ["0,1", "mix:0,1,2"], GRID)
    evaluations: list[object] = []

    def counted(*arguments: Any) -> Any:
        evaluations.append(arguments)
        return evaluate(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uniapl.comparing.comparison.run_all", run_here)
        patch.setattr("uniapl.runs.run.evaluate", counted)
        result = compare(tiny.load(folder, *words(tiny)), plan, folder, jobs=2)
    # nine runs after training; before it once on the validation and once on the test prompts
    assert len(evaluations) == 9 + 2
    return folder, result


def test_a_comparison_holds_arms_differences_and_costs(compared: tuple[Path, dict[str, Any]]):
    folder, result = compared
    assert json.loads((folder / "comparison.json").read_text()) == result
    assert list(result["arms"]) == ["sft", "mix"]
    sft, mix = result["arms"]["sft"], result["arms"]["mix"]
    assert (sft["seeds"], mix["seeds"]) == ([0, 1], [0, 1, 2])
    assert result["differences"]["mix"]["seeds"] == [0, 1]
    assert sft["cost"]["sampled_tokens"] == 0 < mix["cost"]["sampled_tokens"]
    assert min(arm["cost"]["trained_tokens"] for arm in (sft, mix)) > 0
    assert result["budget"]["training.steps"] == 2
    assert result["num_prompts"] == 6
    assert result["environment"]["versions"]["torch"]
    assert "sft" not in result["differences"]
    for name, value in result["differences"]["mix"]["metrics"].items():
        pairs = zip(mix["metrics"][name]["by_seed"], sft["metrics"][name]["by_seed"], strict=False)
        gaps = [a - b for a, b in pairs]
        assert value["mean"] == pytest.approx(sum(gaps) / 2, abs=1e-5)
        assert value["low"] <= value["high"]
    for run in (*sft["runs"], *mix["runs"]):
        assert (folder / run / "policy").is_dir()
        assert not (folder / run / "checkpoints").exists()


def test_the_columns_give_every_metric_of_the_results(compared: tuple[Path, dict[str, Any]]):
    """The intervals are of the numbers that the evaluation reports, not of something like them."""
    folder, result = compared
    for arm in result["arms"].values():
        for run in arm["runs"]:
            stored = json.loads((folder / "arms" / f"{Path(run).name}.json").read_text())
            results = json.loads(
                (folder / run / "evaluations" / "step_000002" / "results.json").read_text()
            )
            known = measures(stored["columns"], stored["own_metrics"])
            assert {"prompt_level_strict_acc", "completion_tokens_w1", "expert_nll"} <= set(known)
            for name, measure in known.items():
                columns = [as_array([stored["columns"][c]]) for c in measure.columns]
                (value,) = value_by_seed(columns, measure.statistic)
                assert value == pytest.approx(results[name], rel=1e-5, abs=1e-5), name


def test_each_arm_is_tuned_on_the_validation_prompts(compared: tuple[Path, dict[str, Any]]):
    folder, result = compared
    metric = result["best_metric"]
    for arm in result["arms"].values():
        assert len(arm["tuning"]) == result["grid_size"] == 2
        best = max(line[metric] for line in arm["tuning"])
        chosen = next(line for line in arm["tuning"] if line[metric] == best)
        assert arm["setting"] == chosen["setting"]
    tuned = [p for p in (folder / "arms").iterdir() if "tuning" in p.name]
    assert len(tuned) == 4
    assert len(list((folder / "arms").iterdir())) == 9
    for file in tuned:
        record = json.loads(file.read_text())
        assert record["seed"] == 1000
        assert len(record["prompts"]) == 6
        run = folder / "runs" / file.stem
        samples = (run / "evaluations" / "step_000002" / "samples.jsonl").read_text()
        assert json.loads(samples.splitlines()[0])["prompt"].startswith("p0 ")
        assert not (run / "policy").exists()


def test_what_is_finished_is_never_run_again(
    tiny: Tiny, compared: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    folder, result = compared

    def refuse(commands: list[object], jobs: int, variables: Mapping[str, str]) -> list[object]:
        assert commands == []
        return []

    monkeypatch.setattr("uniapl.comparing.comparison.run_all", refuse)
    config = tiny.load(folder, *words(tiny))
    again = compare(config, read_plan("sft,mix", ["0,1", "mix:0,1,2"], GRID), folder, jobs=2)
    assert again == result
    # a part of it is another table from the same files
    part = compare(config, read_plan("mix,sft", ["0"], GRID), folder)
    assert part["baseline"] == "mix"
    assert part["arms"]["sft"]["seeds"] == [0]


def test_the_terminal_shows_both_tables(
    tiny: Tiny, compared: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    folder, _ = compared
    plan = read_plan("sft,mix", ["0,1"], GRID)
    compare(tiny.load(folder, *words(tiny)), plan, folder)
    shown = capsys.readouterr().out
    assert "minus sft" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert "seeds mean [95 % interval] minus sft, paired".split() in lines
    titles = [line for line in shown.splitlines() if "prompts)" in line]
    assert any(
        line.startswith("completion_tokens_w1 (tokens, lower is better, ") for line in titles
    )
    assert [line[0] for line in lines if line][-4:] == ["sft", "mix", "*", "comparison:"]
    assert sum(line[0] == "before" for line in lines if line) == 3
    assert max(map(len, shown.splitlines()[:-1])) <= 80
    assert shown.splitlines()[-1] == f"comparison: {folder / 'comparison.json'}"


def test_a_folder_holds_one_comparison(tiny: Tiny, compared: tuple[Path, dict[str, Any]]):
    folder, _ = compared
    plan = read_plan("sft,mix", ["0,1"], GRID)
    config = tiny.load(folder, *words(tiny), "training.steps=3", "optimizer.weight_decay=0.1")
    with pytest.raises(InputError) as error:
        compare(config, plan, folder)
    assert "optimizer.weight_decay was 0.0, is 0.1; training.steps was 2, is 3" in str(error.value)


def test_a_run_folder_is_no_place_for_a_comparison(tiny: Tiny, tmp_path: Path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match="holds a run; choose another folder"):
        compare(tiny.load(tmp_path), read_plan("sft", ["0"]), tmp_path)


def test_input_that_a_run_refuses_ends_the_comparison(tiny: Tiny, tmp_path: Path):
    config = tiny.load(tmp_path, "data.demonstrations_per_step=99")
    with pytest.raises(InputError, match=r"sft-seed-0: data\.demonstrations_per_step: must be"):
        compare(config, read_plan("sft", ["0,1"]), tmp_path)


def test_a_failed_run_is_named_and_tried_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, plan = tiny.load(tmp_path, "training.steps=1"), read_plan("sft", ["0,1"])

    def fail_once(
        commands: Sequence[Command], jobs: int, variables: Mapping[str, str]
    ) -> Iterator[tuple[Command, int]]:
        if not commands:  # nothing to tune
            return
        yield from run_here(commands[:1], jobs, variables)
        commands[1].log.write_text("step 1\nerror: the loss is not finite\n")
        yield commands[1], 1

    monkeypatch.setattr("uniapl.comparing.comparison.run_all", fail_once)
    with pytest.raises(TrainingError, match=r"1 run\(s\) failed.*\n  sft-seed-1: the loss is not"):
        compare(config, plan, tmp_path)
    assert (tmp_path / "arms" / "sft-seed-0.json").exists()
    assert not (tmp_path / "comparison.json").exists()
    monkeypatch.setattr("uniapl.comparing.comparison.run_all", run_here)
    assert compare(config, plan, tmp_path)["arms"]["sft"]["seeds"] == [0, 1]


def test_a_setting_that_fails_is_not_chosen(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail_first(
        commands: Sequence[Command], jobs: int, variables: Mapping[str, str]
    ) -> Iterator[tuple[Command, int]]:
        if any("tuning" in command.log.name for command in commands):
            commands[0].log.write_text("error: the loss is not finite\n")
            yield commands[0], 1
            commands = commands[1:]
        yield from run_here(commands, jobs, variables)

    monkeypatch.setattr("uniapl.comparing.comparison.run_all", fail_first)
    plan = read_plan("sft", ["0"], ["sft:optimizer.learning_rate=1e9,1e-3"])
    config = tiny.load(tmp_path, "training.steps=1", *words(tiny)[1:])
    arm = compare(config, plan, tmp_path)["arms"]["sft"]
    assert arm["setting"] == ["optimizer.learning_rate=1e-3"]
    assert arm["tuning"][0]["prompt_level_strict_acc"] is None
    assert arm["tuning"][0]["error"].startswith("the loss is not finite (see ")


def test_names_of_runs_are_files_and_tell_settings_apart():
    arm = read_plan("mix", ["0"]).arms[0]

    def name(*setting: str) -> str:
        return Job(arm, setting, 0, tunes=False).name

    assert name() == "mix-seed-0"
    assert name("objective.kl_coef=0.05") == "mix-objective.kl_coef=0.05-seed-0"
    assert name("a.b=[1, 2]") != name("a.b=[1; 2]")
    assert "/" not in name("model.path=../x")
    assert len(name(f"a.b={'9' * 500}")) < 200


def test_a_killed_comparison_goes_on_where_it_was(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Ctrl-C after the first run has begun; the same command finishes, to the straight result."""
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "uniapl.cli", "compare", str(tiny.config), "--methods", "sft"),
        *("--seeds", "0,1", "training.steps=16", "--output", str(out)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        metrics = out / "runs" / "sft-seed-0" / "metrics.jsonl"
        deadline = time.monotonic() + 300
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.endswith("interrupted\n")
    assert not (out / "runs" / "sft-seed-1").exists()
    # in this process, its runs too
    assert cli.main(command[3:]) == 0
    assert capsys.readouterr().err == ""
    log = (out / "logs" / "sft-seed-0.log").read_text()
    assert "going on from step" in log
    result = json.loads((out / "comparison.json").read_text())
    straight = compare(
        tiny.load(tmp_path, "training.steps=16"), read_plan("sft", ["0,1"]), tmp_path / "straight"
    )
    assert result["arms"]["sft"]["metrics"] == straight["arms"]["sft"]["metrics"]
