"""Whole runs whose discriminator is an expert or a scorer, in this process and behind a server."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scoring_server import ScoringServer, only
from tiny import save_tiny_reward_model, tiny_model, tiny_reward_model, tiny_tokenizer
from tiny_runs import Tiny, assert_same_run, rows

from uniapl.discriminators import servers as talking
from uniapl.errors import InputError, TrainingError
from uniapl.runs import train

TWO_STEPS = ("training.steps=2", "training.checkpoint_every=1", "evaluation.limit=2")
"""Enough for a step that learns from what the first one has taught."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scored")


@pytest.fixture(scope="module")
def plain(tiny: Tiny, folder: Path) -> Tiny:
    """Without keys of forms that learn; every prompt has two demonstrations."""
    text = tiny.config.read_text().replace(
        "discriminator: {warmup_steps: 1, learning_rate: 3e-3}\n", ""
    )
    lines = Path(tiny.task["demonstrations"]).read_text().splitlines()
    texts = folder / "twice.jsonl"
    with texts.open("w") as file:
        for line in lines:
            row = json.loads(line)
            for completion in (row["completion"], "b c d"):
                key = f"{row['key']} {completion}"
                file.write(json.dumps({**row, "key": key, "completion": completion}) + "\n")
    config = folder / "plain.yaml"
    config.write_text(text.replace(tiny.task["demonstrations"], str(texts)))
    return Tiny(tiny.model, tiny.task, config)


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Path:
    return save_tiny_reward_model(folder / "scorer", seed=1)


@pytest.fixture(scope="module")
def expert(folder: Path) -> Path:
    path = folder / "expert"
    tiny_model(seed=5).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    hasty = talking.Patience(timeout_seconds=30, retries=1, first_wait_seconds=0.01)
    monkeypatch.setattr(talking, "PATIENCE", hasty)


@pytest.fixture
def served_expert() -> Iterator[ScoringServer]:
    with ScoringServer(tiny_model(seed=5), tiny_tokenizer()) as server:
        yield server


@pytest.fixture
def served_scorer() -> Iterator[ScoringServer]:
    with ScoringServer(tiny_reward_model(seed=1), tiny_tokenizer(), by_token=True) as server:
        yield server


def assert_close_runs(one: Path, other: Path) -> None:
    for mine, theirs in zip(rows(one), rows(other), strict=True):
        for name, value in mine.items():
            if name.startswith(("time/", "memory/")):
                continue
            if value is None:
                assert theirs[name] is None, name
            else:
                assert theirs[name] == pytest.approx(value, abs=1e-5, rel=1e-4), name


def moved(run: Path) -> bool:
    return all(row["optimizer/moved_fraction"] > 0.1 for row in rows(run))


def test_a_frozen_scorer_trains_the_same_here_and_behind_a_server(
    plain: Tiny, scorer: Path, served_scorer: ScoringServer, tmp_path: Path
) -> None:
    words = ("discriminator.form=reference", *TWO_STEPS)
    local = plain.train(tmp_path / "local", *words, f"discriminator.path={scorer}")
    served = plain.train(
        tmp_path / "served", *words, f"discriminator.servers=[{served_scorer.url}]"
    )
    assert_close_runs(local, served)
    assert moved(local)
    first = rows(local)[0]
    assert math.isfinite(first["discriminator/score"])
    assert 0 <= first["discriminator/accuracy"] <= 1
    assert first["objective/adversarial_weight"] > 0
    assert first["objective/adversarial_token_weights"] > 0
    assert "optimizer/discriminator_grad_norm" not in {n for n, v in first.items() if v is not None}
    assert not (local / "discriminator").exists()
    assert "/pooling" in served_scorer.paths()


def test_a_frozen_scorer_resumes_bit_for_bit(plain: Tiny, scorer: Path, tmp_path: Path) -> None:
    words = ("discriminator.form=reference", f"discriminator.path={scorer}", *TWO_STEPS)
    whole = plain.train(tmp_path / "whole", *words)
    parts = plain.load(tmp_path / "parts", *words, "training.resume=auto")
    assert train(parts, on_step=lambda done: False).folder == tmp_path / "parts"
    assert len(rows(tmp_path / "parts")) == 1
    train(parts)
    assert_same_run(whole, tmp_path / "parts")


