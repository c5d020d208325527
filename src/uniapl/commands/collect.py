"""`uniapl collect`: demonstrations from an expert (docs/collect.md).

Reads the prompts, builds the expert, asks, and writes demonstrations and a summary. Only a local model loads
torch.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from uniapl.commands.common import add_columns, given_columns, given_path
from uniapl.errors import InputError, TrainingError
from uniapl.types import Prompt

if TYPE_CHECKING:
    from uniapl.evaluation.answering import AnsweringModel
    from uniapl.experts import Asked, Expert, Tally

_OF_ENDPOINTS = (
    "model",
    "top_p",
    "requests_per_minute",
    "timeout",
    "retries",
    "begins_thinking",
)
"""Options without effect on a local model."""

_LOCAL_ROWS = 64
"""Answers that a local model decodes at once, unless `--concurrency` says otherwise."""


@dataclass(frozen=True, slots=True)
class _Expert:
    """The expert, and how to ask it."""

    expert: "Expert"
    system_prompt: str | None
    context: AbstractContextManager[object]
    """Around all asking."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    add = parser.add_argument
    add("prompts", metavar="PROMPTS", help="as data.prompts of a config: a file or a hub id")
    add("--output", metavar="FILE", type=given_path, required=True, help="JSONL")
    add("--endpoint", metavar="URL", help="OpenAI-compatible; the key is read from OPENAI_API_KEY")
    add("--model", metavar="NAME", help="as the endpoint calls it")
    add("--local", metavar="MODEL|RUN", help="instead: model folder, hub id or run folder")
    add(
        "--samples",
        metavar="N",
        type=int,
        default=1,
        help="answers per prompt, at most; default: 1",
    )
    add("--keep", metavar="K", type=int, default=1, help="the best so many of them; default: 1")
    add(
        "--min-pass",
        metavar="SHARE",
        type=float,
        default=1.0,
        help="of a prompt's instructions that a kept answer follows; default: 1, all",
    )
    add(
        "--revise",
        action="store_true",
        help="edit an answer that fails, or was cut off, until it follows its instructions",
    )
    add(
        "--max-repetition",
        metavar="SHARE",
        type=float,
        default=1.0,
        help="of its 3-grams that a kept answer may have had before; default: 1, any; 0.1 is strict",
    )
    add(
        "--begins-thinking",
        action="store_const",
        const=True,
        help="the endpoint's template writes <think> itself: an answer begins inside a thought",
    )
    add("--cache", metavar="FILE", type=given_path, help="answers; default: OUTPUT.answers.sqlite")
    add("--limit", metavar="N", type=int, help="only the first prompts")
    add_columns(parser)
    _add_request_options(parser)
    parser.set_defaults(handler=run)


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    """Declare how the expert is asked."""
    add = parser.add_argument
    add("--temperature", metavar="T", type=float, help="default: the endpoint's; local: 1")
    add("--top-p", metavar="P", type=float, help="default: the endpoint's")
    add(
        "--max-tokens",
        metavar="N",
        type=int,
        help="default: the endpoint's; local: 1280 or half the context",
    )
    add("--seed", type=int, default=0, help="each request gets its own, made of it; default: 0")
    add("--system-prompt", metavar="TEXT", help="sent before prompts without one; not written")
    add(
        "--extra-body",
        metavar="JSON",
        default="{}",
        help="further fields of a request; null leaves one out; local: chat_template_kwargs only",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of a local model; default: a run's own, else float32 on a CPU and bfloat16 on CUDA",
    )
    add("--concurrency", metavar="N", type=int, help="answers at a time; default: 8, local: 64")
    add("--requests-per-minute", metavar="N", type=float, help="retries count; default: no limit")
    add("--timeout", metavar="SECONDS", type=float, help="without a word; default: 600")
    add("--retries", metavar="N", type=int, help="of a request that fails; default: 5")


def run(options: argparse.Namespace) -> None:
    """Collect.

    Raises:
        InputError: Something given is wrong; nothing has been written but answers to the cache.
        TrainingError: Answers are missing, or none was kept. What there is has been written.
    """
    from uniapl.data.readers import load_prompts
    from uniapl.experts import AnswerCache, Collection, Tally
    from uniapl.experts.summary import summary_lines
    from uniapl.files import write_rows

    _check(options)
    columns = given_columns(options)
    loaded = load_prompts(
        options.prompts, None, columns=columns, validate_row=_check_row, limit=options.limit
    )
    prompts = _distinct(loaded)
    chosen = _local_expert(options, prompts) if options.local else _endpoint_expert(options)
    tally = Tally()
    with AnswerCache(_cache_file(options)) as cache:
        collection = Collection(
            prompts,
            chosen.expert,
            cache,
            system_prompt=chosen.system_prompt,
            samples=options.samples,
            keep=options.keep,
            min_pass=options.min_pass,
            revises=options.revise,
            max_repetition=options.max_repetition,
            begins_thinking=bool(options.begins_thinking),
            # one bad minute fails everything that is in flight
            max_failures_in_a_row=max(20, 2 * (options.concurrency or 0)),
        )
        with chosen.context:
            asked = asyncio.run(collection.ask())
        rows = collection.demonstrations(tally)
        # an output of an earlier run is not replaced by nothing
        first = next(rows, None)
        if first is not None:
            write_rows(options.output, chain([first], rows))
    summary = {
        **tally.summary(asked),
        "num_repeated_prompts": len(loaded) - len(prompts),
        "settings": _settings(options, chosen),
    }
    notes = _other_address(options, summary["sources"])
    notes += _replaced(options, summary["settings"]) if first is not None else []
    written = [options.output] if first is not None else []
    written.append(_write_summary(_summary_file(options), summary))
    print("\n".join([*summary_lines(summary), *notes, *(f"wrote {path}" for path in written)]))
    _raise_if_incomplete(asked, tally)


