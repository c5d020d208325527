"""The `uniapl` command: reads the words, hands over to the library, turns errors into one line.

Nothing heavy is imported before a command needs it: `uniapl --help` loads neither pydantic nor torch.
Exit status: 0 done, 1 the run failed, 2 wrong input, 130 Ctrl-C, 128 + its number after another signal (143: SIGTERM).
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from uniapl import __version__
from uniapl.console import unfailing_streams
from uniapl.errors import InputError, Stopped, TrainingError, is_said_elsewhere

_HELP = """\
usage: uniapl COMMAND ...

Post-train a language model so that it follows instructions like an expert:
demonstrations and preferences in one stage.

commands:
  init FILE [--model PATH ...]        write a config that trains; asks nothing
  train CONFIG [key=value ...]        train; everything goes into one run folder
      --preview, --quiet, --json      first data alone; fewer words; JSON lines
  plan CONFIG [key=value ...]         memory, tokens and time of a run
  compare CONFIG --methods A,B        train on one budget; intervals; all: -h
  chat RUN|MODEL [--compare]          talk to it, beside the one before training
  evaluate [MODEL|RUN] --benchmark NAME --prompts FILE, or --pairs FILE
  prompts SEEDS --output FILE         checkable prompts from seed prompts
  collect PROMPTS --output FILE       demonstrations from an expert
  report RUN [RUN ...]                one self-contained HTML page
  push RUN OWNER/NAME                 the trained model, to the hub
  config show CONFIG | reference      a resolved config; every key explained
  env [--json]                        versions and devices, for a bug report

--debug shows the traceback of an error (as UNIAPL_DEBUG=1 does), --version the
version; --help after a command explains it.
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
    except KeyboardInterrupt as stop:
        if not is_said_elsewhere(stop):
            print("interrupted", file=sys.stderr)
        return stop.status if isinstance(stop, Stopped) else 130
    except (InputError, TrainingError, OSError) as error:
        if debug:
            from traceback import print_exc

            print_exc()
        if not is_said_elsewhere(error):
            print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def _prints_its_result(words: Sequence[str]) -> bool:
    """Return whether what a command prints is what it was asked for; the others write files."""
    return next(iter(words), "") in ("config", "env", "plan")


def _dispatch(words: list[str]) -> None:
    if not words:
        print(_HELP, file=sys.stderr, end="")
        raise InputError("a command is missing")
    _check_commands(words)
    if words[0] in _COMMANDS and words[0] != "train" and os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(f"uniapl {words[0]} is one process; start it without torchrun")
    try:
        options, rest = _build_parser(words[0]).parse_known_args(words)
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


def _build_parser(command: str) -> argparse.ArgumentParser:
    """Return a parser of all commands; only the one that is asked for is loaded and has its options."""
    parser = _RootParser(prog="uniapl", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"uniapl {__version__}")
    commands = parser.add_subparsers(required=True, parser_class=_Parser, metavar="COMMAND")
    for name in _COMMANDS:
        own = commands.add_parser(name, allow_abbrev=False)
        if name == command:
            import_module(f"uniapl.commands.{name}").add_options(own)
    return parser


_COMMANDS: dict[str, tuple[str, ...]] = {
    "init": (),
    "train": (),
    "plan": (),
    "compare": (),
    "evaluate": (),
    "prompts": (),
    "collect": (),
    "chat": (),
    "report": (),
    "push": (),
    "config": ("show", "reference"),
    "env": (),
}
"""Command → its actions; each command has a file of its name in `commands/`."""


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


if __name__ == "__main__":
    sys.exit(main())
