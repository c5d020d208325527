from collections.abc import Collection, Iterator
from typing import Any, get_args

import pytest
import torch
from exact import config, demonstration, double, exact_policy, prompt
from exact import rollout as make_rollout
from uniapl.training.discriminator import Discriminator, Verdicts
from uniapl.training.trainer import Players, Stopwatch, Trainer

from uniapl.config.methods import METHODS, resolve, uses_discriminator
from uniapl.config.schedules import weight_at
from uniapl.config.schema import Config, MethodName
from uniapl.rewards import NamedReward
from uniapl.training.setup import other_roles, prepare_policy
from uniapl.types import InputError, MixedBatch, Prompt, Rollout


def of_method(method: str, **sections: Any) -> Config:
    defaults: dict[str, Any] = {
        "data": {"prompts_per_step": 4, "demonstration_prompts_per_step": 2},
        "discriminator": {"warmup_steps": 3},
    }
    merged = {name: {**values, **sections.pop(name, {})} for name, values in defaults.items()}
    return config(method=method, **merged, **sections)


def weights(resolved: Config) -> dict[str, list[float]]:
    """The three weights over a run of ten steps."""
    steps = resolved.training.steps
    return {
        name: [weight_at(getattr(resolved.objective, name), step, steps) for step in range(steps)]
        for name in ("sft_weight", "grpo_weight", "adversarial_weight")
    }


def test_every_name_has_a_row_and_every_row_a_name() -> None:
    assert set(METHODS) == set(get_args(MethodName))


@pytest.mark.parametrize(
    ("method", "sft", "grpo", "adversarial"),
    [
        ("sft", [1.0] * 10, [0.0] * 10, [0.0] * 10),
        ("grpo", [0.0] * 10, [1.0] * 10, [0.0] * 10),
        ("sft-grpo", [1.0] * 5 + [0.0] * 5, [0.0] * 5 + [1.0] * 5, [0.0] * 10),
        ("mix", [0.3] * 10, [1.0] * 10, [0.0] * 10),
        ("a-sft", [1.0] * 10, [0.0] * 10, [0.1] * 10),
        ("a-grpo", [0.0] * 10, [1.0] * 10, [0.1] * 10),
        ("gad", [1.0] * 3 + [0.0] * 7, [0.0] * 10, [1.0] * 10),
        ("uniapl", [0.3] * 10, [1.0] * 10, [0.1] * 10),
    ],
)
def test_the_table(
    method: str, sft: list[float], grpo: list[float], adversarial: list[float]
) -> None:
    resolved = resolve(of_method(method))
    expected = {"sft_weight": sft, "grpo_weight": grpo, "adversarial_weight": adversarial}
    assert weights(resolved) == expected
    assert uses_discriminator(resolved) == any(adversarial)
    assert resolved.discriminator.form == ("scalar" if method == "gad" else "likelihood")


@pytest.mark.parametrize("method", METHODS)
def test_methods_differ_by_their_row_alone(method: str) -> None:
    """Whatever else a config says, it says of every method."""
    one, other = resolve(of_method(method)).model_dump(), resolve(of_method("uniapl")).model_dump()
    for dump in (one, other):
        del dump["method"]
        del dump["discriminator"]["form"]
        for name in ("sft_weight", "grpo_weight", "adversarial_weight"):
            del dump["objective"][name]
    assert one == other


@pytest.mark.parametrize("method", METHODS)
def test_a_resolved_config_resolves_to_itself(method: str) -> None:
    resolved = resolve(of_method(method))
    assert resolve(resolved) == resolved


def test_configured_weights_are_kept() -> None:
    chord = ((0.0, 0.9), (1.0, 0.1))
    resolved = resolve(of_method("mix", objective={"sft_weight": chord, "grpo_weight": 0.5}))
    assert resolved.objective.sft_weight == chord
    assert resolved.objective.grpo_weight == 0.5


def test_gad_switches_where_its_discriminator_is_warm() -> None:
    late = resolve(of_method("gad", discriminator={"warmup_steps": 30}))
    assert weights(late)["sft_weight"] == [1.0] * 10
    at_once = resolve(of_method("gad", discriminator={"warmup_steps": 0}))
    assert weights(at_once)["sft_weight"] == [0.0] * 10


