"""`uniapl plan`: memory, tokens and time of a run before it starts."""

import argparse
from pathlib import Path

from uniapl.commands.common import add_config


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    add_config(parser)
    parser.add_argument(
        "--measured",
        metavar="RUN",
        type=Path,
        help="run of the same model; its speed gives the time",
    )
    parser.set_defaults(handler=_plan)


def _plan(options: argparse.Namespace) -> None:
    from uniapl.config import load_config, overridden_keys

    config = load_config(options.config, options.overrides)
    from uniapl.planning import plan_lines, plan_run

    plan = plan_run(config, overridden_keys(options.overrides))
    print("\n".join(plan_lines(plan, options.measured)))
