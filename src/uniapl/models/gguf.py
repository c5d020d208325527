"""Models from GGUF files: dequantised, so that they train and save like any other.

Reading one takes half a minute or more, each time; kept as a model folder it takes a second:

    python -m uniapl.models.gguf MODEL.gguf FOLDER
"""

import argparse
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uniapl.errors import InputError
from uniapl.models.loading import check_report, refusing, silent
from uniapl.models.saving import follow_umask

SUFFIX = ".gguf"
_DIGITS_APART = "smollm"
"""Value of `tokenizer.ggml.pre` whose split transformers does not know (5.23 reads it as GPT-2's)."""


def load_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model, weights in float32, and its tokenizer with chat template.

    Raises:
        InputError: A package is missing.
        ValueError: The file lacks weights, or holds others. And whatever transformers raises; see `refusing`.
    """
    for package in ("gguf", "accelerate"):  # transformers needs both
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{file}: reading GGUF needs {package}: pip install 'uniapl[gguf]'")
    folder, name = str(file.parent), file.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    if _pre_tokenizer(file) == _DIGITS_APART:
        _split_digits(tokenizer)
    with silent():
        quantised, report = cast(Any, AutoModelForCausalLM).from_pretrained(
            folder, gguf_file=name, dtype=torch.float32, output_loading_info=True
        )
    check_report(report, type(quantised).__name__)
    # As loaded it counts as quantised, which transformers refuses to save, and the config would say so.
    config: Any = quantised.config
    del config.quantization_config
    weights = quantised.state_dict()
    model = type(quantised).from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32
    )
    model.generation_config = quantised.generation_config
    return model, tokenizer


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF file as an ordinary model folder, which appears when all of it is there.

    Raises:
        InputError: The file cannot be read, or there is something at `folder`.
    """
    if folder.exists():
        raise InputError(f"{folder}: exists already")
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    with refusing("cannot read", str(file)):
        model, tokenizer = load_gguf(file)
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    follow_umask(aside)
    os.replace(aside, folder)


def _pre_tokenizer(file: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    return field.contents() if field else None


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take each digit by itself before GPT-2's split, as the vocabulary was learned.

    Without it a numbered list after an empty line begins with two tokens of a line break each, where the
    model writes one token: an expert's lists would differ from the policy's by their tokens alone.
    """
    backend = cast(Any, tokenizer).backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def main() -> int:
    """Convert one file; status 2 where the input is wrong, as of every command."""
    parser = argparse.ArgumentParser(
        prog="python -m uniapl.models.gguf", description="Keep a GGUF model as a model folder."
    )
    parser.add_argument("file", metavar="MODEL.gguf", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where it goes; must not exist")
    options = parser.parse_args()
    try:
        convert(options.file, options.folder)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
