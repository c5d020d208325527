"""The decode loop: token ids of prompts in, sampled token ids with their log-probs out.

Every distinct prompt is forwarded once; the rows that continue it read its keys and values or get
copies of them. Rows that have ended leave the batch.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from uniapl.cpu.shared_prompts import PromptRows
from uniapl.errors import InputError, TrainingError
from uniapl.rollout.cache import RoomyLayer

# Asking which rows have ended waits for the device, so an accelerator is asked every 8th token.
CHECK_EVERY = {"cpu": 1}

BLOCK = 256
"""Entries of a vocabulary that are summed before the sums are."""
LARGEST_SUM = 4096
"""Up to so many entries one cumulative sum in float64 is faster than blocks."""
LEAST_DRAW = 1e-30
"""What rounding may make of a draw just above 0; no probability is as small."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One completion."""

    token_ids: list[int]
    """The end-of-turn token included if there is one."""
    logprobs: list[float]
    has_ended: bool
    """Whether the last token is an end-of-turn token."""


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    draws: Tensor | None,
    *,
    max_tokens: int,
    temperature: float,
    eos_token_ids: Collection[int],
) -> list[Decoded]:
    """Continue every prompt until it ends or has `max_tokens` new tokens.

    Args:
        model: in eval mode; its device is where everything happens.
        prompts: token ids, one entry per completion; equal prompts are forwarded only once.
        draws: uniform numbers in (0, 1], [completions, max_tokens], float64; row i alone decides
            completion i, so neither its neighbours nor their ends change it. Unused if greedy.
        max_tokens: length limit of a completion.
        temperature: 0 is greedy.
        eos_token_ids: the tokens that end a turn.

    Raises:
        InputError: the model does not use transformers' key/value cache.
        TrainingError: the log-probs are not finite.
    """
    # No inference_mode: a model may keep what its forward computed (a rope table, say), and
    # autograd refuses inference tensors in the next training step.
    rows = _LiveRows(prefill(model, prompts), max_tokens)
    device = model.device
    token_ids = torch.zeros(len(prompts), max_tokens, dtype=torch.long, device=device)
    wide = torch.promote_types(rows.logits.dtype, torch.float32)
    logprobs = torch.zeros(len(prompts), max_tokens, device=device, dtype=wide)
    draws = None if draws is None else draws.to(device)
    eos = torch.tensor(sorted(eos_token_ids), device=device)
    check_every = CHECK_EVERY.get(device.type, 8)
    for step in range(max_tokens):
        column = None if draws is None else draws[rows.order, step]
        chosen, chosen_logprobs = choose_tokens(rows.logits, column, temperature)
        token_ids[rows.order, step] = chosen
        logprobs[rows.order, step] = chosen_logprobs
        rows.has_ended |= torch.isin(chosen, eos)
        if step + 1 == max_tokens:
            break
        if (step + 1) % check_every == 0:
            chosen = rows.drop_ended(chosen)
            if len(chosen) == 0:
                break
        rows.forward(model, chosen)
    return cut(token_ids, logprobs, set(eos_token_ids))


@torch.no_grad()
def decode_at_its_largest(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_tokens: int, temperature: float
) -> int:
    """Do what `decode` does when no row ends early: prefill, then the last token; return the cache's bytes.

    For counting memory (`models.footprint`): no value is looked at.
    """
    rows = _LiveRows(prefill(model, prompts), max_tokens)
    draws = None
    if temperature:
        draws = torch.rand(len(prompts), dtype=torch.float64, device=model.device)
    chosen, _ = choose_tokens(rows.logits, draws, temperature)
    if max_tokens > 1:
        for layer in layers(rows.cache):
            assert layer.keys is not None
            num, heads, _, width = layer.keys.shape
            skipped = layer.keys.new_zeros(num, heads, max_tokens - 2, width)
            layer.update(skipped, skipped)
        rows.forward(model, chosen)
        choose_tokens(rows.logits, draws, temperature)
    return sum(layer.num_bytes for layer in layers(rows.cache))


