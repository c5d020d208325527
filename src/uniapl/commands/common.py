"""What several commands have in common."""

import argparse
import sys
from typing import Any


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


def print_as_file(text: str) -> None:
    """Print what somebody may keep as a file: as UTF-8 where the console's encoding would lose characters."""
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        return
    print(text, end="")


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
