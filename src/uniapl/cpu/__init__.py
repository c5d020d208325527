"""Speed on CPUs: everything here can be left out, and the same numbers come out but for rounding.

| piece | what it does |
|---|---|
| `heap` | glibc keeps freed memory from step to step, or gives it back at once |
| `weights` | linear layers multiply with reordered copies of their weights while tokens are sampled |
| `attention` | one token's attention in bfloat16 for all rows of a prompt together |

Each alone (LOG.md), on an EPYC without AMX: `heap` saves 5 to 10 % of an update, `weights` a seventh to half of a
decoding step, `attention` three quarters of such a layer's time. On an Intel with AMX: 0 to 5 %, nothing, nothing.

One switch: `UNIAPL_CPU_SPEEDUPS` in the environment names the pieces that act; `all` is the default, `none` is plain.
"""

import os

from uniapl.errors import InputError

PIECES = ("heap", "weights", "attention")
SWITCH = "UNIAPL_CPU_SPEEDUPS"


def is_on(piece: str) -> bool:
    """Return whether a piece acts.

    Raises:
        InputError: The switch names something else.
    """
    wanted = os.environ.get(SWITCH, "all")
    chosen = {"all": PIECES, "none": ()}.get(wanted, tuple(wanted.split(",")))
    if unknown := set(chosen) - set(PIECES):
        known = ", ".join(PIECES)
        raise InputError(f"{SWITCH}: {sorted(unknown)[0]!r} is none of all, none, {known}")
    return piece in chosen
