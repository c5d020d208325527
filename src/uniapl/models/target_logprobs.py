"""Log-probs of target tokens from hidden states, with one chunk of full-vocabulary logits in memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BLOCK_ROWS = {"cpu": 32}
"""Rows of logits that a pass over the vocabulary takes at a time: few enough to stay in a CPU's cache."""


def target_logprobs(hidden: Tensor, weight: Tensor, target_ids: Tensor, chunk: int) -> Tensor:
    """Return log softmax(hidden · weightᵀ) at the targets, nats [targets], at least float32.

    Equal to a product, `log_softmax` in at least float32 and `gather`, but a chunk's logits lie in one buffer
    that all chunks share, and the passes over the vocabulary take a few rows at a time: on a CPU passes
    over whole new tensors add half and more to the time of the products. The backward pass begins with the
    logits that are in the buffer, those of the last chunk, and makes the others anew.

    Args:
        hidden: [targets, width], divided by the temperature already. Its number type is that of the products.
        weight: Of the output layer, [vocabulary, width]; its gradient has its own number type.
        target_ids: [targets].
        chunk: Targets whose logits exist at a time.

    Returns:
        [targets], nothing reduced, with gradients for `hidden` and `weight`; not twice differentiable.
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
    """What `target_logprobs` computes, with the backward pass that it describes."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target_ids: Tensor, chunk: int) -> Tensor:
        ctx.save_for_backward(hidden, weight, target_ids)
        chunks = _Chunks(hidden, weight, chunk)
        ctx.chunk, ctx.last_logits = chunk, chunks.buffer if any(ctx.needs_input_grad) else None
        logprobs = hidden.new_empty(len(hidden), dtype=chunks.wide)
        for start, logits in chunks:
            for rows, block, logprob in chunks.blocks(logits, start):
                torch.log_softmax(chunks.widened(block), 1, out=logprob)
                logprobs[rows] = logprob.gather(1, target_ids[rows, None]).squeeze(1)
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, target_ids = ctx.saved_tensors
        hidden_gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight_gradient = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        chunks = _Chunks(hidden, weight, ctx.chunk, ctx.last_logits)
        # what follows overwrites them; a second backward pass makes them anew and sums in the same order
        ctx.last_logits = None
        for start, logits in reversed(chunks):
            for rows, block, by_logits in chunks.blocks(logits, start):
                # ∂ log p(y) / ∂ logits = 1[y] − p
                torch.softmax(chunks.widened(block), 1, out=by_logits)
                factor = gradient[rows, None]
                by_logits.mul_(-factor).scatter_add_(1, target_ids[rows, None], factor)
                block.copy_(by_logits)
            states = hidden[start : start + len(logits)]
            if hidden_gradient is not None:
                torch.mm(logits, chunks.weight, out=hidden_gradient[start : start + len(logits)])
            if weight_gradient is not None and weight.dtype == hidden.dtype:
                weight_gradient.addmm_(logits.t(), states)
            elif weight_gradient is not None:
                weight_gradient += logits.t() @ states
        return hidden_gradient, weight_gradient, None, None


class _Chunks:
    """Logits of one chunk of targets after the other, in one buffer; the first chunk is the one that may be short."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, chunk: int, last_logits: Tensor | None = None
    ) -> None:
        self.weight = weight.to(hidden.dtype)
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        """The number type of passes over the vocabulary."""
        self._hidden = hidden
        size = max(min(chunk, len(hidden)), 1)
        first = len(hidden) % size or size
        self._bounds = [(max(end - size, 0), end) for end in range(first, len(hidden) + 1, size)]
        self._has_last = last_logits is not None
        self.buffer = hidden.new_empty(size, len(weight)) if last_logits is None else last_logits
        """Between passes, the logits of the last chunk."""
        rows = min(size, BLOCK_ROWS.get(hidden.device.type, 256))
        self._result = hidden.new_empty(rows, len(weight), dtype=self.wide)
        is_wide = hidden.dtype == self.wide
        self._widened = None if is_wide else torch.empty_like(self._result)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield where a chunk starts, and its logits."""
        for start, end in self._bounds:
            yield start, self._logits(start, end)

    def __reversed__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the same from the last chunk, whose logits may be in the buffer already, to the first."""
        for start, end in reversed(self._bounds):
            is_known = self._has_last and end == len(self._hidden)
            yield start, self.buffer[: end - start] if is_known else self._logits(start, end)

    def _logits(self, start: int, end: int) -> Tensor:
        """Return the logits of a chunk, [end - start, vocabulary], in the buffer."""
        out = self.buffer[: end - start]
        return torch.mm(self._hidden[start:end], self.weight.t(), out=out)

    def blocks(self, logits: Tensor, start: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield a few rows of a chunk at a time.

        Args:
            logits: Of the chunk, [chunk, vocabulary].
            start: Its first target.

        Yields:
            Which targets the rows are, their logits, and room for a result in the wide number type, both
            [rows, vocabulary].
        """
        for block in logits.split(len(self._result)):
            yield slice(start, start + len(block)), block, self._result[: len(block)]
            start += len(block)

    def widened(self, block: Tensor) -> Tensor:
        """Return a block's logits in the wide number type, [rows, vocabulary]; the next call overwrites them."""
        if self._widened is None:
            return block
        return self._widened[: len(block)].copy_(block)
