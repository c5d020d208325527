"""Whatever is wrong: one clear message, the right exit status, and nothing half-done left behind."""

import errno
import json
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Tiny, rows
from transformers import AutoModelForCausalLM

from uniapl.cli import main
from uniapl.runs.checkpoint import checkpoint_steps, load_state

FUNCTIONS = '''
import math

def raises_on_p1(prompts, completions, **_):
    if "p1 Write now" in prompts:
        raise KeyError("no score")
    return [0.0] * len(completions)

def one_too_few(completions, **_):
    return [1.0] * (len(completions) - 1)

def nan(completions, **_):
    return [math.nan] * len(completions)

def share_of_a(completions, **_):
    """Share of letters that are an a."""
    return [c.count("a") / max(len(c), 1) for c in completions]

def n(completions, **_):
    return [1.0 for _ in completions]

def needs_sense(completions, sense):
    return sense
'''


NOTE = r"^\d{4}-\d\d-\d\d [\d:]+ (INFO|WARNING) .*\n"


@pytest.fixture
def attempt(tiny: Tiny, run_folder: Path, tmp_path: Path, monkeypatch, capsys):
    """Runs `uniapl train` in this process; returns its exit status and its error message."""
    (tmp_path / "tiny_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*words: str) -> tuple[int, str]:
        status = main(["train", str(tiny.config), f"output_dir={run_folder}", *words])
        # notes of the run go there too, each with its time
        message = re.sub(NOTE, "", capsys.readouterr().err, flags=re.MULTILINE)
        assert "Traceback" not in message
        return status, message

    return run


def rows_file(path: Path, *changes: dict[str, Any]) -> Path:
    """A data file of good rows, each with changes."""
    good = {"prompt": "d1 Write", "completion": "a b c"}
    path.write_text("".join(json.dumps(good | change) + "\n" for change in changes))
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rollout.group_sise=4"], "rollout.group_sise: unknown key; did you mean rollout.group_size?"),
        (["rollout.group_size=four"], "rollout.group_size: must be an integer, got 'four'"),
        (["optimizer.learning_rate=-1"], "optimizer.learning_rate: must be greater than 0, got -1"),
        (["constraint.minimum=1"], "constraint.minimum: is no longer a key: it is 0.01; remove it"),
        (["training.steps=5", "rollout.updates_per_rollout=2"], "training.steps: must be a multiple"),
        (["method=grpo", "objective.adversarial_weight=0.2"], "method grpo: fixes objective.advers"),
        (["method=sft", "rollout.group_size=2"], "method sft: has no rollout; remove rollout.group_s"),
        (["method=gad", "discriminator.form=likelihood"], "method gad: needs discriminator.form=scal"),
        (["data.demonstrations=/no/such.jsonl"], "no such file: /no/such.jsonl"),
        (["model.path=/no/such/model"], "model.path: cannot load '/no/such/model' (no such folder"),
        (["evaluation.metrics=[json:lods]"], "json:lods: json has no function lods; did you mean loa"),
        (["evaluation.metrics=[no_such:f]"], "no_such:f: no module no_such"),
        (["evaluation.metrics=[tiny_functions:n]"], "evaluation.metrics: n is the name of another res"),
        (["evaluation.metrics=[tiny_functions:needs_sense]"], " needs_sense needs `sense`, which is n"),
        (["rewards=[{function: tiny_functions:needs_sense}]"], " needs_sense needs `sense`, which is n"),
        (["data.demonstrations_per_step=13"], "data.demonstrations_per_step: must be at most 10, the"),
        (["data.prompts_per_step=15"], "data.prompts_per_step: must be at most 14 with 12 preference"),
        (["data.held_out_demonstrations=12"], "held_out_demonstrations 12 leaves nothing to train on"),
        (["data.max_prompt_tokens=12"], "the prompt has 15 tokens, more than max_prompt_tokens 12 (and"),
        (["rollout.max_completion_tokens=500"], "does not fit the model's context of 512"),
        (["evaluation.max_completion_tokens=500"], "does not fit the model's context of 512"),
        (["training.device=cuda"], "training.device: there is no cuda here (0 CUDA devices)"),
    ],
)  # fmt: skip
def test_wrong_input_is_said_before_anything_is_written(
    attempt, run_folder: Path, words: list[str], message: str
):
    if "training.device=cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    status, error = attempt(*words)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert not run_folder.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": " "}, ":2: `completion` is blank"),
        ({"completion": None}, ":2: no column `completion`"),
        ({"prompt": None}, ":2: no column `messages`, `conversations`, `prompt`"),
        (
            {"instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]},
            ":2: unknown instruction id",
        ),
        (
            {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"commas": 1}]},
            ":2: punctuation:no_comma",
        ),
        ({"instruction_id_list": ["punctuation:no_comma"]}, ":2: `instruction_id_list` needs `kwargs`"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_named_with_its_line(attempt, tmp_path, run_folder, change, message: str):
    file = rows_file(tmp_path / "data.jsonl", {}, change, {})
    status, error = attempt(f"data.demonstrations={file}", "data.demonstrations_per_step=2")
    assert status == 2
    assert f"{file}{message}" in error
    assert len(error.splitlines()) == 1
    assert not run_folder.exists()


def test_a_line_that_is_no_json_is_named(attempt, tmp_path: Path, run_folder: Path):
    file = rows_file(tmp_path / "data.jsonl", {})
    file.write_text(file.read_text() + '{"prompt": \n')
    status, error = attempt(f"data.prompts={file}")
    assert status == 2
    assert f"{file}:2: not JSON" in error
    assert not run_folder.exists()


def test_kwargs_without_instructions_are_a_column_like_any_other(attempt, tmp_path: Path):
    """And neither is an empty list of instructions anything to check."""
    changes = [{"kwargs": [{}]}, {"instruction_id_list": [], "kwargs": []}]
    file = rows_file(tmp_path / "data.jsonl", *changes)
    words = [
        *("method=sft", f"data.demonstrations={file}", f"evaluation.prompts={file}"),
        *("data.demonstrations_per_step=2", "data.held_out_demonstrations=0", "training.steps=1"),
    ]
    assert attempt(*words) == (0, "")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises_on_p1", "reward raises_on_p1 raised KeyError: 'no score' (tiny_functions.py:6) in "
                         "a call with 16 completions of the prompts "),
        ("one_too_few", "reward one_too_few returned 15 values for 16 completions"),
        ("nan", "reward nan returned nan for prompt "),
    ],
)  # fmt: skip
def test_a_reward_that_fails_stops_the_run(attempt, run_folder: Path, function: str, message: str):
    words = ["method=grpo", "training.steps=12", "optimizer.learning_rate=1e-6"]
    status, error = attempt(*words, f"rewards=[{{function: tiny_functions:{function}}}]")
    assert status == 1
    assert error.startswith(f"error: {message}")
    assert len(error.splitlines()) == 1
    assert not (run_folder / "policy").exists()
    assert len(rows(run_folder)) < 12


