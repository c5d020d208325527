"""Log-prob per token of answers as text."""

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import Tiny, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import fluency

__all__ = ["tiny"]
TEXT = "one two three four five six seven eight nine ten a b c d e f g h i j k l m n"


def write(path: Path, **responses: str) -> str:
    rows = [
        {
            "key": key,
            "response": text.removesuffix("…"),
            "finish_reason": "length" if text.endswith("…") else "stop",
            "expert_completion": TEXT if key == "p" else None,
        }
        for key, text in responses.items()
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return f"{path.stem}={path}"


def test_answers_are_scored_after_a_bare_beginning(tiny: Tiny, tmp_path: Path) -> None:
    other = TEXT.upper()
    before = write(tmp_path / "before.jsonl", p=TEXT, loops="a b c " * 9, short="a", cut=f"{TEXT}…")
    after = write(tmp_path / "after.jsonl", p=other, loops=TEXT, short=TEXT, cut=TEXT)
    arms = fluency.read_arms([before, after])
    assert list(arms) == ["expert", "before", "after"]
    found = fluency.likelihoods(str(tiny.model), arms)
    assert {name: list(values) for name, values in found.items()} == {
        "expert": ["p"],
        "before": ["p"],
        "after": ["p", "loops", "short", "cut"],
    }
    assert found["before"]["p"] == found["expert"]["p"]
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    turn = [{"role": "user", "content": TEXT}]
    start = tokenizer.apply_chat_template(turn, tokenize=False)
    whole = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    beginning = tokenizer(whole.removeprefix(start), add_special_tokens=False)["input_ids"]
    answer = tokenizer(other, add_special_tokens=False)["input_ids"]
    row = torch.tensor([[*beginning, *answer, tokenizer.eos_token_id]])
    with torch.no_grad():
        logprobs = model(row).logits[0, :-1].log_softmax(-1).gather(1, row[0, 1:, None])
    assert found["after"]["p"] == pytest.approx(logprobs[len(beginning) - 1 :].mean().item())


def test_the_table_and_what_is_wrong_with_the_input(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = write(tmp_path / "before.jsonl", p=TEXT, q="a")
    after = write(tmp_path / "after.jsonl", p=TEXT.upper(), q=TEXT)
    assert fluency.main(["--model", str(tiny.model), before, after]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in table[3:]] == [
        ["expert", "1", "1"],
        ["before", "1", "2"],
        ["after", "2", "2"],
    ]
    kept = tmp_path / "kept.json"
    words = ["--model", str(tiny.model), "--without-expert", "--output", str(kept), before, after]
    assert fluency.main(words) == 0
    found = json.loads(kept.read_text())
    assert {name: list(values) for name, values in found.items()} == {
        "before": ["p"],
        "after": ["p", "q"],
    }
    assert "expert" not in capsys.readouterr().out
    for wrong in ("before.jsonl", f"before={tmp_path / 'no'}"):
        assert fluency.main(["--model", str(tiny.model), wrong]) == 2
        assert capsys.readouterr().err.startswith("error: ")
