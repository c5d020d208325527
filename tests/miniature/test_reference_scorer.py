"""The reference scorer: its text, its loss by hand, its writers."""

import json
import math
import random
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from uniapl.config.checks import PAIR_TEMPLATES
from uniapl.instructions import strict
from uniapl.miniature import DATA, MODEL
from uniapl.miniature.demonstrations import new_tasks, task_of
from uniapl.miniature.known_expert import fresh_texts
from uniapl.miniature.metrics import fluency
from uniapl.miniature.other_writers import breaking_texts, texts_by_writer
from uniapl.miniature.reference_scorer import (
    PAIR_TEXT,
    bradley_terry_loss,
    encode_pair,
    scores,
    shared_scores,
)
from uniapl.miniature.tasks import sample_task


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def test_the_pair_text_by_hand(tokenizer):
    ids = encode_pair(tokenizer, "Describe the sea.", "I love the sea.", "Many gulls\nare calm.")
    expected = "Describe the sea.\nI love the sea.\n\nDescribe the sea.\nMany gulls\nare calm."  # no special token
    assert tokenizer.decode(ids) == expected
    breaks = [i for i in ids if tokenizer.decode([i]) == "\n"]
    assert len(breaks) == 5  # a line break is one token of its own
    assert not {*ids} & {*tokenizer.all_special_ids}


def test_the_loss_by_hand():
    found = torch.tensor([[1.0, 0.0, 3.0], [0.5, 0.5, -0.5]], dtype=torch.float64)
    differences = (1.0, -2.0, 0.0, 1.0)
    expected = sum(math.log(1 + math.exp(-d)) for d in differences) / 4
    assert bradley_terry_loss(found).item() == pytest.approx(expected, abs=1e-12)


def test_padding_changes_no_score_and_transformers_reads_the_last_token(tokenizer):
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification.from_pretrained(
        MODEL, num_labels=1, dtype=torch.float32
    ).eval()
    texts = [encode_pair(tokenizer, "Describe the sea.", "I love the sea.", text)
             for text in ("We love gulls.", "Many gulls are calm. Some boats drift near the shore.")]  # fmt: skip
    together = scores(model, texts)
    alone = torch.cat([scores(model, [text]) for text in texts])
    torch.testing.assert_close(together, alone)
    hidden = model.model(input_ids=torch.tensor([texts[0]])).last_hidden_state[0, -1]
    torch.testing.assert_close(model.score(hidden), together[:1])


def test_a_shared_beginning_changes_no_score_and_no_gradient(tokenizer):
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification.from_pretrained(
        MODEL, num_labels=1, dtype=torch.float64
    ).eval()
    lines = (DATA / "second_texts.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:6]]
    groups = [
        [
            encode_pair(tokenizer, row["prompt"], row["completion"], text)
            for text in (row["completion"], f"{row['completion']} I", "", other["completion"])
        ]
        for row, other in zip(rows[:3], rows[3:], strict=True)
    ]
    wanted = torch.stack([scores(model, group) for group in groups])
    (wanted.sigmoid().sum()).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    found = shared_scores(model, groups)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    (found.sigmoid().sum()).backward()
    for ours, theirs in zip((p.grad for p in model.parameters()), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@settings(deadline=None)
@given(st.integers())
def test_a_breaking_text_breaks_something_and_reads_well(seed):
    rng = random.Random(seed)
    task = sample_task(rng, 2)
    texts = breaking_texts(rng, task)
    ids, kwargs = [i.id for i in task.instructions], [i.kwargs for i in task.instructions]
    for text in texts or ():
        assert not all(strict(ids, kwargs, text))
        assert fluency([task.prompt], [text], topic=[task.topic.name]) == [1.0]


def test_every_writer_writes_two_texts(tokenizer):
    torch.manual_seed(0)
    rng = random.Random(0)
    tasks = list(islice(new_tasks(tokenizer, rng), 8))
    model = Qwen3ForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    written = texts_by_writer(tasks, {"base": model}, tokenizer, rng)
    names = {"expert", "base", "breaks", "shuffles", "cuts", "doubles"}
    assert len(written) == len(tasks)
    assert any(set(texts) == names for texts in written)
    for texts, (task, text) in zip(written, tasks, strict=True):
        assert set(texts) | {"breaks"} == names
        first, second = texts["expert"]
        assert first == text != second
        ids, kwargs = [i.id for i in task.instructions], [i.kwargs for i in task.instructions]
        assert all(strict(ids, kwargs, second))
        assert sorted(texts["shuffles"][0].split(" ")) == sorted(first.split(" "))
        assert first.startswith(texts["cuts"][0])
        assert len(texts["cuts"][0]) < len(first)
        assert texts["doubles"] == (f"{first} {second}", f"{second} {first}")


def test_held_out_prompts_are_never_drawn(tokenizer):
    free = fresh_texts(tokenizer, (), 400, random.Random(0))
    avoided = {prompt for prompt, _ in free[::2]}
    kept = fresh_texts(tokenizer, avoided, 200, random.Random(0))
    assert not {prompt for prompt, _ in kept} & avoided
    left = [pair for pair in free if pair[0] not in avoided]
    assert kept[: len(left)] == left


def test_a_row_gives_its_task_back():
    for name in ("demonstrations", "prompts"):
        for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            assert task_of(row).prompt == row["prompt"]


def test_it_reads_what_the_discriminator_writes() -> None:
    """One text in two rooms that may not know each other."""
    assert PAIR_TEMPLATES["plain"] == PAIR_TEXT
