"""All forms of discriminators as rows of one table: what each reads, what it credits, which keys it has.

To add a form, add a row here, a file in `discriminators/` and a line to docs/method.md.
"""

from dataclasses import dataclass
from typing import Literal

FormName = Literal["likelihood", "expert", "scalar", "reference"]

_LEARNING = frozenset({"learning_rate", "warmup_steps"})
TUNING = _LEARNING | {"backbone", "credit_clamp"}
"""Keys that a file which several forms share may hold although one of them has no use for them."""


@dataclass(frozen=True, slots=True)
class Form:
    """One row."""

    credits: Literal["token", "completion"]
    """`token`: log p_expert - log π_old, nats; `completion`: d(x, y), centred and scaled in its group."""
    learns: Literal["always", "never", "unless frozen"]
    """Whether it learns in every step; `unless frozen`: `discriminator.frozen` says."""
    keys: frozenset[str]
    """Keys of `discriminator`, `form` aside, that act."""
    reads_pairs: bool = False
    """Whether it learns from `data.pairs` as well."""


FORMS: dict[FormName, Form] = {
    "likelihood": Form("token", "always", _LEARNING | {"path", "backbone", "credit_clamp"}),
    "expert": Form(
        "token", "never", frozenset({"path", "servers", "hint", "hint_template", "credit_clamp"})
    ),
    "scalar": Form("completion", "always", _LEARNING | {"backbone"}, reads_pairs=True),
    "reference": Form(
        "completion", "unless frozen", _LEARNING | {"path", "servers", "pair_template", "frozen"}
    ),
}
