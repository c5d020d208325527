"""`uniapl.train` and `uniapl.Run` as a Python program meets them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Tiny, assert_same_run, rows

import uniapl
from uniapl import InputError, NamedReward
from uniapl.config import load_config
from uniapl.errors import Stopped, TrainingError
from uniapl.runs.checkpoint import checkpoint_steps
from uniapl.training.step import StepResult

SFT = ("method=sft", "training.steps=2")


def commas(completions: list[str], **_: Any) -> list[float]:
    return [-float(text.count(",")) for text in completions]


def words(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text.split())) for text in completions]


@pytest.fixture
def run_of(tiny: Tiny, run_folder: Path) -> Callable[..., uniapl.Run]:
    def train(*overrides: str, **named: Any) -> uniapl.Run:
        return uniapl.train(tiny.config, [f"output_dir={run_folder}", *overrides], **named)

    return train


def test_a_run_gives_its_folder_results_metrics_and_policy(tiny: Tiny, run_of, run_folder: Path):
    run = run_of(*SFT)
    assert run.folder == run_folder
    assert str(run) == os.fspath(run) == str(Path(run)) == str(run_folder)
    assert run / "policy" == run.policy == run_folder / "policy"
    assert run.metrics == rows(run_folder)
    assert run.results["step"] == 2
    assert run.results["n"] == 6
    assert repr(run) == f"Run('{run_folder}', step 2, finished)"
    again = uniapl.Run(str(run_folder))
    assert (again.results, again.metrics) == (run.results, run.metrics)
    with pytest.raises(InputError, match="is no run folder"):
        uniapl.Run(tiny.model)


def test_the_last_evaluation_is_that_of_the_highest_step(run_of, run_folder: Path):
    run = run_of(*SFT, "evaluation.prompts=null")
    assert run.results == {}
    for step in (999_999, 1_000_000):
        folder = run_folder / "evaluations" / f"step_{step:06d}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(f'{{"step": {step}}}')
    assert run.results == {"step": 1_000_000}


def test_a_path_a_dictionary_and_a_config_train_the_same(tiny: Tiny, tmp_path: Path):
    config = load_config(tiny.config, SFT)
    sections = config.model_dump(exclude_unset=True) | {"output_dir": tmp_path / "dictionary"}
    sections["model"] = {"path": tiny.model}
    one = uniapl.train(str(tiny.config), [*SFT, f"output_dir={tmp_path / 'file'}"])
    two = uniapl.train(sections)
    three = uniapl.train(config, [f"output_dir={tmp_path / 'config'}"])
    assert_same_run(two.folder, one.folder)
    assert_same_run(three.folder, one.folder)


def test_an_override_that_the_method_ignores_is_an_error(run_of, run_folder: Path):
    with pytest.raises(InputError, match=r"has no rollout; remove rollout\.group_size"):
        run_of(*SFT, "rollout.group_size=2")
    with pytest.raises(InputError, match="method sft: has no rewards; remove rewards"):
        run_of(*SFT, rewards=[commas])
    with pytest.raises(InputError, match="overrides: must be a list of key=value words"):
        uniapl.train("miniature", "seed=1")
    assert not run_folder.exists()


def test_live_functions_take_the_place_of_the_rewards(run_of, run_folder: Path):
    told: list[int] = []

    def counted(completions: list[str], **_: Any) -> list[float]:
        told.append(len(completions))
        return [1.0] * len(completions)

    short = NamedReward(words, "short", weight=-0.5, timeout_seconds=9)
    run = run_of(
        "method=mix",
        "training.steps=2",
        rewards=[commas, counted, lambda completions, **_: [0.25] * len(completions), short],
    )
    assert told == [16, 16]  # prompts and group size
    row = run.metrics[0]
    assert {name for name in row if name.startswith("reward/")} == {
        "reward/mean",
        "reward/std",
        *(f"reward/{name}" for name in ("commas", "counted", "lambda", "short")),
    }
    total = row["reward/commas"] + 1 + 0.25 - 0.5 * row["reward/short"]
    assert row["reward/mean"] == pytest.approx(total)
    saved = load_config(run_folder / "config.yaml").rewards
    functions = [reward.function.rpartition(":")[2] for reward in saved]
    assert functions == ["commas", "counted", "lambda", "words"]
    assert (saved[3].name, saved[3].weight, saved[3].timeout_seconds) == ("short", -0.5, 9.0)


def test_a_resumed_run_knows_its_live_rewards_by_name_and_weight(run_of):
    mix = ("method=mix", "evaluation.prompts=null")
    run_of(*mix, "training.steps=1", rewards=["instructions", commas])
    more = (*mix, "training.steps=2", "training.resume=auto")
    with pytest.raises(InputError, match=r"rewards was .*commas.*, is .*words"):
        run_of(*more, rewards=["instructions", words])
    assert len(run_of(*more, rewards=["instructions", commas]).metrics) == 2


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([], "rewards: required by method mix, got none"),
        ([commas, commas], "rewards.1.name: commas is already the name of rewards.0.name"),
        ([0.5], "rewards.0: must be a function, got float"),
        (["model"], "rewards.0: a reward model needs a path; name it in the config's rewards"),
        (["json:lods"], "json:lods: json has no function lods"),
        ([NamedReward(commas, "c", weight=float("nan"))], "rewards.0.weight: must be"),
    ],
)
def test_what_is_no_reward_is_one_line(run_of, run_folder: Path, rewards: list, message: str):
    with pytest.raises(InputError) as caught:
        run_of("method=mix", rewards=rewards)
    assert message in str(caught.value)
    assert not run_folder.exists()


def test_on_step_sees_every_step_and_can_stop_the_run(tiny: Tiny, run_of, run_folder: Path, capsys):
    seen: list[StepResult] = []

    def watch(done: StepResult) -> bool:
        seen.append(done)
        return done.step < 3

    steps = ("method=mix", "training.steps=6", "training.checkpoint_every=0")
    run = run_of(*steps, on_step=watch)
    assert [done.step for done in seen] == [1, 2, 3]
    assert [done.metrics["reward/mean"] for done in seen] == [r["reward/mean"] for r in run.metrics]
    assert seen[0].rollouts is not None
    assert len(seen[0].rollouts.rollouts) == 16
    assert not run.is_finished
    assert checkpoint_steps(run_folder / "checkpoints") == [3]
    assert run.policy == run_folder / "checkpoints" / "step_000003" / "policy"
    assert repr(run) == f"Run('{run_folder}', step 3, not finished)"
    assert "saved step 3; go on with training.resume=auto" in capsys.readouterr().err

    run_of(*steps, "training.resume=auto", on_step=lambda done: None)  # only False stops
    straight = tiny.train(run_folder.with_name("straight"), *steps)
    assert_same_run(run_folder, straight)


def test_a_batch_is_used_up_before_the_run_stops(run_of):
    run = run_of(
        "training.steps=6", "rollout.updates_per_rollout=2", on_step=lambda done: done.step != 3
    )
    assert len(run.metrics) == 4


def test_what_on_step_raises_comes_through(run_of, run_folder: Path):
    def fail(done: StepResult) -> None:
        if done.step == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_of("method=sft", "training.steps=4", on_step=fail)
    assert checkpoint_steps(run_folder / "checkpoints") == [2]


def test_a_run_and_a_model_are_evaluated(tiny: Tiny, run_of, run_folder: Path, tmp_path: Path):
    run = run_of(*SFT, "evaluation.prompts=null")
    decoding = uniapl.Decoding(max_completion_tokens=12)
    one = uniapl.evaluate(run, tiny.task["test"], benchmark="custom", decoding=decoding)
    assert one.folder == run_folder / "evaluations" / "custom"
    assert one.results["n"] == 12
    two = uniapl.evaluate(
        run.policy, tiny.task["test"], benchmark="custom", decoding=decoding, output=tmp_path / "e"
    )
    assert two.results["prompt_level_strict_acc"] == one.results["prompt_level_strict_acc"]


@pytest.mark.parametrize(
    "error", [InputError("a: b\n  c"), TrainingError("a: b\n  c"), Stopped(15)]
)
def test_a_notebook_shows_one_line_and_a_debugger_all(error: Any, monkeypatch: pytest.MonkeyPatch):
    """IPython calls this method of an exception, if it has one, in place of its own traceback."""
    try:
        raise error
    except BaseException as caught:
        shown = caught._render_traceback_()
        monkeypatch.setenv("UNIAPL_DEBUG", "1")
        debugged = caught._render_traceback_()
    text = "stopped by SIGTERM" if isinstance(error, Stopped) else "a: b\n  c"
    assert "\n".join(shown) == f"{type(error).__name__}: {text}"
    assert debugged[0].startswith("Traceback")
