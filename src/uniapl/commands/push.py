"""`uniapl push`: a finished run's policy on the hub."""

import argparse

from uniapl.commands.common import given_path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    parser.add_argument("run", metavar="RUN", type=given_path, help="run folder")
    parser.add_argument("name", metavar="OWNER/NAME", help="what the hub shall call it")
    parser.add_argument(
        "--public", action="store_true", help="a new repository is private without it"
    )
    parser.set_defaults(handler=_push)


def _push(options: argparse.Namespace) -> None:
    from uniapl.runs.push import push

    print(f"pushed: {push(options.run, options.name, is_public=options.public)}")