def test_a_scorer_that_learns_is_saved(plain: Tiny, scorer: Path, tmp_path: Path) -> None:
    run = plain.train(
        tmp_path / "run",
        "discriminator.form=reference",
        f"discriminator.path={scorer}",
        "discriminator.frozen=false",
        "discriminator.warmup_steps=0",
        *TWO_STEPS,
    )
    assert moved(run)
    assert all(row["optimizer/discriminator_grad_norm"] > 0 for row in rows(run))
    assert all(row["discriminator/loss"] > 0 for row in rows(run))
    assert (run / "discriminator" / "model.safetensors").exists()


def test_an_expert_scores_the_same_here_and_behind_a_server(
    plain: Tiny, expert: Path, served_expert: ScoringServer, tmp_path: Path
) -> None:
    words = ("discriminator.form=expert", *TWO_STEPS)
    local = plain.train(tmp_path / "local", *words, f"discriminator.path={expert}")
    served = plain.train(
        tmp_path / "served", *words, f"discriminator.servers=[{served_expert.url}]"
    )
    assert_close_runs(local, served)
    assert moved(served)
    assert {"/v1/models", "/detokenize", "/tokenize", "/v1/completions"} <= set(
        served_expert.paths()
    )


def test_hints_are_rendered_by_the_server(
    plain: Tiny, expert: Path, served_expert: ScoringServer, tmp_path: Path
) -> None:
    words = ("discriminator.form=expert", "discriminator.hint=true", *TWO_STEPS)
    local = plain.train(tmp_path / "local", *words, f"discriminator.path={expert}")
    served = plain.train(
        tmp_path / "served", *words, f"discriminator.servers=[{served_expert.url}]"
    )
    assert_close_runs(local, served)


def broken(answer: dict[str, Any]) -> Any:
    answer["choices"][0]["prompt_logprobs"].pop()
    return answer


def test_the_last_checkpoint_stays_when_a_server_breaks(
    plain: Tiny, served_expert: ScoringServer, tmp_path: Path
) -> None:
    asked = 0
    per_step: list[int] = []

    def fails_later(answer: dict[str, Any]) -> Any:
        nonlocal asked
        asked += 1
        return broken(answer) if per_step and asked > per_step[0] else answer

    served_expert.spoil = only("/v1/completions", fails_later)
    words = ("discriminator.form=expert", f"discriminator.servers=[{served_expert.url}]")
    one_step = ("training.steps=1", "training.checkpoint_every=1", "evaluation.limit=2")
    plain.train(tmp_path / "first", *words, *one_step)
    per_step.append(asked)
    asked = 0
    with pytest.raises(TrainingError, match=r"prompt_logprobs of \d+ tokens, asked for") as error:
        plain.train(tmp_path / "run", *words, *TWO_STEPS)
    assert "\n" not in str(error.value)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000001"]
    assert len(rows(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("discriminator.path=nowhere",), "discriminator.path: cannot load"),
        (("rollout.max_completion_tokens=500",), "does not fit|cannot read it"),
    ],
)
def test_refused_before_the_first_step(
    plain: Tiny, words: tuple[str, ...], expected: str, scorer: Path, tmp_path: Path
) -> None:
    given = ("discriminator.form=reference", f"discriminator.path={scorer}", *words)
    with pytest.raises(InputError, match=expected):
        plain.train(tmp_path / "run", *given, *TWO_STEPS)


def test_a_server_with_another_tokenizer_is_refused(
    plain: Tiny, served_expert: ScoringServer, tmp_path: Path
) -> None:
    def other(answer: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": answer["prompt"].replace("a", "A")}

    served_expert.spoil = only("/detokenize", other)
    with pytest.raises(InputError, match="another tokenizer than the policy's: token") as error:
        plain.train(
            tmp_path / "run",
            "discriminator.form=expert",
            f"discriminator.servers=[{served_expert.url}]",
            *TWO_STEPS,
        )
    assert "\n" not in str(error.value)
