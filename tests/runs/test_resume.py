"""A run that was killed and goes on is the run that was never stopped, bit for bit."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import write_pairs
from tiny_runs import Tiny, assert_same_run, contents, repeatable, rows

from uniapl.errors import InputError
from uniapl.health import BANDS, Band
from uniapl.runs import instruction_watch
from uniapl.runs.checkpoint import checkpoint_steps, load_state

DRIVER = Path(__file__).parent / "kill_driver.py"
EVALUATED = "training.evaluate_every=2"
KILLED = -9

# Method and settings → moments at which an attempt ends; each next attempt goes on from there.
SCENARIOS = {
    "uniapl": (
        ["training.steps=6", EVALUATED],
        [
            ["during_evaluation", 1],  # before the first step
            ["torn_row", 2],
            ["during_step", 5],  # two optimisers per step: in the third, after checkpoint 2
            ["during_checkpoint", 1],
            ["during_evaluation", 1],
            ["after_row", 2],  # all rows of a checkpoint that is not there
            ["after_rename", 1],
            ["after_row", 1],
        ],
    ),
    "bfloat16": (["model.dtype=bfloat16"], [["after_row", 3]]),
    "gad": (["method=gad", "data.pairs=PAIRS"], [["after_row", 3]]),
    "constraint": (
        [
            "constraint.target=0.6",
            "discriminator.form=scalar",
        ],
        [["during_step", 6]],
    ),
    "lora": (
        [
            "model.tuning=lora",
            "discriminator.backbone=lora",
            "objective.kl_coef=0.1",
            "training.gradient_checkpointing=true",
            EVALUATED,
        ],
        [["during_step", 5], ["during_checkpoint", 1]],
    ),
    "updates-per-rollout": (
        [
            "rollout.updates_per_rollout=3",
            "data.prompts_per_step=3",
            "data.demonstration_prompts_per_step=1",
            "data.demonstrations_per_step=3",
            "training.steps=9",
            "training.checkpoint_every=3",
            "objective.kl_coef=0.1",
            "objective.policy_gradient=gspo",
            "constraint.target=0.05",
        ],
        [["during_checkpoint", 2], ["during_step", 3]],
    ),
}


@pytest.fixture(scope="module")
def runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory):
    """Per scenario a straight run and a killed one, and how the attempts of the latter ended."""
    folder = tmp_path_factory.mktemp("resume")
    pairs = write_pairs(folder / "pairs.jsonl")
    plan = []
    for name, (words, kills) in SCENARIOS.items():
        words = [word.replace("PAIRS", str(pairs)) for word in words]
        for kind, moments in (("straight", []), ("killed", kills)):
            output = f"output_dir={folder / name / kind}"
            plan.append({"config": str(tiny.config), "words": [output, *words], "kills": moments})
    (folder / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder / "plan.json")],
        capture_output=True,
        text=True,
        timeout=1200,  # a busy machine is no failure
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    attempts = json.loads(done.stdout)
    assert all(attempt[-1][0] == 0 for attempt in attempts), done.stderr
    return {
        name: (folder / name / "straight", folder / name / "killed", attempts[2 * i + 1])
        for i, name in enumerate(SCENARIOS)
    }


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_killed_run_goes_on_to_the_same_end(runs, name: str):
    straight, killed, attempts = runs[name]
    assert [status for status, _ in attempts] == [KILLED] * len(SCENARIOS[name][1]) + [0]
    assert_same_run(killed, straight)
    assert rows(straight)[-1]["step"] == len(rows(straight))


def test_the_kills_hit_where_they_should(runs):
    _, _, attempts = runs["uniapl"]
    (torn,) = attempts[3][1]
    assert re.fullmatch(r"checkpoints/\.uniapl-\w+\.writing", torn)
    assert all(left == [] for _, left in [*attempts[:3], *attempts[4:]])


def test_the_runs_exercise_what_they_are_for(runs):
    """Else equality would be cheap: λ and later updates must act in these runs."""
    constraint = repeatable(runs["constraint"][0])
    assert len({row["constraint/weight"] for row in constraint}) > 2
    updates = repeatable(runs["updates-per-rollout"][0])
    assert all(row["policy/ratio_mean"] != 1.0 for i, row in enumerate(updates) if i % 3)
    assert len({row["constraint/weight"] for row in updates}) > 2
    uniapl = repeatable(runs["uniapl"][0])
    assert all(row["reward/std"] > 0 for row in uniapl)
    assert all(row["rollout/truncated_fraction"] < 0.5 for row in uniapl)
    assert uniapl[-1]["objective/adversarial_weight"] > 0


@pytest.fixture
def finished(runs, tmp_path: Path) -> Path:
    """A copy of the straight run of six steps, evaluated at 2, 4 and 6."""
    return Path(shutil.copytree(runs["uniapl"][0], tmp_path / "run"))


def test_more_steps_go_on(tiny: Tiny, runs, tmp_path: Path):
    tiny.train(tmp_path / "run", "training.evaluate_every=2", "training.steps=4")
    tiny.train(tmp_path / "run", EVALUATED, "training.steps=6", "training.resume=auto")
    assert_same_run(tmp_path / "run", runs["uniapl"][0])


def test_warnings_go_on_as_if_the_run_had_never_stopped(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    always = Band(None, -100.0, above="say it once")
    monkeypatch.setitem(BANDS, "rollout/truncated_fraction", always)
    monkeypatch.setattr("uniapl.health.FEWEST_STEPS", 2)
    monkeypatch.setattr(instruction_watch, "CHECKED_EVERY", 1)
    words = ("evaluation.prompts=null",)
    tiny.train(tmp_path / "run", *words, "training.steps=2")
    assert capsys.readouterr().err.count("say it once") == 1
    tiny.train(tmp_path / "run", *words, "training.steps=4", "training.resume=auto")
    assert "say it once" not in capsys.readouterr().err
    tiny.train(tmp_path / "straight", *words)
    states = [
        load_state(tmp_path / name / "checkpoints" / "step_000004") for name in ("run", "straight")
    ]
    assert states[0]["health_watch"]["recent"]
    asked = sum(asked for _, asked in states[0]["instructions"]["counts"].values())
    assert asked == 4 * 4 * 4 * 2  # steps, prompts, rollouts, instructions
    for name in ("health_watch", "instructions"):
        assert states[0][name] == states[1][name]


def test_more_steps_of_a_method_whose_weights_depend_on_their_number(tiny: Tiny, tmp_path: Path):
    words = ("method=gad", "discriminator.warmup_steps=1")
    tiny.train(tmp_path / "run", *words, "training.steps=2")
    tiny.train(tmp_path / "run", *words, "training.steps=4", "training.resume=auto")
    assert [row["objective/sft_weight"] for row in rows(tmp_path / "run")] == [1, 0, 0, 0]


def test_fewer_steps_than_done_are_refused(tiny: Tiny, finished: Path):
    with pytest.raises(InputError, match=r"training\.steps 4: .*step_000006 has done 6 already"):
        tiny.train(finished, EVALUATED, "training.resume=auto", "training.steps=4")


def test_a_finished_run_is_left_as_it_is(tiny: Tiny, runs, finished: Path):
    tiny.train(finished, EVALUATED, "training.resume=auto", "training.steps=6")
    assert_same_run(finished, runs["uniapl"][0])


def test_a_finished_run_may_drop_its_optimisers(tiny: Tiny, tmp_path: Path):
    """Its checkpoints shrink, it is left as it is when started again, and further steps are refused in one line."""
    run, words = tmp_path / "run", ("evaluation.prompts=null", "training.keep_optimizer=false")
    tiny.train(run, *words)
    tiny.train(tmp_path / "whole", *words[:1])
    files = [
        tmp_path / name / "checkpoints" / "step_000004" / "state.pt" for name in ("run", "whole")
    ]
    sizes = [file.stat().st_size for file in files]
    assert sizes[0] < 0.6 * sizes[1]
    assert load_state(files[0].parent)["optimizer"] is None
    before = contents(run)
    tiny.train(run, *words, "training.resume=auto")
    assert contents(run) == before
    assert repeatable(run) == repeatable(tmp_path / "whole")
    with pytest.raises(InputError, match=r"dropped its optimiser's numbers .* model.path=RUN"):
        tiny.train(run, *words, "training.resume=auto", "training.steps=6")


def test_an_earlier_checkpoint_of_the_run(tiny: Tiny, runs, finished: Path):
    """What lies past it goes: rows, rollouts, evaluations, checkpoints, a best one to come."""
    best = json.loads((finished / "checkpoints" / "best.json").read_text())
    resume = f"training.resume={finished / 'checkpoints' / 'step_000004'}"
    stopped = {}

    def stop_at_once(*_):
        stopped["rows"] = [row["step"] for row in rows(finished)]
        stopped["checkpoints"] = checkpoint_steps(finished / "checkpoints")
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uniapl.runs.run._Run._announce", stop_at_once)
        with pytest.raises(KeyboardInterrupt):
            tiny.train(finished, EVALUATED, "training.steps=6", resume)
    assert stopped["rows"] == [1, 2, 3, 4]
    assert max(stopped["checkpoints"]) == 4
    assert not (finished / "rollouts" / "step_000005.jsonl").exists()
    assert not (finished / "evaluations" / "step_000006").exists()
    tiny.train(finished, EVALUATED, "training.steps=6", "training.resume=auto")
    assert_same_run(finished, runs["uniapl"][0])
    assert json.loads((finished / "checkpoints" / "best.json").read_text()) == best


def test_a_checkpoint_of_another_run(tiny: Tiny, runs, tmp_path: Path):
    """The same settings in a folder of its own: it takes over the rows so far."""
    straight = runs["uniapl"][0]
    resume = f"training.resume={straight / 'checkpoints' / 'step_000004'}"
    before = repeatable(straight)
    fork = tiny.train(tmp_path / "fork", EVALUATED, "training.steps=6", resume)
    assert repeatable(fork) == before
    assert repeatable(straight) == before
    weights = "policy/model.safetensors"
    assert (fork / weights).read_bytes() == (straight / weights).read_bytes()


def test_a_checkpoint_of_a_run_with_other_settings_is_refused(tiny: Tiny, runs, tmp_path: Path):
    resume = f"training.resume={runs['uniapl'][0] / 'checkpoints' / 'step_000004'}"
    message = r"training\.resume: .*straight holds a run with other settings: seed was 0, is 1$"
    with pytest.raises(InputError, match=message):
        tiny.train(tmp_path / "fork", EVALUATED, resume, "training.steps=6", "seed=1")
    assert not (tmp_path / "fork").exists()


def test_what_is_no_checkpoint_is_refused(tiny: Tiny, finished: Path, tmp_path: Path):
    (finished / "checkpoints" / "step_000004" / "COMPLETE").unlink()
    words = (EVALUATED, "training.steps=6")
    resume = f"training.resume={finished / 'checkpoints' / 'step_000004'}"
    with pytest.raises(InputError, match="step_000004 is not a complete checkpoint"):
        tiny.train(finished, *words, resume)
    with pytest.raises(InputError, match="nowhere is not a complete checkpoint"):
        tiny.train(finished, *words, f"training.resume={tmp_path / 'nowhere'}")
    lonely = shutil.copytree(finished / "checkpoints" / "step_000006", tmp_path / "a" / "lonely")
    with pytest.raises(InputError, match="lonely is not a checkpoint of a run"):
        tiny.train(finished, *words, f"training.resume={lonely}")
