"""Very small builds of every part."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen3ForCausalLM

from uniapl.miniature import DATA, MODEL
from uniapl.miniature.build import (
    build,
    build_expert,
    build_larger,
    build_part,
    build_scorer,
    build_texts,
    held_out_prompts,
    main,
)
from uniapl.miniature.demonstrations import ROWS, SECOND_TEXTS
from uniapl.miniature.pretraining import Recipe, mean_loss
from uniapl.miniature.reference_scorer import ScorerRecipe

TINY = Recipe(num_texts=64, batch_size=16)
FEW = dict.fromkeys(ROWS, 8)
TINY_SCORER = ScorerRecipe(
    num_prompts=4,
    comparisons=Recipe(num_texts=8, batch_size=4),
    sft=Recipe(num_texts=16),
)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def base(tmp_path):
    """The shipped model with a few rows of its data."""
    shutil.copytree(MODEL, tmp_path / "base" / "model")
    (tmp_path / "base" / "data").mkdir()
    for name in ("demonstrations", "validation", "test"):
        lines = (DATA / f"{name}.jsonl").read_text("utf-8").splitlines(keepends=True)
        (tmp_path / "base" / "data" / f"{name}.jsonl").write_text("".join(lines[:4]), "utf-8")
    return tmp_path / "base"


def test_equal_seeds_build_equal_bytes(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    build(first, TINY, FEW, seed=3)
    build(second, TINY, FEW, seed=3)
    assert contents(first) == contents(second)
    assert len(contents(first)) == len(ROWS) + 1 + 5
    assert {path.name for path in first.iterdir()} == {"model", "data"}


def test_a_build_replaces_what_was_there(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale.txt").write_text("old")
    (tmp_path / "kept.txt").write_text("mine")
    build(tmp_path, TINY, FEW)
    assert not (tmp_path / "model" / "stale.txt").exists()
    assert (tmp_path / "kept.txt").read_text() == "mine"


def test_the_shipped_second_texts_are_what_is_built(tmp_path):
    build_texts(MODEL.parent, tmp_path)
    path = f"data/{SECOND_TEXTS}.jsonl"
    assert (tmp_path / path).read_bytes() == (MODEL.parent / path).read_bytes()


def test_an_expert_is_the_base_after_its_texts(base, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    build_expert(base, first, TINY)
    build_expert(base, second, TINY)
    assert contents(first) == contents(second)
    names = {path.name for path in (base / "model").iterdir()}
    assert {path.name for path in first.iterdir()} == names
    for name in names - {"model.safetensors"}:
        assert (first / name).read_bytes() == (base / "model" / name).read_bytes(), name
    before, after = (load_file(x / "model.safetensors") for x in (base / "model", first))
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert all(v.dtype == torch.bfloat16 for v in after.values())
    assert any(not torch.equal(before[k], after[k]) for k in before)


def test_a_scorer_has_one_label_and_the_tokenizer(base, tmp_path, capfd):
    build_scorer(base, tmp_path / "scorer", TINY_SCORER)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scorer")
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == AutoTokenizer.from_pretrained(MODEL).pad_token_id
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "scorer" / name).read_bytes() == (MODEL / name).read_bytes()
    said = capfd.readouterr().err
    assert all(f"expert above {name}: " in said for name in ("base", "breaks", "cuts"))


def test_a_larger_base_has_four_times_the_parameters(base, tmp_path):
    build_larger(base, tmp_path / "larger", replace(TINY, num_texts=32))
    small, large = (
        sum(v.numel() for v in load_file(folder / "model.safetensors").values())
        for folder in (MODEL, tmp_path / "larger")
    )
    assert large / small == pytest.approx(4, rel=0.05)
    assert (tmp_path / "larger" / "tokenizer.json").read_bytes() == (
        MODEL / "tokenizer.json"
    ).read_bytes()


def test_the_mean_loss_counts_every_token_of_the_completions_once():
    model = Qwen3ForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = [
        ("Describe the sea.", "I love the sea."),
        ("Describe the farm.", "Many hens sleep."),
    ] * 70
    losses = []
    for prompt, completion in texts[:2]:
        start = tokenizer(f"<|user|>{prompt}<|end|><|assistant|>")["input_ids"]
        ids = torch.tensor([start + tokenizer(f"{completion}<|end|>")["input_ids"]])
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        own = logprobs.gather(1, ids[0, 1:, None])[len(start) - 1 :, 0]
        losses.append((-own.sum().item(), len(own)))
    expected = sum(total for total, _ in losses) / sum(number for _, number in losses)
    assert mean_loss(model, tokenizer, texts) == pytest.approx(expected, rel=1e-5)


def test_held_out_are_all_prompts_of_validation_and_test():
    prompts = held_out_prompts(MODEL.parent)
    assert len(prompts) == ROWS["validation"] + ROWS["test"]
    row = json.loads((DATA / "test.jsonl").read_text("utf-8").splitlines()[-1])
    assert row["prompt"] in prompts


def test_what_does_not_ship_is_never_built_into_the_package(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["build", "--only", "larger"])
    with pytest.raises(SystemExit):
        main()
    assert "give --output DIR" in capsys.readouterr().err


def test_an_unknown_part_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="unknown part"):
        build_part("smaller", tmp_path, tmp_path)
