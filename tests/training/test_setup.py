"""From a config to the policy's chat and to the data, where options of the data meet."""

import json
from pathlib import Path

import pytest
from tiny import TEMPLATE, tiny_model, tiny_tokenizer
from tiny_runs import Tiny

from uniapl.config import load_config
from uniapl.config.schema import Config
from uniapl.errors import InputError
from uniapl.training.setup import build_trainer, load_data, load_policy, load_rewards
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
        tmp_path / "run", f"data.demonstrations={file}", "data.held_out_demonstrations=1"
    )


def test_all_turns_are_learned_if_asked_for_but_of_no_conversation_that_is_held_out(
    talks: Config,
) -> None:
    _, chat = load_policy(talks)
    last = load_data(talks, chat)
    assert [d.completion for d in last.demonstrations] == ["a0", "a2"]
    data = talks.data.model_copy(update={"trained_turns": "all"})
    every = load_data(talks.model_copy(update={"data": data}), chat)
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


def one_step(config: Config) -> Trainer:
    policy, chat = load_policy(config)
    rewards = load_rewards(config, policy.device)
    trainer = build_trainer(config, policy, chat, load_data(config, chat), rewards)
    trainer.train_step()
    return trainer


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("discriminator.form=likelihood", 2),
        ("discriminator.demonstrations_per_step=null", 4),
        ("discriminator.demonstrations_per_step=3", 3),
        ("discriminator.form=scalar", 2),
    ],
)
def test_demonstrations_that_the_discriminator_sees(
    word: str, count: int, tiny: Tiny, tmp_path: Path
) -> None:
    batch = one_step(tiny.load(tmp_path / "run", word)).batch
    assert batch is not None
    assert len(batch.experts) == count
    # those in pairs are among them, in the order of their groups
    answered = [batch.rollouts[group * batch.group_size].prompt.id for group in range(2)]
    assert [expert.prompt.id for expert in batch.experts[:2]] == answered
    assert batch.num_pairs == 2
