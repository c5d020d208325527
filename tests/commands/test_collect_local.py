"""`uniapl collect --local`: a model on this machine as the expert."""

import os
import sqlite3
from pathlib import Path
from shutil import copytree

import pytest
import torch
from collecting import GREEDY, collect, plain, summary
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_forward_hook

from uniapl.miniature import MODEL


def test_a_local_model_is_asked_only_for_what_is_new(tmp_path: Path):
    """However long the new prompt is: no setting follows from the prompts."""
    prompts = plain(tmp_path / "prompts.jsonl", "Write about the sea.")
    words = ("--output", tmp_path / "out.jsonl", "--local", MODEL, "--temperature", "0")
    assert collect(prompts, *words) == 0
    plain(prompts, "Write about the sea.", "Write about the sea. " * 40)
    assert collect(prompts, *words) == 0
    assert summary(tmp_path / "out.jsonl")["num_from_cache"] == 1
    assert summary(tmp_path / "out.jsonl")["num_asked"] == 1


def test_a_local_model_answers_in_the_dtype_that_is_asked_for(tmp_path: Path):
    """The default on a CPU is float32; another dtype is another expert."""
    prompts = plain(tmp_path / "prompts.jsonl", "Write about the sea.")
    words = ("--output", tmp_path / "out.jsonl", "--local", MODEL, "--temperature", "0")
    for dtype, more in (("float32", ()), ("bfloat16", ("--dtype", "bfloat16"))):
        seen: set[torch.dtype] = set()
        hook = register_module_forward_hook(
            lambda module, _, output, seen=seen: (
                seen.add(output.dtype) if isinstance(module, torch.nn.Linear) else None
            )
        )
        try:
            assert collect(prompts, *words, *more) == 0
        finally:
            hook.remove()
        assert (torch.bfloat16 in seen) == (dtype == "bfloat16")
        assert summary(tmp_path / "out.jsonl")["settings"]["request"]["dtype"] == dtype
        assert summary(tmp_path / "out.jsonl")["num_asked"] == 1


def test_prompts_that_do_not_fit_a_local_model_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts = plain(tmp_path / "prompts.jsonl", "Write about the sea.")
    words = ("--output", tmp_path / "out.jsonl", "--local", MODEL, "--max-tokens", "510")
    assert collect(prompts, *words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {prompts}: prompt Write about the sea.: its ")
    assert "510 of an answer do not fit the model's context of 512" in shown


def test_changed_weights_are_another_expert(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prompts = plain(tmp_path / "prompts.jsonl", "Write about the sea.")
    model = copytree(MODEL, tmp_path / "model")
    words = ("--output", tmp_path / "out.jsonl", "--local", model, *GREEDY)
    for num_asked in (1, 0):
        assert collect(prompts, *words) == 0
        assert summary(tmp_path / "out.jsonl")["num_asked"] == num_asked
    weights = model / "model.safetensors"
    state = weights.stat()
    os.utime(weights, (0, 0))  # a copy of the same weights is the same expert
    assert collect(prompts, *words) == 0
    assert summary(tmp_path / "out.jsonl")["num_asked"] == 0
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    next(iter(tensors.values())).mul_(1.5)
    save_file(tensors, weights, metadata={"format": "pt"})
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert weights.stat().st_size == state.st_size
    capsys.readouterr()
    assert collect(prompts, *words) == 0
    assert summary(tmp_path / "out.jsonl")["num_asked"] == 1
    assert "other settings (weights); their answers are still in" in capsys.readouterr().out
    with sqlite3.connect(tmp_path / "out.answers.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM answers").fetchone() == (2,)
    database.close()
