from collections import Counter

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from uniapl.models.packing import (
    LEAST_SEGMENTS_PER_BLOCK,
    Packed,
    TokenSequence,
    completion_offsets,
    pack,
    per_token,
)

PROMPTS = [(1,), (2, 3), (2, 3, 4), (5, 6, 7, 8, 9)]

lists_of_sequences = st.lists(
    st.builds(
        TokenSequence,
        st.sampled_from(PROMPTS),
        st.lists(st.integers(10, 30), min_size=1, max_size=7).map(tuple),
    ),
    min_size=1,
    max_size=24,
)


def seen_by(packed: Packed) -> dict[int, list[int]]:
    """Packed positions that each packed position attends to, read off the blocks one by one."""
    seen: dict[int, list[int]] = {}
    for block in packed.blocks:
        order = iter(block.positions.tolist())
        width = block.queries.shape[1]
        for flat in block.written.tolist():
            segment, query = divmod(flat, width)
            position = int(block.queries[segment, query])
            assert next(order) == position
            assert position not in seen
            seen[position] = block.keys[segment][block.mask[segment, 0, query]].tolist()
        assert next(order, None) is None
        assert block.mask.any(-1).all(), "a padded query that sees nothing would give NaN"
    return seen


@given(lists_of_sequences, st.integers(1, 60), st.booleans())
@example([TokenSequence((1,), (10,))], 1, True)
def test_every_token_is_packed_once_and_sees_its_own_past(
    sequences: list[TokenSequence], budget: int, split_groups: bool
) -> None:
    offsets = completion_offsets(sequences)
    token_index: list[int] = []
    packed_sequences: list[int] = []
    for packed in pack(sequences, budget, split_groups=split_groups):
        row = packed.input_ids.tolist()
        seen = seen_by(packed)
        assert sorted(seen) == list(range(len(row)))
        token_index += packed.token_index.tolist()
        packed_sequences += packed.sequences.tolist()
        for place, target in enumerate(packed.token_index.tolist()):
            index = int(packed.sequences[packed.sequence_index[place]])
            sequence = sequences[index]
            within = target - offsets[index]
            assert 0 <= within < len(sequence.completion_ids)
            assert packed.target_ids[place] == sequence.completion_ids[within]
            # what predicts the token has seen prompt and earlier completion, in order, and nothing else
            before = [*sequence.prompt_ids, *sequence.completion_ids[:within]]
            visible = sorted(seen[int(packed.sources[place])])
            assert [row[p] for p in visible] == before
            assert packed.position_ids[visible].tolist() == list(range(len(before)))
        for place, index in enumerate(packed.sequences.tolist()):
            last = int(packed.last_positions[place])
            whole = [*sequences[index].prompt_ids, *sequences[index].completion_ids]
            assert [row[p] for p in sorted(seen[last])] == whole
    assert sorted(token_index) == list(range(offsets[-1]))
    assert sorted(packed_sequences) == list(range(len(sequences)))


@given(lists_of_sequences, st.integers(1, 60))
def test_budget_is_kept_where_it_can_be(sequences: list[TokenSequence], budget: int) -> None:
    for packed in pack(sequences, budget):
        if len(packed.input_ids) > budget:
            (only,) = packed.sequences.tolist()
            alone = len(sequences[only].prompt_ids) + len(sequences[only].completion_ids)
            assert len(packed.input_ids) == alone > budget


@given(lists_of_sequences, st.integers(1, 60))
def test_unsplit_groups_stay_together(sequences: list[TokenSequence], budget: int) -> None:
    micro_batches = pack(sequences, budget, split_groups=False)
    homes = [
        prompt
        for packed in micro_batches
        for prompt in {sequences[i].prompt_ids for i in packed.sequences.tolist()}
    ]
    assert set(Counter(homes).values()) == {1}
    for packed in micro_batches:
        prompts = {sequences[i].prompt_ids for i in packed.sequences.tolist()}
        assert len(packed.input_ids) <= budget or len(prompts) == 1


