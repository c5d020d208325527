"""`uniapl report`: one self-contained page of runs, or of a comparison."""

import argparse

from uniapl.commands.common import given_path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=given_path, help="run folder")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=given_path,
        help="default: report/index.html in RUN (of several: here)",
    )
    parser.set_defaults(handler=_report)


def _report(options: argparse.Namespace) -> None:
    from uniapl.report import build_report

    print(f"report: {build_report(options.runs, options.output)}")
