"""`uniapl init`: a commented config that `uniapl train` accepts, on the user's files or on the miniature."""

import argparse
import math
import os
import re
import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from uniapl.commands.common import given_path
from uniapl.errors import InputError

_PLAIN = re.compile(r"[\w./~:@+-]*[A-Za-z/][\w./~:@+-]*")
"""What YAML reads as text without quotes, as far as paths and hub ids go."""
_MEASURED = 8
"""Held-out demonstrations on which a step measures the distance to the expert, where there are as many."""
_PATH_LIKE = ("./", "../", "/", "~")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    parser.add_argument(
        "file", metavar="FILE", type=given_path, help="YAML file to write, such as my.yaml"
    )
    parser.add_argument(
        "--model", metavar="PATH", help="model folder or hub id; default: the miniature"
    )
    parser.add_argument(
        "--demonstrations", metavar="FILE", help="an expert's answers; default: the miniature's"
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="prompts with instructions to check; default: the miniature's",
    )
    parser.set_defaults(handler=_init)


def _init(options: argparse.Namespace) -> None:
    file: Path = options.file.expanduser()
    if file.exists() or file.is_symlink():
        raise InputError(f"{file}: is there already; choose another name, or remove it")
    if options.prompts is not None and options.demonstrations is None:
        raise InputError(
            "--prompts needs --demonstrations: an expert's answers; `uniapl collect` gets them"
        )
    from uniapl.config import load_config
    from uniapl.files import write_text

    chosen = _choose(options, file.absolute().parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from None
    write_text(file, _config_text(chosen, file.stem))
    run = load_config(file).output_dir
    for note in chosen.notes:
        print(f"note: {note}")
    print(f"wrote {file}; what next:")
    name, folder = shlex.quote(str(file)), shlex.quote(run)
    for command, meaning in (
        (f"uniapl train {name} --preview", "what the first step would learn from"),
        (f"uniapl plan {name}", "memory and tokens of the run"),
        (f"uniapl train {name}", f"train; everything goes into {run}"),
        (f"uniapl report {folder}", "one page of what changed"),
        (f"uniapl chat {folder} --compare", "talk to the model, beside the one before training"),
    ):
        print(f"  {command:<36}  # {meaning}")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What goes into the config."""

    model: str
    demonstrations: str
    prompts: str | None
    is_own_model: bool
    is_own_data: bool
    method: str
    demonstrations_per_step: int
    demonstration_prompts_per_step: int
    prompts_per_step: int
    measured_per_step: int
    """Held-out demonstrations of a step."""
    notes: tuple[str, ...]


def _choose(options: argparse.Namespace, folder: Path) -> _Chosen:
    """Look at what the user gave, and choose the method and the numbers of a step that it allows.

    Raises:
        InputError: A file is missing or is no data.
    """
    packaged = Path(str(resources.files("uniapl"))) / "miniature"
    data = packaged / "data"
    is_own_data = options.demonstrations is not None
    demonstrations = options.demonstrations or str(data / "demonstrations.jsonl")
    prompts = options.prompts or (None if is_own_data else str(data / "prompts.jsonl"))
    num_demonstrations, _ = _rows("--demonstrations", demonstrations)
    num_prompts, num_checkable = (0, 0) if prompts is None else _rows("--prompts", prompts)
    method, notes = "uniapl", []
    if prompts is None:
        method = "sft"
        notes.append("without --prompts there is nothing to reward: method sft; with them: uniapl")
    elif num_checkable == 0:
        method = "sft"
        notes.append(
            f"no prompt of {prompts} has an `instruction_id_list` to check: method sft; name a reward "
            "under `rewards`, then set method uniapl"
        )
    held_out = math.ceil(num_demonstrations / 20) if method == "uniapl" else 0
    per_step = max(1, min(24, num_demonstrations - held_out))
    paired = min(8, per_step)
    return _Chosen(
        model=_written(_model(options.model or str(packaged / "model")), folder),
        demonstrations=_written(demonstrations, folder),
        prompts=None if prompts is None else _written(prompts, folder),
        is_own_model=options.model is not None,
        is_own_data=is_own_data,
        method=method,
        demonstrations_per_step=per_step,
        demonstration_prompts_per_step=paired,
        prompts_per_step=paired + max(1, min(14, num_prompts)),
        measured_per_step=max(1, min(_MEASURED, held_out)),
        notes=tuple(notes),
    )


def _rows(option: str, source: str) -> tuple[int, int]:
    """Return how many rows a source has and how many have instructions; many of a hub's, which is not asked."""
    from uniapl.data.hub import is_hub_id
    from uniapl.data.readers import load_prompts
    from uniapl.data.sources import local_file

    try:
        if local_file(source, may_be_missing=is_hub_id(source)) is None:
            return 1000, 1000
        rows = load_prompts(source, None)
    except InputError as error:
        raise InputError(f"{option}: {error}") from error
    if option == "--demonstrations" and not all("completion" in row.columns for row in rows):
        raise InputError(f"{option}: {source} has rows without an expert's completion")
    return len(rows), sum(bool(row.columns.get("instruction_id_list")) for row in rows)


def _model(model: str) -> str:
    """Refuse a folder that is not there; what looks like no path may be a hub id."""
    if model.startswith(_PATH_LIKE) and not Path(model).expanduser().exists():
        raise InputError(f"--model: no such folder: {model}")
    return model


def _written(path: str, folder: Path) -> str:
    """Return a path as the config says it: what is here is relative to the config, so that both can move."""
    local = Path(path).expanduser()
    if local.exists() and not Path(path).is_absolute() and not path.startswith("~"):
        relative = Path(os.path.relpath(local.absolute(), folder)).as_posix()
        path = relative if relative.startswith("../") else f"./{relative}"
    if _PLAIN.fullmatch(path) and not path.endswith(":"):
        return path
    return "'" + path.replace("'", "''") + "'"


def _config_text(chosen: _Chosen, name: str) -> str:
    """Return the YAML."""
    output = _written(f"runs/{name}", Path.cwd())
    return "\n".join(
        [
            "# Every key is explained in docs/config.md, or by `uniapl config reference`.",
            "# Paths that begin with ./ or ../ are relative to this file, all others to where you are.",
            f"method: {chosen.method:<22} # or sft, grpo, mix, ...: one word, the rest of the file serves all",
            f"output_dir: {output}",
            "",
            "model:",
            f"  path: {chosen.model}",
            *(
                ["  dtype: float32               # bfloat16 on a GPU"]
                if chosen.is_own_model
                else []
            ),
            "",
            *_data_lines(chosen),
            "",
            *_training_lines(chosen),
            "",
            *_evaluation_lines(chosen),
            "",
        ]
    )


def _data_lines(chosen: _Chosen) -> list[str]:
    prompts = (
        "  # prompts: ./prompts.jsonl      # prompts whose rollouts are rewarded"
        if chosen.prompts is None
        else f"  prompts: {chosen.prompts}"
    )
    return [
        "data:                            # shapes of rows: docs/data.md",
        f"  demonstrations: {chosen.demonstrations}",
        prompts,
        f"  demonstrations_per_step: {chosen.demonstrations_per_step:<4} # the expert's answers that a step learns",
        f"  prompts_per_step: {chosen.prompts_per_step:<11} # prompts that the model answers in a step",
        f"  demonstration_prompts_per_step: {chosen.demonstration_prompts_per_step} # of these, so many that "
        "the expert answered too",
        "",
        "rewards:                         # one or more; your own function: {function: my_module:my_reward}",
        "  - function: instructions       # share of a prompt's instructions that an answer follows",
    ]


def _training_lines(chosen: _Chosen) -> list[str]:
    """Return the rest that acts; the numbers of the miniature are measured, the others a usual start."""
    tokens, rate, steps = (256, "1e-6", 200) if chosen.is_own_model else (80, "5e-4", 60)
    few = [
        "constraint:",
        f"  prompts_per_step: {chosen.measured_per_step:<11}  # of the demonstrations held out",
        "",
    ]
    few = few if chosen.method == "uniapl" and chosen.measured_per_step < _MEASURED else []
    why = "tune it first: 5e-7 to 5e-6" if chosen.is_own_model else "high: the model is tiny"
    return [
        "rollout:",
        "  group_size: 8                  # answers to each prompt",
        f"  max_completion_tokens: {tokens:<6}  # longer ones are cut off and earn nothing",
        "",
        "objective:",
        "  sft_weight: 0.3                # learn the expert's answers",
        "  grpo_weight: 1.0               # learn from rewards",
        "  adversarial_weight: 0.3        # λ: stay close to the expert",
        "",
        *few,
        "optimizer:",
        f"  learning_rate: {rate:<14}  # {why}",
        "",
        "training:",
        f"  steps: {steps}",
        "  checkpoint_every: 20",
    ]


def _evaluation_lines(chosen: _Chosen) -> list[str]:
    data = Path(str(resources.files("uniapl"))) / "miniature" / "data"
    if chosen.is_own_data:
        return [
            "# evaluation:                    # before and after training, on prompts that are never trained",
            "#   prompts: ./test.jsonl",
            "#   validation_prompts: ./validation.jsonl   # on these `uniapl compare` chooses settings",
        ]
    return [
        "evaluation:                      # before and after training, on prompts that are never trained",
        f"  prompts: {_written(str(data / 'test.jsonl'), data)}",
        f"  validation_prompts: {_written(str(data / 'validation.jsonl'), data)}",
        "  temperature: 1.0",
        "  metrics: [uniapl.miniature.metrics:fluency, uniapl.miniature.metrics:joint]",
        "  best_metric: joint",
    ]
