"""The discriminator's loss, its verdict on rollouts, how far the policy is from the expert by it, and A_adv.

`d(x, y)` is a logit per sequence, high = looks like the expert. The `likelihood` form (the structured
discriminator of AIRL, arXiv 1710.11248) makes it from token log-ratios; the `scalar` form (GAD, arXiv
2511.10643) has a head.
"""

import torch
from torch import Tensor
from torch.nn import functional

from uniapl.objective.reductions import group_mean, group_std, sequence_mean, token_mean


def log_ratios(expert_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Return k_t = log p_φ(y_t) - log π_old(y_t) of each token: AIRL's logit f - log π (arXiv 1710.11248), f = log p_φ.

    Args:
        expert_logprobs: log p_φ(y_t), [T], nats; gradient flows into it.
        old_logprobs: log π_old(y_t) at the same temperature, [T], nats; no gradient reaches it.

    Returns:
        [T], nats, above 0 where the expert holds the token likelier than the policy does.
    """
    return expert_logprobs - old_logprobs.detach()


def likelihood_logits(
    ratios: Tensor, sequence_index: Tensor, num_sequences: int, logit_scale: float
) -> Tensor:
    """Return d = τ · mean_t k_t of each sequence.

    AIRL's logit is the sum over tokens. *Ours* is the mean, so that long completions are not judged with more
    certainty; so d ranks completions, and σ(d) is no probability.

    Args:
        ratios: k_t, [T], nats.
        sequence_index: Sequence of each token, [T], from 0 to `num_sequences` - 1.
        num_sequences: S, the number of sequences.
        logit_scale: τ, per nat.

    Returns:
        [S], without unit; 0 for a sequence without tokens.
    """
    return logit_scale * sequence_mean(ratios, sequence_index, num_sequences)


def bradley_terry_loss(
    expert_logits: Tensor,
    rollout_logits: Tensor,
    label_smoothing: float = 0.0,
    logit_penalty: float = 0.0,
) -> Tensor:
    """Return -(1-s)·log σ(Δ) - s·log σ(-Δ) + ρ·(d(y*)² + d(y)²) of each pair, Δ = d(y*) - d(y).

    The first part is the loss of pairwise preferences (Bradley-Terry), as in GAD (arXiv 2511.10643); smoothing and
    penalty are *ours* and keep logits small.

    Args:
        expert_logits: d(x, y*), [P].
        rollout_logits: d(x, y) of the same prompts, [P].
        label_smoothing: s, the share of pairs taken to be the wrong way round, from 0 to ½.
        logit_penalty: ρ, at least 0.

    Returns:
        [P], nats, to be averaged over pairs and minimised; log 2 at chance (without penalty).
    """
    margin = expert_logits - rollout_logits
    loss = (1 - label_smoothing) * functional.softplus(-margin)
    loss = loss + label_smoothing * functional.softplus(margin)
    return loss + logit_penalty * (expert_logits.square() + rollout_logits.square())


def pair_accuracy(expert_logits: Tensor, rollout_logits: Tensor) -> Tensor:
    """Say which of a pair ranks higher.

    Args:
        expert_logits: d of the completion that should rank higher, [P].
        rollout_logits: d of the other one, [P].

    Returns:
        [P], 1 where the first ranks higher, ½ at a tie, else 0; its mean over pairs is the accuracy.
    """
    return (1 + (expert_logits - rollout_logits).sign()) / 2


def reverse_kl(ratios_T: Tensor, is_counted_T: Tensor) -> float | None:
    """Return how far the policy is from the expert on its own rollouts: the mean of -k_t over their tokens.

    Over tokens sampled from π_old, E[-k_t] = KL(π_old ‖ p_φ) of the next token at the prefixes that the policy visits.
    It is an estimate: one batch may give less than 0, and it is as good as p_φ is.

    Args:
        ratios_T: k_t of rollout tokens, [T], nats.
        is_counted_T: Tokens that count, [T].

    Returns:
        Nats per token, each token with the same weight; None if no token counts.
    """
    return token_mean(-ratios_T, is_counted_T)


def margin(
    demonstration_ratios_T: Tensor,
    is_counted_demonstration_T: Tensor,
    rollout_ratios_T: Tensor,
    is_counted_rollout_T: Tensor,
) -> float | None:
    """Return the mean k_t of held-out demonstrations minus that of rollouts: what the discriminator tells apart.

    Above 0, p_φ prefers what the expert wrote, and its credit points from the policy to the expert. At 0 or below it
    knows nothing of the expert that the policy does not know. The demonstrations must be ones that p_φ has not learned
    from, or it would measure what p_φ has memorised. *Ours*.

    Args:
        demonstration_ratios_T: k_t of the held-out demonstrations' tokens, nats, of their own length T.
        is_counted_demonstration_T: Those that count, of the same length.
        rollout_ratios_T: k_t of the rollouts' tokens, nats, of their own length T.
        is_counted_rollout_T: Those that count, of the same length.

    Returns:
        Nats per token; both means are over tokens, not over completions. None if either side has no token that counts.
    """
    of_demonstrations = token_mean(demonstration_ratios_T, is_counted_demonstration_T)
    of_rollouts = token_mean(rollout_ratios_T, is_counted_rollout_T)
    if of_demonstrations is None or of_rollouts is None:
        return None
    return of_demonstrations - of_rollouts


def token_credit(ratios: Tensor, credit_clamp: float) -> Tensor:
    """Return A_adv,t = clamp(k_t, ±c) of each token, neither centred nor scaled.

    E[A_adv,t ∇log π] is minus the gradient of KL(π ‖ p_φ) over the next token, at each prefix that the
    policy visits (discount 0), as long as the clamp does not act.

    Args:
        ratios: k_t, [T], nats.
        credit_clamp: c, nats, above 0.

    Returns:
        [T], nats, from -c to c.
    """
    return ratios.clamp(-credit_clamp, credit_clamp)


def centred_credit(values: Tensor, is_counted: Tensor) -> Tensor:
    """Return A_adv per completion of the `likelihood` form: its mean log-ratio, centred in its group, no std.

    Args:
        values: mean_t k_t of rollouts, [G, N], nats.
        is_counted: False leaves a rollout out of the mean and gives it 0, [G, N].

    Returns:
        [G, N], nats; 0 in a group with one counted rollout or none.
    """
    return (values - group_mean(values, is_counted)).masked_fill(~is_counted, 0.0)


def completion_credit(
    logits: Tensor, is_counted: Tensor, running_std: Tensor | float, std_floor: float
) -> Tensor:
    """Return A_adv of the `scalar` form: centred in its group, divided by max(group std, running std, floor).

    GAD (arXiv 2511.10643) divides by the group's deviation alone, as GRPO does with rewards.

    Args:
        logits: d of rollouts, [G, N].
        is_counted: False leaves a rollout out of mean and deviation and gives it 0, [G, N].
        running_std: Average of past group deviations; a group whose rollouts look alike stays small.
        std_floor: Least divisor, above 0.

    Returns:
        [G, N], in deviations; 0 in a group with one counted rollout or none.
    """
    floor = torch.as_tensor(running_std, device=logits.device).clamp(min=std_floor)
    scale = torch.maximum(group_std(logits, is_counted), floor)
    return centred_credit(logits, is_counted) / scale
