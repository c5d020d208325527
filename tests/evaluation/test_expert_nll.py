"""`expert_nll` and what evaluations of a run write, against a plain forward of the same weights."""

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import Tiny
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    return tiny.train(folder, "method=sft", "training.steps=2", "training.micro_batch_tokens=40")


def evaluation(run: Path, step: int) -> tuple[dict, list[dict]]:
    folder = run / "evaluations" / f"step_{step:06d}"
    lines = (folder / "samples.jsonl").read_text().splitlines()
    return json.loads((folder / "results.json").read_text()), [json.loads(x) for x in lines]


@torch.no_grad()
def test_expert_nll_is_that_of_a_plain_forward(run: Path):
    results, rows = evaluation(run, 2)
    model = AutoModelForCausalLM.from_pretrained(run / "policy")
    tokenizer = AutoTokenizer.from_pretrained(run / "policy")
    total, count = 0.0, 0
    for row in rows:
        turns = [{"role": "user", "content": row["prompt"]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        start = tokenizer.encode(text, add_special_tokens=False)
        answer = [*tokenizer.encode(row["expert_completion"], add_special_tokens=False), 4]
        logprobs = model(torch.tensor([start + answer])).logits[0].log_softmax(-1)
        own = [logprobs[len(start) - 1 + i, token].item() for i, token in enumerate(answer)]
        assert row["expert_logprob_mean"] == pytest.approx(sum(own) / len(own), abs=1e-5)
        assert row["expert_completion_tokens"] == len(answer)
        total, count = total - sum(own), count + len(own)
    assert results["expert_nll"] == pytest.approx(total / count, abs=1e-5)


def test_training_on_the_expert_brings_it_nearer(run: Path):
    before, after = evaluation(run, 0)[0], evaluation(run, 2)[0]
    assert after["expert_nll"] < before["expert_nll"]


def test_greedy_answers_are_those_of_plain_generate(run: Path):
    _, rows = evaluation(run, 2)
    model = AutoModelForCausalLM.from_pretrained(run / "policy")
    tokenizer = AutoTokenizer.from_pretrained(run / "policy")
    for row in rows:
        turns = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0]
        own = answer[prompt["input_ids"].shape[1] :]
        assert len(own) == row["completion_tokens"]
        assert tokenizer.decode(own, skip_special_tokens=True) == row["response"]


def test_results_name_step_settings_and_expert(run: Path):
    results, rows = evaluation(run, 2)
    assert results["step"] == 2
    assert results["n"] == len(rows) == 6
    assert results["settings"] == {"temperature": 0.0, "max_completion_tokens": 12}
    assert results["expert"]["prompt_level_strict_acc"] == 1.0
