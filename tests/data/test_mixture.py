import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniapl.data.mixture import Mixture, Stream, hold_out
from uniapl.errors import InputError
from uniapl.types import Demonstration, Prompt


def prompts(count):
    return [Prompt(str(n), ({"role": "user", "content": str(n)},), (n,)) for n in range(count)]


def demonstrations(count):
    return [Demonstration(prompt, "x", (1,)) for prompt in prompts(count)]


@given(
    size=st.integers(1, 12),
    counts=st.lists(st.integers(0, 12), max_size=12),
    seed=st.integers(0, 2**40),
)
def test_epochs_hold_every_item_once_and_draws_repeat_nothing(size, counts, seed):
    stream = Stream("demonstrations", range(size), seed)
    drawn = []
    for count in counts:
        batch = stream.take(min(count, size))
        assert len(set(batch)) == len(batch) == min(count, size)
        drawn += batch
        assert stream.epochs == pytest.approx(len(drawn) / size)
    for start in range(0, len(drawn) - size + 1, size):
        assert sorted(drawn[start : start + size]) == list(range(size))


@given(
    size=st.integers(1, 9),
    before=st.lists(st.integers(0, 9), max_size=8),
    after=st.lists(st.integers(0, 9), max_size=8),
)
def test_a_restored_stream_goes_on_as_the_saved_one(size, before, after):
    stream = Stream("prompts", range(size), seed=3)
    for count in before:
        stream.take(min(count, size))
    saved = json.loads(json.dumps(stream.state_dict()))
    restored = Stream("prompts", range(size), seed=3)
    restored.take(1)  # wherever it stood before
    restored.load_state_dict(saved)
    for count in after:
        assert restored.take(min(count, size)) == stream.take(min(count, size))
    assert restored.state_dict() == stream.state_dict()


def test_order_is_a_function_of_seed_name_and_epoch():
    # a change here changes the data order of every existing run
    recorded = (2, 6, 5, 0, 1, 3, 7, 4)
    assert Stream("demonstrations", range(8), seed=0).take(8) == recorded
    assert Stream("demonstrations", range(8), seed=1).take(8) != recorded
    assert Stream("prompts", range(8), seed=0).take(8) != recorded
    stream = Stream("demonstrations", range(8), seed=0)
    assert stream.take(8) != stream.take(8)


def test_a_draw_across_epochs_moves_only_what_it_must():
    size, count = 7, 5
    pure = Stream("prompts", range(size), seed=2)
    expected = list(pure.take(size))
    for _ in range(6):
        order = list(pure.take(size))
        tail = len(expected) % count  # drawn of this batch when the epoch ends
        held = expected[len(expected) - tail :]
        first = [item for item in order if item not in held][: count - tail] if tail else []
        expected += first + [item for item in order if item not in first]
    stream = Stream("prompts", range(size), seed=2)
    drawn = [item for _ in range(size) for item in stream.take(count)]
    assert drawn == expected[: len(drawn)]


def test_the_same_counts_give_the_same_data_whatever_the_other_stream_does():
    one, other = (Mixture(demonstrations(10), prompts(7), seed=5) for _ in range(2))
    for _ in range(6):
        with_prompts, without = one.next_batch(4, 3), other.next_batch(4, 0)
        assert with_prompts.demonstrations == without.demonstrations
        assert without.prompts == ()
    assert one.demonstration_epoch == other.demonstration_epoch == pytest.approx(2.4)
    # the idle stream starts where the other one started
    fresh = Mixture(demonstrations(10), prompts(7), seed=5)
    assert other.next_batch(0, 3).prompts == fresh.next_batch(0, 3).prompts


def test_a_mixture_without_prompts():
    mixture = Mixture(demonstrations(3), [], seed=0)
    assert len(mixture.next_batch(2, 0).demonstrations) == 2
    mixture.load_state_dict(mixture.state_dict())


def test_a_mixture_resumes_both_streams():
    mixture = Mixture(demonstrations(10), prompts(7), seed=5)
    for _ in range(5):
        mixture.next_batch(4, 3)
    restored = Mixture(demonstrations(10), prompts(7), seed=5)
    restored.load_state_dict(json.loads(json.dumps(mixture.state_dict())))
    for _ in range(5):
        assert restored.next_batch(4, 3) == mixture.next_batch(4, 3)


