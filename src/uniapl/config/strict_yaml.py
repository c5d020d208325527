"""YAML as people expect it: `1e-6` is a number, `no` is a word, a key given twice is an error.

PyYAML follows YAML 1.1, where `1e-6` is text, `no` a boolean, `1:30` a number in base 60 and the last of two
equal keys wins. Loader and dumper here share the scalar rules of YAML 1.2, so what is dumped loads back equal.
"""

# PyYAML's stubs leave these open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import re
from collections.abc import Hashable
from typing import Any

import yaml

from uniapl.errors import InputError, one_line

_SCALARS: list[tuple[str, str, str]] = [
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
]
"""Tag, full pattern, possible first characters (`\\0`: the empty scalar), in the order they are tried."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own attribute, filled by add_implicit_resolver)


class _Dumper(yaml.SafeDumper):
    """Keeps PyYAML's own resolvers too: text that any YAML reader could mistake is quoted."""


for _tag, _pattern, _first in _SCALARS:
    _characters = ["" if character == "\0" else character for character in _first]
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _characters)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # base 10: YAML 1.1 reads 010 as 8


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(
        loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
    )


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: dict[Hashable, int] = {}
    for key_node, _ in node.value:
        key: Any = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise _Mistake(f"line {line}: a key must be text, got {key!r}")
        if key in seen:
            raise _Mistake(f"line {line}: {key} is given twice (first in line {seen[key]})")
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


def _represent_list(dumper: _Dumper, items: list[Any]) -> yaml.Node:
    """One line for `[[0.0, 1.0], [0.5, 0.0]]`, a block for a list of sections."""
    in_line = not any(isinstance(item, dict) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=in_line)


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    """Escape what single quotes would fold into a space, such as U+0085."""
    is_plain = all(character.isprintable() or character == "\n" for character in text)
    style = None if is_plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


class _Mistake(Exception):
    """A message that already names its line."""


def load_yaml(text: str, source: str) -> Any:
    """Return the plain Python value of a YAML text; `source` names it in an error."""
    try:
        return yaml.load(text, Loader=_Loader)
    except _Mistake as mistake:
        raise InputError(f"{source}: {mistake}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{source}: {where}not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = one_line(error)
        raise InputError(f"{source}: not valid YAML: {reason}") from None


def load_word(key: str, text: str, source: str) -> Any:
    """Return the plain Python value of an override `key=text`.

    Raises:
        InputError: It is no YAML, or YAML would read less than the text says.
    """
    value = load_yaml(text, source)
    if _loses_text(text, value):
        raise InputError(f"{key}: {text!r} is read as {value!r}; for the text itself write '\"…\"'")
    return value


def _loses_text(text: str, value: Any) -> bool:
    """Return whether YAML reads less than unquoted text says: ` #` begins a comment, a line break becomes a blank."""
    word = text.removesuffix("...\n").strip()  # dump_yaml ends a bare value so
    if value is None:
        return word.lower() not in ("", "~", "null")
    is_quoted = word[:1] in ("'", '"', "|", ">", "!", "&")
    return isinstance(value, str) and not is_quoted and bool(re.search(r"[ \t]#|\n\S", word))


def dump_yaml(value: Any) -> str:
    """Return YAML that `load_yaml` reads back equal; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
