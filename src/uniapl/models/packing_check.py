"""Whether a model computes the same packed as alone; if not, it is refused before it trains on wrong numbers.

Packed attention follows the windows that a model asks transformers for. What else an architecture does with
neighbouring tokens (convolutions, recurrences, biases by distance, its own masks) shows in the numbers of a few
tokens, and what shows only in long sequences is made to show in short ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from uniapl.errors import InputError, one_line
from uniapl.models.packing import TokenSequence, pack

if TYPE_CHECKING:  # it runs this check when it is loaded
    from uniapl.models.language_model import LanguageModel

CHECK_TOLERANCE = 2e-3
"""Nats by which packed and plain log-probs may differ in float32 before a model counts as unsupported."""
CHECK_WINDOW = 4
"""Tokens to which windows are narrowed for the check, so that its sequences of 20 tokens reach far past them."""
LENGTH_LIMITS = ("sliding_window", "attention_chunk_size", "index_topk")
"""Settings that act on sequences longer than they say: a window, a chunk, how many keys a token sees at all."""
LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""transformers' names of layers that are attention by a rule; the others carry a state, or choose their keys."""


@torch.no_grad()
def check_packing(language_model: "LanguageModel", given: str) -> None:
    """Compare packed with plain log-probs on a few tokens, with every window narrowed to `CHECK_WINDOW`.

    Args:
        language_model: One that computes in float32; bfloat16 would hide what differs.
        given: What the user gave, for the message: `model.path: 'm'`.

    Raises:
        InputError: The log-probs of a token differ by more than `CHECK_TOLERANCE`, or the model cannot run packed.
    """
    model = language_model.model
    name = f"{given} ({type(model).__name__})"
    config = model.config.get_text_config()
    if other := set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES:
        kinds = ", ".join(sorted(other))
        raise InputError(f"{name} cannot run packed: it has layers of type {kinds}")
    ids = [(7 * i + 3) % config.vocab_size for i in range(24)]
    sequences = [
        TokenSequence(tuple(ids[:7]), tuple(ids[7:20])),
        TokenSequence(tuple(ids[:7]), tuple(ids[9:15])),
        TokenSequence(tuple(ids[5:7]), tuple(ids[7:24])),
    ]
    try:
        with _narrow_windows(model):
            expected = torch.cat([_plain_logprobs(language_model, s) for s in sequences])
            (packed,) = pack(sequences, 1000)
            flat = language_model.flat_logprobs([packed.to(language_model.device)], len(expected))
    except (torch.OutOfMemoryError, MemoryError):
        raise
    # any architecture's own code runs here, with arguments that its author did not foresee
    except Exception as error:
        raise InputError(f"{name} cannot run packed: {one_line(error)}") from error
    gap = (flat - expected).abs().max().item()
    if not gap <= CHECK_TOLERANCE:  # nor is NaN
        raise InputError(
            f"{name} computes attention or logits that packing does not know (log-probs differ by "
            f"{gap:.3g} nats)"
        )


def _plain_logprobs(language_model: "LanguageModel", sequence: TokenSequence) -> Tensor:
    """Return log-probs of a completion as transformers computes them, nats [completion tokens]."""
    model = language_model.model
    ids = [*sequence.prompt_ids, *sequence.completion_ids]
    row = torch.tensor([ids], device=language_model.device)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    with language_model.autocast():
        logprobs = model(row, use_cache=False).logits[0].float().log_softmax(-1)
    start = len(sequence.prompt_ids)
    return logprobs[start - 1 : -1].gather(1, row[0, start:, None]).squeeze(1)


@contextmanager
def _narrow_windows(model: PreTrainedModel) -> Iterator[None]:
    """Within, no window is wider than `CHECK_WINDOW`: transformers reads the config anew in every forward."""
    holders = [model.config.get_text_config(), *model.modules()]
    found = [
        (holder, limit, value)
        for limit in LENGTH_LIMITS
        for holder in holders
        if isinstance(value := getattr(holder, limit, None), int) and value > CHECK_WINDOW
    ]
    for holder, limit, _ in found:
        setattr(holder, limit, CHECK_WINDOW)
    try:
        yield
    finally:
        for holder, limit, value in found:
            setattr(holder, limit, value)
