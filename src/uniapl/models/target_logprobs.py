"""Log-probs of target tokens from hidden states, with one chunk of full-vocabulary logits in memory."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def target_logprobs(hidden: Tensor, weight: Tensor, target_ids: Tensor, chunk: int) -> Tensor:
    """Return log softmax(hidden · weightᵀ) at the targets, nats [targets].

    Equal to a product, `log_softmax` and `gather`, but every pass over the vocabulary is in place in one
    buffer that all chunks share: on a CPU passes over new tensors add half and more to the time of the
    products. The backward pass makes the logits anew.

    Args:
        hidden: [targets, width], in the number type of `weight`; divided by the temperature already.
        weight: Of the output layer, [vocabulary, width].
        target_ids: [targets].
        chunk: Targets whose logits exist at a time.
    """
    logprobs: Tensor = _TargetLogprobs.apply(hidden, weight, target_ids, chunk)
    return logprobs


def is_plain(head: nn.Module) -> bool:
    """Whether a head is a product with its weight and nothing else: no bias, adapter or hook."""
    return (
        type(head) is nn.Linear
        and head.bias is None
        and "forward" not in vars(head)
        and not (head._forward_hooks or head._forward_pre_hooks)
    )


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target_ids: Tensor, chunk: int) -> Tensor:
        parts, normalisers = [], []
        buffer = _buffer(hidden, weight, chunk)
        for states, targets in zip(hidden.split(chunk), target_ids.split(chunk), strict=True):
            logits = torch.mm(states, weight.t(), out=buffer[: len(states)])
            at_target = logits.gather(1, targets[:, None]).squeeze(1)
            highest = logits.amax(1)
            normaliser = logits.sub_(highest[:, None]).exp_().sum(1).log_().add_(highest)
            parts.append(at_target - normaliser)
            normalisers.append(normaliser)
        ctx.save_for_backward(hidden, weight, target_ids, torch.cat(normalisers))
        ctx.chunk = chunk
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, target_ids, normalisers = ctx.saved_tensors
        hidden_gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight_gradient = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        buffer = _buffer(hidden, weight, ctx.chunk)
        for start in range(0, len(hidden), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            states, factor = hidden[rows], gradient[rows, None]
            logits = torch.mm(states, weight.t(), out=buffer[: len(states)])
            # ∂ log p(y) / ∂ logits = 1[y] − p
            by_logits = logits.sub_(normalisers[rows, None]).exp_().mul_(-factor)
            targets = target_ids[rows, None]
            by_logits.scatter_(1, targets, by_logits.gather(1, targets) + factor)
            if hidden_gradient is not None:
                torch.mm(by_logits, weight, out=hidden_gradient[rows])
            if weight_gradient is not None:
                weight_gradient.addmm_(by_logits.t(), states)
        return hidden_gradient, weight_gradient, None, None


def _buffer(hidden: Tensor, weight: Tensor, chunk: int) -> Tensor:
    return hidden.new_empty(min(chunk, len(hidden)), len(weight))