def test_a_metric_of_the_users_own_is_reported(attempt, run_folder: Path):
    words = ["evaluation.metrics=[tiny_functions:share_of_a]", "training.steps=1"]
    words += ["evaluation.best_metric=share_of_a", "training.checkpoint_every=0"]
    assert attempt(*words, "method=sft")[0] == 0
    results = json.loads((run_folder / "evaluations/step_000001/results.json").read_text())
    assert 0 < results["share_of_a"] < 1
    assert results["share_of_a_stderr"] >= 0
    definitions = json.loads((run_folder / "definitions.json").read_text())
    assert definitions["share_of_a"] == "Share of letters that are an a."
    best = json.loads((run_folder / "checkpoints" / "best.json").read_text())
    assert best == {"step": 1, "metric": "share_of_a", "value": results["share_of_a"]}


@pytest.mark.parametrize("method", ["sft", "uniapl"])
def test_a_policy_that_diverges_stops_the_run(attempt, run_folder: Path, method: str):
    status, error = attempt(f"method={method}", "optimizer.learning_rate=1e30")
    assert status == 1
    assert len(error.splitlines()) == 1
    assert "finite" in error or "is nan" in error or "is inf" in error
    assert "optimizer.learning_rate" in error
    assert len(rows(run_folder)) == 1
    assert not (run_folder / "policy").exists()


def test_a_poisoned_weight_keeps_the_last_good_checkpoint(attempt, run_folder: Path, monkeypatch):
    original = torch.optim.AdamW.step
    calls = 0

    def poison(self: torch.optim.AdamW, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        original(self, *arguments)
        if calls == 3:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(torch.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", poison)
    status, error = attempt("method=sft")
    assert status == 1
    assert "the policy's loss is nan" in error
    assert checkpoint_steps(run_folder / "checkpoints") == [2]
    assert [row["step"] for row in rows(run_folder)] == [1, 2, 3]
    good = AutoModelForCausalLM.from_pretrained(run_folder / "checkpoints/step_000002/policy")
    assert all(torch.isfinite(value).all() for value in good.state_dict().values())
    monkeypatch.undo()
    assert attempt("method=sft", "training.resume=auto")[0] == 0


def test_a_full_disk_keeps_the_earlier_checkpoint(attempt, run_folder: Path, monkeypatch):
    save = torch.save
    calls = 0

    def full(state: Any, stream: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, stream)

    monkeypatch.setattr(torch, "save", full)
    status, error = attempt("method=sft")
    target = run_folder / "checkpoints" / "step_000004"
    assert (status, error) == (1, f"error: cannot write {target}: No space left on device\n")
    assert load_state(run_folder / "checkpoints" / "step_000002")["step"] == 2
    assert list(run_folder.rglob(".*.writing")) == []
    assert attempt("method=sft", "training.resume=auto") == (0, "")


def test_the_disks_reason_is_told_through_torchs_real_writer(attempt, run_folder: Path):
    """A limit on the size of files stands in for the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        status, error = attempt("method=sft")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    target = run_folder / "checkpoints" / "step_000002"
    assert (status, error) == (1, f"error: cannot write {target}: File too large\n")
    assert list((run_folder / "checkpoints").iterdir()) == []


def test_a_run_is_not_overwritten(attempt, run_folder: Path):
    assert attempt("method=sft", "training.steps=1")[0] == 0
    before = {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()}
    status, error = attempt("method=sft", "training.steps=1", "seed=1")
    assert status == 2
    assert f"{run_folder} holds a run already" in error
    status, error = attempt("method=sft", "training.steps=1", "seed=1", "training.resume=auto")
    assert status == 2
    assert error.endswith("holds a run with other settings: seed was 0, is 1\n")
    assert {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()} == before


def test_debug_shows_the_traceback(tiny: Tiny, run_folder: Path, capsys, monkeypatch):
    words = ["train", str(tiny.config), f"output_dir={run_folder}", "model.path=/no/model"]
    assert main([*words, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
