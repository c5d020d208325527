import re
from pathlib import Path

import pytest

from uniapl.config import Config, load_config, overridden_keys
from uniapl.config.keys import all_keys
from uniapl.config.problems import _GONE
from uniapl.config.recipe import Recipe
from uniapl.errors import InputError

BASE = {
    "output_dir": "o",
    "model": {"path": "m"},
    "data": {"demonstrations": "d", "prompts": "p"},
    "training": {"steps": 4},
}


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            "data.prompts_per_step=4",
            "data.demonstration_prompts_per_step: must be at most data.prompts_per_step (4) for method uniapl, got 8",
        ),
        (
            "data.demonstrations_per_step=7",
            "data.demonstration_prompts_per_step: must be at most data.demonstrations_per_step (7) for method "
            "uniapl, got 8",
        ),
        (
            "data.prompts=null method=mix",
            "data.prompts: required by method mix, which rolls out preference prompts",
        ),
        (
            "rollout.updates_per_rollout=2 training.steps=5",
            "training.steps: must be a multiple of rollout.updates_per_rollout (2), got 5",
        ),
        (
            "rollout.updates_per_rollout=2 training.checkpoint_every=3",
            "training.checkpoint_every: must be a multiple of rollout.updates_per_rollout (2), got 3",
        ),
        (
            "rollout.updates_per_rollout=2 training.evaluate_every=1 evaluation.prompts=e",
            "training.evaluate_every: must be a multiple of rollout.updates_per_rollout (2), got 1",
        ),
        (
            "training.sharding=full model.tuning=lora",
            "model.tuning: must be full with training.sharding full, got lora; an adapter needs little memory: leave "
            "training.sharding out",
        ),
        (
            "training.sharding=full discriminator.backbone=lora",
            "discriminator.backbone: must be copy with training.sharding full, got lora",
        ),
        (
            "training.sharding=full training.gradients_every=5",
            "training.gradients_every: must be 0 with training.sharding full: a term's own gradient is never whole "
            "there",
        ),
        (
            "training.evaluate_every=1",
            "training.evaluate_every: needs evaluation.prompts, which is null",
        ),
        (
            "constraint.target=0.6 data.held_out_demonstrations=0",
            "data.held_out_demonstrations: constraint.target is measured on them; must not be 0",
        ),
        (
            "constraint.target=0.6 data.held_out_demonstrations=4",
            "data.held_out_demonstrations: must be 0 or at least constraint.prompts_per_step (8), got 4",
        ),
        (
            "data.held_out_demonstrations=4",  # the margin is measured on them too
            "data.held_out_demonstrations: must be 0 or at least constraint.prompts_per_step (8), got 4",
        ),
        (
            "constraint.target=0.5 discriminator.form=scalar",
            "constraint.target: with discriminator.form scalar it is a pair accuracy between 0.5 and 1, got 0.5",
        ),
        (
            "constraint.target=0.6 objective.adversarial_weight=2",
            "objective.adversarial_weight: must be from 0.01 to 1.0 where constraint.target is set, got 2.0",
        ),
        (
            "constraint.target=0.6 objective.adversarial_weight=[[0,1]]",
            "objective.adversarial_weight: must be one number where constraint.target is set "
            "(the controller moves it), got a schedule",
        ),
        *(
            (
                f"objective.policy_gradient={name}",
                f"objective.policy_gradient: {name} equals ppo where rollout.updates_per_rollout is 1; raise "
                "that, or leave it out",
            )
            for name in ("gspo", "cispo")
        ),
        (
            "rollout.overlong_buffer_tokens=300",
            "rollout.overlong_buffer_tokens: must be at most rollout.max_completion_tokens (256), got 300",
        ),
        (
            "objective.kl_coef=[[0.5,1],[0.2,0]]",
            "objective.kl_coef: the fractions of its points must ascend, got [0.5, 0.2]",
        ),
        ("rollout.importance_cap=0.5", "rollout.importance_cap: must be at least 1, got 0.5"),
        (
            "rollout.engine=vllm",
            "rollout.servers: required by rollout.engine vllm, such as [http://127.0.0.1:8000]",
        ),
        (
            "rollout.engine=vllm rollout.servers=[localhost:8000]",
            "rollout.servers must be like http://127.0.0.1:8000, got localhost:8000",
        ),
        (
            "rollout.engine=vllm rollout.servers=[http://me:key@h:8000]",
            "rollout.servers: a key belongs into VLLM_API_KEY, not into the URL",
        ),
        (
            "rollout.engine=vllm rollout.servers=[http://h/v1]",
            "rollout.servers: must be the root of a server, without /v1, got http://h/v1",
        ),
        (
            "rollout.engine=vllm rollout.servers=[http://h,http://h/]",
            "rollout.servers: must not name a server twice",
        ),
        (
            "rollout.engine=vllm rollout.servers=[http://h] rollout.ahead=1 rollout.importance_cap=null",
            "rollout.importance_cap: rollout.ahead samples by older weights, which importance weights make up "
            "for; must not be null",
        ),
        (
            "rollout.engine=vllm rollout.servers=[http://h] rollout.cache=static",
            "rollout.cache: has no effect with rollout.engine vllm; remove it",
        ),
        *(
            (
                f"rollout.{word}",
                f"rollout.{key}: has no effect with rollout.engine transformers; remove it",
            )
            for key, word in (
                ("servers", "servers=[http://h]"),
                ("ahead", "ahead=1"),
                ("timeout_seconds", "timeout_seconds=3"),
            )
        ),
        (
            "rewards=[{function:\u00a0a:f},{function:\u00a0b:f}]",
            "rewards.1.name: f is already the name of rewards.0.name",
        ),
        (
            "evaluation.metrics=[a:f,b:f]",
            "evaluation.metrics.1: f is already the name of evaluation.metrics.0",
        ),
        (
            "training.trackers=[wandb,tensorboard,wandb]",
            "training.trackers.2: wandb is already the name of training.trackers.0",
        ),
        (
            "evaluation.best_metric=joint",
            "evaluation.best_metric: must be one of prompt_level_strict_acc, inst_level_strict_acc, "
            "prompt_level_loose_acc, inst_level_loose_acc (evaluation.metrics adds to them), got 'joint'",
        ),
        (
            "rewards=[{function:\u00a0a:f,all_or_nothing:\u00a00}]",
            "rewards.0.all_or_nothing: has no effect with rewards.0.function a:f: "
            "only `instructions` counts instructions; remove it",
        ),
        (
            "rewards=[{function:\u00a0a:f,path:\u00a0m}]",
            "rewards.0.path: has no effect with rewards.0.function a:f: only `model` loads one; "
            "remove it",
        ),
        ("rewards=[{function:\u00a0model}]", "rewards.0.path: required by function `model`"),
        ("rewards=[{function:\u00a0model,path:\u00a0''}]", "rewards.0.path: must not be empty"),
        (
            "data.pairs=p method=mix",
            "data.pairs: nothing learns from them; set objective.pair_weight above 0, or discriminator.form to "
            "scalar in a method with an adversarial term, or remove them",
        ),
        (
            "objective.pair_weight=1",
            "objective.pair_weight: needs data.pairs, which is null",
        ),
        ("objective.chord_mu=1.5 method=chord", "objective.chord_mu: must be at most 1, got 1.5"),
        (
            "discriminator.form=expert",
            "discriminator.path: form expert needs the expert's model, or discriminator.servers, or "
            "discriminator.hint=true, with which the policy before training is the expert",
        ),
        (
            "discriminator.form=reference",
            "discriminator.path: form reference needs a scorer's model, or discriminator.servers",
        ),
        (
            "discriminator.form=expert discriminator.servers=[localhost]",
            "discriminator.servers must be like http://127.0.0.1:8000, got localhost",
        ),
        (
            "discriminator.form=expert discriminator.servers=[http://localhost] rollout.temperature=0.5",
            "rollout.temperature: must be 1 with discriminator.servers, whose log-probs are those at "
            "temperature 1, got 0.5",
        ),
        (
            "discriminator.form=reference discriminator.servers=[http://localhost] discriminator.frozen=false",
            "discriminator.frozen: a scorer behind discriminator.servers cannot learn; remove it",
        ),
        (
            "discriminator.form=expert discriminator.hint=true discriminator.hint_template=so",
            "discriminator.hint_template: must contain {prompt}, {completion}",
        ),
        (
            "discriminator.form=reference discriminator.path=p discriminator.pair_template=so",
            "discriminator.pair_template: must be plain or polar, or contain {prompt}, {reference}, {candidate}",
        ),
        (
            "discriminator.form=expert discriminator.path=p discriminator.hint_template=a{prompt}{completion}",
            "discriminator.hint_template: has no effect without discriminator.hint; remove it",
        ),
    ],
)
def test_keys_that_disagree(minimal: Path, overrides: str, line: str):
    # A no-break space stands for the space inside a word.
    words = [word.replace("\u00a0", " ") for word in overrides.split(" ")]
    with pytest.raises(InputError) as caught:
        load_config(minimal, words)
    assert str(caught.value).splitlines()[1:] == ["  " + line]


