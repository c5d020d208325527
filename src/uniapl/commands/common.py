"""What several commands have in common."""

import argparse
import sys


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
