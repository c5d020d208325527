import pytest
import torch
from tiny import tiny_model

from uniapl.models.adapters import LoraShape
from uniapl.models.footprint import Footprint, counted, num_bytes, packed_bytes
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, pack


@pytest.fixture(autouse=True)
def _single() -> None:
    torch.set_default_dtype(torch.float32)


def test_bytes_alive_and_at_the_worst_moment() -> None:
    with counted() as footprint:
        first = torch.zeros(1000)
        assert footprint.now == 4000
        view = first[:10]  # no memory of its own
        assert footprint.now == 4000

        assert footprint.peak_of(lambda: torch.zeros(500).add_(1)) == 2000
        assert footprint.now == 4000
        del first
        assert footprint.now == 4000  # the view needs it
        del view
        assert footprint.now == 0


@pytest.mark.parametrize("kind", ["full", "recomputed", "adapter"])
def test_a_rehearsal_needs_what_the_real_pass_needs(kind: str) -> None:
    """The same count over real tensors: nothing of the forward and backward pass is missing."""
    sequences = [TokenSequence((5, 6, 7), (8,) * (4 + i)) for i in range(5)]
    (packed,) = pack(sequences, 1000)

    def made() -> LanguageModel:
        model = LanguageModel(
            tiny_model(), torch.float32, 7, recomputes_layers=kind == "recomputed"
        )
        return model.with_adapter("policy", LoraShape(2, 4.0)) if kind == "adapter" else model

    real = made()
    with Footprint() as footprint:
        held = [p.detach() for p in real.parameters()]
        weights = footprint.now
        assert weights == num_bytes(list(real.parameters())) > 0 < len(held)
        expected = footprint.peak_of(lambda: real.logprobs(packed).sum().backward())
        left = footprint.now - weights
    with torch.device("meta"):
        rehearsed = made()
    with counted() as footprint:
        footprint.place(rehearsed)
        weights = footprint.now
        fake = footprint.packed(packed)
        actual = footprint.peak_of(lambda: rehearsed.logprobs(fake).sum().backward())
        assert footprint.now - weights == pytest.approx(left, abs=2000)  # of indices
    assert left >= num_bytes(real.trainable_parameters())  # gradients stay
    assert actual == pytest.approx(expected, rel=0.01)


def test_shared_weights_are_placed_once() -> None:
    with torch.device("meta"):
        policy = LanguageModel(tiny_model(), torch.float32, 7).with_adapter(
            "policy", LoraShape(2, 4.0)
        )
        reference = policy.reference()
    with counted() as footprint:
        footprint.place(policy, reference)
        buffers = sum(b.nbytes for b in policy.buffers())
        assert footprint.now == num_bytes(list(policy.parameters())) + buffers
        head = policy.model.get_output_embeddings()
        assert head is not None
        assert head.weight is policy.model.get_input_embeddings().weight
        assert not any(p.is_meta for p in reference.parameters())
        assert [p.requires_grad for p in policy.trainable_parameters()] == [True] * 28


def test_bytes_of_masks_and_indices() -> None:
    micro_batches = pack([TokenSequence((5, 6), (7, 8, 4))], 100)
    # 5 input ids, 5 positions; 3 sources, targets, token and sequence indices; 1 sequence and last position;
    # prompt block: queries, keys, written, positions of 2, a mask of 2 x 2; completion block: 3, 5, 3, 3, 3 x 5
    numbers = 2 * 5 + 4 * 3 + 2 + (4 * 2) + (3 + 5 + 3 + 3)
    assert packed_bytes(micro_batches) == 8 * numbers + 2 * 2 + 3 * 5
