"""A run in which a term of its method never acts says so; a run in which all act says nothing."""

from pathlib import Path

import pytest

from uniapl.config import load_config
from uniapl.config.methods import METHODS
from uniapl.config.recipe import Recipe


def idle(config: Path, *words: str) -> list[str]:
    return Recipe.of(load_config(config, words)).idle_terms()


WARM = "λ (objective.adversarial_weight) is 0 in {}: discriminator.warmup_steps is 10, and λ acts after it; {}"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["method=uniapl"],
            [WARM.format("every one of the 4 steps", "the run trains as mix-both does")],
        ),
        (["method=a-sft"], [WARM.format("every one of the 4 steps", "the run trains as sft does")]),
        (["method=a-grpo"], [WARM.format("every one of the 4 steps", "the run trains as grpo does")]),
        (["method=gad"], [WARM.format("every one of the 4 steps", "the run trains as sft does")]),
        (
            ["method=uniapl", "training.steps=1"],
            [WARM.format("the run's only step", "the run trains as mix-both does")],
        ),
        (
            ["method=uniapl", "training.steps=10"],
            [WARM.format("every one of the 10 steps", "the run trains as mix-both does")],
        ),
        (
            ["method=sft-grpo", "training.steps=1"],
            ["objective.grpo_weight is 0 in the run's only step; the run trains as sft does"],
        ),
        (
            ["method=uniapl", "training.steps=20", "objective.adversarial_weight=[[0.96, 0], [1, 1]]"],
            [
                "λ (objective.adversarial_weight) is 0 in every one of the 20 steps; "
                "the run trains as mix-both does"
            ],
        ),
        (
            ["method=mix", "objective.sft_weight=[[0, 0], [1, 1]]", "training.steps=1"],
            ["objective.sft_weight is 0 in the run's only step; the run trains as grpo does"],
        ),
        (
            ["method=uniapl", "training.steps=20", "objective.sft_weight=0"],
            [
                "objective.sft_weight is 0 in every one of the 20 steps; "
                "the run trains as a-grpo does"
            ],
        ),
    ],
)  # fmt: skip
def test_what_never_acts_is_named(minimal: Path, words: list[str], lines: list[str]):
    assert idle(minimal, *words) == lines


@pytest.mark.parametrize("method", METHODS)
def test_a_run_whose_terms_all_act_says_nothing(minimal: Path, method: str):
    # alone with SFT, a likelihood discriminator at the policy's rate would learn nothing else than the policy
    words = ["discriminator.learning_rate=1e-2"] if method == "a-sft" else []
    assert idle(minimal, f"method={method}", "training.steps=11", *words) == []


def test_a_discriminator_that_is_the_policys_twin_is_named(minimal: Path):
    words = ["method=a-sft", "training.steps=11"]
    (line,) = idle(minimal, *words)
    assert line.startswith(
        "the discriminator starts as the policy and learns the same demonstrations"
    )
    assert idle(minimal, *words, "objective.kl_coef=0.1") == []
    assert idle(minimal, *words, "discriminator.form=scalar") == []
    assert idle(minimal, *words, "discriminator.path=p") == []


def test_no_warm_up_and_a_controlled_weight_are_no_silence(minimal: Path):
    assert idle(minimal, "method=gad", "discriminator.warmup_steps=0") == []
    assert idle(minimal, "constraint.target=0.1", "training.steps=11") == []
    (line,) = idle(minimal, "constraint.target=0.1", "training.steps=10")
    assert "warmup_steps is 10" in line
