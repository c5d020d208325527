"""`uniapl train`: one run, one run folder."""

import argparse

from uniapl.commands.common import add_config


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    add_config(parser)
    parser.add_argument(
        "--preview", action="store_true", help="show the first step's data, train nothing"
    )
    parser.set_defaults(handler=_train)


def _train(options: argparse.Namespace) -> None:
    from uniapl.config import load_config, overridden_keys

    config = load_config(options.config, options.overrides)
    from uniapl.runs import train  # after the config: a typo is reported before torch loads

    train(config, overridden=overridden_keys(options.overrides), preview=options.preview)
