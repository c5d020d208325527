"""The known expert that ships: the base's tokenizer, and a better writer than the base."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen3ForCausalLM

from uniapl.miniature import DATA, EXPERT, MODEL
from uniapl.miniature.known_expert import measure


@pytest.fixture(scope="module")
def measured():
    """What the base and the expert do on the first validation prompts."""
    lines = (DATA / "validation.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:64]]
    found = {}
    for folder in (MODEL, EXPERT):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        torch.manual_seed(0)
        found[folder] = measure(model, tokenizer, rows)
    return found


def test_the_folder_is_the_base_s_but_for_the_weights():
    names = {path.name for path in MODEL.iterdir()}
    assert {path.name for path in EXPERT.iterdir()} == names
    for name in names - {"model.safetensors"}:
        assert (EXPERT / name).read_bytes() == (MODEL / name).read_bytes(), name
    base, expert = (load_file(folder / "model.safetensors") for folder in (MODEL, EXPERT))
    assert {k: v.shape for k, v in base.items()} == {k: v.shape for k, v in expert.items()}
    assert {v.dtype for v in expert.values()} == {torch.bfloat16}
    assert sum(path.stat().st_size for path in EXPERT.iterdir()) < 5_000_000


def test_the_expert_s_texts_surprise_it_less_than_the_base(measured):
    assert measured[EXPERT]["nll"] < measured[MODEL]["nll"] - 0.3


def test_it_follows_what_the_base_does_not(measured):
    assert measured[EXPERT]["strict"] > measured[MODEL]["strict"] + 0.25
    assert measured[EXPERT]["fluency"] > 0.9
    assert measured[EXPERT]["joint"] <= measured[EXPERT]["strict"]
