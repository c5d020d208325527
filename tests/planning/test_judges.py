"""What the model of `discriminator.path` takes, by its size; a server takes nothing here."""

from pathlib import Path

import pytest
from tiny import save_tiny_reward_model, tiny_model, tiny_tokenizer
from tiny_runs import Tiny, tiny

from uniapl.errors import InputError
from uniapl.planning.plan import RunPlan, plan_run
from uniapl.planning.text import plan_lines

__all__ = ["tiny"]

WIDE = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(scope="module")
def plain(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Without keys of forms that learn."""
    text = tiny.config.read_text().replace(
        "discriminator: {warmup_steps: 1, learning_rate: 3e-3}\n", ""
    )
    config = tmp_path_factory.mktemp("plan") / "plain.yaml"
    config.write_text(text)
    return Tiny(tiny.model, tiny.task, config)


def plan(tiny_: Tiny, *words: str) -> RunPlan:
    return plan_run(tiny_.load(Path("unused"), *words))


def test_a_local_expert_is_a_frozen_role(plain: Tiny, tmp_path: Path) -> None:
    model = tiny_model(**WIDE)
    model.save_pretrained(tmp_path / "expert")
    tiny_tokenizer().save_pretrained(tmp_path / "expert")
    words = ("discriminator.form=expert", f"discriminator.path={tmp_path / 'expert'}")
    made = plan(plain, *words)
    role = made.roles["discriminator"]
    assert (role.weights, role.trained) == (4 * model.num_parameters(), 0)
    # 16 rollouts of 12 tokens, and each prompt once
    assert made.tokens.judged > 16 * 12
    assert "judge" in made.phases
    assert made.phases["judge"].parts["gradients"] == 0
    assert made.results == made.num_weights * 4
    hinted = plan(plain, *words, "discriminator.hint=true")
    # demonstration prompts alone: half of the rollouts
    assert 8 * 12 < hinted.tokens.judged < made.tokens.judged
    assert plan_lines(made)


def test_a_larger_judge_that_learns(plain: Tiny, tmp_path: Path) -> None:
    model = tiny_model(**WIDE)
    model.save_pretrained(tmp_path / "judge")
    tiny_tokenizer().save_pretrained(tmp_path / "judge")
    made = plan(plain, f"discriminator.path={tmp_path / 'judge'}")
    role = made.roles["discriminator"]
    assert (role.weights, role.trained) == (4 * model.num_parameters(),) * 2
    assert made.results == 4 * (made.num_weights + model.num_parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_a_scorer(plain: Tiny, tmp_path: Path, frozen: bool) -> None:
    path = save_tiny_reward_model(tmp_path / "scorer", **WIDE)
    words = ("discriminator.form=reference", f"discriminator.path={path}")
    made = plan(plain, *words, f"discriminator.frozen={str(frozen).lower()}")
    count = tiny_model(**WIDE).num_parameters() + 64
    role = made.roles["discriminator"]
    assert (role.weights, role.trained) == (4 * count, 0 if frozen else 4 * count)
    # two demonstration prompts with four rollouts each; a text holds the prompt twice and two completions
    per_text = made.tokens.judged / 8
    assert 12 + 2 * len("d0 Write") + len("a b c") < per_text < 80
    assert made.phases["judge"].parts["gradients"] == role.trained
    assert made.phases["judge"].parts["activations"] > 0
    assert made.results == 4 * (made.num_weights + (0 if frozen else count))
    assert plan_lines(made)


@pytest.mark.parametrize("form", ["expert", "reference"])
def test_servers_take_nothing_here(plain: Tiny, form: str) -> None:
    made = plan(plain, f"discriminator.form={form}", "discriminator.servers=[http://127.0.0.1:1]")
    assert "discriminator" not in made.roles
    assert "judge" not in made.phases
    assert made.tokens.judged == 0


def test_a_model_that_is_not_there(plain: Tiny) -> None:
    with pytest.raises(InputError, match=r"discriminator\.path: cannot load 'nowhere'"):
        plan(plain, "discriminator.form=expert", "discriminator.path=nowhere")
