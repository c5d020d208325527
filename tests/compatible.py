"""Whether instructions can be asked for together."""

from collections.abc import Iterable

from uniapl.instructions.conflicts import conflicting


def are_compatible(instruction_ids: Iterable[str]) -> bool:
    """Return whether no two of the types conflict; a type conflicts with itself."""
    ids = list(instruction_ids)
    return all(b not in conflicting(a) for n, a in enumerate(ids) for b in ids[n + 1 :])
