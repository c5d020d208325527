"""`uniapl compare`: arms on one budget, with intervals."""

import argparse
from pathlib import Path

from uniapl.commands.common import add_config, given_path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    add_config(parser)
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
    parser.add_argument(
        "--output", metavar="DIR", type=given_path, help="default: OUTPUT_DIR-comparison"
    )
    parser.set_defaults(handler=_compare)


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