@pytest.mark.parametrize(
    "overrides",
    [
        "data.prompts=null method=sft",
        "data.prompts=null method=gad",
        "data.pairs=p method=gad",  # which is `scalar` by itself
        "data.pairs=p discriminator.form=scalar",
        "data.prompts=null method=a-sft",
        "data.prompts_per_step=4 method=grpo",  # it rolls out no demonstration prompts
        "rollout.updates_per_rollout=2 training.checkpoint_every=0",
        "constraint.target=0.6 data.held_out_demonstrations=8",
        "constraint.target=0.6",  # a twentieth is held out by itself
        "constraint.target=3 data.held_out_demonstrations=8",  # nats
        "constraint.target=0.6 discriminator.form=scalar",
        "data.held_out_demonstrations=0",
        "objective.policy_gradient=gspo rollout.updates_per_rollout=2",
        "rollout.overlong_buffer_tokens=256",
        "constraint.target=0.6 method=mix",  # no discriminator, no constraint
        "objective.kl_coef=[[0,1],[0.5,1],[0.5,0]]",  # a jump
        "discriminator.credit_clamp=2",
        "evaluation.metrics=[a.b:joint] evaluation.best_metric=joint",
    ],
)
def test_keys_that_agree(minimal: Path, overrides: str):
    load_config(minimal, ["training.checkpoint_every=4", *overrides.split(" ")])


