"""What a policy can do: instructions followed, the match to the expert, and metrics of the user's own."""

from uniapl.evaluation.benchmark import BenchmarkResult, Decoding, Selection, evaluate_benchmark
from uniapl.evaluation.evaluate import EvaluationSet, evaluate, load_metrics, write_evaluation

__all__ = [
    "BenchmarkResult",
    "Decoding",
    "EvaluationSet",
    "Selection",
    "evaluate",
    "evaluate_benchmark",
    "load_metrics",
    "write_evaluation",
]
