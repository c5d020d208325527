"""Do the terms pull together? The norm of each term's own gradient, and the angles between them."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

TERMS = ("sft", "grpo", "adversarial", "kl")


def gradient_charts(measured_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a chart of the norms and one of the cosines; none where no run measured gradients."""
    norms = [[f"objective/{term}_grad_norm", term] for term in TERMS]
    cosines = [[f"objective/{a}_{b}_cosine", f"{a} and {b}"] for a, b in combinations(TERMS, 2)]
    charts: list[dict[str, Any]] = []
    for title, lines, definition, zero in (
        (
            "Norm of each term's gradient",
            norms,
            "Weighted as the term acts, before clipping: how hard it pulls.",
            None,
        ),
        (
            "Cosine between the terms' gradients",
            cosines,
            "1: two terms pull the same way. 0: they do not meet. Below 0: one undoes part of the other.",
            {"value": 0, "label": ""},
        ),
    ):
        shown = [pair for pair in lines if pair[0] in measured_names]
        if shown:
            charts.append(
                {"title": title, "metrics": shown, "definition": definition, "line": zero}
            )
    return charts
