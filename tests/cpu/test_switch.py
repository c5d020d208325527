"""One switch for all that makes a CPU faster."""

import pytest

from uniapl.cpu import PIECES, SWITCH, is_on
from uniapl.errors import InputError


@pytest.mark.parametrize(
    ("value", "on"),
    [(None, PIECES), ("all", PIECES), ("none", ()), ("heap,attention", ("heap", "attention"))],
)
def test_the_switch_names_what_acts(
    value: str | None, on: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(SWITCH, value)
    assert tuple(piece for piece in PIECES if is_on(piece)) == on


def test_an_unknown_piece_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "heat")
    with pytest.raises(InputError, match=f"{SWITCH}: 'heat' is none of all, none, heap, weights"):
        is_on("heap")
