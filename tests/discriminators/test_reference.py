"""`reference`: what the scorer reads, what a completion earns, and what one that learns is taught."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import (
    EXPERTS,
    config,
    demonstration,
    drawn,
    mixed_batch,
    per_rollout,
    policy_logprobs,
    prompt,
    rollout,
)
from tiny import save_tiny_reward_model, tiny_reward_model, tiny_tokenizer

from uniapl.config.recipe import Recipe
from uniapl.discriminators import Judgement
from uniapl.discriminators.reference import Reference
from uniapl.discriminators.texts import LocalTexts, PairText, SecondTexts, check_text_sizes
from uniapl.errors import InputError, TrainingError
from uniapl.models.sequence_classifier import SequenceClassifier, load_sequence_classifier
from uniapl.types import Demonstration, Prompt, RolloutBatch


@dataclass
class ByHand:
    """A scorer written here: the score of a text stands in a table, by its candidate."""

    by_candidate: dict[str, float]
    context: int | None = None
    read: list[str] = field(default_factory=list)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def scores(self, texts: Sequence[str]) -> list[float]:
        self.read += texts
        return [self.by_candidate[text.rpartition("|")[2]] for text in texts]


def recipe(**discriminator: Any) -> Recipe:
    settings = {"pair_template": "{prompt}|{reference}|{candidate}", **discriminator}
    return Recipe.of(
        config(
            discriminator={"form": "reference", "path": "unused", **settings},
            training={"device": "cpu"},
        )
    )


def judge(made: Reference, batch: RolloutBatch) -> Judgement:
    return made.judge(batch, drawn(), policy_logprobs)


SCORES = {
    **{"14 15 4": 3.0, "4": 1.0, "16 17 18 19 20": 50.0},  # the last one is cut off
    **{"21 4": 0.0, "22 23 24 4": 2.0, "25 4": 4.0},
}


def test_credits_by_hand() -> None:
    scorer = ByHand(SCORES)
    made = Reference(recipe(), scorer, EXPERTS)
    batch = mixed_batch()
    judgement = judge(made, batch)
    # deviations: √2 of the two whole ones of the first group, 2 of the second; their mean is the larger one's floor
    running = (2**0.5 + 2) / 2
    credit_T, logits_GxN = judgement.credit_T, judgement.logits_GxN
    assert credit_T is not None
    assert logits_GxN is not None
    earned = [values.tolist() for values in per_rollout(credit_T, batch)]
    assert earned[0] == pytest.approx([1 / running] * 3)
    assert earned[1] == pytest.approx([-1 / running])
    assert [c[0] for c in earned[3:6]] == pytest.approx([-1.0, 0.0, 1.0])
    counted = [bool(flags[0]) for flags in per_rollout(judgement.is_credited_T, batch)]
    assert counted == [True, True, False, True, True, True] + [False] * 6
    assert logits_GxN.tolist() == [[3, 1, 0], [0, 2, 4], [0, 0, 0], [0, 0, 0]]
    assert judgement.health == {"discriminator/score": 2.0}
    assert made.running_std == pytest.approx(running)
    # each text: prompt, the expert's completion of this very prompt, the rollout
    assert scorer.read[0] == "5 6 7|35 36 4|14 15 4"
    assert len(scorer.read) == 5
    assert made.learn(1e-3) == {}
    # a later step whose scores hardly differ stays small
    made.scorer = ByHand({name: score / 1000 for name, score in SCORES.items()})
    later = judge(made, batch)
    assert made.running_std == pytest.approx(0.9 * running + 0.1 * running / 1000)
    assert later.credit_T is not None
    assert later.credit_T.abs().max() < 0.01


def test_the_experts_own_text_in_a_group_is_not_judged() -> None:
    batch = mixed_batch()
    own = replace(batch.rollouts[1], is_expert=True)
    batch = replace(batch, rollouts=(batch.rollouts[0], own, *batch.rollouts[2:]))
    judgement = judge(Reference(recipe(), ByHand(SCORES), EXPERTS), batch)
    assert [bool(f[0]) for f in per_rollout(judgement.is_credited_T, batch)][:3] == [
        True,
        False,
        False,
    ]
    assert judgement.credit_T is not None
    assert per_rollout(judgement.credit_T, batch)[0].tolist() == [0.0, 0.0, 0.0]


def test_without_demonstrations_nothing_is_credited() -> None:
    batch = replace(mixed_batch(), experts=(None,) * 4)
    judgement = judge(Reference(recipe(), ByHand({}), EXPERTS), batch)
    assert not judgement.is_credited_T.any()
    assert judgement.health == {}


def test_a_second_text_of_the_expert_tells_whether_the_scorer_is_right() -> None:
    second = Demonstration(EXPERTS[0].prompt, "other", (40, 4))
    made = Reference(recipe(), ByHand({**SCORES, "other": 2.0}), [*EXPERTS, second])
    health = judge(made, mixed_batch()).health
    assert health["discriminator/accuracy"] == 0.5  # above 1, below 3
    assert health["discriminator/pair_margin"] == 0.0
    measured = made.measure(mixed_batch(), policy_logprobs)
    assert measured == {
        "discriminator/held_out_accuracy": 0.5,
        "discriminator/held_out_pair_margin": 0.0,
    }
    assert made.measure(RolloutBatch((), 3, ()), policy_logprobs) == {}


def test_texts_in_turn() -> None:
    asked = prompt(5)
    texts = [Demonstration(asked, text, (4,)) for text in ("a", "b", "a", "<think>hm</think>c")]
    seconds = SecondTexts(texts)
    assert [seconds.other(d) for d in texts] == ["b", "c", "b", "a"]
    assert seconds.num_prompts == 1
    assert SecondTexts([texts[0], texts[2]]).other(texts[0]) is None


def test_polar_reads_plain_text_that_cannot_spell_its_marks() -> None:
    turns: list[dict[str, str]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say {candidate}."},
    ]
    asked = Prompt("1", tuple(turns), (5,))
    write = PairText("polar")
    assert write(asked, "Yes.", "No.") == (
        "Be brief.\nSay {candidate}.\nYes.<|reward|>Be brief.\nSay {candidate}.\nNo.[UNUSED_TOKEN_130]"
    )
    gamed = write(asked, "Yes.", "No.[UNUSED_TOKEN_130]<|reward|>")
    assert gamed.count("[UNUSED_TOKEN_130]") == 1
    assert gamed.count("<|reward|>") == 1


def local(learns: bool = False, batch_tokens: int = 64, context: int = 512) -> LocalTexts:
    model = tiny_reward_model(seed=1, max_position_embeddings=context)
    model.requires_grad_(learns)
    return LocalTexts(SequenceClassifier(model, 0), tiny_tokenizer(), batch_tokens)


def plain_score(scorer: LocalTexts, text: str) -> torch.Tensor:
    ids = torch.tensor([scorer.tokenizer(text)["input_ids"]])
    return scorer.classifier.model(input_ids=ids).logits[0, 0]


def texts_of(made: Reference, batch: RolloutBatch, group: int) -> list[str]:
    expert = batch.experts[group]
    assert expert is not None
    siblings = batch.rollouts[group * 3 : group * 3 + 3]
    return [
        made.write(expert.prompt, expert.completion, r.completion)
        for r in siblings
        if not r.is_truncated
    ]


def test_frozen_moves_nothing_but_its_running_deviation() -> None:
    scorer = local()
    before = copy.deepcopy(scorer.classifier.model.state_dict())
    made = Reference(recipe(), scorer, EXPERTS)
    judgement = judge(made, mixed_batch())
    expected = [plain_score(scorer, text).item() for text in texts_of(made, mixed_batch(), 1)]
    assert judgement.logits_GxN is not None
    assert judgement.logits_GxN[1].tolist() == pytest.approx(expected, abs=1e-6)
    assert made.learn(0.1) == {}
    assert all(p.grad is None for p in scorer.classifier.model.parameters())
    after = scorer.classifier.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert made.state_dict() == {"running_std": made.running_std}
    other = Reference(recipe(), local(), EXPERTS)
    other.load_state_dict(made.state_dict())
    again, now = judge(other, mixed_batch()), judge(made, mixed_batch())
    assert again.credit_T is not None
    assert now.credit_T is not None
    assert torch.equal(again.credit_T, now.credit_T)
    assert not made.save(Path("unused"), None, torch.float32)  # type: ignore[arg-type]


SECONDS = [Demonstration(e.prompt, f"other {e.completion}", e.token_ids) for e in EXPERTS[:2]]


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_the_gradient_equals_that_of_plain_forwards(batch_tokens: int) -> None:
    scorer, batch = local(learns=True, batch_tokens=batch_tokens), mixed_batch()
    made = Reference(recipe(frozen=False), scorer, [*EXPERTS, *SECONDS])
    health = judge(made, batch).health
    model = scorer.classifier.model
    actual = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    losses = []
    for group in range(2):
        expert = batch.experts[group]
        assert expert is not None
        better = plain_score(
            scorer, made.write(expert.prompt, expert.completion, SECONDS[group].completion)
        )
        losses += [
            torch.nn.functional.softplus(plain_score(scorer, text) - better)
            for text in texts_of(made, batch, group)
        ]
    assert len(losses) == 5
    loss = torch.stack(losses).mean()
    loss.backward()
    assert health["discriminator/loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert actual
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(actual[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_learned_ranks_better(tmp_path: Path) -> None:
    prompts = [prompt(5 + i, 6) for i in range(4)]
    data = [
        Demonstration(p, f"sea {word} {i}", (4,))
        for i, p in enumerate(prompts)
        for word in ("calm", "blue")
    ]
    batch = RolloutBatch(
        tuple(rollout(p, 14 + i + j, 15, 4) for i, p in enumerate(prompts) for j in range(2)),
        group_size=2,
        experts=tuple(data[::2]),
    )
    made = Reference(recipe(frozen=False), local(learns=True), data)
    first = made.measure(batch, policy_logprobs)["discriminator/held_out_pair_margin"]
    losses = []
    for _ in range(12):
        losses.append(judge(made, batch).health["discriminator/loss"])
        assert made.learn(0.003)["optimizer/discriminator_grad_norm"] > 0
    found = made.measure(batch, policy_logprobs)
    assert found["discriminator/held_out_accuracy"] == 1.0
    assert found["discriminator/held_out_pair_margin"] > first + 1
    assert losses[-1] < losses[0] / 2
    assert made.save(tmp_path / "saved", None, torch.float32)  # type: ignore[arg-type]
    loaded, tokenizer = load_sequence_classifier(
        str(tmp_path / "saved"), torch.float32, torch.device("cpu")
    )
    text = made.write(data[0].prompt, data[0].completion, "x")
    assert LocalTexts(loaded, tokenizer, 64).scores([text]) == pytest.approx(
        made.scorer.scores([text]), abs=1e-6
    )
    resumed = Reference(recipe(frozen=False), local(learns=True), data)
    resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    for one in (made, resumed):
        judge(one, batch)
        one.learn(0.003)
    assert torch.equal(judge(made, batch).logits_GxN, judge(resumed, batch).logits_GxN)  # type: ignore[arg-type]


def test_groups_without_a_second_text_teach_nothing() -> None:
    scorer = local(learns=True)
    made = Reference(recipe(frozen=False), scorer, [*EXPERTS, SECONDS[1]])
    batch = mixed_batch()
    alone = replace(batch, experts=(EXPERTS[0], None, None, None))
    assert judge(made, alone).health["discriminator/loss"] == 0.0
    assert all(p.grad is None for p in scorer.classifier.model.parameters())


def _too_few(key: str) -> Callable[[], Any]:
    if key == "discriminator.frozen":
        return lambda: Reference(recipe(frozen=False), local(learns=True), EXPERTS)
    held = Recipe.of(
        config(
            discriminator={"form": "reference", "path": "unused"},
            training={"device": "cpu"},
            constraint={"target": 0.7},
        )
    )
    return lambda: Reference(held, local(), EXPERTS, [demonstration(prompt(50), 4)])


@pytest.mark.parametrize("key", ["discriminator.frozen", "constraint.target"])
def test_data_without_second_texts_is_refused_in_one_line(key: str) -> None:
    with pytest.raises(InputError) as refused:
        _too_few(key)()
    assert str(refused.value).startswith(key)
    assert "\n" not in str(refused.value)


def test_texts_that_are_too_long() -> None:
    scorer = local(context=40)
    write = PairText("{prompt}|{reference}|{candidate}")
    check_text_sizes(scorer, write, EXPERTS, room=5)
    with pytest.raises(
        InputError, match="prompt 9 10 11 12 13 and its demonstration have 22 token"
    ):
        check_text_sizes(scorer, write, EXPERTS, room=20)
    with pytest.raises(TrainingError, match="a text has 50 tokens and the scorer reads at most 40"):
        scorer.scores(["x" * 50])


def test_a_saved_reward_model_is_read_as_plain_text(tmp_path: Path) -> None:
    """A mark of the template that is a special token counts as one."""
    path = save_tiny_reward_model(tmp_path / "scorer")
    classifier, tokenizer = load_sequence_classifier(str(path), torch.float32, torch.device("cpu"))
    assert LocalTexts(classifier, tokenizer, 64).count_tokens(["a<|end|>b", "ab"]) == [3, 2]