def test_the_same_checks_hold_for_configs_made_in_python():
    Config.model_validate(BASE)
    with pytest.raises(ValueError, match=r"data\.demonstration_prompts_per_step"):
        Config.model_validate({**BASE, "data": {**BASE["data"], "prompts_per_step": 2}})  # pyright: ignore


GONE = (
    "discriminator.credit discriminator.demonstrations_per_step discriminator.label_smoothing "
    "discriminator.likelihood_weight discriminator.logit_penalty discriminator.logit_scale "
    "discriminator.max_grad_norm discriminator.old_logprobs discriminator.pairs_per_prompt discriminator.ramp_steps "
    "discriminator.replay_rollouts discriminator.std_floor constraint.maximum constraint.minimum constraint.smoothing "
    "data.pairs_per_step "
    "evaluation.before optimizer.beta1 optimizer.beta2 optimizer.final_fraction training.logit_chunk_tokens"
).split()


@pytest.mark.parametrize("key", GONE)
@pytest.mark.parametrize("value", ["0.5", "null", "auto"])
def test_a_key_of_an_earlier_version_says_what_to_do(minimal: Path, key: str, value: str):
    """In one line, whatever its value, in a file as on the command line."""
    with pytest.raises(InputError) as caught:
        load_config(minimal, [f"{key}={value}"])
    (line,) = str(caught.value).splitlines()[1:]
    assert line.startswith(f"  {key}: is no longer a key: ")
    assert re.search(r"remove it$|is now optimizer\.max_grad_norm", line)


def test_all_keys_that_are_gone_are_tried_here_and_none_is_a_key():
    assert set(GONE) == set(_GONE)
    assert not set(GONE) & {key.path for key in all_keys()}


@pytest.mark.parametrize(
    ("words", "form", "key"),
    [
        ("discriminator.form=scalar discriminator.credit_clamp=3", "scalar", "credit_clamp"),
        ("method=gad discriminator.credit_clamp=3", "scalar", "credit_clamp"),
        (
            "discriminator.form=expert discriminator.path=p discriminator.backbone=lora",
            "expert",
            "backbone",
        ),
        (
            "discriminator.form=expert discriminator.path=p discriminator.warmup_steps=9",
            "expert",
            "warmup_steps",
        ),
        (
            "discriminator.form=reference discriminator.path=p discriminator.learning_rate=1",
            "reference",
            "learning_rate",
        ),
    ],
)
def test_what_a_form_has_no_use_for_may_stand_in_a_file_that_others_share(
    minimal: Path, words: str, form: str, key: str
):
    """On the command line it is asked for, and refused."""
    loaded = load_config(minimal, words.split())
    assert Recipe.of(loaded).config.discriminator.form == form
    with pytest.raises(InputError) as error:
        Recipe.of(loaded, overridden_keys(words.split()))
    said = f"discriminator.form {form} has no use for it; remove discriminator.{key}"
    assert str(error.value).endswith(said)


MORE = {
    *(
        f"discriminator.{key}"
        for key in ("path", "servers", "hint", "hint_template", "pair_template", "frozen")
    ),
    *(f"objective.{key}" for key in ("sft_token_weight", "chord_mu", "pair_weight", "pair_beta")),
    *(
        f"rollout.{key}"
        for key in ("expert_in_group", "engine", "servers", "ahead", "timeout_seconds")
    ),
    *(f"training.{key}" for key in ("sharding", "keep_optimizer")),
}
"""What the forms of discriminators, pairs, CHORD and many devices brought."""


def test_there_are_at_most_eighty_keys_beside_those():
    """One more needs a reason, and another one's place."""
    keys = [key.path for key in all_keys() if key.section is None and key.path not in MORE]
    assert len(keys) <= 80
