"""The policy learns from pairs: a chosen and a rejected completion of the same prompt, by DPO's loss."""

from torch import Tensor
from torch.nn import functional


def dpo_loss(
    chosen_logprobs_P: Tensor,
    rejected_logprobs_P: Tensor,
    ref_chosen_logprobs_P: Tensor,
    ref_rejected_logprobs_P: Tensor,
    logit_scale: float,
) -> Tensor:
    """Return -log σ(β (Δ_chosen - Δ_rejected)) of each pair, Δ = log π_θ(y) - log π_ref(y).

    Source: Direct Preference Optimization (arXiv 2305.18290), eq. 7. All log-probs are sums over a completion's tokens
    (`reductions.sequence_sum`), not means.

    Args:
        chosen_logprobs_P: log π_θ of the chosen completion, [P], nats, with gradient.
        rejected_logprobs_P: log π_θ of the rejected completion, [P], nats, with gradient.
        ref_chosen_logprobs_P: The reference's of the chosen completion, [P], nats; no gradient reaches it.
        ref_rejected_logprobs_P: The reference's of the rejected completion, [P], nats; no gradient reaches it.
        logit_scale: β, per nat. The larger, the closer the policy stays to the reference.

    Returns:
        [P], nats, to be averaged over the pairs of the step and minimised; log 2 where the policy is the reference.
    """
    chosen_P = chosen_logprobs_P - ref_chosen_logprobs_P.detach()
    rejected_P = rejected_logprobs_P - ref_rejected_logprobs_P.detach()
    return -functional.logsigmoid(logit_scale * (chosen_P - rejected_P))


def dpo_token_weight(loss_P: Tensor, logit_scale: float) -> Tensor:
    """Return |∂loss/∂log π| of each token of a pair, from its loss: β (1 - σ(β (Δ_chosen - Δ_rejected))).

    Args:
        loss_P: From `dpo_loss`, [P], nats.
        logit_scale: β, per nat.

    Returns:
        [P], per nat, without gradient; from 0 for a pair that is learned to β for one that is wrong for sure.
    """
    return -(-loss_P.detach()).expm1() * logit_scale
