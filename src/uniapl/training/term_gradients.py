"""Which term pulls how hard, and do they agree? The gradient of each term by itself.

Weighted as they act, the gradients of the terms sum to the gradient of the step before it is clipped. The
policy moves by Adam, so a norm is a pull, not a step. Measuring takes a backward pass per term and
micro-batch through the forward that the step makes anyway: each adds about two thirds of the time of a
plain update. Its memory is one gradient per term and one more. The step's own gradient, the
weights and the random numbers stay what they were, bit for bit.
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
        """Sum over the ranks; a term that a rank has not met is 0 there."""
        counts = torch.tensor([int(term in self.sums) for term in TERMS])
        ranks.sum_([counts], "which terms act")
        acting = [term for term, count in zip(TERMS, counts.tolist(), strict=True) if count]
        own, self.sums = self.sums, {}
        for term in acting:
            self.sums[term] = own.get(term) or [torch.zeros_like(p) for p in self.parameters]
            ranks.sum_(self.sums[term], f"the gradient of {term}")

    def metrics(self) -> dict[str, float | None]:
        """Return norms and cosines; no cosine with a gradient that is zero."""
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
        """Inner product over all parameters."""
        pairs = zip(self.sums[one], self.sums[other], strict=True)
        products = [torch.dot(a.flatten(), b.flatten()) for a, b in pairs]
        return torch.stack(products).sum(dtype=torch.float64).item()
