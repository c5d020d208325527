"""Rewards of one's own in whole runs: what they are given, what they log, where they are found."""

import json

import pytest
import torch
from tiny import save_tiny_reward_model, tiny_reward_model, tiny_tokenizer

from uniapl.errors import InputError, TrainingError

REWARDS = '''
from helpers import count

def brevity(completions, limit, trainer_state, log_extra, log_metric):
    """Is it short?"""
    lengths = [count(text) for text in completions]
    log_extra("words", lengths)
    log_metric("words", sum(lengths) / len(lengths))
    if trainer_state.global_step:
        log_metric("late", trainer_state.global_step / trainer_state.max_steps)
    return [float(length <= limit) for length in lengths]

def words(completions, trainer_state, log_extra, log_metric):
    """How many words."""
    lengths = [float(count(text)) for text in completions]
    log_extra("epoch", [trainer_state.epoch] * len(lengths))
    log_metric("most", max(lengths))
    return lengths
'''


@pytest.fixture
def project(run):
    (run.project / "our_rewards.py").write_text(REWARDS)
    (run.project / "helpers.py").write_text("def count(text): return len(text.split())\n")
    return run.project


REWARD = {"function": "./our_rewards.py:brevity", "arguments": {"limit": 3}}


def test_functions_log_into_the_run(run, project, rows):
    evaluation = {"prompts": run.test, "limit": 4, "metrics": ["our_rewards:words"]}
    training = {"steps": 3, "rollouts_logged_per_step": 99}
    folder = run(rewards=[REWARD], evaluation=evaluation, training=training)
    metrics = rows(folder / "metrics.jsonl")
    logged = [rows(folder / f"rollouts/step_00000{step}.jsonl") for step in (1, 2, 3)]
    for row, rollouts in zip(metrics, logged, strict=True):
        lengths = [len(one["completion"].split()) for one in rollouts]
        assert [one["extra"] for one in rollouts] == [{"words": length} for length in lengths]
        assert row["reward/brevity/words"] == pytest.approx(sum(lengths) / 4)
        assert row["reward/brevity"] == pytest.approx(sum(n <= 3 for n in lengths) / 4)
    assert "reward/brevity/late" not in metrics[0]
    assert [row["reward/brevity/late"] for row in metrics[1:]] == pytest.approx([1 / 3, 2 / 3])
    definitions = json.loads((folder / "definitions.json").read_text())
    assert (
        definitions["reward/brevity/late"] == "late, as brevity logs it: the mean over its calls."
    )
    assert metrics[2].keys() - {"step"} <= definitions.keys()
    # metrics of an evaluation log alike
    results = json.loads((folder / "evaluations/step_000003/results.json").read_text())
    samples = rows(folder / "evaluations/step_000003/samples.jsonl")
    assert results["words/most"] == max(one["metrics"]["words"] for one in samples)
    assert {type(one["extra"]["epoch"]) for one in samples} == {float}
    assert results["expert"]["words/most"] >= 3.0
    assert "words/most" in definitions
    assert definitions["words"] == "How many words."


def test_a_resumed_run_writes_what_an_uninterrupted_one_does(run, project, rows):
    training = {"steps": 4, "checkpoint_every": 2}
    whole = run("whole", rewards=[REWARD], training=training)
    resumed = run(
        "resumed",
        rewards=[REWARD],
        training={**training, "resume": str(whole / "checkpoints/step_000002")},
    )
    same = [
        [
            {k: v for k, v in row.items() if k.startswith("reward/")}
            for row in rows(f / "metrics.jsonl")
        ]
        for f in (whole, resumed)
    ]
    assert same[0] == same[1]
    assert list(same[0][3]) == list(same[1][3])
    definitions = [(f / "definitions.json").read_text() for f in (whole, resumed)]
    assert definitions[0] == definitions[1]


def test_the_config_of_a_run_loads_again_from_anywhere(run, project, tmp_path, monkeypatch):
    from uniapl.config import load_config

    folder = run(rewards=[REWARD])
    monkeypatch.chdir(tmp_path)
    [reward] = load_config(folder / "config.yaml").rewards
    assert reward.function == f"{project}/our_rewards.py:brevity"
    assert reward.arguments == {"limit": 3}


def test_a_batch_that_serves_several_steps_is_scored_once(run, project, rows):
    folder = run(
        rewards=[REWARD],
        rollout={"group_size": 2, "max_completion_tokens": 12, "updates_per_rollout": 2},
        training={"checkpoint_every": 0, "rollouts_logged_per_step": 99},
    )
    first, second = rows(folder / "metrics.jsonl")
    lengths = [
        len(one["completion"].split())
        for step in (1, 2)
        for one in rows(folder / f"rollouts/step_00000{step}.jsonl")
    ]
    assert len(lengths) == 8
    assert first["reward/brevity/words"] == pytest.approx(sum(lengths) / 8)
    assert second["reward/brevity/words"] == first["reward/brevity/words"]


def test_what_a_function_does_not_take_stops_before_the_run(run, project):
    with pytest.raises(InputError) as caught:
        run(rewards=[{**REWARD, "arguments": {"limit": 3, "limits": 4}}])
    assert str(caught.value) == "reward brevity takes no argument `limits` (it takes: limit)"


@pytest.mark.parametrize("has_system_prompt", [False, True])
def test_a_reward_model_reads_what_the_policy_read(run, tmp_path, rows, has_system_prompt):
    path = save_tiny_reward_model(tmp_path / "judge", seed=1)
    folder = run(
        rewards=[{"function": "model", "path": str(path)}],
        data={"system_prompt": "Be brief." if has_system_prompt else None},
        training={"steps": 1, "rollouts_logged_per_step": 99},
    )
    tokenizer, judge = tiny_tokenizer(), tiny_reward_model(seed=1)
    system = [{"role": "system", "content": "Be brief."}] * has_system_prompt
    rollouts = rows(folder / "rollouts/step_000001.jsonl")
    assert len(rollouts) == 4
    for one in rollouts:
        user = {"role": "user", "content": one["prompt"]}
        turns = [*system, user, {"role": "assistant", "content": one["completion"]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        assert one["reward"] == pytest.approx(judge(ids).logits.item(), abs=1e-5)


def test_a_reward_model_that_cannot_read_the_system_prompt_is_refused(run, tmp_path):
    path = save_tiny_reward_model(tmp_path / "judge")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    for file in path.glob("chat_template*"):
        file.unlink()
    tokenizer.save_pretrained(path)
    with pytest.raises(InputError) as caught:
        run(
            rewards=[{"function": "model", "path": str(path)}],
            data={"system_prompt": "Be brief."},
        )
    assert str(caught.value) == (
        "rewards.0.path: the policy reads data.system_prompt, and this reward model cannot, for its "
        "tokenizer has no chat template; choose another one, or leave the system prompt out"
    )


def test_a_failing_function_ends_the_run_with_one_line(run, project):
    (project / "failing.py").write_text("def f(completions):\n    raise OSError('no judge')\n")
    with pytest.raises(TrainingError) as caught:
        run(rewards=[{"function": "failing:f"}])
    assert str(caught.value).startswith(
        "reward f raised OSError: no judge (failing.py:2) in a call with 4 completions of the prompts "
    )
