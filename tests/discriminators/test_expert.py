"""`expert`: what a frozen model says of the policy's tokens, with and without a hint, and how it reads prompts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import (
    EXPERTS,
    TEMPERATURE,
    assert_close,
    assert_exactly_zero,
    assert_same_gradients,
    config,
    demonstration,
    drawn,
    exact_model,
    exact_policy,
    gradients,
    mixed_batch,
    per_rollout,
    plain_logprobs,
    policy_logprobs,
    prompt,
    rollout,
    sequences_of,
)
from tiny import save_tiny_model, tiny_model, tiny_tokenizer
from tiny_runs import Tiny, rows
from torch import Tensor
from trainers import make_recipe, make_trainer, metrics_of

from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat
from uniapl.discriminators.expert import Expert, hint_gain, hint_line
from uniapl.discriminators.reader import PromptReader, check_same_tokens
from uniapl.discriminators.scoring import LocalScorer
from uniapl.errors import InputError
from uniapl.models.language_model import LanguageModel, load_language_model
from uniapl.models.packing import TokenSequence, pack
from uniapl.types import Message, Prompt, RolloutBatch

pytestmark = pytest.mark.usefixtures("in_double")

CLAMP = 1e9


def a_recipe(
    micro_batch_tokens: int = 10_000, temperature: float = TEMPERATURE, **more: Any
) -> Recipe:
    return Recipe.of(
        config(
            discriminator={"form": "expert", "path": "p", "credit_clamp": CLAMP, **more},
            rollout={"temperature": temperature},
            training={"micro_batch_tokens": micro_batch_tokens},
        )
    )


def an_expert(micro_batch_tokens: int = 10_000, seed: int = 2, **settings: Any) -> Expert:
    recipe = a_recipe(micro_batch_tokens, **settings)
    return Expert(recipe, LocalScorer(recipe, exact_policy(seed)), PromptReader())


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_where_the_expert_is_the_policy_credit_and_gradient_are_exactly_zero(
    temperature: float,
) -> None:
    settings: dict[str, Any] = {
        "rollout": {"temperature": temperature},
        "discriminator": {"form": "expert", "path": "p"},
        "objective": {"sft_weight": 0.0, "grpo_weight": 0.0},
    }
    recipe = make_recipe("uniapl", **settings)
    policy = make_trainer("mix").players.policy
    judge = Expert(recipe, LocalScorer(recipe, policy.trainable_copy()), PromptReader())
    trainer = make_trainer("uniapl", judge=judge, **settings)
    before = {n: p.clone() for n, p in trainer.players.policy.state_dict().items()}
    result = trainer.train_step()
    assert result.metrics["objective/adversarial_weight"] == 0.1  # at once: nothing has to warm up
    assert result.metrics["objective/adversarial_token_weights"] == 0.0
    assert result.metrics["discriminator/log_ratio"] == 0.0
    after = trainer.players.policy.state_dict()
    assert_exactly_zero({n: p - before[n] for n, p in after.items()})


@pytest.mark.parametrize("micro_batch_tokens", [1, 25, 10_000])
def test_it_says_how_likely_the_experts_model_finds_the_tokens(micro_batch_tokens: int) -> None:
    batch, made = mixed_batch(), an_expert(micro_batch_tokens)
    judgement = made.judge(batch, drawn(), policy_logprobs)
    own = [plain_logprobs(exact_policy(2).model, s, TEMPERATURE) for s in sequences_of(batch)]
    assert judgement.expert_logprobs_T is not None
    assert_close(judgement.expert_logprobs_T, torch.cat(own).detach())
    assert judgement.is_credited_T.all()  # truncated ones too
    found = made.measure(RolloutBatch((), 3, EXPERTS[1:]), policy_logprobs)
    ratios = [
        plain_logprobs(
            exact_policy(2).model, TokenSequence(d.prompt.token_ids, d.token_ids), TEMPERATURE
        )
        - plain_logprobs(
            exact_policy().model, TokenSequence(d.prompt.token_ids, d.token_ids), TEMPERATURE
        )
        for d in EXPERTS[1:]
    ]
    assert_close(found["discriminator/held_out_log_ratio"], torch.cat(ratios).mean().item())


def test_the_expected_gradient_is_that_of_the_reverse_kl_at_a_prefix() -> None:
    """Over all forty tokens that may come next, each as often as the policy says it."""
    policy, expert = exact_policy(), exact_policy(2)
    after = prompt(5, 6, 7)
    everything = [rollout(after, token) for token in range(40)]
    batch = RolloutBatch(tuple(everything), 40, (None,))
    (packed,) = pack(sequences_of(batch), 10_000)
    judgement = an_expert(temperature=1.0).judge(batch, drawn(), policy_logprobs)
    logprobs = policy.logprobs(packed)
    credit = judgement.credit(torch.arange(40), logprobs.detach())
    (logprobs.detach().exp() * credit * logprobs).sum().backward()
    sampled = gradients(policy)
    kl = (
        policy.logprobs(packed).exp() * (policy.logprobs(packed) - expert.logprobs(packed).detach())
    ).sum()
    (-kl).backward()
    assert kl > 0.01
    assert_same_gradients(sampled, gradients(policy))


# How it reads


def chat(template: str | None = None, **arguments: Any) -> Chat:
    tokenizer = tiny_tokenizer()
    if template:
        tokenizer.chat_template = template
    return Chat(tokenizer, template_arguments=arguments)


def asked(policys: Chat, text: str) -> Prompt:
    turns: tuple[Message, ...] = ({"role": "user", "content": text},)
    return Prompt(text, turns, policys.encode_prompt(turns))


OTHER = (
    "{% for m in messages %}<|{{ m['role'] }}|>: {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if thinks %}hm{% endif %}{% endif %}"
)


def test_it_reads_the_prompt_by_its_own_template_and_the_completion_as_it_is() -> None:
    """As Qwen3-0.6B without thinking and Qwen3-235B-Instruct-2507: same tokens, other prompts."""
    theirs = chat(OTHER)
    said = rollout(asked(chat(), "a b"), 70, 71, 4)
    (read,) = PromptReader(theirs).rollouts(RolloutBatch((said,), 1, (None,)))
    assert read is not None
    assert theirs.tokenizer.decode(list(read.prompt_ids)) == "<|user|>: a b<|end|><|assistant|>"
    assert read.prompt_ids != said.prompt.token_ids
    assert read.completion_ids == (70, 71, 4)


HINT = "{prompt}|{completion}"


def test_a_hint_stands_in_the_prompt_of_demonstration_prompts_alone() -> None:
    policys = chat()
    # a prompt that spells out a field of the template is not filled in again
    first, second = asked(policys, "a {completion}"), asked(policys, "b")
    expert = demonstration(first, 70, 4)
    samples = (
        rollout(first, 71, 4),
        rollout(first, 72, 73, 4),
        rollout(second, 74, 4),
        rollout(second, 4),
    )
    batch = RolloutBatch(samples, 2, (expert, None))
    one, two, *others = PromptReader(policys, HINT).rollouts(batch)
    assert one is not None
    assert two is not None
    assert (
        policys.tokenizer.decode(list(one.prompt_ids))
        == "<|user|>a {completion}|70 4<|end|><|assistant|>"
    )
    assert one.prompt_ids == two.prompt_ids  # so a group shares it
    assert others == [None, None]

    made = Expert(a_recipe(), Counted(), PromptReader(policys, HINT))
    judgement = made.judge(batch, drawn(), policy_logprobs)
    assert judgement.is_credited_T.tolist() == [True] * 5 + [False] * 3
    assert judgement.expert_logprobs_T is not None
    assert judgement.expert_logprobs_T.tolist() == [-1.0, -2.0, -3.0, -4.0, -5.0, 0.0, 0.0, 0.0]
    # about a demonstration that it has just read it is not asked
    assert made.measure(RolloutBatch((), 2, (expert,)), policy_logprobs) == {}


class Counted:
    """The first token asked for has -1, the next -2, …"""

    def logprobs(self, sequences: Sequence[TokenSequence]) -> Tensor:
        return -torch.arange(1.0, 1 + sum(len(s.completion_ids) for s in sequences))


def test_a_shared_hint_is_read_as_one_that_stands_alone() -> None:
    policys = chat()
    batch = mixed_batch()
    samples = tuple(r for r in batch.rollouts[:6])
    batch = RolloutBatch(samples, 3, EXPERTS[:2])
    reader = PromptReader(policys, HINT)
    found = []
    for micro_batch_tokens in (1, 10_000):
        recipe = a_recipe(micro_batch_tokens)
        scorer = LocalScorer(recipe, wide_model())
        found.append(
            Expert(recipe, scorer, reader).judge(batch, drawn(), policy_logprobs).expert_logprobs_T
        )
    alone, packed = found
    assert alone is not None
    assert packed is not None
    assert_close(packed, alone)
    for says, sequence in zip(per_rollout(packed, batch), reader.rollouts(batch), strict=True):
        assert sequence is not None
        assert_close(says, plain_logprobs(wide_model().model, sequence, TEMPERATURE).detach())


def wide_model() -> LanguageModel:
    """A float64 model that knows all of the tiny tokenizer's tokens."""
    return LanguageModel(exact_model(2, vocab_size=264), torch.float32)