@given(lists_of_sequences)
def test_a_shared_prompt_is_in_a_micro_batch_once(sequences: list[TokenSequence]) -> None:
    (packed,) = pack(sequences, 10_000)
    completions = sum(len(s.completion_ids) for s in sequences)
    prompts = sum(map(len, {s.prompt_ids for s in sequences}))
    assert len(packed.input_ids) == completions + prompts


def test_layout_by_hand() -> None:
    sequences = [
        TokenSequence((1, 2), (10, 11)),
        TokenSequence((3,), (12,)),
        TokenSequence((1, 2), (13,)),
    ]
    (packed,) = pack(sequences, 8)
    assert packed.input_ids.tolist() == [1, 2, 10, 11, 13, 3, 12]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert packed.sources.tolist() == [1, 2, 1, 5]
    assert packed.target_ids.tolist() == [10, 11, 13, 12]
    assert packed.token_index.tolist() == [0, 1, 3, 2]
    assert packed.sequence_index.tolist() == [0, 0, 1, 2]
    assert packed.sequences.tolist() == [0, 2, 1]
    assert packed.last_positions.tolist() == [3, 4, 6]
    assert seen_by(packed)[4] == [0, 1, 4]


def test_a_split_group_repeats_its_prompt() -> None:
    sequences = [TokenSequence((1, 2), (10, 11)), TokenSequence((1, 2), (13,))]
    rows = [p.input_ids.tolist() for p in pack(sequences, 4)]
    assert rows == [[1, 2, 10, 11], [1, 2, 13]]
    rows = [p.input_ids.tolist() for p in pack(sequences, 5)]
    assert rows == [[1, 2, 10, 11, 13]]


def test_a_full_micro_batch_is_not_exceeded_by_one_token() -> None:
    sequences = [TokenSequence((1,), (10,)), TokenSequence((2,), (11, 12))]
    assert len(pack(sequences, 5)) == 1
    assert len(pack(sequences, 4)) == 2


def test_a_sequence_longer_than_the_budget_is_alone() -> None:
    sequences = [
        TokenSequence((1,), (10,)),
        TokenSequence((2,), tuple(range(10, 20))),
        TokenSequence((3,), (11,)),
    ]
    rows = [p.input_ids.tolist() for p in pack(sequences, 4)]
    assert rows == [[1, 10], [2, *range(10, 20)], [3, 11]]


def test_uneven_lengths_use_several_blocks() -> None:
    sequences = [
        TokenSequence((1,), (10,) * (20 if i < LEAST_SEGMENTS_PER_BLOCK else 3)) for i in range(40)
    ]
    (packed,) = pack(sequences, 10_000)
    # the prompt, the long completions, the short ones
    assert [tuple(b.queries.shape) for b in packed.blocks] == [(1, 1), (32, 20), (8, 3)]
    assert sorted(seen_by(packed)) == list(range(len(packed.input_ids)))


def test_nothing_packs_to_nothing() -> None:
    assert pack([], 10) == []


@pytest.mark.parametrize("empty", [TokenSequence((), (1,)), TokenSequence((1,), ())])
def test_empty_sequences_are_refused(empty: TokenSequence) -> None:
    with pytest.raises(ValueError, match="sequence 1 has an empty prompt or completion"):
        pack([TokenSequence((1,), (2,)), empty], 10)


def test_per_token_repeats_by_completion_length() -> None:
    sequences = [TokenSequence((1,), (2, 3, 4)), TokenSequence((1, 2), (5,))]
    assert per_token(torch.tensor([0.5, -1.0]), sequences).tolist() == [0.5, 0.5, 0.5, -1.0]


def test_to_keeps_every_tensor() -> None:
    (packed,) = pack([TokenSequence((1,), (2, 3))], 10)
    moved = packed.to(torch.device("cpu"))
    for name in packed.__slots__:
        if name != "blocks":
            assert torch.equal(getattr(moved, name), getattr(packed, name))
    for mine, theirs in zip(moved.blocks, packed.blocks, strict=True):
        assert all(torch.equal(getattr(mine, n), getattr(theirs, n)) for n in mine.__slots__)
