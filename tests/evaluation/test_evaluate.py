"""Evaluations of hand-made completions: every number can be checked by hand."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uniapl.errors import InputError, TrainingError
from uniapl.evaluation import EvaluationSet, evaluate, load_metrics, write_evaluation
from uniapl.evaluation.evaluate import evaluate_responses
from uniapl.rewards import build_reward
from uniapl.types import Demonstration, Prompt, Rollout

NO_COMMA, WORDS = "punctuation:no_comma", "length_constraints:number_words"


def prompt(number: int, ids: Sequence[str] | None, num_words: int = 2, **columns: Any) -> Prompt:
    if ids is not None:
        kwargs = [
            {} if i == NO_COMMA else {"relation": "at least", "num_words": num_words} for i in ids
        ]
        columns |= {"instruction_id_list": list(ids), "kwargs": kwargs}
    turns = ({"role": "user", "content": f"Write {number}"},)
    return Prompt(str(number), turns, (1, 2), columns=columns)  # fmt: skip


def answers(
    prompts: Sequence[Prompt], *script: tuple[str, int], truncated: Sequence[int] = ()
) -> list[Rollout]:
    """Return rollouts that say what they are told to: (text, number of tokens) per prompt."""
    return [
        Rollout(
            prompt=one,
            completion=text,
            token_ids=(5,) * length,
            sampling_logprobs=(-0.5,) * length,
            finish_reason="length" if index in truncated else "stop",
        )
        for index, (one, (text, length)) in enumerate(zip(prompts, script, strict=True))
    ]


def demonstration(one: Prompt, text: str, length: int) -> Demonstration:
    return Demonstration(one, text, (6,) * length)


PROMPTS = [
    prompt(0, [NO_COMMA]),
    prompt(1, [NO_COMMA, WORDS]),
    prompt(2, [NO_COMMA, WORDS], num_words=3, key="third"),
    prompt(3, [WORDS]),
]
ANSWERS = answers(
    PROMPTS,
    ("the sea", 3),  # followed
    ("a, b", 5),  # has a comma, but two words
    ("one word only", 4),  # both
    ("calm", 2),  # one word
    truncated=[3],
)


def test_instructions_are_counted_by_prompt_and_by_instruction():
    data = EvaluationSet(PROMPTS, [None] * 4)
    results, rows = evaluate(ANSWERS, data, {"temperature": 0.0})
    assert results["n"] == 4
    assert results["prompt_level_strict_acc"] == 2 / 4
    assert results["inst_level_strict_acc"] == 4 / 6
    # of n = 4 zeros and ones with mean 1/2: sqrt(1/2 · 1/2 / (n - 1))
    assert results["prompt_level_strict_acc_stderr"] == pytest.approx(math.sqrt(0.25 / 3))
    assert results["truncated_fraction"] == 1 / 4
    assert results["completion_tokens_mean"] == (3 + 5 + 4 + 2) / 4
    assert results["by_instruction"] == {
        WORDS: {"strict": 2 / 3, "loose": 2 / 3, "n": 3},
        NO_COMMA: {"strict": 2 / 3, "loose": 2 / 3, "n": 3},
    }
    assert results["settings"] == {"temperature": 0.0}
    assert not {"expert", "expert_nll", "completion_tokens_w1"} & results.keys()
    assert [row["follow_instruction_list_strict"] for row in rows] == [
        *([True], [False, True], [True, True], [False])
    ]
    assert [row["follow_all_strict"] for row in rows] == [True, False, True, False]
    assert [row["key"] for row in rows] == ["0", "1", "third", "3"]
    assert rows[2] == {
        "key": "third",
        "prompt": "Write 2",
        "response": "one word only",
        "finish_reason": "stop",
        "completion_tokens": 4,
        "logprob_mean": None,
        "base_logprob_mean": None,
        "repetition_fraction": 0.0,
        "expert_completion": None,
        "expert_completion_tokens": None,
        "expert_logprob_mean": None,
        "expert_base_logprob_mean": None,
        "expert_bigram_f1": None,
        "metrics": {},
        "instruction_id_list": [NO_COMMA, WORDS],
        "kwargs": [{}, {"relation": "at least", "num_words": 3}],
        "follow_instruction_list_strict": [True, True],
        "follow_instruction_list_loose": [True, True],
        "follow_all_strict": True,
        "follow_all_loose": True,
    }


def test_loose_forgives_what_strict_does_not():
    data = EvaluationSet([prompt(0, [NO_COMMA])], [None])
    results, _ = evaluate(
        answers(data.prompts, ("Well, here it is:\nthe sea is calm", 9)), data, {}
    )
    assert results["prompt_level_strict_acc"] == 0
    assert results["prompt_level_loose_acc"] == 1


def test_prompts_without_instructions_have_no_accuracy():
    prompts = [prompt(0, None), prompt(1, []), prompt(2, None, instruction_id_list=None)]
    rollouts = answers(prompts, ("a", 1), ("b", 1), ("c", 1))
    results, rows = evaluate(rollouts, EvaluationSet(prompts, [None] * 3), {})
    assert not [name for name in results if "level" in name]
    assert all("follow_all_strict" not in row for row in rows)


def test_the_expert_is_measured_like_a_policy():
    experts = [
        demonstration(PROMPTS[0], "calm, blue", 4),  # not even the expert follows all
        demonstration(PROMPTS[1], "the sea", 3),
        None,
        demonstration(PROMPTS[3], "the sea", 3),
    ]

    def logprobs(asked: Sequence[Demonstration | Rollout]) -> list[float]:
        assert [e.prompt.id for e in asked] == ["0", "1", "3", "0", "1", "2", "3"]
        return [-1.0, -2.0, -3.0, -0.1, -0.2, -0.3, -0.4]

    metric = build_reward(
        lambda completions, **_: [len(c.split()) for c in completions], name="words"
    )
    results, rows = evaluate(ANSWERS, EvaluationSet(PROMPTS, experts, [metric]), {}, logprobs)  # fmt: skip
    assert results["expert"]["prompt_level_strict_acc"] == 2 / 3
    assert results["expert"]["words"] == 2
    # the comma of the first is the one instruction of four that is not followed
    assert results["expert"]["by_instruction"] == {
        WORDS: {"strict": 1.0, "loose": 1.0, "n": 2},
        NO_COMMA: {"strict": 1 / 2, "loose": 1 / 2, "n": 2},
    }
    # lengths 3, 5, 2 against 4, 3, 3; sorted 2 3 5 and 3 3 4: (1 + 0 + 1) / 3
    assert results["completion_tokens_w1"] == pytest.approx(2 / 3)
    assert results["expert_completion_tokens_mean"] == pytest.approx(10 / 3)
    assert results["completion_tokens_mean"] == 14 / 4  # of all prompts
    # per token: (1·4 + 2·3 + 3·3) / 10
    assert results["expert_nll"] == pytest.approx(1.9)
    assert [row["expert_logprob_mean"] for row in rows] == [-1.0, -2.0, None, -3.0]
    assert [row["logprob_mean"] for row in rows] == [-0.1, -0.2, -0.3, -0.4]
    assert [row["expert_completion_tokens"] for row in rows] == [4, 3, None, 3]


def test_metrics_of_ones_own_have_mean_and_error():
    def marks(completions: list[str], **_: Any) -> list[float | None]:
        """Marks of a reader."""
        return [1.0, 3.0, None, 2.0][: len(completions)]

    data = EvaluationSet(PROMPTS, [None] * 4, [build_reward(marks)])
    results, rows = evaluate(ANSWERS, data, {})
    assert results["marks"] == 2.0
    assert results["marks_stderr"] == pytest.approx(math.sqrt(1.0 / 3))  # variance 1 of n = 3
    assert [row["metrics"]["marks"] for row in rows] == [1.0, 3.0, None, 2.0]
    assert data.definitions()["marks"] == "Marks of a reader."
    none = build_reward(lambda completions, **_: [None] * len(completions), name="none")
    results, _ = evaluate(ANSWERS, EvaluationSet(PROMPTS, [None] * 4, [none]), {})
    assert results["none"] is None


def test_a_diverged_policy_is_no_result():
    data = EvaluationSet(PROMPTS[:1], [demonstration(PROMPTS[0], "a", 1)])
    with pytest.raises(TrainingError, match="not finite: the policy's weights"):
        evaluate(answers(data.prompts, ("a", 1)), data, {}, lambda asked: [math.nan] * len(asked))


def test_every_result_has_a_meaning():
    experts = [demonstration(p, "a b c", 3) for p in PROMPTS]
    data = EvaluationSet(PROMPTS, experts)
    one = lambda asked: [-1.0] * len(asked)  # noqa: E731
    results, _ = evaluate(ANSWERS, data, {}, one, one)
    measured = {k for k, v in results.items() if isinstance(v, float) and "stderr" not in k}
    assert measured == data.definitions().keys()


def test_results_are_files_without_nan(tmp_path: Path):
    folder = tmp_path / "evaluations" / "step_000000"
    write_evaluation(folder, {"n": 1, "x": 0.5}, [{"response": "λ\n"}, {"response": "b"}])
    assert json.loads((folder / "results.json").read_text()) == {"n": 1, "x": 0.5}
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["response"] for line in lines] == ["λ\n", "b"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_evaluation(folder, {"x": math.nan}, [])
    assert sorted(p.name for p in folder.iterdir()) == ["results.json", "samples.jsonl"]
    assert json.loads((folder / "results.json").read_text())["n"] == 1


def test_names_of_metrics_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tiny_metrics.py").write_text(
        "def step(completions): ...\ndef ok(completions): ..."
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [m.name for m in load_metrics(["tiny_metrics:ok"])] == ["ok"]
    with pytest.raises(InputError, match="step is the name of another result"):
        load_metrics(["tiny_metrics:step"])
    with pytest.raises(InputError, match="two metrics are named ok"):
        load_metrics(["tiny_metrics:ok", "tiny_metrics:ok"])


def test_thoughts_are_no_part_of_an_answer_or_of_a_response():
    one = prompt(0, [NO_COMMA], num_words=2)

    script = ("well, so</think>red", 3), ("a plan", 2), ("a </think>, b", 4)
    experts = [demonstration(one, "so, x</think>blue", 3), demonstration(one, "blue", 1), None]
    data = EvaluationSet([one] * 3, experts, [build_reward(whole_length)])
    rollouts = [
        replace(r, begins_thinking=r.completion != "a </think>, b")
        for r in answers(data.prompts, *script)
    ]
    results, rows = evaluate(rollouts, data, {})
    assert [row["response"] for row in rows] == ["red", "", "a </think>, b"]
    assert [row.get("thoughts") for row in rows] == ["well, so", "a plan", None]
    assert [row["follow_all_strict"] for row in rows] == [True, False, False]
    assert [row["metrics"]["whole_length"] for row in rows] == [3.0, 0.0, 13.0]
    assert results["expert"]["prompt_level_strict_acc"] == 1.0
    responses = ["<think>a, b</think>red", "<think>no end", "a </think>, b", None]
    _, rows = evaluate_responses(EvaluationSet([one] * 4, [None] * 4), responses, {})
    assert [row["response"] for row in rows] == ["red", "", "a </think>, b", None]
    assert [row["follow_all_strict"] for row in rows] == [True, False, False, False]


def whole_length(completions, **_):
    return [float(len(completion)) for completion in completions]
