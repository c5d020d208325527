"""What the schema says about itself: every dotted key with its type in words; for errors and the reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from uniapl.config.schema import Config, FunctionPath, Points, RewardConfig


@dataclass(frozen=True, slots=True)
class Key:
    """One option of a config."""

    path: str
    """Dotted, as in an override; entries of a list are numbered: `rewards.0.weight`."""
    field: FieldInfo
    section: type[BaseModel] | None
    """The section that the key holds, if it does not hold a value."""


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section class if the annotation is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def all_keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[Key]:
    """Yield every key depth first; the first entry stands for all entries of `rewards`."""
    for name, field in section.model_fields.items():
        path = prefix + name
        inner = section_of(field.annotation)
        yield Key(path, field, inner)
        if inner is not None:
            yield from all_keys(inner, path + ".")
        elif path == "rewards":
            yield from all_keys(RewardConfig, "rewards.0.")


def describe_type(annotation: Any, constraints: tuple[Any, ...] = ()) -> str:
    """Say in words what values a key takes, such as `integer ≥ 1` or `text or null`."""
    if annotation is Points or annotation == Points:
        return "points `[[fraction, value], …]` with fractions from 0 to 1"
    if annotation == FunctionPath:
        return "`module:function`"
    if annotation is JsonValue:
        return "values"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe_type(arguments[0], (*constraints, *_flattened(arguments[1:])))
    if origin in (Union, UnionType):
        parts = [describe_type(part, constraints) for part in arguments if part is not NoneType]
        return " or ".join(parts + ["null"] * (NoneType in arguments))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return f"list of {describe_type(arguments[0])}"
    if origin is dict:
        return f"a mapping of names to {describe_type(arguments[1])}"
    section = section_of(annotation)
    if section is not None:
        return f"`{{{', '.join(section.model_fields)}}}`"
    names = {int: "integer", float: "number", bool: "`true` or `false`", str: "text"}
    return names[annotation] + _range(_flattened(constraints))


def _flattened(metadata: tuple[Any, ...]) -> tuple[Any, ...]:
    """Open the FieldInfo objects that `Annotated[float, Field(gt=0)]` carries."""
    flat: list[Any] = []
    for item in metadata:
        flat.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    return tuple(flat)


def _range(constraints: tuple[Any, ...]) -> str:
    lower = upper = ""
    for constraint in constraints:
        if isinstance(constraint, Ge):
            lower = f"≥ {constraint.ge}"
        elif isinstance(constraint, Gt):
            lower = f"> {constraint.gt}"
        elif isinstance(constraint, Le):
            upper = f"≤ {constraint.le}"
        elif isinstance(constraint, Lt):
            upper = f"< {constraint.lt}"
    if lower.startswith("≥") and upper.startswith("≤"):
        return f" from {lower[2:]} to {upper[2:]}"
    bounds = [bound for bound in (lower, upper) if bound]
    return " " + " and ".join(bounds) if bounds else ""


def describe_field(field: FieldInfo) -> str:
    """Say in words what values the field takes."""
    annotation = field.annotation
    if isinstance(annotation, str):
        raise TypeError("annotations of the schema must be real types, not text")
    return describe_type(annotation, tuple(field.metadata))