CONTRADICTIONS = [
    (
        "sft",
        {"objective": {"grpo_weight": 0.5}},
        "objective.grpo_weight",
        "method sft: fixes objective.grpo_weight to 0.0; remove objective.grpo_weight=0.5",
    ),
    (
        "grpo",
        {"objective": {"sft_weight": 0.5}},
        "objective.sft_weight",
        "method grpo: fixes objective.sft_weight to 0.0; remove objective.sft_weight=0.5",
    ),
    (
        "sft-grpo",
        {"objective": {"sft_weight": 0.5}},
        "objective.sft_weight",
        "method sft-grpo: fixes objective.sft_weight to 1 for the first half of the steps, then 0; "
        "remove objective.sft_weight=0.5",
    ),
    (
        "sft-grpo",
        {"objective": {"grpo_weight": 0.5}},
        "objective.grpo_weight",
        "method sft-grpo: fixes objective.grpo_weight to 0 for the first half of the steps, then 1; "
        "remove objective.grpo_weight=0.5",
    ),
    (
        "mix",
        {"objective": {"adversarial_weight": 0.2}},
        "objective.adversarial_weight",
        "method mix: fixes objective.adversarial_weight to 0; remove objective.adversarial_weight=0.2",
    ),
    (
        "gad",
        {"objective": {"sft_weight": 0.5}},
        "objective.sft_weight",
        "method gad: fixes objective.sft_weight to 1 during the warm-up of the discriminator, then 0; "
        "remove objective.sft_weight=0.5",
    ),
    (
        "gad",
        {"discriminator": {"form": "likelihood"}},
        "discriminator.form",
        "method gad: needs discriminator.form=scalar",
    ),
    (
        "mix",
        {"discriminator": {"learning_rate": 1e-3}},
        "discriminator.learning_rate",
        "method mix: has no discriminator; remove discriminator.learning_rate",
    ),
    (
        "grpo",
        {"constraint": {"rate": 1.0}},
        "constraint.rate",
        "method grpo: has no constraint; remove constraint.rate",
    ),
    (
        "sft",
        {"rollout": {"group_size": 4}},
        "rollout.group_size",
        "method sft: has no rollout; remove rollout.group_size",
    ),
    ("sft", {}, "rewards.0.weight", "method sft: has no rewards; remove rewards.0.weight"),
    *(
        (
            "sft",
            {section: {key: value}},
            f"{section}.{key}",
            f"method sft: {why}; remove {section}.{key}",
        )
        for section, key, value, why in (
            ("objective", "kl_coef", 0.1, "rolls out nothing"),
            ("objective", "clip_low", 0.1, "rolls out nothing"),
            ("objective", "clip_high", 0.1, "rolls out nothing"),
            ("objective", "advantage_scale", "none", "rolls out nothing"),
            ("data", "prompts_per_step", 8, "rolls out nothing"),
            ("data", "prompts", "other", "rolls out no preference prompts"),
        )
    ),
    *(
        (
            method,
            {"data": {"prompts": "p"}},
            "data.prompts",
            f"method {method}: rolls out no preference prompts; remove data.prompts",
        )
        for method in ("a-sft", "gad")
    ),
    (
        "a-sft",
        {"objective": {"advantage_scale": "batch"}},
        "objective.advantage_scale",
        "method a-sft: has no reward term; remove objective.advantage_scale",
    ),
    (
        "grpo",
        {"data": {"demonstration_prompts_per_step": 2}},
        "data.demonstration_prompts_per_step",
        "method grpo: does not mix kinds of prompts; remove data.demonstration_prompts_per_step",
    ),
]


@pytest.mark.parametrize(("method", "sections", "key", "line"), CONTRADICTIONS)
def test_only_an_explicit_contradiction_is_an_error(
    method: str, sections: dict[str, Any], key: str, line: str
) -> None:
    loaded = of_method(method, **sections)
    with pytest.raises(InputError) as error:
        resolve(loaded, frozenset({key}))
    assert str(error.value) == line
    # a file that several methods share may hold it
    assert weights(resolve(loaded)) == weights(resolve(of_method(method)))


