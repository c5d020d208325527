"""`uniapl prompts`: checkable prompts from seed prompts, or demonstrations from human answers (docs/prompts.md)."""

import argparse

from uniapl.commands.common import add_columns, given_columns, given_path
from uniapl.errors import InputError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("seeds", metavar="SEEDS", help="JSONL, Parquet, .txt, or a hub id")
    parser.add_argument("--output", metavar="FILE", type=given_path, required=True, help="JSONL")
    parser.add_argument(
        "--held-out",
        metavar="FILE",
        type=given_path,
        help="a tenth of the seeds goes here, in phrasings and types that --output then lacks",
    )
    parser.add_argument(
        "--exclude",
        metavar="FILE",
        nargs="+",
        default=[],
        help="benchmark prompts; whatever shares eight words in a row is dropped",
    )
    parser.add_argument(
        "--from-completions",
        action="store_true",
        help="ask only for what each seed's completion already does: demonstrations",
    )
    add_columns(parser)
    parser.add_argument("--min-instructions", type=int, default=1, help="per prompt; default: 1")
    parser.add_argument("--max-instructions", type=int, default=5, help="per prompt; default: 5")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> None:
    """Make prompts.

    Raises:
        InputError: Something given is wrong; nothing has been written.
    """
    from uniapl.data.seeds import read_seeds, read_texts
    from uniapl.files import check_outputs, write_rows
    from uniapl.instructions.contamination import Overlaps
    from uniapl.instructions.making import Made, Recipe, back_translate, make_files

    if options.from_completions and options.held_out is not None:
        raise InputError("--held-out has no effect on demonstrations")
    outputs = {"--output": options.output, "--held-out": options.held_out}
    inputs = {f"--exclude {file}": file for file in options.exclude}
    check_outputs(
        {name: file for name, file in outputs.items() if file is not None},
        {"the seeds": options.seeds, **inputs},
    )
    seeds = read_seeds(
        options.seeds, columns=given_columns(options), joins_context=options.from_completions
    )
    excluded = Overlaps(text for file in options.exclude for text in read_texts(file))
    counts = (options.min_instructions, options.max_instructions)
    if options.from_completions:
        recipe = Recipe(min_instructions=counts[0], max_instructions=counts[1])
        made = back_translate(seeds.prompts, recipe, seed=options.seed, excluded=excluded)
        held_out = Made()
    else:
        made, held_out = make_files(
            seeds.prompts,
            counts,
            seed=options.seed,
            excluded=excluded,
            is_held_out=options.held_out is not None,
        )
    made.dropped.update(seeds.dropped)
    for file, part in ((options.output, made), (options.held_out, held_out)):
        if file is not None:
            write_rows(file, part.rows)
            print("\n".join([*part.lines(), f"wrote {file}", ""]))