def choose_tokens(
    logits: Tensor, draws: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Choose one token per row; returns the tokens [rows] and their log-probs [rows], nats.

    Args:
        logits: [rows, vocabulary].
        draws: uniform numbers in (0, 1], [rows], float64; only temperature 0 goes without.
        temperature: divides the logits. At 0 the likeliest token is taken, with its log-prob at
            temperature 1.

    The token is the inverse of the cumulative distribution at the draw: one pass over the
    vocabulary and one random number, where `torch.multinomial` needs a random number per entry.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature not in (0, 1):
        logits = logits / temperature
    top = logits.amax(-1, keepdim=True)
    # In place where the tensor is ours: with a large vocabulary, fresh memory is what costs.
    masses = (logits - top).exp_()
    if temperature == 0:
        tokens = logits.argmax(-1, keepdim=True)
        total = masses.sum(-1, keepdim=True)
    else:
        assert draws is not None
        tokens, total = _inverse(masses, draws[:, None].double())
        # The bound matters for NaN alone, which is reported later.
        tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    logprobs = logits.gather(-1, tokens) - top - total.log().to(logits.dtype)
    return tokens.squeeze(-1), logprobs.squeeze(-1)


def _inverse(masses: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return which entry's part of the cumulative sum each draw falls into, and the sum.

    Near its end a cumulative sum in float32 is a multiple of 6e-8 times the total, so of a large vocabulary most
    unlikely tokens would never be taken, together as much as 1e-3. In float64 one over the whole vocabulary is slow, so
    the draw first finds a block of the vocabulary, by the blocks' sums, and then an entry of that block.

    Args:
        masses: [rows, entries], float32, in any scale.
        draws: [rows, 1], float64, in (0, 1].

    Returns:
        Indices of entries above 0 [rows, 1], and the sums [rows, 1] in float64.
    """
    num_entries = masses.shape[-1]
    if num_entries <= LARGEST_SUM:
        indices, _, total = _reached(masses, draws)
        return indices, total
    num_whole = num_entries // BLOCK
    whole = masses[:, : num_whole * BLOCK].unflatten(-1, (num_whole, BLOCK)).sum(-1)
    rest = masses[:, num_whole * BLOCK :].sum(-1, keepdim=True)
    blocks, draws, total = _reached(torch.cat([whole, rest], -1), draws)
    places = blocks * BLOCK + torch.arange(BLOCK, device=masses.device)
    inside = masses.gather(-1, places.clamp(max=num_entries - 1))
    indices, _, _ = _reached(inside.masked_fill_(places >= num_entries, 0), draws)
    return blocks * BLOCK + indices, total


def _reached(masses: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the entry that a draw falls into, at which part of it (in (0, 1]), and the sum; each [rows, 1]."""
    cumulative = masses.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    targets = draws * total
    # The first entry that reaches a target above 0 has added to the sum, so one of mass 0 is never taken.
    indices = torch.searchsorted(cumulative, targets).clamp_(max=masses.shape[-1] - 1)
    beyond = (cumulative.gather(-1, indices) - targets) / masses.gather(-1, indices)
    return indices, (1 - beyond).clamp_(min=LEAST_DRAW), total


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompts of a batch, every distinct one forwarded once, padded on the left."""

    cache: Cache
    """One row per distinct prompt."""
    logits: Tensor
    """[distinct prompts, vocabulary], after the last token."""
    rows: Tensor
    """[completions]: the distinct prompt that each one continues."""
    lengths: Tensor
    """[distinct prompts], padding not counted."""
    is_padded: bool


def prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Prefilled:
    """Forward every distinct prompt once.

    Raises:
        InputError: the model does not use transformers' key/value cache.
    """
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    index = {prompt: row for row, prompt in enumerate(distinct)}
    longest = max(map(len, distinct))
    is_padded = min(map(len, distinct)) < longest
    # What id stands in the padding is free, since nothing attends to it; 0 always exists.
    padded = [(0,) * (longest - len(prompt)) + prompt for prompt in distinct]
    lengths = torch.tensor([len(prompt) for prompt in distinct], device=model.device)
    positions = torch.arange(longest, device=model.device) - (longest - lengths)[:, None]
    cache = Cache(layer_class_to_replicate=RoomyLayer)
    output = model(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=positions >= 0 if is_padded else None,
        # Called directly, a model counts positions from the padding on unless told.
        position_ids=positions.clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    if cache.get_seq_length() != longest:
        raise InputError(
            f"cannot sample from {type(model).__name__}: it does not use transformers' "
            "key/value cache"
        )
    rows = torch.tensor([index[tuple(prompt)] for prompt in prompts], device=model.device)
    return Prefilled(cache, output.logits[:, -1], rows, lengths, is_padded)


class _LiveRows:
    """The completions still being written, one row each; rows change places as others leave."""

    def __init__(self, prefilled: Prefilled, max_tokens: int) -> None:
        rows, longest = prefilled.rows, prefilled.cache.get_seq_length()
        self.cache = prefilled.cache
        can_share = any(layer.can_share for layer in layers(self.cache))
        self.shared = _prompt_rows(prefilled) if can_share else None
        for layer in layers(self.cache):
            layer.share(rows, min(max_tokens, layer.growth_tokens), self.shared)
        self.logits = prefilled.logits[rows]
        """[rows, vocabulary], after the last token."""
        self.positions = prefilled.lengths[rows]
        """The next token's position per row: its tokens so far, padding not counted."""
        columns = torch.arange(longest + max_tokens, device=rows.device)
        starts = (longest - self.positions)[:, None]
        self.mask = columns >= starts if prefilled.is_padded else None
        """[rows, most tokens there can be], False on the left padding; None if there is none."""
        self.order = torch.arange(len(rows), device=rows.device)
        """Which completion each row writes."""
        self.has_ended = torch.zeros_like(rows, dtype=torch.bool)

    def forward(self, model: PreTrainedModel, tokens: Tensor) -> None:
        """Append one token to every row."""
        length = self.cache.get_seq_length() + 1
        self.logits = model(
            input_ids=tokens[:, None],
            attention_mask=None if self.mask is None else self.mask[:, :length],
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.positions = self.positions + 1

    def drop_ended(self, tokens: Tensor) -> Tensor:
        """Drop the rows that have ended; returns the chosen tokens of those that stay.

        The last rows move into the places that became free, so that a drop copies few rows.
        """
        has_ended = self.has_ended.tolist()
        if not any(has_ended):
            return tokens
        num_live = has_ended.count(False)
        sources, targets = (moved.to(tokens.device) for moved in closed_ranks(has_ended))
        if num_live:
            for layer in layers(self.cache):
                layer.move(sources, targets, num_live)

        def kept(values: Tensor) -> Tensor:
            values[targets] = values[sources]
            return values[:num_live]

        self.order, self.positions = kept(self.order), kept(self.positions)
        self.has_ended = kept(self.has_ended)
        if self.mask is not None:
            self.mask = kept(self.mask)
        if self.shared is not None:
            self.shared.places = kept(self.shared.places)
        return kept(tokens)


def _prompt_rows(prefilled: Prefilled) -> PromptRows | None:
    """Return which prompt each row continues; None if groups are so small or uneven that it gains nothing."""
    counts = prefilled.rows.bincount()
    group_size = int(counts.max())
    num_rows, num_places = len(prefilled.rows), group_size * len(counts)
    if num_rows < 2 * len(counts) or num_places > 2 * num_rows:
        return None
    # How many rows of the same prompt stand before each row.
    order = prefilled.rows.argsort(stable=True)
    firsts = counts.cumsum(0) - counts
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device) - firsts[prefilled.rows[order]]
    padding = None
    if prefilled.is_padded:
        longest = int(prefilled.lengths.max())
        columns = torch.arange(longest, device=order.device)
        is_padding = columns < longest - prefilled.lengths[:, None]
        padding = torch.zeros(is_padding.shape, device=order.device)
        padding = padding.masked_fill_(is_padding, -torch.inf)[:, None, None]
    return PromptRows(prefilled.rows * group_size + places, group_size, padding)


def closed_ranks(has_ended: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Return the last live rows and the places in front of them that became free, pair by pair."""
    num_live = has_ended.count(False)
    free = [row for row in range(num_live) if has_ended[row]]
    moved = [row for row in range(num_live, len(has_ended)) if not has_ended[row]]
    return torch.tensor(moved, dtype=torch.long), torch.tensor(free, dtype=torch.long)


def layers(cache: Cache) -> list[RoomyLayer]:
    """Return a prefilled cache's layers."""
    # The cache was told to make these, but its annotation is the union of all kinds of layers.
    return cast(list[RoomyLayer], cache.layers)


def cut(token_ids: Tensor, logprobs: Tensor, eos_token_ids: set[int]) -> list[Decoded]:
    """Cut every row after its first end-of-turn token; what follows was never asked for."""
    if not torch.isfinite(logprobs).all():
        raise TrainingError(
            "the policy's log-probabilities are not finite while sampling: its weights have "
            "diverged; lower optimizer.learning_rate"
        )
    decoded = []
    for tokens, values in zip(token_ids.tolist(), logprobs.tolist(), strict=True):
        ends = (place + 1 for place, token in enumerate(tokens) if token in eos_token_ids)
        end = next(ends, None)
        decoded.append(Decoded(tokens[:end], values[:end], has_ended=end is not None))
    return decoded
