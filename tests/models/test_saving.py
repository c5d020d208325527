"""What is saved may be read by whom the umask lets read it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from uniapl.models.adapters import LoraShape
from uniapl.models.language_model import LanguageModel
from uniapl.models.saving import follow_umask
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
