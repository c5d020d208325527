"""The gradient of each term by itself: how hard each term pulls, and whether the terms agree.

Weighted as they act, the gradients of the terms sum to the gradient of the step before it is clipped. Adam scales the
gradient, so a term's norm says how hard it pulls, not how far the policy moves. Measuring takes one backward pass per
term and micro-batch, through the forward that the step makes anyway. Each adds about two thirds of the time of a plain
update. The memory is that of one gradient per term and one more. The step's own gradient, the weights and the random
numbers stay what they were, bit for bit.
"""

from collections.abc import Iterable, Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from uniapl.distributed import Ranks

TERMS = ("sft", "grpo", "adversarial", "kl", "pairs")
PAIRS = tuple(combinations(TERMS, 2))


class TermGradients:
    """Sums the gradients of the terms over the micro-batches of a step."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.sums: dict[str, list[Tensor]] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add the gradients of a micro-batch; its graph stays for the step's own backward pass.

        Args:
            losses: Term → its share of the loss, a scalar with gradient.
        """
        for term, loss in losses.items():
            shares = torch.autograd.grad(
                loss, self.parameters, retain_graph=True, materialize_grads=True
            )
            if term not in self.sums:
                self.sums[term] = list(shares)
                continue
            total = self.sums[term]
            for place, share in enumerate(shares):  # one at a time: no second copy of the total
                total[place] = total[place] + share

    def sum_over(self, ranks: Ranks) -> None:
        """Sum the gradients over the ranks; a rank that has not met a term adds 0 to it."""
        counts = torch.tensor([int(term in self.sums) for term in TERMS])
        ranks.sum_([counts], "which terms act")
        acting = [term for term, count in zip(TERMS, counts.tolist(), strict=True) if count]
        own, self.sums = self.sums, {}
        for term in acting:
            self.sums[term] = own.get(term) or [torch.zeros_like(p) for p in self.parameters]
            ranks.sum_(self.sums[term], f"the gradient of {term}")

    def metrics(self) -> dict[str, float | None]:
        """Return the norm of each term's gradient, over all parameters, and the cosine of each two of them.

        There is no cosine where one of the two gradients is zero.
        """
        norms = {term: self._product(term, term) ** 0.5 for term in TERMS if term in self.sums}
        metrics: dict[str, float | None] = {
            f"objective/{term}_grad_norm": norm for term, norm in norms.items()
        }
        for one, other in combinations(norms, 2):
            if scale := norms[one] * norms[other]:
                cosine = self._product(one, other) / scale
                metrics[f"objective/{one}_{other}_cosine"] = cosine
        return metrics

    def _product(self, one: str, other: str) -> float:
        """Return the inner product of two terms' gradients over all parameters."""
        pairs = zip(self.sums[one], self.sums[other], strict=True)
        products = [torch.dot(a.flatten(), b.flatten()) for a, b in pairs]
        return torch.stack(products).sum(dtype=torch.float64).item()