def test_pairs_are_a_stream_of_their_own():
    mixture = Mixture(demonstrations(10), prompts(7), list("abcde"), seed=5)
    plain = Mixture(demonstrations(10), prompts(7), seed=5)
    drawn = []
    for _ in range(5):
        batch, other = mixture.next_batch(4, 3, 2), plain.next_batch(4, 3)
        assert (batch.demonstrations, batch.prompts) == (other.demonstrations, other.prompts)
        assert other.pairs == ()
        drawn += batch.pairs
    assert sorted(drawn) == sorted("abcde" * 2)
    assert tuple(drawn[:4]) == Stream("pairs", "abcde", seed=5).take(4)
    state = json.loads(json.dumps(mixture.state_dict()))
    restored = Mixture(demonstrations(10), prompts(7), list("abcde"), seed=5)
    restored.load_state_dict(state)
    assert restored.next_batch(4, 3, 2) == mixture.next_batch(4, 3, 2)
    del state["pairs"]  # as written before there were pairs
    plain.load_state_dict(state)


def test_batches_larger_than_the_data_are_errors():
    mixture = Mixture(demonstrations(3), prompts(2), seed=0)
    with pytest.raises(InputError, match=r"^a step needs 4 demonstrations, but there are only 3; "):
        mixture.next_batch(4, 0)
    with pytest.raises(InputError, match=r"^a step needs 3 prompts, but there are only 2; "):
        mixture.next_batch(0, 3)


def test_other_data_or_another_seed_cannot_resume():
    state = Mixture(demonstrations(10), prompts(7), seed=5).state_dict()
    message = "cannot resume: the number of prompts was 7 and is now 8"
    with pytest.raises(InputError, match=f"^{message}$"):
        Mixture(demonstrations(10), prompts(8), seed=5).load_state_dict(state)
    message = "cannot resume: the seed of demonstrations was 5 and is now 6"
    with pytest.raises(InputError, match=f"^{message}$"):
        Mixture(demonstrations(10), prompts(7), seed=6).load_state_dict(state)


def test_held_out_demonstrations_are_the_last():
    rows = demonstrations(5)
    assert hold_out(rows, 2) == (rows[:3], rows[3:])
    assert hold_out(rows, 0) == (rows, [])
    message = "held_out_demonstrations 5 leaves nothing to train on: there are 5 demonstrations"
    with pytest.raises(InputError, match=f"^{message}$"):
        hold_out(rows, 5)


def asked(*prompts):
    """One demonstration per prompt, numbered."""
    return [
        Demonstration(Prompt(str(n), ({"role": "user", "content": text},), (n,)), str(n), (1,))
        for n, text in enumerate(prompts)
    ]


@given(
    prompts=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12), count=st.integers(0, 9)
)
def test_no_prompt_is_both_trained_on_and_held_out(prompts, count):
    rows = asked(*prompts)
    # prompts from the end of the list, until their demonstrations suffice
    wanted: list[str] = []
    for prompt in reversed(prompts):
        if sum(prompts.count(one) for one in wanted) < count and prompt not in wanted:
            wanted.append(prompt)
    if count and set(wanted) == set(prompts):
        with pytest.raises(InputError, match="leaves nothing to train on"):
            hold_out(rows, count)
        return
    kept, held = hold_out(rows, count)
    assert [prompts[int(d.completion)] for d in held] == [p for p in prompts if p in wanted]
    assert kept == [d for d in rows if d not in held]


def test_prompts_that_leave_nothing_say_so():
    with pytest.raises(InputError) as caught:
        hold_out(asked("a", "a", "a"), 1)
    assert str(caught.value) == (
        "held_out_demonstrations 1 leaves nothing to train on: there are 3 demonstrations, and 2 more share "
        "their prompts"
    )


def test_an_earlier_turn_that_is_trained_on_is_a_prompt_too():
    def talk(*turns):
        roles = ("user", "assistant") * len(turns)
        messages = tuple({"role": r, "content": t} for r, t in zip(roles, turns, strict=False))
        return Demonstration(Prompt(turns[-1], messages, (1,), True), "x", (1,))

    other, longer, last = talk("c"), talk("a", "b", "d"), talk("a")
    assert hold_out([other, longer, last], 1) == ([other, longer], [last])
    # `longer` teaches to answer "a" as well
    held = hold_out([other, longer, last], 1, trains_every_turn=True)
    assert held == ([other], [longer, last])
    # what `longer` is measured by, its last turn, nobody else teaches
    assert hold_out([other, last, longer], 1, trains_every_turn=True) == ([other, last], [longer])
