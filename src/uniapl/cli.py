"""The `uniapl` command: reads the words, hands over to the library, turns errors into one line.

Nothing heavy is imported before a command needs it: `uniapl --help` loads neither pydantic nor torch.
Exit status: 0 done, 1 the run failed, 2 wrong input, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from uniapl import __version__
from uniapl.commands import collect, prompts
from uniapl.console import unfailing_streams
from uniapl.types import InputError, TrainingError

_HELP = """\
usage: uniapl COMMAND ...

Post-train a language model so that it follows instructions like an expert:
demonstrations and preferences in one stage.

commands:
  train CONFIG [key=value ...]        train; everything goes into one run folder
      --preview                       show what the first step would learn from
  plan CONFIG [key=value ...]         memory, tokens and time of a run
  compare CONFIG --methods A,B        train on one budget; table with intervals
      --seeds 0,1,2 --jobs N          --grid A:key=v1,v2 tunes arm A; all: -h
  evaluate [MODEL|RUN] --benchmark NAME --prompts FILE, or --pairs FILE
  prompts SEEDS --output FILE         checkable prompts from seed prompts
  collect PROMPTS --output FILE       demonstrations from an expert
  report RUN [RUN ...]                one self-contained HTML page
  config show CONFIG | reference      a resolved config; every key explained

options:
  --debug       show the traceback of an error (as UNIAPL_DEBUG=1 does)
  --version     print the version
  -h, --help    print this help; after a command, the help of that command

CONFIG is a YAML file or the name of a packaged config. Start here:
  uniapl train miniature output_dir=runs/first
"""

_Handler = Callable[[argparse.Namespace], None]


class _Parser(argparse.ArgumentParser):
    """Says what was wrong in one line, as every other error of the command does."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


class _RootParser(_Parser):
    """The help of all commands is written by hand: one screen, examples first."""

    def format_help(self) -> str:
        return _HELP


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; nothing about the console ends it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with unfailing_streams() as (output, _):
        status = _run(words)
        output.flush()
        if status == 0 and output.failure is not None and _prints_its_result(words):
            print(f"error: {output.failure}", file=sys.stderr)
            return 1
        return status


def _run(words: list[str]) -> int:
    debug = "--debug" in words or os.environ.get("UNIAPL_DEBUG") == "1"
    try:
        _dispatch([word for word in words if word != "--debug"])
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (InputError, TrainingError, OSError) as error:
        if debug:
            from traceback import print_exc

            print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def _prints_its_result(words: Sequence[str]) -> bool:
    """Return whether what a command prints is what it was asked for; the others write files."""
    return next(iter(words), "") in ("config", "plan")


def _dispatch(words: list[str]) -> None:
    if not words:
        print(_HELP, file=sys.stderr, end="")
        raise InputError("a command is missing")
    _check_commands(words)
    try:
        options, rest = _build_parser().parse_known_args(words)
    except SystemExit:  # --help and --version have printed; errors are InputErrors
        return
    # argparse takes positional words in one run only; `train CONFIG --preview key=value` has two.
    if hasattr(options, "overrides"):
        options.overrides = options.overrides + [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        raise InputError(_unknown_option(rest[0], takes_overrides=hasattr(options, "overrides")))
    handler: _Handler = options.handler
    handler(options)


def _build_parser() -> argparse.ArgumentParser:
    parser = _RootParser(prog="uniapl", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"uniapl {__version__}")
    commands = parser.add_subparsers(required=True, parser_class=_Parser, metavar="COMMAND")

    train = commands.add_parser("train", help="train", allow_abbrev=False)
    _add_config(train)
    train.add_argument(
        "--preview", action="store_true", help="show the first step's data, train nothing"
    )
    train.set_defaults(handler=_train)

    plan = commands.add_parser("plan", help="say what a run needs", allow_abbrev=False)
    _add_config(plan)
    plan.add_argument(
        "--measured",
        metavar="RUN",
        type=Path,
        help="run of the same model; its speed gives the time",
    )
    plan.set_defaults(handler=_plan)

    compare = commands.add_parser("compare", help="compare methods", allow_abbrev=False)
    _add_config(compare)
    _add_comparison(compare)
    compare.set_defaults(handler=_compare)

    _add_evaluate(commands.add_parser("evaluate", help="score a model", allow_abbrev=False))

    prompts.add_options(commands.add_parser("prompts", help="make prompts", allow_abbrev=False))

    collect.add_options(commands.add_parser("collect", help="ask an expert", allow_abbrev=False))

    report = commands.add_parser("report", help="make an HTML page of runs", allow_abbrev=False)
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folder")
    report.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="default: report/index.html in RUN (of several: here)",
    )
    report.set_defaults(handler=_report)

    config = commands.add_parser("config", help="show options", allow_abbrev=False)
    actions = config.add_subparsers(required=True, parser_class=_Parser, metavar="show|reference")
    show = actions.add_parser("show", help="print a config with all defaults", allow_abbrev=False)
    _add_config(show)
    show.set_defaults(handler=_config_show)
    reference = actions.add_parser("reference", help="print every key", allow_abbrev=False)
    reference.set_defaults(handler=_config_reference)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or name of a packaged config")
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        default=[],
        help="option to change, such as seed=1",
    )


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods",
        metavar="ARM,ARM",
        required=True,
        help="methods, or name=method for several arms of one method",
    )
    parser.add_argument(
        "--seeds",
        metavar="0,1,2",
        nargs="+",
        action="extend",
        default=[],
        help="seeds of all arms; ARM:0,1,2,3,4 are those of one arm",
    )
    parser.add_argument(
        "--grid",
        metavar="ARM:key=v1,v2",
        nargs="+",
        action="extend",
        default=[],
        help="settings to choose from on the validation prompts; one value is a setting of the arm",
    )
    parser.add_argument("--baseline", metavar="ARM", help="default: the first arm")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="runs at the same time")
    parser.add_argument("--output", metavar="DIR", type=Path, help="default: OUTPUT_DIR-comparison")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
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
        "--output", metavar="DIR", help="default: evaluations/BENCHMARK, in the run if it is one"
    )
    parser.add_argument(
        "--partial", action="store_true", help="leave out prompts that have no response"
    )
    parser.add_argument(
        "--reading",
        choices=("official", "sound"),
        help="IFEval's own verdicts, or a reward's; default: official, for custom sound",
    )
    # No defaults here: one that is given without a model is an error.
    parser.add_argument("--temperature", type=float, help="default: 0, greedy")
    parser.add_argument("--max-tokens", type=int, help="of an answer; default: 1280 or the context")
    parser.add_argument("--max-rows", type=int, help="answers decoded at once; default: 64")
    parser.add_argument("--seed", type=int, help="of the sampling; default: 0")
    parser.add_argument(
        "--no-thinking",
        dest="is_thinking",
        action="store_const",
        const=False,
        help="pass enable_thinking=False to the chat template",
    )
    parser.set_defaults(handler=_evaluate)


