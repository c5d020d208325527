"""From a config to the policy's chat and to the data, where options of the data meet."""

import json
from pathlib import Path

import pytest
from tiny import TEMPLATE, tiny_model, tiny_tokenizer
from tiny_runs import Tiny

from uniapl.config import load_config
from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.errors import InputError
from uniapl.runs.setup import build_trainer, load_data, load_policy, load_rewards
from uniapl.training.step import Trainer


def conversation(answers: int) -> dict[str, object]:
    turns: list[dict[str, str]] = []
    for number in range(answers):
        turns += [
            {"role": "user", "content": f"q{number} of {answers}"},
            {"role": "assistant", "content": f"a{number}"},
        ]
    return {"messages": turns, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


@pytest.fixture
def talks(tiny: Tiny, tmp_path: Path) -> Config:
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(conversation(n)) + "\n" for n in (1, 3, 2)))
    return tiny.load(
        tmp_path / "run",
        f"data.demonstrations={file}",
        "data.held_out_demonstrations=1",
        "constraint.prompts_per_step=1",
    )


def test_all_turns_are_learned_if_asked_for_but_of_no_conversation_that_is_held_out(
    talks: Config,
) -> None:
    _, chat = load_policy(talks)
    last = load_data(Recipe.of(talks), chat)
    assert [d.completion for d in last.demonstrations] == ["a0", "a2"]
    data = talks.data.model_copy(update={"trained_turns": "all"})
    every = load_data(Recipe.of(talks.model_copy(update={"data": data})), chat)
    assert [d.completion for d in every.demonstrations] == ["a0", "a0", "a1", "a2"]
    assert [d.completion for d in every.held_out] == ["a1"]
    # what can be checked belongs to the last turn
    has_checks = ["instruction_id_list" in d.prompt.columns for d in every.demonstrations]
    assert has_checks == [True, False, False, True]


def test_template_arguments_reach_the_prompts(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if mood is defined %}{{ mood }}{% endif %}" + TEMPLATE
    tokenizer.save_pretrained(folder)
    tiny_model().save_pretrained(folder)
    given = tiny.load(
        tmp_path / "run", f"model.path={folder}", "data.template_arguments.mood=sunny"
    )
    _, chat = load_policy(given)
    assert tokenizer.decode(chat.encode_prompt("Hi")).startswith("sunny<|user|>Hi")
    wrong = tiny.load(tmp_path / "run", f"model.path={folder}", "data.template_arguments={mod: 1}")
    with pytest.raises(InputError, match=r"the chat template takes no argument 'mod'$"):
        load_policy(wrong)


def test_template_arguments_are_plain_values(tiny: Tiny) -> None:
    with pytest.raises(InputError) as caught:
        load_config(tiny.config, ["data.template_arguments={mood: [1]}"])
    (problem,) = str(caught.value).splitlines()[1:]
    assert problem.strip().startswith("data.template_arguments: must be a mapping of names to true")


def test_the_policy_says_where_other_tools_must_stop(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_tokenizer().save_pretrained(folder)
    model = tiny_model()
    model.generation_config.eos_token_id = 0  # the tokenizer's own is 4
    model.save_pretrained(folder)
    policy, chat = load_policy(tiny.load(tmp_path / "run", f"model.path={folder}"))
    assert chat.eos_token_ids == (4, 0)
    assert policy.model.generation_config.eos_token_id == [4, 0]
    policy, _ = load_policy(tiny.load(tmp_path / "run"))
    assert policy.model.generation_config.eos_token_id == 4


def build(config: Config) -> Trainer:
    recipe = Recipe.of(config)
    policy, chat = load_policy(recipe.config)
    rewards = load_rewards(recipe, policy.device)
    return build_trainer(recipe, policy, chat, load_data(recipe, chat), rewards)


@pytest.mark.parametrize("method", ["uniapl", "gad", "mix"])
def test_what_a_step_draws_is_what_the_recipe_says(method: str, tiny: Tiny, tmp_path: Path) -> None:
    trainer = build(tiny.load(tmp_path / "run", f"method={method}"))
    batch = trainer.train_step().rollouts
    assert batch is not None
    paired = [expert for expert in batch.experts if expert is not None]
    assert len(paired) == trainer.recipe.num_demonstration_prompts
    assert batch.num_groups == 4
    # those in pairs are the first, in the order of their groups
    for group, expert in enumerate(paired):
        assert batch.rollouts[group * batch.group_size].prompt is expert.prompt


def test_a_twentieth_is_held_out_where_it_is_measured(tiny: Tiny, tmp_path: Path) -> None:
    words = ("data.held_out_demonstrations=null", "constraint.prompts_per_step=1")
    for method, count in (("uniapl", 1), ("a-sft", 1), ("gad", 0), ("mix", 0), ("sft", 0)):
        recipe = Recipe.of(tiny.load(tmp_path / "run", f"method={method}", *words))
        data = load_data(recipe, load_policy(recipe.config)[1])
        assert (len(data.demonstrations), len(data.held_out)) == (12 - count, count)
        prompts = {d.prompt.id for d in data.demonstrations}
        assert not prompts & {d.prompt.id for d in data.held_out}


def test_where_a_twentieth_is_less_than_a_step_measures_as_many_as_it_measures(
    tiny: Tiny, tmp_path: Path
) -> None:
    words = ("data.held_out_demonstrations=null", "constraint.prompts_per_step=5")
    trainer = build(tiny.load(tmp_path / "run", *words))
    assert "discriminator/margin" in trainer.train_step().metrics


def test_the_overlong_penalty_is_a_reward(tiny: Tiny, tmp_path: Path) -> None:
    """12 tokens at most, the last four of which cost a quarter each."""
    trainer = build(tiny.load(tmp_path / "run", "rollout.overlong_buffer_tokens=4"))
    result = trainer.train_step()
    batch = result.rollouts
    assert batch is not None
    expected = [min(0.0, (8 - len(r.token_ids)) / 4) for r in batch.rollouts]
    assert [reward.breakdown["overlong"] for reward in batch.rewards] == expected
    assert min(expected) < 0
    for reward in batch.rewards:
        assert reward.total == sum(v or 0.0 for v in reward.breakdown.values())
