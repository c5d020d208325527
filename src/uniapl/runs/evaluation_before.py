"""The evaluation before training: runs that start alike make it once and share it."""

import hashlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from uniapl import __version__
from uniapl.config.schema import Config
from uniapl.errors import InputError
from uniapl.files import content_hash, fingerprint, write_text

Evaluated = tuple[dict[str, Any], list[dict[str, Any]]]
"""What `evaluate` returns: results and samples."""


FOLDER = "UNIAPL_EVALUATION_BEFORE"
"""Environment variable with the folder that the runs of a comparison share."""


class EvaluationBefore:
    """A file in the shared folder, named by all that the evaluation depends on up to rounding.

    The modules of the metrics must be loaded: their files count.

    Raises:
        InputError: The folder cannot be made.
    """

    def __init__(self, config: Config) -> None:
        self._file: Path | None = None
        if FOLDER not in os.environ:
            return
        folder = Path(os.environ[FOLDER])
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{FOLDER}: cannot make {folder}: {error}") from None
        self._file = folder / f"{_digest(_dependencies(config))}.json"

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
        results, samples = evaluated
        stored = {"results": results, "samples": samples}
        write_text(self._file, json.dumps(stored, allow_nan=False))


def _dependencies(config: Config) -> dict[str, Any]:
    """Return what decides the answers of the model before training, and how they are measured."""
    evaluation = config.evaluation
    written = sorted({path.rpartition(":")[0] for path in evaluation.metrics})
    modules = [sys.modules[source] for source in written if source in sys.modules]
    sources = [source for source in written if source.endswith(".py")]
    sources += [module.__file__ or "" for module in modules]
    return {
        "model": config.model.model_dump(mode="json"),
        "chat": config.data.model_dump(
            mode="json", include={"system_prompt", "template_arguments"}
        ),
        "evaluation": evaluation.model_dump(
            mode="json", exclude={"validation_prompts", "best_metric"}
        ),
        "max_completion_tokens": config.rollout.max_completion_tokens,
        "prompts": content_hash(evaluation.prompts or ""),
        "seed": config.seed if evaluation.temperature else None,
        "files": [fingerprint(p) for p in (config.model.path, *sources) if _is_here(p)],
        "versions": [__version__, version("torch"), version("transformers")],
    }


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _is_here(path: str) -> bool:
    """Return whether it is a file or a folder; a hub id and a module without a file are neither."""
    return path != "" and Path(path).expanduser().exists()