def _replaced(options: argparse.Namespace, settings: Mapping[str, Any]) -> list[str]:
    """Return a line if the output held what another expert said, or was asked otherwise; the cache still has it."""
    try:
        before = json.loads(_summary_file(options).read_text(encoding="utf-8"))["settings"][
            "request"
        ]
        now = json.loads(json.dumps(settings["request"]))
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    except (OSError, ValueError, KeyError, TypeError):  # there was no summary, or another program's
        return []
    if not changed:
        return []
    return [
        f"{options.output} held demonstrations of another expert or other settings ({', '.join(changed)}); "
        f"their answers are still in {_cache_file(options)}"
    ]


def _other_address(options: argparse.Namespace, sources: Mapping[str, int]) -> list[str]:
    """Return a line if all answers were given elsewhere: the cache knows an expert by its model's name."""
    here = f" at {options.endpoint}"
    if options.endpoint is None or not sources or any(name.endswith(here) for name in sources):
        return []
    return [
        f"all answers are from the cache, and from another address ({next(iter(sources))}): for another model of "
        "the same name, name another --cache"
    ]


def _settings(options: argparse.Namespace, chosen: _Expert) -> dict[str, Any]:
    """Return what a reader of the summary needs to collect the same again; there is no key in it."""
    return {
        "prompts": options.prompts,
        "columns": given_columns(options),
        "endpoint": options.endpoint,
        "request": dict(chosen.expert.settings),
        "system_prompt": chosen.system_prompt,
        "samples": options.samples,
        "keep": options.keep,
        "min_pass": options.min_pass,
        "revise": options.revise,
        "max_repetition": options.max_repetition,
        "begins_thinking": bool(options.begins_thinking),
    }


