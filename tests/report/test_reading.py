import json
from pathlib import Path

import pytest

from uniapl.errors import InputError
from uniapl.report import build_report
from uniapl.report.reading import read_run, setting


def add_line(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def test_run_is_read(finished_run):
    run = read_run(finished_run, max_rollouts=300)
    assert run.method == "uniapl"
    assert run.planned_steps == 60
    assert run.steps == list(range(1, 61))
    assert run.metrics["objective/adversarial_weight"][0] == 0.0
    assert [evaluation.step for evaluation in run.evaluations] == [0, 60]
    assert len(run.evaluations[0].samples) == 40
    assert run.num_rollouts == len(run.rollouts) == 120
    assert {row["step"] for row in run.rollouts} == set(range(1, 61, 2))


def test_only_first_and_last_samples_are_read(make_run):
    run = read_run(make_run(evaluations=(0, 20, 40, 60)), max_rollouts=8)
    assert [len(evaluation.samples) for evaluation in run.evaluations] == [40, 0, 0, 40]
    assert run.num_rollouts is None
    assert sorted({row["step"] for row in run.rollouts}) == [1, 59]


def test_later_row_of_a_step_wins_and_missing_names_are_none(finished_run):
    add_line(finished_run / "metrics.jsonl", '{"step": 60, "reward/mean": 7.0, "reward/new": 1}')
    run = read_run(finished_run, max_rollouts=8)
    assert run.steps[-1] == 60
    assert run.metrics["reward/mean"][-1] == 7.0
    assert run.metrics["reward/new"] == [None] * 59 + [1]
    assert run.metrics["policy/entropy"][-1] is None


def test_torn_last_line_of_a_killed_run_is_skipped(finished_run):
    with (finished_run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "reward/me')
    assert read_run(finished_run, max_rollouts=8).steps[-1] == 60


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"step": 61, "reward/mean": 0.', "not valid JSON"),
        ('{"step": 61, "reward/mean": NaN}', "NaN is not JSON"),
        ('{"step": 61, "reward/mean": "high"}', "'reward/mean' must be a number or null"),
        ('{"reward/mean": 1}', "`step` must be a whole number"),
        ('{"step": true}', "`step` must be a whole number"),
        ("[1, 2]", "expected an object"),
    ],
)
def test_malformed_row_is_named_by_file_and_line(finished_run, line, what):
    add_line(finished_run / "metrics.jsonl", line)
    with pytest.raises(InputError) as caught:
        build_report([finished_run])
    assert f"{finished_run}/metrics.jsonl:61: " in str(caught.value)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (finished_run / "report").exists()


def test_malformed_samples_and_rollouts_are_named(make_run):
    first, second = make_run("first"), make_run("second")
    add_line(first / "evaluations/step_000060/samples.jsonl", '{"prompt": "p", "response": 3}')
    with pytest.raises(InputError, match=r"samples\.jsonl:41: 'response' must be a string, got 3"):
        build_report([first])
    add_line(second / "rollouts/step_000059.jsonl", "{")
    with pytest.raises(InputError, match=r"step_000059\.jsonl:5: not valid JSON"):
        build_report([second])


def test_what_is_no_run_is_refused(tmp_path, finished_run):
    with pytest.raises(InputError, match="no run given"):
        build_report([])
    with pytest.raises(InputError, match="no such folder"):
        build_report([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a run folder"):
        build_report([tmp_path / "empty"])
    (finished_run / "metrics.jsonl").write_text("\n")
    with pytest.raises(InputError, match="finished no step yet"):
        build_report([finished_run])
    (finished_run / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match="written no metrics"):
        build_report([finished_run])


def test_newer_format_and_broken_config_are_refused(make_run):
    newer, broken = make_run("newer"), make_run("broken")
    (newer / "environment.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(InputError, match="format 2, this version of uniapl reads up to 1"):
        build_report([newer])
    (broken / "config.yaml").write_text("method: [")
    with pytest.raises(InputError, match="not valid YAML") as caught:
        build_report([broken])
    assert "\n" not in str(caught.value)


def test_setting_follows_dotted_keys():
    config = {"model": {"path": "here"}, "seed": 3}
    assert setting(config, "model.path") == "here"
    assert setting(config, "model.dtype") is None
    assert setting(config, "seed.value") is None
