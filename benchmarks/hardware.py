"""What the machine itself can do, measured in the same run: bytes moved and multiplications per second."""

import time
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from benchmarks.measuring import synchronize

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second by the data sheet, by a word in the device's name."""


def measured_bandwidth(device: str, num_bytes: int = 2**28) -> float:
    """Return bytes per second, read and written, of the best of three copies of `num_bytes`."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _best_seconds(lambda: target.copy_(source), device)


def measured_flops(device: str, dtype: torch.dtype, width: int = 2048) -> float:
    """Return operations per second of the best of three square matrix products."""
    left = torch.rand(width, width, device=device, dtype=dtype)
    return 2 * width**3 / _best_seconds(lambda: left @ left, device)


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """Return the data sheet's number where it is known, else the measured one."""
    if device == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name()
        for word, flops in PEAK_FLOPS.items():
            if word in name:
                return flops
    return measured_flops(device, dtype)


def _best_seconds(work, device: str) -> float:
    work()
    best = float("inf")
    for _ in range(3):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def num_matrix_weights(model: PreTrainedModel) -> int:
    """Return how many weights a token is multiplied with: all but a table that is only looked up."""
    total = sum(p.numel() for p in model.parameters())
    is_tied = model.config.get_text_config().tie_word_embeddings
    return total if is_tied else total - model.get_input_embeddings().weight.numel()  # pyright: ignore[reportCallIssue]


def head_weights(model: PreTrainedModel) -> int:
    """Return how many weights turn a hidden state into logits."""
    return cast(nn.Linear, model.get_output_embeddings()).weight.numel()


def cache_width(model: PreTrainedModel) -> int:
    """Return how many numbers one token's keys and values are, over all layers."""
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width


def decoding_limits(
    model: PreTrainedModel, lengths: list[int], prompt_length: int, bandwidth: float, flops: float
) -> dict[str, float]:
    """Return tokens per second that memory, and arithmetic, would allow a perfect decode loop.

    Every step reads all weights once and the keys and values of the rows still being written, and multiplies
    every such row's token with every weight.

    Args:
        model: Says how many weights there are, and their type.
        lengths: Tokens of each completion.
        prompt_length: Tokens before them.
        bandwidth: Bytes per second.
        flops: Operations per second.
    """
    weights = num_matrix_weights(model)
    size = next(model.parameters()).element_size()
    seconds_memory = seconds_arithmetic = 0.0
    for step in range(max(lengths)):
        live = sum(length > step for length in lengths)
        cached = live * (prompt_length + step) * cache_width(model)
        seconds_memory += size * (weights + cached) / bandwidth
        seconds_arithmetic += 2 * live * weights / flops
    total = sum(lengths)
    return {"memory": total / seconds_memory, "arithmetic": total / seconds_arithmetic}


def training_flops(model: PreTrainedModel, lengths: list[tuple[int, int]]) -> float:
    """Return the operations of a forward and backward that no algorithm can do without.

    Three times the forward's: two per weight and token in the layers, two per weight of the head and target, and
    the products of causal attention. Recomputation and padding do not count.

    Args:
        model: Says how large everything is.
        lengths: Per sequence, the tokens that are forwarded for it and those before them, which it only attends to;
            the targets are as many as the former.
    """
    config = model.config.get_text_config()
    head = head_weights(model)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_pair = 4 * config.num_hidden_layers * config.num_attention_heads * width
    layers = num_matrix_weights(model) - head
    forward = 0.0
    for own, before in lengths:
        pairs = own * before + own * (own + 1) / 2
        forward += 2 * own * (layers + head) + per_pair * pairs
    return 3 * forward
