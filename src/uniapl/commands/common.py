"""What several commands have in common."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from uniapl.errors import InputError


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the words `CONFIG [key=value …]`."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or name of a packaged config")
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        default=[],
        help="option to change, such as seed=1",
    )


def given_path(text: str) -> Path:
    """Return the path of an option; `~` is expanded here, since shells leave it in `--output=~/x`."""
    return Path(os.path.expanduser(text))


def print_as_file(text: str) -> None:
    """Print what somebody may keep as a file: as UTF-8 where the console's encoding would lose characters."""
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        return
    print(text, end="")


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add how the user calls the columns."""
    parser.add_argument(
        "--columns",
        metavar="'{OURS: YOURS}'",
        help="as data.columns of a config, such as '{prompt: task, completion: reply}'",
    )


def given_columns(options: argparse.Namespace) -> dict[str, str]:
    """Return our names of columns → the user's.

    Raises:
        InputError: The text is no such mapping, or a name is none of ours.
    """
    if options.columns is None:
        return {}
    from uniapl.config.checks import unknown_columns
    from uniapl.config.strict_yaml import load_yaml

    columns: Any = load_yaml(options.columns, "--columns")
    if not (isinstance(columns, dict) and columns):
        raise InputError(
            "--columns must be a mapping such as '{prompt: task, completion: reply}', "
            f"got {options.columns!r}"
        )
    wrong = [name for name, column in columns.items() if not isinstance(column, str) or not column]
    if wrong:
        raise InputError(f"--columns: {wrong[0]} must be the name of a column")
    if problems := list(unknown_columns("--columns", columns)):
        raise InputError("\n".join(problems))
    return columns


def add_decoding(parser: argparse.ArgumentParser, *, temperature: str, max_tokens: str) -> None:
    """Add how answers are sampled; nothing has a default, so that what was given can be told.

    Args:
        parser: Of the command.
        temperature: What the command does without it.
        max_tokens: The same of the limit of an answer.
    """
    parser.add_argument("--temperature", type=float, help=f"default: {temperature}")
    parser.add_argument("--max-tokens", type=int, help=f"of an answer; default: {max_tokens}")
    parser.add_argument("--seed", type=int, help="of the sampling; default: 0")
    parser.add_argument(
        "--no-thinking",
        dest="is_thinking",
        action="store_const",
        const=False,
        help="pass enable_thinking=False to the chat template",
    )


def given_decoding(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was given of `add_decoding` and `--max-rows`, by the library's names."""
    given = {
        "temperature": options.temperature,
        "max_completion_tokens": options.max_tokens,
        "max_rows": getattr(options, "max_rows", None),
        "seed": options.seed,
        "is_thinking": options.is_thinking,
    }
    return {name: value for name, value in given.items() if value is not None}