class Hinted:
    """Finds tokens likelier the longer the prompt is: a model that reads what it is shown."""

    def __init__(self, per_token: float) -> None:
        self.per_token = per_token

    def logprobs(self, sequences: Sequence[TokenSequence]) -> Tensor:
        values = [self.per_token * len(s.prompt_ids) for s in sequences for _ in s.completion_ids]
        return torch.tensor(values)


@pytest.mark.parametrize("per_token", [0.5, -0.25])
def test_whether_a_model_reads_hints_is_measured_on_second_texts(per_token: float) -> None:
    policys = chat()
    first, second = asked(policys, "a"), asked(policys, "b")
    texts = [
        demonstration(first, 70, 4),
        demonstration(second, 71, 4),
        demonstration(first, 72, 73, 4),
        demonstration(first, 70, 4),  # the same text again tells nothing
    ]
    made = Expert(a_recipe(), Hinted(per_token), PromptReader(policys, HINT))
    found = hint_gain(made, texts)
    assert found is not None
    # pairs: (70 4 → 72 73 4) and (72 73 4 → 70 4); the hint adds `|70 4` or `|72 73 4` to the prompt
    gains = [len("|70 4") * per_token] * 3 + [len("|72 73 4") * per_token] * 2
    assert found.num_pairs == 2
    assert found.nats_per_token == pytest.approx(sum(gains) / 5)
    assert hint_gain(made, texts[:2]) is None


