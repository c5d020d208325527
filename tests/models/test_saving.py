"""What is saved may be read by whom the umask lets read it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from uniapl.models.adapters import LoraShape
from uniapl.models.language_model import LanguageModel
from uniapl.models.saving import follow_umask, save_plain
from uniapl.models.scalar_model import ScalarModel


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


def save_policy(policy: LanguageModel, folder: Path) -> None:
    policy.save(folder, tiny_tokenizer(), torch.bfloat16)


def save_adapter(policy: LanguageModel, folder: Path) -> None:
    policy.with_adapter("policy", LoraShape(4, 8.0)).save_trained(folder, tiny_tokenizer())


def save_discriminator(policy: LanguageModel, folder: Path) -> None:
    ScalarModel(policy).save(folder, tiny_tokenizer(), torch.float32)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
@pytest.mark.parametrize("save", [save_policy, save_adapter, save_discriminator])
def test_weights_follow_the_umask(
    save: Callable[[LanguageModel, Path], None], mask: int, tmp_path: Path
) -> None:
    torch.set_default_dtype(torch.float32)
    with umask(mask):
        save(LanguageModel(tiny_model(), torch.float32, 7), tmp_path / "saved")
    found = modes(tmp_path / "saved")
    assert any(name.endswith(".safetensors") for name in found)
    assert set(found.values()) == {0o666 & ~mask}


def test_a_mode_that_somebody_chose_stays(tmp_path: Path) -> None:
    for name, mode in (("private", 0o600), ("script", 0o700), ("shared", 0o664)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    with umask(0o022):
        follow_umask(tmp_path)
    assert modes(tmp_path) == {"private": 0o644, "script": 0o700, "shared": 0o664}


@pytest.mark.parametrize("tied", [True, False])
def test_a_plain_save_holds_every_weight_once_in_the_type_that_was_asked(
    tmp_path: Path, tied: bool
):
    model = tiny_model(tie_word_embeddings=tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_plain(model, tmp_path, torch.bfloat16)
    saved = load_file(tmp_path / "model.safetensors")
    assert ("lm_head.weight" in saved) is not tied
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    for name, value in saved.items():
        assert torch.equal(value, before[name].bfloat16()), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(again.get_output_embeddings().weight, before["lm_head.weight"].bfloat16())
