"""Lay sequences end to end without padding; a prompt that several completions share is forwarded once.

A micro-batch is one row of tokens, `[prompt A | completion A1 | completion A2 | prompt B | completion B1 …]`.
`AttentionBlock`s say which tokens see which: a completion sees its own prompt and itself, so the result
equals that of the sequences run one by one. Everything but attention runs on the packed row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from uniapl.types import Demonstration, Rollout


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt and one completion, as token ids."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


def sequence_of(sample: Demonstration | Rollout) -> TokenSequence:
    """Return the token ids of a demonstration or a rollout."""
    return TokenSequence(sample.prompt.token_ids, sample.token_ids)


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Segments of similar length that attend together, padded to the longest of them.

    A padded query repeats the segment's last real one and is never read back; a padded key is masked.
    """

    queries: Tensor
    """Packed positions [segments, longest query segment]."""
    keys: Tensor
    """Packed positions [segments, longest key segment]."""
    mask: Tensor
    """[segments, 1, queries, keys], True = sees: real key at or before the query's position."""
    written: Tensor
    """Indices into the flattened [segments * queries] that are real, in the order of `positions`."""
    positions: Tensor
    """Packed positions that `written` fills; over all blocks they cover the row exactly once."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One micro-batch: a packed row and, per completion token, where it is predicted and which it is."""

    input_ids: Tensor
    """[tokens]"""
    position_ids: Tensor
    """[tokens], counted from the start of each prompt."""
    blocks: tuple[AttentionBlock, ...]
    sources: Tensor
    """[targets]: the packed position whose hidden state predicts the target."""
    target_ids: Tensor
    """[targets]: the completion tokens."""
    token_index: Tensor
    """[targets]: index of the target among all completion tokens of the packed sequences, in their order."""
    sequence_index: Tensor
    """[targets]: the target's sequence, as an index into `sequences`."""
    sequences: Tensor
    """[sequences in this micro-batch]: their indices in the list that was packed."""
    last_positions: Tensor
    """[sequences in this micro-batch]: packed position of each one's last token."""

    def to(self, device: torch.device) -> "Packed":
        """Return the same micro-batch on another device; on CUDA the copies need not have ended yet."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in self.__slots__
            if name != "blocks"
        }
        blocks = tuple(
            AttentionBlock(*(getattr(b, n).to(device, non_blocking=True) for n in b.__slots__))
            for b in self.blocks
        )
        return replace(self, blocks=blocks, **moved)


def completion_offsets(sequences: Sequence[TokenSequence]) -> list[int]:
    """Return where each completion starts in the flat list of all completion tokens, and their total.

    Args:
        sequences: In the order of the flat list.

    Returns:
        One offset in tokens per sequence, and the total as one more.
    """
    offsets = [0]
    for sequence in sequences:
        offsets.append(offsets[-1] + len(sequence.completion_ids))
    return offsets


def per_token(values: Tensor, sequences: Sequence[TokenSequence]) -> Tensor:
    """Repeat one value per sequence for each of its completion tokens.

    Args:
        values: [sequences], of any number type.
        sequences: As many as values, in the same order.

    Returns:
        [completion tokens] of all sequences, in the flat order of `completion_offsets`.
    """
    lengths = torch.tensor([len(s.completion_ids) for s in sequences], device=values.device)
    return torch.repeat_interleave(values, lengths)


def pack(
    sequences: Sequence[TokenSequence], max_tokens: int, *, split_groups: bool = True
) -> list[Packed]:
    """Split sequences into packed micro-batches of at most `max_tokens` tokens.

    Sequences with the same prompt share it inside a micro-batch. Groups are taken in the order of their
    first member.

    Args:
        sequences: What to pack; each has at least one prompt token and one completion token.
        max_tokens: Of a micro-batch, shared prompts counted once. A sequence that is longer by itself exceeds it.
        split_groups: Whether the sequences of a prompt may go to several micro-batches; if not, a group that is larger
            than `max_tokens` exceeds it.

    Returns:
        Micro-batches on the CPU that hold every sequence once; `sequences` and `token_index` of each say which.

    Raises:
        ValueError: A prompt or completion is empty.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, sequence in enumerate(sequences):
        if not sequence.prompt_ids or not sequence.completion_ids:
            raise ValueError(f"sequence {index} has an empty prompt or completion")
        groups.setdefault(sequence.prompt_ids, []).append(index)

    micro_batches: list[list[tuple[tuple[int, ...], list[int]]]] = []
    used = max_tokens + 1
    for prompt_ids, members in groups.items():
        lengths = [len(sequences[i].completion_ids) for i in members]
        units = [members] if not split_groups else [[i] for i in members]
        costs = [sum(lengths)] if not split_groups else lengths
        prompt_is_open = False
        for unit, cost in zip(units, costs, strict=True):
            if used + cost + (0 if prompt_is_open else len(prompt_ids)) > max_tokens:
                micro_batches.append([])
                used, prompt_is_open = 0, False
            if not prompt_is_open:
                micro_batches[-1].append((prompt_ids, []))
                used, prompt_is_open = used + len(prompt_ids), True
            micro_batches[-1][-1][1].extend(unit)
            used += cost
    offsets = completion_offsets(sequences)
    return [_lay_out(groups_, sequences, offsets) for groups_ in micro_batches]


