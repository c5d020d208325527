"""The policy learns from chosen and rejected completions in the same update: DPO's loss on `data.pairs`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from uniapl.distributed import ALONE, Ranks
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed, TokenSequence, pack
from uniapl.objective.pairs import dpo_loss, dpo_token_weight
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
    ranks: Ranks = ALONE,
) -> tuple[dict[str, float], int]:
    """Add the gradient of weight · mean DPO loss to what the policy's weights hold.

    Args:
        policy: The model that learns; its log-probs are at temperature 1, as for demonstrations.
        reference: The frozen model before training.
        pairs: Of the step; their number is the term's own count.
        weight: `objective.pair_weight` as it acts.
        beta: β, per nat.
        micro_batch_tokens: Of one forward and backward; a pair is always in one.
        by_term: Also receives the term's own gradient.
        ranks: Each takes some of the micro-batches.

    Returns:
        `objective/pairs*` (loss in nats and accuracy are means over the pairs, without `weight`); tokens forwarded.
    """
    sequences = [
        TokenSequence(pair.prompt.token_ids, ids)
        for pair in pairs
        for ids in (pair.chosen_ids, pair.rejected_ids)
    ]
    totals: dict[str, float] = {}
    micro_batches = pack(sequences, micro_batch_tokens, split_groups=False)
    for packed, is_own in ranks.deal(micro_batches):
        packed = packed.to(policy.device)
        logprobs_S = _sums(policy.logprobs(packed), packed)
        with torch.no_grad():
            ref_logprobs_S = _sums(reference.logprobs(packed), packed)
        if not is_own:
            (logprobs_S.sum() * 0).backward()
            continue
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
        loss.backward()
        lengths_P = packed.sequence_index.bincount()[[*chosen, *rejected]].view(2, -1).sum(0)
        for name, value in _measured(loss_P, lengths_P, weight, beta).items():
            totals[name] = totals.get(name, 0.0) + value / len(pairs)
    found = ranks.sums(totals, "the pairs' metrics")
    return found, sum(len(packed.input_ids) for packed in micro_batches)


def _measured(loss_P: Tensor, lengths_P: Tensor, weight: float, beta: float) -> dict[str, float]:
    """Return sums over the pairs of a micro-batch, whose completions have `lengths_P` tokens together, [P]."""
    values = {
        "objective/pairs": loss_P.detach(),
        "objective/pairs_accuracy": (loss_P < math.log(2)).double(),
        "objective/pairs_token_weights": weight * dpo_token_weight(loss_P, beta) * lengths_P,
    }
    return {name: values_P.sum().item() for name, values_P in values.items()}


def _sums(logprobs_T: Tensor, packed: Packed) -> Tensor:
    """Return the log-prob of each whole completion of a micro-batch, [sequences], nats."""
    return sequence_sum(logprobs_T, packed.sequence_index, len(packed.sequences))
