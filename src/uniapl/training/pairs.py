"""The policy learns from chosen and rejected completions in the same update: DPO's loss on `data.pairs`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed, TokenSequence, pack
from uniapl.objective.pairs import dpo_loss
from uniapl.objective.reductions import sequence_sum
from uniapl.training.term_gradients import TermGradients
from uniapl.types import PreferencePair


def accumulate_pairs(
    policy: LanguageModel,
    reference: LanguageModel,
    pairs: Sequence[PreferencePair],
    *,
    weight: float,
    beta: float,
    micro_batch_tokens: int,
    by_term: TermGradients | None,
) -> dict[str, float]:
    """Add the gradient of weight · mean DPO loss to what the policy's weights hold.

    Args:
        policy: The model that learns; its log-probs are at temperature 1, as for demonstrations.
        reference: The frozen model before training.
        pairs: Of the step; their number is the term's own count.
        weight: `objective.pair_weight` as it acts.
        beta: β, per nat.
        micro_batch_tokens: Of one forward and backward; the two completions of a pair are never in two of them.
        by_term: Also receives the term's own gradient.

    Returns:
        Loss (mean over the pairs, nats, unweighted), the share of pairs that the policy prefers rightly beside the
        reference, the term's Σ |token weight|, and how many tokens were packed.
    """
    sequences = [
        TokenSequence(pair.prompt.token_ids, ids)
        for pair in pairs
        for ids in (pair.chosen_ids, pair.rejected_ids)
    ]
    num_packed = 0
    totals = {"pairs": 0.0, "pairs_accuracy": 0.0, "pairs_token_weights": 0.0}
    for packed in pack(sequences, micro_batch_tokens, split_groups=False):
        num_packed += len(packed.input_ids)
        packed = packed.to(policy.device)
        logprobs_S = _sums(policy.logprobs(packed), packed)
        with torch.no_grad():
            ref_logprobs_S = _sums(reference.logprobs(packed), packed)
        place = {sequence: i for i, sequence in enumerate(packed.sequences.tolist())}
        chosen = [i for sequence, i in place.items() if sequence % 2 == 0]
        rejected = [place[sequence + 1] for sequence in place if sequence % 2 == 0]
        loss_P = dpo_loss(
            logprobs_S[chosen],
            logprobs_S[rejected],
            ref_logprobs_S[chosen],
            ref_logprobs_S[rejected],
            beta,
        )
        loss = loss_P.sum() * (weight / len(pairs))
        if by_term is not None:
            by_term.add({"pairs": loss})
        # ∂L/∂log π of a token: -log σ(β Δ) falls by β (1 - σ(β Δ)) per nat of its completion
        pull_P = loss_P.detach().neg().expm1().neg() * (beta * weight / len(pairs))
        loss.backward()
        lengths_S = packed.sequence_index.bincount(minlength=len(place))
        totals["pairs"] += loss_P.sum().item() / len(pairs)
        totals["pairs_accuracy"] += (loss_P < math.log(2)).sum().item() / len(pairs)
        totals["pairs_token_weights"] += (
            (pull_P * (lengths_S[chosen] + lengths_S[rejected])).sum().item()
        )
    found = {f"objective/{name}": value for name, value in totals.items()}
    return found | {"trained_tokens": num_packed}


def _sums(logprobs_T: Tensor, packed: Packed) -> Tensor:
    """[sequences of the micro-batch]: log-probs of whole completions, nats."""
    return sequence_sum(logprobs_T, packed.sequence_index, len(packed.sequences))