def test_saying_what_the_method_says_anyway_is_no_contradiction() -> None:
    given = of_method("sft", objective={"grpo_weight": 0.0})
    resolve(given, frozenset({"objective.grpo_weight", "rollout.max_completion_tokens"}))
    nothing = of_method("sft", data={"prompts": None}, objective={"kl_coef": 0.0})
    resolve(nothing, frozenset({"data.prompts", "objective.kl_coef"}))


def test_all_contradictions_are_reported_at_once() -> None:
    loaded = of_method("sft", objective={"sft_weight": 0.5, "grpo_weight": 0.5})
    keys = frozenset({"objective.sft_weight", "objective.grpo_weight", "rollout.temperature"})
    with pytest.raises(InputError) as error:
        resolve(loaded, keys)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("method sft: ") for line in lines)


@pytest.mark.parametrize(
    ("method", "sections", "line"),
    [
        (
            "uniapl",
            {"objective": {"adversarial_weight": 0.0}},
            "needs objective.adversarial_weight",
        ),
        ("a-sft", {"objective": {"adversarial_weight": [[0, 0], [1, 0]]}}, "it is another method"),
        ("mix", {"rewards": []}, "needs rewards"),
        (
            "a-grpo",
            {"data": {"demonstration_prompts_per_step": 0}},
            "needs data.demonstration_prompts_per_step of at least 1",
        ),
        (
            "gad",
            {"data": {"prompts_per_step": 9, "demonstrations_per_step": 8}},
            "data.prompts_per_step 9 must not exceed data.demonstrations_per_step 8",
        ),
        (
            "gad",
            {"constraint": {"target": 0.6}, "data": {"held_out_demonstrations": 8}},
            "fixes λ to 1: remove constraint.target",
        ),
    ],
)
def test_what_a_method_needs(method: str, sections: dict[str, Any], line: str) -> None:
    sections = {k: tuple(v) if k == "rewards" else v for k, v in sections.items()}
    if isinstance(points := sections.get("objective", {}).get("adversarial_weight"), list):
        sections["objective"]["adversarial_weight"] = tuple(map(tuple, points))
    with pytest.raises(InputError, match=f"method {method}: .*") as error:
        resolve(of_method(method, **sections))
    assert line in str(error.value)


class RandomTexts:
    """Stands in for the generator: random tokens, the same for the same prompts and seed."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)

    def sample(self, prompts: list[Prompt], group_size: int) -> list[Rollout]:
        found = []
        for asked in prompts:
            for _ in range(group_size):
                length = int(torch.randint(1, 6, (), generator=self.random))
                ids = torch.randint(14, 40, (length,), generator=self.random).tolist()
                found.append(make_rollout(asked, *ids, cut=length == 5))
        return found


class SamePrompts:
    """Stands in for the mixture: any method rolls out the same four prompts, two of them the expert's."""

    demonstration_epoch = 0.0

    def next_batch(self, num_demonstrations: int, num_prompts: int, num_pairs: int) -> MixedBatch:
        experts = tuple(demonstration(prompt(5 + i, 6), 20 + i, 21, 4) for i in range(4))
        others = (prompt(10, 11), prompt(12))
        prompts = {0: (), 2: others, 4: (experts[0].prompt, experts[1].prompt, *others)}[
            num_prompts
        ]
        assert num_demonstrations == 4
        return MixedBatch(experts, prompts)


@pytest.fixture
def _double() -> Iterator[None]:
    with double():
        yield


