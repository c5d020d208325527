"""The evaluation before training: runs that start alike make it once and share it (`evaluation.before`)."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from uniapl.config.schema import Config
from uniapl.training.checkpoint import replace_file

Evaluated = tuple[dict[str, Any], list[dict[str, Any]]]
"""What `evaluate` returns: results and samples."""


class EvaluationBefore:
    """A file in `evaluation.before`, named by all that the evaluation depends on up to rounding."""

    def __init__(self, config: Config) -> None:
        folder, key = config.evaluation.before, json.dumps(_dependencies(config), sort_keys=True)
        name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        self._file = Path(folder) / name if folder else None

    def read(self) -> Evaluated | None:
        """Return what an earlier run measured, if there was one."""
        if self._file is None or not self._file.exists():
            return None
        stored = json.loads(self._file.read_text(encoding="utf-8"))
        return stored["results"], stored["samples"]

    def write(self, evaluated: Evaluated) -> None:
        """Keep it for the others."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        aside = self._file.with_suffix(f".{os.getpid()}")  # runs side by side may write the same
        results, samples = evaluated
        replace_file(aside, json.dumps({"results": results, "samples": samples}, allow_nan=False))
        os.replace(aside, self._file)


def _dependencies(config: Config) -> dict[str, Any]:
    """Return what decides the answers of the model before training, and how they are measured."""
    evaluation = config.evaluation
    return {
        "model": config.model.model_dump(mode="json", include={"path", "dtype"}),
        "chat": config.data.model_dump(
            mode="json", include={"system_prompt", "template_arguments"}
        ),
        "evaluation": evaluation.model_dump(
            mode="json", exclude={"before", "validation_prompts", "best_metric"}
        ),
        "max_completion_tokens": config.rollout.max_completion_tokens,
        "seed": config.seed if evaluation.temperature else None,
        "files": [_stamps(path) for path in (config.model.path, evaluation.prompts or "")],
    }


def _stamps(path: str) -> list[tuple[str, int, int]]:
    """Return name, bytes and time of a file, or of the files of a folder; of a hub id nothing."""
    place = Path(path)
    files = sorted(place.iterdir()) if place.is_dir() else [place] if place.is_file() else []
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
