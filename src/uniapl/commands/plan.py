"""`uniapl plan`: memory, tokens and time of a run before it starts."""

import argparse
import math

from uniapl.commands.common import add_config, given_path
from uniapl.errors import InputError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    add_config(parser)
    parser.add_argument(
        "--measured",
        metavar="RUN",
        type=given_path,
        help="run of the same model on one device; its speed gives the time",
    )
    parser.add_argument(
        "--devices", metavar="N", type=int, default=1, help="processes that share the run"
    )
    parser.add_argument(
        "--memory",
        metavar="GIB",
        type=float,
        help="of each device, where the run goes to other GPUs than this machine's",
    )
    parser.add_argument(
        "--bandwidth",
        metavar="GB/S",
        type=float,
        help="in and out of each device, between devices; default: 25",
    )
    parser.add_argument(
        "--folder-bandwidth",
        metavar="GB/S",
        type=float,
        help="of the folder through which rollout servers get weights; default: 1",
    )
    parser.set_defaults(handler=_plan)


def _plan(options: argparse.Namespace) -> None:
    from uniapl.config import load_config, overridden_keys

    config = load_config(options.config, options.overrides)
    from dataclasses import replace

    from uniapl.planning import check_fits, here, plan_lines, plan_run
    from uniapl.planning.devices import GIB

    if options.memory is not None and not math.isfinite(options.memory):
        raise InputError(f"--memory: must be a finite number above 0, got {options.memory:g}")
    memory = None if options.memory is None else int(options.memory * GIB)
    rates = {
        name: value
        for name in ("bandwidth", "folder_bandwidth")
        if (value := getattr(options, name)) is not None
    }
    if "bandwidth" in rates and options.devices == 1:
        raise InputError("--bandwidth: has no effect with --devices 1")
    devices = replace(here(config, options.devices, memory), **rates)
    plan = plan_run(config, overridden_keys(options.overrides), devices)
    if "folder_bandwidth" in rates and not plan.communication.folder:
        raise InputError("--folder-bandwidth: has no effect, since no server samples rollouts")
    print("\n".join(plan_lines(plan, options.measured)), flush=True)
    check_fits(plan)