@pytest.mark.parametrize(
    ("per_token", "texts", "said", "is_good"),
    [
        (
            0.5,
            2,
            "a demonstration in the prompt makes another one likelier (+2.500 nats per token, 1 pairs)",
            True,
        ),
        (-0.5, 2, "this model cannot read hints", False),
        (0.5, 1, "no prompt has two demonstrations", False),
    ],
)
def test_the_start_of_a_run_says_whether_hints_are_read(
    per_token: float, texts: int, said: str, is_good: bool
) -> None:
    policys = chat()
    demonstrations = [demonstration(asked(policys, "a"), 70 + i, 4) for i in range(texts)]
    made = Expert(a_recipe(), Hinted(per_token), PromptReader(policys, HINT))
    found = hint_line(made, demonstrations)
    assert found is not None
    assert said in found[0]
    assert found[1] is is_good
    assert hint_line(an_expert(), demonstrations) is None


def test_another_tokenizer_is_refused_in_one_line() -> None:
    own, other = tiny_tokenizer(), tiny_tokenizer()
    check_same_tokens(own, other, "it")
    other.add_tokens(["more"])  # a further token of its own hurts nobody
    check_same_tokens(own, other, "it")
    with pytest.raises(InputError) as error:
        check_same_tokens(other, own, "discriminator.path: 'x'")
    assert str(error.value) == (
        "discriminator.path: 'x' has another tokenizer than the policy: token 261, 'more', is not there; log-probs of "
        "the policy's tokens need the same tokens"
    )


