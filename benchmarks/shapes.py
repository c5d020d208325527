"""Models with the shapes of real ones and random weights: speed does not depend on what a model knows."""

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from uniapl.miniature import MODEL

PAD, END = 0, 1
"""Ids of the padding and of the end of a turn in every model here."""

_SPECIAL: dict[str, Any] = {
    "pad_token_id": PAD,
    "eos_token_id": END,
    "bos_token_id": None,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 2048,
    },
    "135m": {  # SmolLM2-135M
        "vocab_size": 49152,
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "max_position_embeddings": 8192,
    },
    "0.6b": {  # Qwen3-0.6B
        "vocab_size": 151936,
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
    },
}


def build_model(
    shape: str, dtype: torch.dtype, device: torch.device, **changes: Any
) -> PreTrainedModel:
    """Return a model of that shape, the same weights every time; `changes` override the shape."""
    torch.manual_seed(0)
    values = {**SHAPES[shape], **_SPECIAL, **changes}
    model = (
        Qwen3ForCausalLM(Qwen3Config(**values))
        if "head_dim" in values
        else LlamaForCausalLM(LlamaConfig(**values))
    )
    # not `.to(dtype)`: that would also round the frequencies of the positions
    for weight in model.parameters():
        weight.data = weight.data.to(device, dtype)
    nn.Module.to(model, device)
    return model.eval()


def save_model(shape: str, folder: Path) -> Path:
    """Write a model folder of that shape with the miniature's tokenizer, whose words are its first ones."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    vocabulary = max(SHAPES[shape]["vocab_size"], len(tokenizer))
    model = build_model(shape, torch.float32, torch.device("cpu"), vocab_size=vocabulary)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(shape: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that has a text for every id of the shape's vocabulary."""
    words = {"<pad>": PAD, "<end>": END}
    words |= {f"w{token}": token for token in range(len(words), SHAPES[shape]["vocab_size"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


def random_ids(shape: str, lengths: list[int], seed: int) -> list[tuple[int, ...]]:
    """Return token ids of the given lengths, none of them special."""
    draw = random.Random(seed)
    size = SHAPES[shape]["vocab_size"]
    return [tuple(draw.randrange(END + 1, size) for _ in range(length)) for length in lengths]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every benchmark that runs a model."""
    has_cuda = torch.cuda.is_available()
    parser.add_argument("--shape", choices=SHAPES, default="0.6b" if has_cuda else "135m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if has_cuda else "cpu")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16" if has_cuda else "float32",
        help="number type of forwards (a CPU without AMX is a hundred times slower in bfloat16)",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
