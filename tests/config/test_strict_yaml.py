import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniapl.config.strict_yaml import dump_yaml, load_yaml
from uniapl.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1.5E+3", 1500.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("-7", -7),
        ("010", 10),
        (".inf", math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("'1e-6'", "1e-6"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("-", ["-"]),
    ],
)
def test_scalars(text: str, value: object):
    if text == "-":  # alone it starts a list; inside one it is text
        text = "[-]"
    loaded = load_yaml(text, "test")
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml: line 3: a is given twice (first in line 1)"),
        ("s:\n  a: 1\n  a: 1\n", "f.yaml: line 3: a is given twice (first in line 2)"),
        ("a: 1\n2: 1\n", "f.yaml: line 2: a key must be text, got 2"),
        ("a: [1, 2\n", "f.yaml: line 2, column 1: not valid YAML: expected ',' or ']'"),
        ("a: !!python/object/apply:os.getcwd []", "f.yaml: line 1, column 4: not valid YAML"),
        ("a: &x [*x]", "f.yaml: line 1, column 4: not valid YAML"),
        ("a: 1\n---\nb: 1\n", "f.yaml: line 2, column 1: not valid YAML"),
        ("a: \x00", "f.yaml: not valid YAML"),
    ],
)
def test_mistakes_name_their_line(text: str, message: str):
    with pytest.raises(InputError) as caught:
        load_yaml(text, "f.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(
        ["no", "1e-6", ".5e3", "1:30", "0x1f", "null", "=", "<<", "2026-01-01", "a: b", " x "]
    )
)


@given(
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )
)
def test_what_is_dumped_loads_back_equal(value: object):
    loaded = load_yaml(dump_yaml(value), "dump")
    assert loaded == value
    assert repr(loaded) == repr(value)  # tells 1 from 1.0 and from True