_COMMANDS = {
    "train": (),
    "plan": (),
    "compare": (),
    "evaluate": (),
    "prompts": (),
    "collect": (),
    "report": (),
    "config": ("show", "reference"),
}


def _check_commands(words: Sequence[str]) -> None:
    """Refuse an unknown command with a guess; argparse would only list the known ones."""
    if words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        raise InputError(_unknown_option(words[0], takes_overrides=False))
    known: Sequence[str] = tuple(_COMMANDS)
    for depth, word in enumerate(words[:2]):
        if word.startswith("-") or not known:
            return
        if word not in known:
            from difflib import get_close_matches

            close = get_close_matches(word, known, n=1)
            guess = f"; did you mean {close[0]}?" if close else ""
            command = " ".join(words[: depth + 1])
            raise InputError(f"unknown command '{command}'{guess} (commands: {', '.join(known)})")
        known = _COMMANDS[word] if depth == 0 else ()


def _unknown_option(option: str, *, takes_overrides: bool) -> str:
    """Say that the option does not exist; people who come from other tools write `--seed 1`."""
    if takes_overrides:
        from uniapl.config.problems import suggest_keys

        keys = suggest_keys(option.lstrip("-").partition("=")[0].replace("-", "_"))
        if keys:
            return f"unknown option {option}; options of a config are written {keys[0]}=VALUE"
    return f"unknown option {option}; see `uniapl --help`"


def _train(options: argparse.Namespace) -> None:
    from uniapl.config import load_config, overridden_keys

    config = load_config(options.config, options.overrides)
    from uniapl.runs import train  # after the config: a typo is reported before torch loads

    train(config, overridden=overridden_keys(options.overrides), preview=options.preview)


def _plan(options: argparse.Namespace) -> None:
    from uniapl.config import load_config, overridden_keys

    config = load_config(options.config, options.overrides)
    from uniapl.planning import plan_lines, plan_run

    plan = plan_run(config, overridden_keys(options.overrides))
    print("\n".join(plan_lines(plan, options.measured)))


def _compare(options: argparse.Namespace) -> None:
    from uniapl.config import load_config

    seeds, grids = _own_words(options, "seeds"), _own_words(options, "grid")
    config = load_config(options.config, options.overrides)
    from uniapl.comparing import compare, read_plan

    plan = read_plan(options.methods, seeds, grids, options.baseline)
    folder = options.output or Path(f"{config.output_dir}-comparison")
    compare(config, plan, folder, options.jobs)


def _own_words(options: argparse.Namespace, name: str) -> list[str]:
    """Take the overrides out of an option that swallows every word after it."""
    words: list[str] = getattr(options, name)
    overrides = [word for word in words if "=" in word and ":" not in word.partition("=")[0]]
    options.overrides = options.overrides + overrides
    return [word for word in words if word not in overrides]


def _evaluate(options: argparse.Namespace) -> None:
    if options.pairs is not None:
        _evaluate_pairs(options)
        return
    from uniapl.evaluation.benchmark import Decoding, evaluate_benchmark

    given = {
        "temperature": options.temperature,
        "max_completion_tokens": options.max_tokens,
        "max_rows": options.max_rows,
        "seed": options.seed,
        "is_thinking": options.is_thinking,
    }
    given = {name: value for name, value in given.items() if value is not None}
    done = evaluate_benchmark(
        options.benchmark,
        options.model,
        prompts=options.prompts,
        responses=options.responses,
        output=options.output,
        is_partial=options.partial,
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

    print("\n".join(evaluate_pairs(options.model, options.pairs, options.output).lines()))


def _report(options: argparse.Namespace) -> None:
    from uniapl.report import build_report

    print(f"report: {build_report(options.runs, options.output)}")


def _config_show(options: argparse.Namespace) -> None:
    from uniapl.config import dump_config, load_config

    _print_as_file(dump_config(load_config(options.config, options.overrides)))


def _config_reference(_: argparse.Namespace) -> None:
    from uniapl.config import config_reference

    _print_as_file(config_reference())


def _print_as_file(text: str) -> None:
    """Print what somebody may keep as a file: as UTF-8 where the console's encoding would lose characters."""
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        return
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
