"""What the package ships: model folder, tokenizer and data files."""

import hashlib
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
from uniapl.miniature.demonstrations import MAX_COMPLETION_TOKENS, ROWS, SECOND_TEXTS
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
    names = {f"{name}.jsonl" for name in (*ROWS, SECOND_TEXTS)}
    assert {path.name for path in DATA.iterdir()} == names
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


def test_a_second_text_for_every_demonstration(tables):
    lines = (DATA / f"{SECOND_TEXTS}.jsonl").read_text("utf-8").splitlines()
    second = [json.loads(line) for line in lines]
    assert len(second) == len(tables["demonstrations"])
    for row, first in zip(second, tables["demonstrations"], strict=True):
        assert list(row) == list(first)
        assert row | {"completion": first["completion"]} == first
        assert row["completion"] != first["completion"]
        assert all(strict(row["instruction_id_list"], row["kwargs"], row["completion"]))
    texts = [row["completion"] for row in second]
    topics = [row["topic"] for row in second]
    assert fluency([row["prompt"] for row in second], texts, topic=topics) == [1.0] * len(second)


SHIPPED_SHA256 = {
    "data/demonstrations.jsonl": "e9bfb371dde9a6e277f20755952146acc4c90a9bcafb9f27b1fa9ab4542df34c",
    "data/prompts.jsonl": "c68bcd314623527e0d64fef7bb30579fa83da1cf9cbe1ef96030a348f6932dff",
    "data/test.jsonl": "2900da0fc3e88e83624009f93a3b72f97a52de4fe54c43d68c3f15aed53f68ac",
    "data/validation.jsonl": "b4530e7a3b27ee171c5d15cc083beadc11ee82c077a36083f00d053a9cf692ec",
    "model/model.safetensors": "b854b5854b166bf82fae99f01f6c4f1866aa0335aef6e43037f88755e6d7a049",
    "model/tokenizer.json": "8493af71db759bfd70153bac505b62faf453e7fafafab830785f0533781ede4e",
}
"""What published results were measured with."""


@pytest.mark.parametrize("name", SHIPPED_SHA256)
def test_base_and_data_are_those_of_the_results(name):
    found = hashlib.sha256((DATA.parent / name).read_bytes()).hexdigest()
    assert found == SHIPPED_SHA256[name]


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
