"""What the package ships: model folder, tokenizer and data files."""

import json
import subprocess
import sys
from collections import Counter
from itertools import combinations
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from uniapl.instructions import strict, validate
from uniapl.miniature import DATA, MODEL
from uniapl.miniature.build import MAX_COMPLETION_TOKENS, ROWS
from uniapl.miniature.grammar import TOPICS
from uniapl.miniature.metrics import fluency, joint
from uniapl.miniature.tasks import CONFLICTS, TEXTS, Instruction
from uniapl.miniature.tokenizer import END, END_ID, PAD, PAD_ID, SPECIAL

COLUMNS = {"key", "prompt", "instruction_id_list", "kwargs", "topic"}
MAX_PROMPT_TOKENS = 60


@pytest.fixture(scope="module")
def tables():
    return {
        name: [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
        for name in ROWS
    }


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0] if name != "completion"}


def test_rows_have_the_columns(tables):
    assert {path.name for path in DATA.iterdir()} == {f"{name}.jsonl" for name in ROWS}
    for name, number in ROWS.items():
        assert len(tables[name]) == number
        expected = COLUMNS if name == "prompts" else COLUMNS | {"completion"}
        assert all(set(row) == expected for row in tables[name])


def test_no_prompt_twice(tables):
    rows = [row for table in tables.values() for row in table]
    assert Counter(row["prompt"] for row in rows).most_common(1)[0][1] == 1
    assert Counter(row["key"] for row in rows).most_common(1)[0][1] == 1


def test_rows_ask_for_what_the_prompt_says(tables):
    for row in (row for table in tables.values() for row in table):
        ids, kwargs = row["instruction_id_list"], row["kwargs"]
        assert len(ids) == len(kwargs) in (2, 3)
        assert all(frozenset(pair) not in CONFLICTS for pair in combinations(ids, 2))
        assert f"the {row['topic']}." in row["prompt"]
        texts = [Instruction(name, values).text for name, values in zip(ids, kwargs, strict=True)]
        assert row["prompt"].endswith(" ".join(texts))
        for name, values in zip(ids, kwargs, strict=True):
            validate(name, values)


def test_every_file_has_every_instruction_and_topic(tables):
    for table in tables.values():
        assert {name for row in table for name in row["instruction_id_list"]} == set(TEXTS)
        assert {row["topic"] for row in table} == set(TOPICS)


@pytest.mark.parametrize("name", ["demonstrations", "validation", "test"])
def test_the_expert_is_one(tables, name):
    rows = tables[name]
    completions = [row["completion"] for row in rows]
    prompts = [row["prompt"] for row in rows]
    followed = [
        all(strict(row["instruction_id_list"], row["kwargs"], row["completion"])) for row in rows
    ]
    others = {key: value for key, value in columns(rows).items() if key != "prompt"}
    assert mean(followed) >= 0.97
    assert fluency(prompts, completions, **others) == [1.0] * len(rows)
    assert joint(prompts, completions, **others) == [float(verdict) for verdict in followed]
    assert len(set(completions)) == len(completions)


def test_texts_round_trip_and_are_short(tables, tokenizer):
    for row in (row for table in tables.values() for row in table):
        prompt = tokenizer(row["prompt"])["input_ids"]
        assert tokenizer.decode(prompt) == row["prompt"]
        assert len(prompt) <= MAX_PROMPT_TOKENS
        if "completion" in row:
            completion = tokenizer(row["completion"])["input_ids"]
            assert tokenizer.decode(completion) == row["completion"]
            assert len(completion) < MAX_COMPLETION_TOKENS
            assert len(completion) <= len(row["completion"].split()) * 2 + 8


@given(st.text())
def test_any_text_round_trips(text):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(len(SPECIAL)))
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END, END_ID)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PAD, PAD_ID)
    assert len(tokenizer) <= 768


def test_chat_template(tokenizer):
    user = {"role": "user", "content": "Write about the sea."}
    turns = [{"role": "system", "content": "Be kind."}, user]
    answered = [*turns, {"role": "assistant", "content": "I love the sea."}]
    start = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert start == "<|system|>Be kind.<|end|><|user|>Write about the sea.<|end|><|assistant|>"
    whole = tokenizer.apply_chat_template(answered, tokenize=False)
    assert whole == start + "I love the sea." + END
    ids = tokenizer(start)["input_ids"] + tokenizer("I love the sea." + END)["input_ids"]
    assert ids == tokenizer(whole)["input_ids"]


def test_the_model_folder_is_small_and_ordinary():
    sizes = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert set(sizes) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(sizes.values()) < 5_000_000
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 1_500_000
    with safe_open(MODEL / "model.safetensors", framework="pt") as weights:
        dtypes = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118
    assert dtypes == {torch.bfloat16}


def sample(model, tokenizer, prompts):
    rendered = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    batch = tokenizer(rendered, return_tensors="pt", padding=True)
    ids = model.generate(**batch)
    return tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_base_model_writes_well_and_follows_little(tables, tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    assert isinstance(model, Qwen3ForCausalLM)
    assert model.num_parameters() == pytest.approx(2_000_000, rel=0.1)
    assert len(tokenizer) == model.config.vocab_size
    rows = tables["test"][:192]
    prompts = [row["prompt"] for row in rows]
    completions = sample(model, tokenizer, prompts)
    followed = [
        all(strict(row["instruction_id_list"], row["kwargs"], text))
        for row, text in zip(rows, completions, strict=True)
    ]
    shares = fluency(prompts, completions, topic=[row["topic"] for row in rows])
    # Four standard errors beyond the range the task was made for (0.08 to 0.20 over many prompts).
    assert 0.03 < mean(followed) < 0.28
    assert 0.82 < mean(share for share in shares if share is not None) < 0.96


def test_the_metrics_need_no_torch():
    code = (
        "import sys, uniapl.miniature.metrics, uniapl.miniature.writer; "
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