def _lay_out(
    groups: Sequence[tuple[tuple[int, ...], list[int]]],
    sequences: Sequence[TokenSequence],
    offsets: Sequence[int],
) -> Packed:
    """Return one micro-batch.

    Args:
        groups: Each prompt's token ids, and which sequences continue it here.
        sequences: All that are packed, in this micro-batch or another.
        offsets: Their `completion_offsets`.
    """
    input_ids: list[int] = []
    position_ids: list[int] = []
    sources: list[int] = []
    target_ids: list[int] = []
    token_index: list[int] = []
    sequence_index: list[int] = []
    members: list[int] = []
    last_positions: list[int] = []
    prompt_segments: list[tuple[range, range]] = []
    completion_segments: list[tuple[range, range]] = []
    for prompt_ids, indices in groups:
        prompt = range(len(input_ids), len(input_ids) + len(prompt_ids))
        input_ids.extend(prompt_ids)
        position_ids.extend(range(len(prompt_ids)))
        prompt_segments.append((range(0), prompt))
        for index in indices:
            ids = sequences[index].completion_ids
            own = range(len(input_ids), len(input_ids) + len(ids))
            input_ids.extend(ids)
            position_ids.extend(range(len(prompt_ids), len(prompt_ids) + len(ids)))
            sources.extend((prompt[-1], *own[:-1]))
            target_ids.extend(ids)
            token_index.extend(range(offsets[index], offsets[index] + len(ids)))
            sequence_index.extend([len(members)] * len(ids))
            members.append(index)
            last_positions.append(own[-1])
            completion_segments.append((prompt, own))
    positions = torch.tensor(position_ids)
    blocks = (
        *(_block(part, positions) for part in _by_length(prompt_segments)),
        *(_block(part, positions) for part in _by_length(completion_segments)),
    )
    return Packed(
        input_ids=torch.tensor(input_ids),
        position_ids=positions,
        blocks=blocks,
        sources=torch.tensor(sources),
        target_ids=torch.tensor(target_ids),
        token_index=torch.tensor(token_index),
        sequence_index=torch.tensor(sequence_index),
        sequences=torch.tensor(members),
        last_positions=torch.tensor(last_positions),
    )


Segment = tuple[range, range]
"""A context that is seen whole, and the tokens themselves, seen causally."""

LEAST_SEGMENTS_PER_BLOCK = 32
"""Fewer segments are not worth a further attention call to save their padding."""


def _by_length(segments: list[Segment]) -> list[list[Segment]]:
    """Split into blocks of similar length: sorted, a new block where the padding would exceed a third."""
    ordered = sorted(segments, key=lambda s: (len(s[1]), len(s[0])))
    blocks: list[list[Segment]] = []
    for segment in reversed(ordered):  # longest first: the first of a block sets its width
        is_wasteful = blocks and len(segment[1]) * 3 < len(blocks[-1][0][1]) * 2
        if not blocks or (is_wasteful and len(blocks[-1]) >= LEAST_SEGMENTS_PER_BLOCK):
            blocks.append([])
        blocks[-1].append(segment)
    return blocks


def _block(segments: Sequence[Segment], positions: Tensor) -> AttentionBlock:
    """Return segments as one block; `positions` are those of the whole packed row, [tokens]."""
    num_queries = max(len(own) for _, own in segments)
    num_keys = max(len(context) + len(own) for context, own in segments)
    query_rows, key_rows, lengths = [], [], []
    for context, own in segments:
        query_rows.append([*own, *[own[-1]] * (num_queries - len(own))])
        visible = [*context, *own]
        key_rows.append(visible + [own[-1]] * (num_keys - len(visible)))
        lengths.append((len(own), len(visible)))
    queries, keys = torch.tensor(query_rows), torch.tensor(key_rows)
    query_lengths, key_lengths = torch.tensor(lengths).unbind(1)
    is_real_key = torch.arange(num_keys) < key_lengths[:, None]
    is_past = positions[keys][:, None, :] <= positions[queries][:, :, None]
    is_real_query = (torch.arange(num_queries) < query_lengths[:, None]).flatten()
    return AttentionBlock(
        queries=queries,
        keys=keys,
        mask=(is_past & is_real_key[:, None, :])[:, None],
        written=is_real_query.nonzero().squeeze(1),
        positions=queries.flatten()[is_real_query],
    )
