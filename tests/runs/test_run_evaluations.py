"""Evaluations inside a run: whose log-probs they measure, what is in memory then, what runs share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Tiny
from transformers import AutoModelForCausalLM

from uniapl.evaluation import evaluate
from uniapl.models.language_model import LanguageModel
from uniapl.rollout import TransformersGenerator
from uniapl.runs.evaluation_before import FOLDER
from uniapl.types import Demonstration, Rollout


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_an_evaluation_has_the_logprobs_of_a_plain_forward(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
):
    """At temperature 1, whatever the completions were sampled at, under the policy and the model before training."""
    start, now = (AutoModelForCausalLM.from_pretrained(tiny.model) for _ in range(2))
    checked: list[int] = []

    def plain(model: Any, sample: Rollout | Demonstration) -> float:
        prompt, ids = sample.prompt.token_ids, sample.token_ids
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        return float(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).mean())

    def sampled(generator: Any, prompts: Any, group_size: int) -> list[Rollout]:
        now.load_state_dict(generator._model.state_dict())
        return sample(generator, prompts, group_size)

    def compared(rollouts: Any, data: Any, settings: Any, policy: Any, base: Any, _: Any) -> Any:
        samples = [*(e for e in data.experts if e is not None), *rollouts]
        for of_run, model in ((policy, now), (base, start)):
            expected = [plain(model, sample) for sample in samples]
            assert of_run(samples) == pytest.approx(expected, abs=1e-4)
            checked.append(len(samples))
        return evaluate(rollouts, data, settings, policy, base)

    sample = TransformersGenerator.sample
    monkeypatch.setattr(TransformersGenerator, "sample", sampled)
    monkeypatch.setattr("uniapl.runs.run.evaluate", compared)
    words = ("training.steps=1", f"evaluation.temperature={temperature}", "method=grpo")
    tiny.train(tmp_path / "run", *words)
    assert len(checked) == 4
    assert min(checked) > 6


def test_an_evaluation_compares_without_the_gathered_policy(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where weights are shared out, the whole policy is there to sample from, and is dropped before anything else."""
    gathered: list[LanguageModel] = []
    seen: list[tuple[str, bool]] = []

    @contextmanager
    def noted(policy: LanguageModel, device: Any) -> Iterator[None]:
        gathered.append(policy)
        yield
        gathered.pop()

    def sampled(*arguments: Any) -> list[Rollout]:
        seen.append(("sample", bool(gathered)))
        return sample(*arguments)

    def measured(*arguments: Any) -> Any:
        seen.append(("measure", bool(gathered)))
        return evaluate(*arguments)

    sample = TransformersGenerator.sample
    monkeypatch.setattr(LanguageModel, "gathered", noted)
    monkeypatch.setattr(TransformersGenerator, "sample", sampled)
    monkeypatch.setattr("uniapl.runs.run.evaluate", measured)
    tiny.train(tmp_path / "run", "training.steps=1", "method=sft")
    assert seen == 2 * [("sample", True), ("measure", False)]


def test_runs_that_start_alike_share_the_evaluation_before_training(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`uniapl compare` gives its runs a folder to share."""
    sampled: list[int] = []

    def counted(rollouts: list[Rollout], *arguments: Any) -> Any:
        sampled.append(len(rollouts))
        return evaluate(rollouts, *arguments)

    monkeypatch.setattr("uniapl.runs.run.evaluate", counted)

    def steps_of(name: str, *more: str) -> list[bytes]:
        run = tiny.train(tmp_path / name, "training.steps=1", *more)
        return [path.read_bytes() for path in sorted((run / "evaluations").glob("*/*"))]

    alone = steps_of("alone", "method=sft")
    sampled.clear()
    monkeypatch.setenv(FOLDER, str(tmp_path / "before"))
    first = steps_of("first", "method=grpo")
    assert sampled == [6, 6]
    shared = steps_of("shared", "method=sft")
    assert sampled == [6, 6, 6]
    assert shared[:2] == first[:2]
    assert shared[2:] != first[2:]
    assert alone == shared
    sampled.clear()
    # what it depends on is not shared
    steps_of("fewer", "method=sft", "evaluation.limit=5")
    assert sampled == [5, 5]
