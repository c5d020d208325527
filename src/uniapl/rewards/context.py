"""What TRL hands a reward function besides the data: where the run stands, and two ways to log something."""

import math
import numbers
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uniapl.errors import InputError, TrainingError

_MAX_BITS = 1024
"""Of an integer in JSON: a float holds no larger one, and Python writes none of 4,300 digits."""

CONTEXT = ("trainer_state", "log_extra", "log_metric")
"""Arguments that are no columns: a function gets those that it names."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """Where a run stands, by the names of transformers' class; a name that is not here is an error, never a 0."""

    global_step: int
    """Optimiser updates done before."""
    max_steps: int
    """`training.steps`."""
    epoch: float
    """Passes over the demonstrations so far."""


class Log:
    """Takes what a function logs in one call, each through a function that it is handed."""

    def __init__(self) -> None:
        self._columns: defaultdict[str, list[Any]] = defaultdict(list)
        self._metrics: defaultdict[str, list[float]] = defaultdict(list)

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Add values of a column, one per completion; several calls add up, as in TRL.

        Args:
            column: Its name in the rows of rollouts/.
            values: Numbers, text, lists and mappings; what else there is is written as text, and an integer above
                1e308 in hexadecimal.

        Raises:
            InputError: The column's name is no text.
        """
        self._columns[_name(column, "log_extra")].extend(map(_as_json, values))

    def log_metric(self, name: str, value: Any) -> None:
        """Add a value of a metric; the mean of a step's values is written, null where it is not finite.

        Raises:
            InputError: The name is no text, or the value no number.
        """
        number = value.tolist() if hasattr(value, "tolist") else value  # numpy's and torch's
        if not isinstance(number, numbers.Real):
            raise InputError(f"log_metric: {name} must be a number, got {type(value).__name__}")
        self._metrics[_name(name, "log_metric")].append(float(number))

    def columns(self, label: str, count: int) -> Mapping[str, list[Any]]:
        """Return the columns.

        Args:
            label: How messages name the function.
            count: Completions in the call.

        Raises:
            TrainingError: A column has another number of values.
        """
        for column, values in self._columns.items():
            if len(values) != count:
                raise TrainingError(
                    f"{label} logged {len(values)} values of the column {column} for {count} completions"
                )
        return self._columns

    def metrics(self) -> dict[str, list[float]]:
        """Return the values of each metric."""
        return self._metrics


def _name(name: Any, function: str) -> str:
    if not isinstance(name, str) or not name:
        raise InputError(f"{function}: a name must be text, got {type(name).__name__}")
    return name


def _as_json(value: Any) -> Any:
    """Return a value as JSON can hold it; other things as text."""
    if hasattr(value, "tolist"):  # numpy's and torch's
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return hex(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
