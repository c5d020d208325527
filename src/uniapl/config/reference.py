"""The reference of all keys in Markdown, made from the schema: `docs/config.md` is this output."""

import inspect

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from uniapl.config.keys import describe_field, section_of
from uniapl.config.problems import show
from uniapl.config.schema import Config, RewardConfig

_INTRODUCTION = """\
# Config reference

Every key of a run's config. This page is the output of `uniapl config reference`; do not edit it.

    uniapl train CONFIG [key=value …]

`CONFIG` is a YAML file, or the name of a config that comes with the package (`miniature`). `key` is the dotted
path of an option, such as `optimizer.learning_rate`; `value` is YAML, so `1e-6` is a number and `null`, `true` and
`[a, b]` mean what they say. A list is replaced whole (`evaluation.metrics=[my_module:my_metric]`) or changed in one
entry (`rewards.0.weight=2`). A key that does not exist, a wrong value and an option that another option switches off
are errors; all of them are reported at once, before anything is loaded.

Files and folders that begin with `./` or `../` are relative to the config's own file where they stand in it, and to the
working directory in an override, as all other paths are. What names no local file or folder is a hub id. Data keys that
take `{path, share, columns}` may be lists of sources (docs/data.md). The modules of reward functions and metrics are
looked for beside the config's file, too (docs/rewards.md).

Points are a schedule: `[[0, 1.0], [0.5, 1.0], [0.5, 0.0]]` is 1 in the first half of all steps and 0 in the second;
between two points the value changes linearly.
"""

_HEAD = "| key | value | default | meaning |\n|---|---|---|---|\n"


def config_reference() -> str:
    """Return the reference: every key with type and range, default and meaning, by section."""
    top = {name: field for name, field in Config.model_fields.items() if name != "rewards"}
    rows = [_row(Config, name) for name, field in top.items() if not section_of(field.annotation)]
    parts = [_INTRODUCTION, "## Top level\n\n" + _HEAD + "".join(rows)]
    for name, field in Config.model_fields.items():
        section = RewardConfig if name == "rewards" else section_of(field.annotation)
        if section is None:
            continue
        title = "`rewards` (a list; one entry per reward)" if name == "rewards" else f"`{name}`"
        rows = [_row(section, key) for key in section.model_fields]
        meaning = inspect.getdoc(section)
        parts.append(f"## {title}\n\n{meaning}\n\n{_HEAD}{''.join(rows)}")
    return "\n".join(parts)


def _row(section: type[BaseModel], name: str) -> str:
    field = section.model_fields[name]
    default = "required" if field.default is PydanticUndefined else f"`{_plain(field.default)}`"
    cells = [
        f"`{name}`",
        describe_field(field),
        default,
        " ".join((field.description or "").split()),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _plain(default: object) -> str:
    return default if isinstance(default, str) else show(default)
