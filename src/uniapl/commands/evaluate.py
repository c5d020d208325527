"""`uniapl evaluate`: what a model can do, by a benchmark or on labelled pairs."""

import argparse
import sys

from uniapl.commands.common import (
    add_columns,
    add_decoding,
    given_columns,
    given_decoding,
    given_path,
)
from uniapl.errors import InputError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    parser.add_argument(
        "model", metavar="MODEL|RUN", nargs="?", help="model folder, hub id, or run folder"
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--benchmark", choices=("ifeval", "ifbench", "custom"))
    task.add_argument(
        "--pairs", metavar="FILE", help="labelled pairs that a reward model ranks; or a hub id"
    )
    parser.add_argument("--prompts", metavar="FILE", help="in IFEval's format; or a hub id")
    parser.add_argument(
        "--responses", metavar="FILE", help="rows of key or prompt, and response; no model then"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=given_path,
        help="default: evaluations/BENCHMARK, in the run if it is one",
    )
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N prompts or pairs")
    parser.add_argument(
        "--partial", action="store_true", help="leave out prompts that have no response"
    )
    parser.add_argument(
        "--reading",
        choices=("official", "sound"),
        help="IFEval's own verdicts, or a reward's; default: official, for custom sound",
    )
    add_columns(parser)
    add_decoding(parser, temperature="0, greedy", max_tokens="1280 or the context")
    parser.add_argument("--max-rows", type=int, help="answers decoded at once; default: 64")
    parser.set_defaults(handler=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    if options.pairs is not None:
        _evaluate_pairs(options)
        return
    from uniapl.evaluation.benchmark import Decoding, Selection, evaluate_benchmark

    given = given_decoding(options)
    done = evaluate_benchmark(
        options.benchmark,
        options.model,
        prompts=options.prompts,
        responses=options.responses,
        output=options.output,
        selection=Selection(options.limit, options.partial, given_columns(options)),
        reading=options.reading,
        decoding=Decoding(**given) if given else None,
    )
    if done.num_unknown:
        print(f"warning: {done.num_unknown} responses answer none of the prompts", file=sys.stderr)
    print("\n".join(done.lines()))


def _evaluate_pairs(options: argparse.Namespace) -> None:
    ignored = {
        "prompts": options.prompts,
        "responses": options.responses,
        "partial": options.partial or None,
        "reading": options.reading,
        "temperature": options.temperature,
        "max-tokens": options.max_tokens,
        "max-rows": options.max_rows,
        "seed": options.seed,
        "no-thinking": options.is_thinking,
    }
    for name, value in ignored.items():
        if value is not None:
            raise InputError(f"--{name} has no effect with --pairs")
    if options.model is None:
        raise InputError("--pairs needs a model: a reward model, or a run with a discriminator")
    from uniapl.evaluation.pairs import evaluate_pairs

    columns = given_columns(options)
    done = evaluate_pairs(
        options.model, options.pairs, options.output, options.limit, columns=columns
    )
    print("\n".join(done.lines()))
