"""A tiny random model, its tokenizer and a task, built in memory: what most tests train on."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

WORDS = "the sea is calm and blue . , Write about in at least words Do not use any commas cat dog sun".split()
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PRETRAINING_STEPS = 60
SPECIAL = ["<pad>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level letters and a few words; turns end with <|end|>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<pad>"
    )
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[1:4]})
    fast.chat_template = TEMPLATE
    return fast


def tiny_model(vocab_size: int = 264, seed: int = 0, **changes: Any) -> Qwen3ForCausalLM:
    """Two layers, random weights large enough that its distributions are not flat."""
    torch.manual_seed(seed)
    values = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
        "eos_token_id": 4,
        "pad_token_id": 0,
        "bos_token_id": None,
        "initializer_range": 0.1,
        **changes,
    }
    return Qwen3ForCausalLM(Qwen3Config(**values))


def trained_tiny_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A tiny model that answers any prompt with one to five short words and ends its turn.

    Some answers have commas and some are short, so rewards vary inside groups.
    """
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = random.Random(0)
    for _ in range(PRETRAINING_STEPS):
        rows, labels = [], []
        for _ in range(32):
            prompt = f"{draw.choice('dpt')}{draw.randrange(12)} Write" + " now" * draw.randrange(3)
            words = [draw.choice("abcd") for _ in range(draw.randint(1, 5))]
            answer = draw.choice((" ", " ", ", ")).join(words)
            turns = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            ids = tokenizer.encode(text, add_special_tokens=False)
            target = [*tokenizer.encode(answer, add_special_tokens=False), 4]
            rows.append(ids + target)
            labels.append([-100] * len(ids) + target)
        width = max(map(len, rows))
        inputs = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        targets = torch.tensor([row + [-100] * (width - len(row)) for row in labels])
        model(input_ids=inputs, labels=targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def save_tiny_model(folder: Path, *, trained: bool = False) -> Path:
    """Write the model and tokenizer where `model.path` can point."""
    tokenizer = tiny_tokenizer()
    model = trained_tiny_model(tokenizer) if trained else tiny_model()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_reward_model(seed: int = 0, **changes: Any) -> Qwen3ForSequenceClassification:
    """A random model with one label."""
    config = tiny_model(**{"num_labels": 1, **changes}).config
    torch.manual_seed(seed)
    return Qwen3ForSequenceClassification(config).eval()


def save_tiny_reward_model(folder: Path, **changes: Any) -> Path:
    """Write it where a reward's `path` can point."""
    tiny_reward_model(**changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_pairs(file: Path, num: int = 6, **changes: Any) -> Path:
    """Write pairs whose rejected completions have a comma."""
    rows = (
        {"prompt": f"p{i} Write", "chosen": "a b c" + " d" * i, "rejected": "d, d", **changes}
        for i in range(num)
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_task(folder: Path, num: int = 12) -> dict[str, str]:
    """Write demonstrations, prompts and evaluation prompts; returns their paths.

    The expert uses three to six words and no comma, as asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, str] = {}
    for name, has_completion in (("demonstrations", True), ("prompts", False), ("test", True)):
        rows = []
        for i in range(num):
            row: dict[str, Any] = {
                "key": i,
                "prompt": f"{name[0]}{i} Write" + " now" * (i % 3),
                "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
                "kwargs": [{}, {"relation": "at least", "num_words": 2 + i % 2}],
            }
            if has_completion:
                row["completion"] = "a b c" + " d" * (i % 4)
            rows.append(json.dumps(row))
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(rows) + "\n")
        paths[name] = str(path)
    return paths
