"""What a run prints."""

import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest

from uniapl.runs import progress
from uniapl.runs.progress import RunProgress, results_table


def test_steps_are_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]):
    with RunProgress(steps=3, done=1) as shown:
        shown.step(2, {"reward/mean": 0.5, "objective/sft": None, "data/sampled_tokens": 7})
        shown.step(3, {"reward/mean": 0.25})
    first, last = capsys.readouterr().err.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO step 2/3  0:0", first)
    assert first.endswith("left  reward 0.5")
    assert " INFO step 3/3" in last


def test_plain_lines_are_rare_but_for_the_last(capsys, monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 1.0, 5.0, 10.9, 11.1, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with RunProgress(steps=5, done=0) as shown:
        for step in range(1, 6):
            shown.step(step, {})
    printed = [line.split()[4] for line in capsys.readouterr().err.splitlines()]
    assert printed == ["1/5", "4/5", "5/5"]


def test_the_time_left_is_that_of_the_steps_of_this_process(capsys, monkeypatch):
    clock = iter([0.0, 30.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with RunProgress(steps=112, done=100) as shown:
        shown.step(102, {})  # two steps took 30 s, ten are left
    assert "step 102/112  2:30 left" in capsys.readouterr().err


def test_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]):
    line = "runs/[bold]a:smile:b[/bold] " + "long " * 60 + "end"  # rich 14.0 cuts blanks at the end
    with RunProgress(steps=1, done=0) as shown:
        shown.say(line)
        shown.result(None, Path(line))
    out, err = capsys.readouterr()
    assert err.endswith(f" INFO {line}\n")
    assert out == f"policy: {line}\n"


def test_a_reader_that_leaves_does_not_stop_the_run(monkeypatch: pytest.MonkeyPatch):
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stderr", stream)
    with RunProgress(steps=1, done=0) as shown:
        shown.say("unheard")
        shown.step(1, {})
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_terminal_gets_one_live_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    file = tmp_path / "terminal"
    with file.open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with RunProgress(steps=4, done=2) as shown:
            shown.step(3, {"reward/mean": 0.5})
            shown.warn("above the line")
    text = file.read_text()
    assert "step 3/4" in text
    assert "reward 0.5" in text
    assert "WARNING above the line" in text


def test_quiet_leaves_warnings_and_results(capsys: pytest.CaptureFixture[str]):
    with RunProgress(steps=1, done=0, quiet=True) as shown:
        shown.say("a note")
        shown.warn("look at this")
        shown.step(1, {})
        shown.result(None, Path("run/policy"))
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.endswith(" WARNING look at this")
    assert out == "policy: run/policy\n"


def test_json_is_one_line_per_event_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    with RunProgress(steps=2, done=0, json=True) as shown:
        shown.say("a note")
        shown.evaluation({"step": 0, "accuracy": 0.25, "text": "[bold]ü[/bold]\n" * 99}, "accuracy")
        shown.step(1, {"reward/mean": 0.5, "objective/sft": None})
        shown.stopped(1)
        shown.result(None, Path("p"))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["text"] == "[bold]ü[/bold]\n" * 99
    assert [event["event"] for event in events] == ["evaluation", "step", "stopped", "result"]
    assert events[1] == {"event": "step", "step": 1, "reward/mean": 0.5, "objective/sft": None}
    assert events[3] == {"event": "result", "step": 2, "policy": "p"}


def test_a_handler_of_the_programs_own_gets_the_notes(capsys: pytest.CaptureFixture[str]):
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("uniapl")
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    try:
        with RunProgress(steps=1, done=0) as shown:
            shown.warn("100 % of it")
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == ["100 % of it"]
    assert capsys.readouterr().err == ""
    with RunProgress(steps=1, done=0):
        pass
    assert (logger.level, logger.propagate, logger.handlers) == (*before, [])


def test_results_are_a_table_of_what_was_measured():
    columns = {
        "before": {"accuracy": 0.25, "accuracy_stderr": 0.125, "n": 4, "expert": {}},
        "after": {"accuracy": 0.5, "fluency": None},
        "expert": {"fluency": 1.0},
    }
    meanings = {"accuracy": "", "fluency": "", "other": ""}
    table = results_table(columns, meanings)
    assert table is not None
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["accuracy", "fluency"], ["0.250 ± 0.125", ""], ["0.500", ""], ["", "1.000"]]
    assert results_table({"before": {"n": 4}}, meanings) is None
