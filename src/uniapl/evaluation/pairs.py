"""`uniapl evaluate --pairs`: how often a reward model or a discriminator ranks labelled pairs right.

Output: `samples.jsonl` and `results.json` (docs/evaluation.md).
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from uniapl.config import Config, load_config
from uniapl.config.recipe import Recipe
from uniapl.data.chat import Chat, other_chat
from uniapl.data.pairs import load_pairs
from uniapl.data.sources import Problems
from uniapl.errors import InputError, TrainingError
from uniapl.evaluation.bootstrap import standard_error
from uniapl.evaluation.evaluate import check_folder, check_limit, check_settings, write_evaluation
from uniapl.evaluation.expert_match import mean_and_error
from uniapl.evaluation.reward_model import LikelihoodRatio, Scorer, load_reward_model
from uniapl.files import content_hash, fingerprint
from uniapl.models.devices import find_device
from uniapl.models.language_model import load_language_model
from uniapl.objective.adversarial import pair_accuracy
from uniapl.types import PreferencePair


@dataclass(frozen=True, slots=True)
class PairsResult:
    """What came out, and where it was written."""

    results: dict[str, Any]
    folder: Path

    def lines(self) -> list[str]:
        """Return what a terminal shows."""
        parts = {"pairs_accuracy": self.results, **self.results["by_subset"]}
        width = max(map(len, parts))
        shown = []
        for name, part in parts.items():
            error = part["pairs_accuracy_stderr"]
            margin = "" if error is None else f" ± {error:.4f}"
            shown.append(f"{name:<{width}} {part['pairs_accuracy']:.4f}{margin}  n {part['n']}")
        return [*shown, f"wrote {self.folder}"]


def evaluate_pairs(
    model: str | Path,
    pairs: str | Path,
    output: str | Path | None = None,
    limit: int | None = None,
    *,
    columns: Mapping[str, str] | None = None,
) -> PairsResult:
    """Score both completions of every pair and compare.

    Args:
        model: A reward model (folder or hub id), or a run folder, whose `discriminator/` then scores.
        pairs: A file of pairs in any shape that `load_pairs` knows, or a hub id.
        output: Folder for the two files; default: `evaluations/pairs`, inside the run folder if the model is one.
        limit: Only the first so many pairs.
        columns: As `load_pairs`'s.

    Raises:
        InputError: Something given is wrong; nothing has been written.
        TrainingError: The model gives a completion no finite score.
    """
    check_limit(limit)
    run = Path(model).expanduser()
    is_run = (run / "config.yaml").is_file()
    folder = Path(output) if output else (run if is_run else Path()) / "evaluations" / "pairs"
    check_folder(folder, {"--pairs": pairs})
    settings = {"model": str(model), "pairs": str(pairs), "pairs_sha256": content_hash(pairs)}
    settings["limit"] = limit
    if columns:
        settings["columns"] = dict(columns)
    config = load_config(run / "config.yaml") if is_run else None
    loaded = load_pairs(pairs, None, columns=columns)[:limit]
    device = find_device()
    scorer = (
        load_discriminator(run, config, device) if config else load_reward_model(str(model), device)
    )
    scored = run / "discriminator" if config else run
    settings |= {"weights": fingerprint(scored) if scored.exists() else None, "device": device.type}
    check_settings(folder, settings)
    scores = _scores(scorer, loaded, pairs)
    right = pair_accuracy(*torch.tensor(scores, dtype=torch.float64).unbind(1)).tolist()
    results: dict[str, Any] = {
        **_accuracy(right),
        **mean_and_error("margin_mean", [chosen - rejected for chosen, rejected in scores]),
        "by_subset": _by_subset(loaded, right),
        "settings": settings,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("uniapl", "torch", "transformers")},
        },
    }
    rows = [_row(*parts) for parts in zip(loaded, scores, right, strict=True)]
    write_evaluation(folder, results, rows)
    return PairsResult(results, folder)


def load_discriminator(run: Path, config: Config, device: torch.device) -> Scorer:
    """Load the discriminator that a run has left.

    Raises:
        InputError: There is none, or it cannot be loaded.
    """
    folder, form = run / "discriminator", Recipe.of(config).form
    if form in ("expert", "reference"):
        reads = (
            "the expert's completion as well" if form == "reference" else "no weights of its own"
        )
        raise InputError(
            f"{run}: its discriminator has form {form}, which reads {reads}; pairs measure likelihood and scalar"
        )
    if not folder.is_dir():
        raise InputError(
            f"{run} has no discriminator/: its method has none, or the run has not ended yet"
        )
    if form == "scalar":
        return load_reward_model(str(folder), device)
    dtype = getattr(torch, config.model.dtype)
    expert, its_tokenizer = load_language_model(str(folder), dtype, device)
    policy, tokenizer = load_language_model(str(run / "policy"), dtype, device)
    chat = Chat(
        tokenizer,
        generation_config=policy.model.generation_config,
        system_prompt=config.data.system_prompt,
        template_arguments=config.data.template_arguments,
    )
    own = other_chat(its_tokenizer, config.data.template_arguments)
    return LikelihoodRatio(expert, policy, chat, config, own)


def _scores(
    scorer: Scorer, pairs: Sequence[PreferencePair], source: str | Path
) -> list[tuple[float, float]]:
    """Return the scores of chosen and rejected; everything is encoded before anything is scored."""
    problems = Problems()
    texts: list[Any] = []
    for pair in pairs:
        prompt = pair.prompt
        given = prompt.messages if prompt.is_conversational else prompt.text
        with problems.at(f"{source}: pair {prompt.id}"):
            texts += [scorer.encode(given, text) for text in (pair.chosen, pair.rejected)]
    problems.raise_any()
    scores = scorer.scores(texts)
    found = list(zip(scores[::2], scores[1::2], strict=True))
    for pair, both in zip(pairs, found, strict=True):
        if not all(map(math.isfinite, both)):
            raise TrainingError(f"the scores of pair {pair.prompt.id} are {both[0]} and {both[1]}")
    return found


def _by_subset(pairs: Sequence[PreferencePair], right: Sequence[float]) -> dict[str, Any]:
    subsets: dict[str, list[float]] = {}
    for pair, value in zip(pairs, right, strict=True):
        subset = pair.prompt.columns.get("subset")
        if isinstance(subset, str):
            subsets.setdefault(subset, []).append(value)
    return {name: _accuracy(values) for name, values in subsets.items()}


def _accuracy(right: Sequence[float]) -> dict[str, Any]:
    """Return the mean, its standard error (null for a single pair) and the number of pairs."""
    n = len(right)
    return {
        "pairs_accuracy": sum(right) / n,
        "pairs_accuracy_stderr": standard_error(right),
        "n": n,
    }


def _row(pair: PreferencePair, scores: tuple[float, float], right: float) -> dict[str, Any]:
    columns = pair.prompt.columns
    return {
        "key": columns.get("key", pair.prompt.id),
        "subset": columns.get("subset"),
        "prompt": pair.prompt.text,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "chosen_score": scores[0],
        "rejected_score": scores[1],
        "correct": right,
    }
