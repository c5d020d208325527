"""`uniapl train`: one run, one run folder."""

import argparse
from json import dumps

from uniapl.commands.common import add_config
from uniapl.errors import InputError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    add_config(parser)
    parser.add_argument(
        "--preview", action="store_true", help="show the first step's data, train nothing"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but warnings and results")
    parser.add_argument(
        "--json",
        action="store_true",
        help="a line of JSON per step, evaluation and result on standard output",
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="push the policy when the run is done, as `uniapl push RUN OWNER/NAME` does",
    )
    parser.set_defaults(handler=_train)


def _train(options: argparse.Namespace) -> None:
    from uniapl.config import load_config, overridden_keys

    config = load_config(options.config, options.overrides)
    overridden = overridden_keys(options.overrides)
    if options.preview:
        for name in ("quiet", "json", "push_to_hub"):
            if getattr(options, name):
                raise InputError(f"--{name.replace('_', '-')} has no effect with --preview")
        from uniapl.runs import preview

        preview(config, overridden)
        return
    from uniapl.runs import train  # after the config: a typo is reported before torch loads

    if options.push_to_hub is None:
        train(config, overridden=overridden, quiet=options.quiet, json=options.json)
        return
    from uniapl.runs.push import check_push, push

    check_push(options.push_to_hub)
    run = train(config, overridden=overridden, quiet=options.quiet, json=options.json)
    url = push(run.folder, options.push_to_hub)
    print(dumps({"pushed": url}) if options.json else f"pushed: {url}")
