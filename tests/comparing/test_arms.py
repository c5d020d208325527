"""What the words of `uniapl compare` mean, and which comparisons are refused."""

import pytest
from tiny_runs import Tiny

from uniapl.comparing.arms import TUNING_SEED, budget, check_plan, read_plan
from uniapl.errors import InputError


def test_methods_seeds_and_grids_make_arms():
    plan = read_plan(
        "grpo,scalar=uniapl",
        ["0,1", "scalar:1,2,5"],
        [
            "grpo:objective.kl_coef=0,0.05",
            "scalar:discriminator.form=scalar",
            "scalar:objective.adversarial_weight=0.1,[[0, 0.1], [1, 0]]",
        ],
    )
    grpo, scalar = plan.arms
    assert (grpo.name, grpo.method, grpo.seeds) == ("grpo", "grpo", (0, 1))
    assert grpo.settings == (("objective.kl_coef=0",), ("objective.kl_coef=0.05",))
    assert (scalar.name, scalar.method, scalar.seeds) == ("scalar", "uniapl", (1, 2, 5))
    assert scalar.settings == (
        ("discriminator.form=scalar", "objective.adversarial_weight=0.1"),
        ("discriminator.form=scalar", "objective.adversarial_weight=[[0, 0.1], [1, 0]]"),
    )
    assert plan.baseline == "grpo"
    assert read_plan("sft,mix", ["0"], baseline="mix").baseline == "mix"


def test_without_a_grid_an_arm_has_one_setting_and_is_not_tuned():
    (arm,) = read_plan("sft", ["3"]).arms
    assert arm.settings == ((),)
    assert not arm.is_tuned


@pytest.mark.parametrize(
    ("methods", "seeds", "grids", "baseline", "message"),
    [
        ("grop", ["0"], [], None, "--methods: 'grop' is none of sft, grpo"),
        ("grpo,grpo", ["0"], [], None, "--methods: grpo is named twice"),
        ("a/b=grpo", ["0"], [], None, "--methods: 'a/b' is no name"),
        ("grpo", [], [], None, "--seeds: grpo has none"),
        ("grpo", ["0,x"], [], None, "--seeds 0,x: must be integers"),
        ("grpo", ["0,0"], [], None, "--seeds 0,0: must be different"),
        ("grpo", [f"{TUNING_SEED}"], [], None, "not 1000, which tunes"),
        ("grpo", ["mix:0"], [], None, "--seeds: 'mix' is none of the arms grpo"),
        ("grpo,mix", ["0", "mix:1"], [], None, "--seeds: mix must share a seed with the baseline"),
        ("grpo", ["0"], ["grpo"], None, "--grid grpo: must be METHOD:key=value,value"),
        ("grpo", ["0"], ["mix:a.b=1"], None, "--grid: 'mix' is none of the arms grpo"),
        ("grpo", ["0"], ["grpo:seed=1,2"], None, "seed must be the same for all arms"),
        ("grpo", ["0"], ["grpo:training.steps=9"], None, "training.steps must be the same"),
        ("grpo", ["0"], ["grpo:evaluation.limit=9"], None, "evaluation.limit must be the same"),
        (
            "grpo,mix",
            ["0"],
            ["grpo:objective.kl_coef=0,1"],
            None,
            "--grid: every arm must have as many settings to choose from (grpo 2, mix 1)",
        ),
        ("grpo", ["0"], [], "mix", "--baseline: 'mix' is none of the arms grpo"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    methods: str, seeds: list[str], grids: list[str], baseline: str | None, message: str
):
    with pytest.raises(InputError) as error:
        read_plan(methods, seeds, grids, baseline)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("grids", "words", "message"),
    [
        (["sft:optimizer.learning_rate=-1"], [], "arm sft: "),
        (["sft:optimizer.lerning_rate=1"], [], "did you mean optimizer.learning_rate?"),
        (["sft:objective.sft_weight=0.3"], [], "arm sft: method sft: fixes objective.sft_weight"),
        (["sft:optimizer.weight_decay=0,1"], [], "evaluation.validation_prompts: --grid needs it"),
        ([], ["evaluation.prompts=null"], "evaluation.prompts: compare needs it"),
    ],
)
def test_settings_are_checked_before_anything_runs(
    tiny: Tiny, tmp_path, grids: list[str], words: list[str], message: str
):
    plan = read_plan("sft", ["0"], grids)
    with pytest.raises(InputError) as error:
        check_plan(plan, tiny.config, tiny.load(tmp_path, *words))
    assert message in str(error.value)


def test_tuning_on_the_test_prompts_is_refused(tiny: Tiny, tmp_path):
    plan = read_plan("sft", ["0"], ["sft:optimizer.weight_decay=0,1"])
    config = tiny.load(tmp_path, f"evaluation.validation_prompts={tiny.task['test']}")
    with pytest.raises(InputError, match=r"must differ from evaluation\.prompts"):
        check_plan(plan, tiny.config, config)


def test_the_budget_is_what_all_arms_share(tiny: Tiny, tmp_path):
    shared = budget(tiny.load(tmp_path))
    assert shared["training.steps"] == 4
    assert shared["rollout.group_size"] == 4
