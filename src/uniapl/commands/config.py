"""`uniapl config`: a resolved config, and every key explained."""

import argparse

from uniapl.commands.common import add_config, print_as_file


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the actions of the command and their handlers to its parser."""
    actions = parser.add_subparsers(
        required=True, parser_class=type(parser), metavar="show|reference"
    )
    show = actions.add_parser("show", help="print a config with all defaults", allow_abbrev=False)
    add_config(show)
    show.set_defaults(handler=_config_show)
    reference = actions.add_parser("reference", help="print every key", allow_abbrev=False)
    reference.set_defaults(handler=_config_reference)


def _config_show(options: argparse.Namespace) -> None:
    from uniapl.config import dump_config, load_config

    print_as_file(dump_config(load_config(options.config, options.overrides)))


def _config_reference(_: argparse.Namespace) -> None:
    from uniapl.config import config_reference

    print_as_file(config_reference())
