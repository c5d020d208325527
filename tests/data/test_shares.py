"""Several sources as one list: shares, no row twice, the same list again in a resumed run."""

import json
from collections import Counter
from fractions import Fraction
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniapl.data.mixture import Mixture
from uniapl.data.readers import load_prompts
from uniapl.data.shares import Source, read_sources, rows_by_share
from uniapl.errors import InputError

SHARES = st.fractions(Fraction(1, 50), 10, max_denominator=50)


@given(
    sources=st.lists(st.tuples(st.integers(1, 40), SHARES), min_size=1, max_size=4),
    start=st.fractions(0, Fraction(99, 100), max_denominator=100),
)
def test_no_source_gives_more_than_it_has_and_one_gives_all(sources, start):
    sizes, shares = zip(*sources, strict=True)
    counts = rows_by_share(sizes, shares, start)
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    exact = [sum(counts) * share / sum(shares) for share in shares]
    assert all(abs(count - one) < 1 for count, one in zip(counts, exact, strict=True))
    # one row more in all would be more than some source has
    more = [(sum(counts) + 1) * share / sum(shares) for share in shares]
    assert any(one > size for one, size in zip(more, sizes, strict=True))


@given(sizes=st.tuples(*[st.integers(1, 30)] * 3), shares=st.tuples(*[st.integers(1, 9)] * 3))
def test_the_mean_over_seeds_is_the_share_exactly(sizes, shares):
    # the counts change only where a multiple of 1/sum passes a whole number, so these starts stand for all
    steps = sum(shares)
    fractions = [Fraction(share) for share in shares]
    drawn = [rows_by_share(sizes, fractions, Fraction(n, steps)) for n in range(steps)]
    for counts, share in zip(zip(*drawn, strict=True), fractions, strict=True):
        assert Fraction(sum(counts), steps) == sum(drawn[0]) * share / sum(fractions)


@pytest.fixture
def write(tmp_path):
    def write_rows(name, count, **columns):
        path = tmp_path / name if "." in name else tmp_path / f"{name}.jsonl"
        rows = ({"prompt": f"{name} {number}", **columns} for number in range(count))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write_rows


def mixed(*sources, seed=0):
    return read_sources(sources, partial(load_prompts, chat=None), name="data.prompts", seed=seed)


def file_of(prompt):
    return prompt.text.partition(" ")[0]


def test_a_list_has_its_shares(write):
    a, b = write("a", 100), write("b", 7)
    sources = Source(a, 0.3), Source(b, 0.1)
    prompts, notes = mixed(*sources)
    assert Counter(map(file_of, prompts)) == {"a": 21, "b": 7}
    assert notes == [
        f"data.prompts: 21 of 100 rows of {a}, share 0.3",
        f"data.prompts: 7 of 7 rows of {b}, share 0.1",
    ]
    assert len({prompt.text for prompt in prompts}) == len({p.id for p in prompts}) == 28
    numbers = {"a": "0", "b": "1"}
    for prompt in prompts:
        name, number = prompt.text.split()
        assert prompt.id == f"{numbers[name]}:{int(number) + 1}"
    # shuffled, so that what is held out at the end comes from both
    assert {file_of(prompt) for prompt in prompts[-14:]} == {"a", "b"}
    assert mixed(*sources) == (prompts, notes)
    others = mixed(*sources, seed=1)[0]
    assert {p.text for p in others} != {p.text for p in prompts}


def test_a_resumed_run_goes_on_in_the_same_list(write):
    sources = Source(write("a", 50), 1), Source(write("b", 9), 2)
    first = Mixture([], mixed(*sources)[0], seed=3)
    first.next_batch(0, 5)
    again = Mixture([], mixed(*sources)[0], seed=3)
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert again.next_batch(0, 13) == first.next_batch(0, 13)


def test_without_shares_every_row_is_there(write):
    prompts, notes = mixed(Source(write("a", 5)), Source(write("b", 3)))
    assert Counter(map(file_of, prompts)) == {"a": 5, "b": 3}
    assert notes == []


def test_a_single_source_is_what_it_was(write):
    path = write("a", 5, key=None)
    assert mixed(Source(path)) == (load_prompts(path, None), [])


def test_each_source_has_its_own_columns(write, tmp_path):
    other = tmp_path / "b"
    other.with_suffix(".jsonl").write_text('{"text": "b 0"}\n')
    a = Source(write("a.jsonl", 1))
    prompts, _ = mixed(a, Source(f"{other}.jsonl", columns={"prompt": "text"}))
    assert sorted(prompt.text for prompt in prompts) == ["a.jsonl 0", "b 0"]


def test_faults_of_all_sources_come_at_once(write, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": ""}\n')
    with pytest.raises(InputError) as caught:
        mixed(Source(str(bad)), Source(write("a.jsonl", 1)), Source(f"{tmp_path}/zyx.csv"))
    assert str(caught.value).splitlines() == [
        f"{bad}:1: `prompt` is blank",
        f"no such file: {tmp_path}/zyx.csv",
    ]


def test_a_share_of_less_than_a_row(write):
    sources = Source(write("a.jsonl", 10), 0.999), Source(write("b.jsonl", 10), 0.001)
    with pytest.raises(InputError) as caught:
        mixed(*sources)
    assert str(caught.value) == (
        "data.prompts: 10 rows in all are too few for a share of 0.001 (b.jsonl); bring more rows or raise it"
    )