def length_reward(completion_ids: list[tuple[int, ...]], **_columns: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def train(
    method: str,
    num_steps: int,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    **discriminator: Any,
) -> tuple[list[dict[str, Any]], Any]:
    resolved = resolve(
        of_method(
            method,
            model=model or {},
            data={"demonstrations_per_step": 4},
            rollout={"group_size": 3, "updates_per_rollout": 2, "temperature": 0.7},
            discriminator=discriminator,
            optimizer={"learning_rate": 0.01},
            training=training or {},
        )
    )
    policy = prepare_policy(exact_policy(), resolved)
    made = None
    if uses_discriminator(resolved):
        backbone, _ = other_roles(resolved, policy)
        assert backbone is not None
        limit = resolved.training.micro_batch_tokens
        made = Discriminator(resolved.discriminator, resolved.optimizer, backbone, limit, 0)
    players = Players(policy, RandomTexts(), made, None, [NamedReward(length_reward, "length")])  # type: ignore[arg-type]
    trainer = Trainer(resolved, players, SamePrompts(), [])  # type: ignore[arg-type]
    rows = [trainer.train_step() for _ in range(num_steps)]
    return rows, policy.state_dict()


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("form", ["likelihood", "scalar"])
def test_uniapl_is_mix_step_for_step_until_its_discriminator_acts(form: str) -> None:
    mix_rows, mix = train("mix", 6)
    silent_rows, silent = train("uniapl", 6, form=form, warmup_steps=10)
    own = [n for n in mix_rows[0] if not n.startswith("time/") and n != "objective/adversarial"]
    for expected, actual in zip(mix_rows, silent_rows, strict=True):
        assert {n: actual.get(n) for n in own} == {n: expected.get(n) for n in own}
        assert actual["objective/adversarial_weight"] == 0.0
    assert all(torch.equal(value, silent[name]) for name, value in mix.items())

    rows, heard = train("uniapl", 6, form=form, warmup_steps=2, ramp_steps=2)
    assert [r["objective/adversarial_weight"] for r in rows] == [0, 0, 0.05, 0.05, 0.1, 0.1]
    assert rows[1]["objective/loss"] == mix_rows[1]["objective/loss"]
    assert rows[2]["objective/loss"] != mix_rows[2]["objective/loss"]
    assert not all(torch.equal(value, heard[name]) for name, value in mix.items())


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("micro_batch_tokens", [20, 10_000])
@pytest.mark.parametrize("pairs_per_prompt", [2, None])
@pytest.mark.parametrize("method", ["uniapl", "a-sft"])
@pytest.mark.parametrize(
    ("tuning", "backbone", "is_recomputed"),
    [("full", "copy", False), ("lora", "lora", False), ("lora", "lora", True)],
)
def test_scoring_while_updating_equals_scoring_before(
    method: str,
    pairs_per_prompt: int | None,
    tuning: str,
    backbone: str,
    is_recomputed: bool,
    micro_batch_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run() -> tuple[list[dict[str, Any]], Any]:
        return train(
            method,
            6,
            {"tuning": tuning},
            {
                "micro_batch_tokens": micro_batch_tokens,
                "gradient_checkpointing": is_recomputed,
                "gradients_every": 4,
            },
            pairs_per_prompt=pairs_per_prompt,
            backbone=backbone,
            old_logprobs="computed",
            warmup_steps=2,
            ramp_steps=0,
        )

    num_scored = []
    score = Discriminator.score

    def watched(made: Discriminator, verdicts: Verdicts, rollouts: Collection[int]) -> None:
        waiting = len(verdicts.unscored)
        score(made, verdicts, rollouts)
        num_scored.append(waiting - len(verdicts.unscored))

    monkeypatch.setattr(Discriminator, "score", watched)
    while_updating, policy = run()
    # in `a-sft` all rollouts are in pairs, but for those that are cut off
    assert sum(num_scored) > 0 or (method == "a-sft" and pairs_per_prompt is None)
    num_scored.clear()
    monkeypatch.setattr("uniapl.training.trainer.scores_while_updating", lambda _config: False)
    before, expected_policy = run()
    assert not num_scored
    assert before[2]["objective/adversarial"] != 0
    near = {"rel": 1e-6, "abs": 1e-9} if tuning == "full" else {"rel": 1e-4, "abs": 1e-6}  # float32
    for actual, expected in zip(while_updating, before, strict=True):
        assert actual.keys() == expected.keys()
        for name in (n for n in expected if not n.startswith("time/")):
            assert (actual[name] is None) == (expected[name] is None), name
            assert expected[name] is None or actual[name] == pytest.approx(
                expected[name], **near
            ), name
    for name, value in expected_policy.items():
        torch.testing.assert_close(policy[name], value, rtol=near["rel"], atol=near["abs"])


def test_a_stage_waits_while_another_interrupts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    clock = Stopwatch()  # 0
    with clock("update"), clock("discriminator"):  # 1, 2
        pass  # 3, 4
    with clock("discriminator"):  # 5
        pass  # 6
    assert clock.seconds() == {
        "time/update_seconds": 2.0,
        "time/discriminator_seconds": 2.0,
        "time/step_seconds": 7.0,
    }