# Whole runs


@pytest.fixture
def frozen(tiny: Tiny, tmp_path: Path) -> Tiny:
    """The tiny task without the keys that only a discriminator that learns has."""
    learns = "discriminator: {warmup_steps: 1, learning_rate: 3e-3}\n"
    text = tiny.config.read_text()
    assert learns in text
    (tmp_path / "frozen.yaml").write_text(text.replace(learns, ""))
    return replace(tiny, config=tmp_path / "frozen.yaml")


def test_a_run_with_a_known_expert(frozen: Tiny, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    words = ["discriminator.form=expert", f"discriminator.path={frozen.model}", "training.steps=3"]
    run = frozen.train(tmp_path / "run", *words)
    table = rows(run)
    # the expert is the policy before training: nothing in the first step, something later
    assert table[0]["discriminator/log_ratio"] == pytest.approx(0, abs=1e-6)
    assert table[-1]["discriminator/log_ratio"] < 0
    assert table[0]["objective/adversarial_weight"] > 0
    assert not (run / "discriminator").exists()


def test_a_run_whose_expert_reads_the_demonstration(frozen: Tiny, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    words = ["discriminator.form=expert", "discriminator.hint=true", "training.steps=2"]
    first = rows(frozen.train(tmp_path / "run", *words))[0]
    assert first["discriminator/log_ratio"] != 0.0
    assert first["discriminator/demonstration_logit"] is not None
    assert first["discriminator/preference_logit"] is None  # no hint, no credit


def test_a_gate_that_closed_goes_on_measuring() -> None:
    """A frozen form alone asks for rollouts; were there none while λ is 0, it could never open again."""
    settings: dict[str, Any] = {
        "discriminator": {"form": "expert", "path": "p"},
        "objective": {"sft_weight": 0.0, "grpo_weight": 0.0},
    }
    recipe = make_recipe("uniapl", **settings)
    judge = Expert(recipe, LocalScorer(recipe, exact_policy(2)), PromptReader())
    trainer = make_trainer("uniapl", judge=judge, **settings)
    trainer.multiplier.margin = -1.0
    (row,) = metrics_of(trainer, 1)
    assert row["objective/adversarial_weight"] == 0.0
    assert row["discriminator/margin"] is not None
    trainer.multiplier.margin = 9.0
    (row,) = metrics_of(trainer, 1)
    assert row["objective/adversarial_weight"] == 0.1


# A larger judge


def test_a_larger_model_learns_the_demonstrations_along(tiny: Tiny, tmp_path: Path) -> None:
    """`likelihood` with a model of its own, which reads prompts by its own template; its folder opens again."""
    torch.set_default_dtype(torch.float32)
    folder = tmp_path / "larger"
    tiny_model(hidden_size=48, num_hidden_layers=3).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OTHER
    tokenizer.save_pretrained(folder)
    for backbone in ("copy", "lora"):
        words = [
            f"discriminator.path={folder}",
            f"discriminator.backbone={backbone}",
            "lora.rank=2",
        ]
        run = tiny.train(
            tmp_path / backbone, *words[: 3 if backbone == "lora" else 2], "training.steps=4"
        )
        losses = [row["discriminator/loss"] for row in rows(run)]
        assert losses[-1] < losses[0]
        saved, its_tokenizer = load_language_model(
            str(run / "discriminator"), torch.float32, torch.device("cpu")
        )
        assert saved.model.config.hidden_size == 48
        assert its_tokenizer.chat_template == OTHER


def test_a_judge_with_another_tokenizer_stops_before_the_first_step(
    tiny: Tiny, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    del_token = tokenizer.convert_ids_to_tokens(100)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace(f'"{del_token}": 100', '"zz": 100', 1))
    with pytest.raises(InputError, match="has another tokenizer than the policy: token 100"):
        tiny.train(tmp_path / "run", f"discriminator.path={folder}")