def _write_summary(path: Path, summary: Mapping[str, Any]) -> Path:
    from uniapl.files import write_text

    write_text(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return path


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be meant."""
    from uniapl.files import check_text

    if (options.endpoint is None) == (options.local is None):
        raise InputError("give an --endpoint, or a --local model; one of the two")
    if options.endpoint is not None and options.model is None:
        raise InputError("--endpoint needs --model, the name by which it knows the model")
    if options.local is not None:
        for name in _OF_ENDPOINTS:
            if getattr(options, name) is not None:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} has no effect on a --local model")
    elif options.dtype is not None:
        raise InputError("--dtype has no effect on an --endpoint")
    for name in ("model", "system_prompt", "extra_body"):
        if (text := getattr(options, name)) is not None:
            flag = f"--{name.replace('_', '-')}"
            check_text(text, flag)
            if name == "extra_body":
                check_text(str(_json_object(text)), flag)
    if not 1 <= options.keep <= options.samples:
        raise InputError(
            f"--keep must be between 1 and --samples {options.samples}, got {options.keep}"
        )
    if options.samples > 1 and options.temperature == 0:
        raise InputError(f"--temperature 0 gives the same answer {options.samples} times")
    for name, high in (
        ("min_pass", 1.0),
        ("max_repetition", 1.0),
        ("temperature", 2.0),
        ("top_p", 1.0),
    ):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= high:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} must be between 0 and {high:g}, got {value:g}")
    for name in ("max_tokens", "concurrency"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    _check_files(options)


def _check_files(options: argparse.Namespace) -> None:
    """Refuse before anything is asked what could not be written, or would be written over."""
    from uniapl.files import check_outputs

    outputs = {
        "--output": options.output,
        "the summary": _summary_file(options),
        "the cache": _cache_file(options),
    }
    inputs = {"the prompts": options.prompts}
    if options.local is not None:
        inputs["the model"] = options.local
    check_outputs(outputs, inputs)


def _cache_file(options: argparse.Namespace) -> Path:
    return options.cache or options.output.with_suffix(".answers.sqlite")


def _summary_file(options: argparse.Namespace) -> Path:
    return options.output.with_suffix(".summary.json")


def _check_row(row: Mapping[str, Any]) -> None:
    """Check a prompt's columns: the instructions, and that a demonstration can carry all of them."""
    from uniapl.instructions import validate_columns

    validate_columns(row)
    try:
        json.dumps(dict(row), ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"a column cannot be written as JSON: {error}") from error


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Leave out prompts that repeat an earlier one: the same question has the same answer."""
    by_text: dict[str, Prompt] = {}
    for prompt in prompts:
        by_text.setdefault(json.dumps([dict(turn) for turn in prompt.messages]), prompt)
    return list(by_text.values())


def _endpoint_expert(options: argparse.Namespace) -> _Expert:
    from uniapl.experts import Endpoint, EndpointExpert, request_settings

    given = {
        "concurrency": options.concurrency,
        "requests_per_minute": options.requests_per_minute,
        "timeout_seconds": options.timeout,
        "retries": options.retries,
    }
    key = os.environ.get("OPENAI_API_KEY")
    endpoint = Endpoint(
        options.endpoint,
        api_key=None if key is None else key.strip(),
        **{name: value for name, value in given.items() if value is not None},
    )
    settings = request_settings(
        options.model,
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=options.max_tokens,
        seed=options.seed,
        extra_body=_json_object(options.extra_body),
    )
    return _Expert(EndpointExpert(endpoint, settings), options.system_prompt, nullcontext())


def _local_expert(options: argparse.Namespace, prompts: Sequence[Prompt]) -> _Expert:
    extra = _json_object(options.extra_body)
    template_arguments = extra.pop("chat_template_kwargs", {})
    if extra or not isinstance(template_arguments, dict):
        raise InputError(
            '--extra-body of a --local model may only be {"chat_template_kwargs": {...}}'
        )
    # Imported here: it loads torch.
    from uniapl.evaluation.answering import load_answering_model
    from uniapl.evaluation.benchmark import Decoding
    from uniapl.experts import GeneratorExpert

    model = load_answering_model(
        options.local,
        system_prompt=options.system_prompt,
        template_arguments=template_arguments,
        dtype_name=options.dtype,
    )
    limit = _fitting_limit(options, prompts, model)
    decoding = Decoding(
        temperature=1.0 if options.temperature is None else options.temperature,
        max_rows=options.concurrency or _LOCAL_ROWS,
    )
    settings = {
        "model": options.local,
        "weights": model.fingerprint,
        "dtype": model.dtype_name,
        "temperature": decoding.temperature,
        "max_tokens": limit,
        "seed": options.seed,
        "chat_template_kwargs": dict(model.template_arguments),
    }
    expert = GeneratorExpert(
        lambda seed: model.generator(replace(decoding, seed=seed), limit),
        model.encode,
        settings=settings,
        source=options.local,
        max_rows=decoding.max_rows,
    )
    return _Expert(expert, model.system_prompt, model.policy.autocast())


def _fitting_limit(
    options: argparse.Namespace, prompts: Sequence[Prompt], model: "AnsweringModel"
) -> int:
    """Return how many tokens an answer may have; all prompts are read before the first is answered.

    The default is the model's alone: one that followed the longest prompt would make every answer in the cache
    another's as soon as a prompt is added.

    Raises:
        InputError: The chat template refuses prompts, or they leave no room in the model's context.
    """
    from uniapl.data.sources import Problems
    from uniapl.evaluation.answering import MAX_COMPLETION_TOKENS

    limit = options.max_tokens or MAX_COMPLETION_TOKENS
    if options.max_tokens is None and model.context is not None:
        limit = min(limit, model.context // 2)
    problems = Problems()
    for prompt in prompts:
        with problems.at(f"{options.prompts}: prompt {prompt.id}"):
            length = len(model.encode(prompt.messages))
            if model.context is not None and length + limit > model.context:
                raise InputError(
                    f"its {length} tokens and {limit} of an answer do not fit the model's context of "
                    f"{model.context}: shorten it or lower --max-tokens"
                )
    problems.raise_any()
    return limit


def _no_json_number(name: str) -> NoReturn:
    raise InputError(f"--extra-body is not JSON: {name} is no number there")


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_json_number)
    except json.JSONDecodeError as error:
        raise InputError(
            f"--extra-body is not JSON: {error.msg} at column {error.colno}"
        ) from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise InputError("--extra-body holds a number or a depth that no request has") from error
    if not isinstance(value, dict):
        raise InputError(f"--extra-body must be a JSON object, got {text}")
    return value


def _raise_if_incomplete(asked: "Asked", tally: "Tally") -> None:
    if tally.num_open:
        first = f" (first: {asked.first_failure})" if asked.first_failure else ""
        more = "; gave up after many failures in a row" if asked.has_given_up else ""
        raise TrainingError(
            f"{tally.num_open} of {tally.num_prompts} prompts lack an answer{first}{more}; "
            "the same command again asks for what is missing"
        )
    if not tally.num_demonstrations:
        raise TrainingError("no answer became a demonstration, so none were written")
