"""A reward model as a reward of a run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny_reward_model, tiny_reward_model, tiny_tokenizer
from tiny_runs import Tiny, rows

from uniapl.config.recipe import Recipe
from uniapl.errors import InputError, TrainingError
from uniapl.runs.setup import load_rewards


def words(*models: Path, method: str = "grpo") -> tuple[str, ...]:
    entries = [
        f"{{function: model, path: {model}, name: {model.name}, weight: {2 * i + 1}}}"
        for i, model in enumerate(models)
    ]
    return (
        *(f"method={method}", "training.steps=2", "evaluation.prompts=null"),
        f"rewards=[{{function: instructions}}, {', '.join(entries)}]",
    )


def test_rollouts_earn_the_models_scores(tiny: Tiny, tmp_path: Path) -> None:
    one = save_tiny_reward_model(tmp_path / "one", seed=1)
    two = save_tiny_reward_model(tmp_path / "two", seed=2)
    folder = tiny.train(tmp_path / "run", *words(one, two), "training.rollouts_logged_per_step=99")
    lines = (folder / "rollouts/step_000001.jsonl").read_text().splitlines()
    logged: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert len(logged) == 16
    tokenizer = tiny_tokenizer()
    for seed, name in ((1, "one"), (2, "two")):
        model, expected = tiny_reward_model(seed=seed), []
        for row in logged:
            turns = [{"role": "user", "content": row["prompt"]}]
            turns.append({"role": "assistant", "content": row["completion"]})
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            ids = tokenizer.encode(text, add_special_tokens=False)
            expected.append(model(torch.tensor([ids])).logits.item())
        earned = [row["reward_breakdown"][name] for row in logged]
        assert earned == pytest.approx(expected, abs=1e-5)
        assert len(set(earned)) > 4
        assert rows(folder)[0][f"reward/{name}"] == pytest.approx(sum(expected) / 16, abs=1e-5)
    for row in logged:
        parts = row["reward_breakdown"]
        total = parts["instructions"] + parts["one"] + 3 * parts["two"]
        assert row["reward"] == pytest.approx(total)


def test_a_saved_discriminator_can_be_a_reward(tiny: Tiny, tmp_path: Path) -> None:
    first = tiny.train(
        tmp_path / "first",
        "discriminator.form=scalar",
        "training.steps=2",
        "evaluation.prompts=null",
    )
    folder = tiny.train(tmp_path / "second", *words(first / "discriminator"))
    assert all(row["reward/discriminator"] is not None for row in rows(folder))


def test_a_failing_model_stops_the_run_with_the_prompt(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny_reward_model()
    torch.nn.init.constant_(model.score.weight, math.nan)
    model.save_pretrained(tmp_path / "nan")
    tiny_tokenizer().save_pretrained(tmp_path / "nan")
    with pytest.raises(TrainingError, match=r"^reward nan returned nan for prompt \d+"):
        tiny.train(tmp_path / "run", *words(tmp_path / "nan"))
    short = save_tiny_reward_model(tmp_path / "short", max_position_embeddings=20)
    message = r"^reward short raised InputError: prompt and completion have .* \(the prompt begins '[dp]\d+ Write"
    with pytest.raises(TrainingError, match=message):
        tiny.train(tmp_path / "run2", *words(short), "seed=1")


def test_what_is_no_reward_model_stops_before_the_run(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^rewards\.1\.path: .*model'.* is no reward model"):
        tiny.train(tmp_path / "run", *words(tiny.model))
    assert not (tmp_path / "run").exists()
    # a method that samples nothing does not even load it
    recipe = Recipe.of(tiny.load(tmp_path / "sft", *words(tiny.model, method="sft")))
    assert [r.name for r in load_rewards(recipe, torch.device("cpu"))] == ["instructions"]
