"""What is asked and what comes of it, with a local expert whose generator is scripted."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from uniapl.experts import (
    AnswerCache,
    Asked,
    Collection,
    Failure,
    GeneratorExpert,
    Outcome,
    Request,
    Tally,
)
from uniapl.experts.collection import _row
from uniapl.types import Message, Prompt, Rollout

NO_COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


class Script:
    """A `Generator` that reads its completions from a script; `~` at the end cuts one off."""

    def __init__(self, script: dict[str, list[str]]) -> None:
        self.left = {text: list(completions) for text, completions in script.items()}
        self.batches: list[list[str]] = []
        self.seeds: list[int] = []

    def sample(self, prompts: Sequence[Prompt], group_size: int) -> list[Rollout]:
        assert group_size == 1
        self.batches.append([prompt.text for prompt in prompts])
        return [self._rollout(prompt) for prompt in prompts]

    def _rollout(self, prompt: Prompt) -> Rollout:
        text = self.left[prompt.text].pop(0)
        reason = "length" if text.endswith("~") else "stop"
        return Rollout(prompt, text.rstrip("~"), tuple(range(len(text))), (), reason)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def expert(script: Script, max_rows: int = 2) -> GeneratorExpert:
    def encode(messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(map(ord, messages[-1]["content"]))

    def make(seed: int) -> Script:
        script.seeds.append(seed)
        return script

    return GeneratorExpert(
        make, encode, settings={"model": "script"}, source="script", max_rows=max_rows
    )


def prompt(text: str, **columns: Any) -> Prompt:
    return Prompt(text, ({"role": "user", "content": text},), (), False, columns)


def run(
    prompts: list[Prompt], script: Script, path: Path, **options: Any
) -> tuple[list[tuple[str, str]], Asked, dict[str, Any]]:
    """Collect; returns (key, completion) of the demonstrations, what was asked, the summary."""
    tally = Tally()
    with AnswerCache(path / "cache") as cache:
        collection = Collection(prompts, expert(script), cache, **options)
        asked = asyncio.run(collection.ask())
        rows = list(collection.demonstrations(tally))
    return [(row["key"], row["completion"]) for row in rows], asked, tally.summary(asked)


def test_asking_stops_where_no_answer_could_displace_what_there_is(tmp_path: Path):
    script = Script({"p": ["a, b", "c", "never"], "q": ["d", "never"], "r": ["e,", "f~", ",g"]})
    prompts = [prompt(text, **NO_COMMA) for text in "pqr"]
    kept, asked, summary = run(prompts, script, tmp_path, samples=3)
    assert script.batches == [["p", "q"], ["r"], ["p", "r"], ["r"]]
    assert kept == [("p", "c"), ("q", "d")]
    assert asked.num_answered == 6
    assert summary["prompts_left_out"] == {"instructions not followed": 1}
    assert summary["finish_reasons"] == {"stop": 5, "length": 1}
    assert summary["completion_tokens"] == sum(map(len, ["a, b", "c", "d", "e,", "f~", ",g"]))
    # the first answers only: p and r failed, q followed
    assert summary["first_answers"]["prompt_level_strict_acc"] == pytest.approx(1 / 3)
    assert summary["first_answers"]["instructions"]["punctuation:no_comma"]["count"] == 3


def test_revisions_settle_a_prompt_and_the_cache_keeps_the_answers(tmp_path: Path):
    said = {
        "p": ["Red, blue and green.", "never"],
        "q": ["It is red. It is blue, a~"],
        "r": ["One."],
    }
    prompts = [prompt(text, **NO_COMMA) for text in "pqr"]
    kept, asked, summary = run(prompts, Script(said), tmp_path, samples=2, revises=True)
    expected = [("p", "Red blue and green."), ("q", "It is red."), ("r", "One.")]
    assert kept == expected
    assert (asked.num_answered, summary["num_demonstrations"], summary["num_revised"]) == (3, 3, 2)
    # what the expert did by itself
    assert summary["first_answers"]["prompt_level_strict_acc"] == pytest.approx(1 / 3)
    again, asked, _ = run(prompts, Script({}), tmp_path, samples=2, revises=True)
    assert (again, asked.num_answered) == (expected, 0)
    beyond = prompt("s", **NO_COMMA)
    none, _, summary = run(
        [beyond], Script({"s": ["a, b", "c,"]}), tmp_path, samples=2, revises=True
    )
    assert (none, summary["num_beyond_revision"], summary["num_revised"]) == ([], 2, 0)
    plain, _, summary = run(prompts[2:], Script({}), tmp_path, samples=2)
    assert (plain, summary["num_revised"]) == ([("r", "One.")], 0)


def test_without_instructions_the_first_whole_answers_are_kept(tmp_path: Path):
    script = Script({"p": ["a, b", "cut~", "", "a, b", "c", "never"]})
    kept, *_ = run([prompt("p")], script, tmp_path, samples=9, keep=2)
    assert kept == [("p-1", "a, b"), ("p-2", "c")]
    assert script.left == {"p": ["never"]}


def test_a_repeated_collection_asks_nothing_and_gives_the_same(tmp_path: Path):
    prompts = [prompt(text, **NO_COMMA) for text in "pq"]
    script = Script({"p": ["a,", "b"], "q": ["c", "d"]})
    first, asked, _ = run(prompts, script, tmp_path, samples=2)
    assert asked.num_answered == 3
    again, asked, summary = run(prompts, Script({}), tmp_path, samples=2)
    assert again == first
    assert (asked.num_answered, summary["num_from_cache"]) == (0, 3)
    # asking for more goes on where it stopped
    more, asked, summary = run(prompts, script, tmp_path, samples=2, keep=2)
    assert more == [("p-1", "b"), ("q-1", "c"), ("q-2", "d")]
    assert (asked.num_answered, summary["num_from_cache"]) == (1, 3)
    # and asking for less ignores what is not needed
    assert run(prompts, Script({}), tmp_path, samples=1)[0] == [("q", "c")]


def test_a_collection_that_broke_off_ends_as_one_that_did_not(tmp_path: Path):
    """The batches left over are those of the uninterrupted run, with their seeds."""
    names = "pqrstu"
    answers = {name: ["no, no", name, "never"] for name in names}
    prompts = [prompt(name, **NO_COMMA) for name in names]
    whole = Script(answers)
    expected, *_ = run(prompts, whole, tmp_path / "whole", samples=3)
    assert len(whole.seeds) == len(set(whole.seeds)) == 6
    for stop_after in range(1, 6):
        broken = Script(answers)
        folder = tmp_path / str(stop_after)
        with AnswerCache(folder / "cache") as cache:
            ran = expert(broken)
            collection = Collection(prompts, Breaking(ran, stop_after), cache, samples=3)
            with pytest.raises(KeyboardInterrupt):
                asyncio.run(collection.ask())
        resumed, asked, _ = run(prompts, broken, folder, samples=3)
        assert resumed == expected
        assert asked.num_answered == 12 - 2 * stop_after
        assert broken.batches == whole.batches
        assert broken.seeds == whole.seeds


class Breaking:
    """Another expert's answers, until Ctrl-C after so many batches."""

    def __init__(self, inner: GeneratorExpert, stop_after: int) -> None:
        self.settings = inner.settings
        self._inner = inner
        self._left = stop_after

    async def answers(self, requests: Iterator[Request]) -> AsyncGenerator[list[Outcome], None]:
        async for outcomes in self._inner.answers(requests):
            yield outcomes
            self._left -= 1
            if not self._left:
                raise KeyboardInterrupt


class Failing:
    """Fails on some texts, answers `ok` to others."""

    settings: dict[str, Any] = {"model": "failing"}  # noqa: RUF012

    def __init__(self, bad: str) -> None:
        self.bad = bad
        self.asked: list[str] = []
        self._inner = expert(Script({name: ["ok"] * 9 for name in "abcdef"}), max_rows=1)

    async def answers(self, requests: Iterator[Request]) -> AsyncGenerator[list[Outcome], None]:
        for request in requests:
            text = request.messages[0]["content"]
            self.asked.append(text)
            if text in self.bad:
                yield [(request, Failure("status 500", f"500: {text}"))]
            else:
                async for outcomes in self._inner.answers(iter([request])):
                    yield outcomes


def collect(failing: Failing, names: str, path: Path, **options: Any):
    tally = Tally()
    with AnswerCache(path) as cache:
        collection = Collection([prompt(name) for name in names], failing, cache, **options)
        asked = asyncio.run(collection.ask())
        rows = list(collection.demonstrations(tally))
    return [row["key"] for row in rows], asked, tally


def test_a_failure_leaves_its_prompt_open_and_the_next_run_asks_only_for_that(tmp_path: Path):
    failing = Failing("b")
    keys, asked, tally = collect(failing, "abc", tmp_path / "cache", samples=3)
    assert keys == ["a", "c"]
    assert failing.asked == ["a", "b", "c"]  # once: the second answer needs the first
    assert (asked.failures, asked.first_failure) == ({"status 500": 1}, "500: b")
    assert (tally.num_open, asked.has_given_up) == (1, False)
    assert tally.summary(asked)["prompts_left_out"] == {"no answer": 1}
    again = Failing("")
    keys, asked, tally = collect(again, "abc", tmp_path / "cache", samples=3)
    assert (keys, again.asked, tally.num_open) == (["a", "b", "c"], ["b"], 0)


def test_many_failures_in_a_row_end_it_and_one_answer_between_does_not(tmp_path: Path):
    failing = Failing("bcde")
    keys, asked, tally = collect(failing, "abcdef", tmp_path / "1", max_failures_in_a_row=3)
    assert (keys, failing.asked, asked.has_given_up) == (["a"], ["a", "b", "c", "d"], True)
    assert tally.num_open == 5
    failing = Failing("abde")
    keys, asked, _ = collect(failing, "abcdef", tmp_path / "2", max_failures_in_a_row=3)
    assert (keys, asked.has_given_up) == (["c", "f"], False)


def test_a_system_prompt_is_asked_with_but_not_written(tmp_path: Path):
    seen: list[tuple[Message, ...]] = []

    def encode(messages: Sequence[Message]) -> tuple[int, ...]:
        seen.append(tuple(messages))
        return (1,)

    script = Script({"a": ["x"], "b": ["y"]})
    own = ({"role": "system", "content": "own"}, {"role": "user", "content": "b"})
    prompts = [prompt("a"), Prompt("7", own, (), True, {"id": 7, "topic": "sea"})]
    local = GeneratorExpert(lambda _: script, encode, settings={}, source="s", max_rows=9)
    with AnswerCache(tmp_path / "cache") as cache:
        collection = Collection(prompts, local, cache, system_prompt="given")
        asyncio.run(collection.ask())
        rows = list(collection.demonstrations(Tally()))
    assert seen == [({"role": "system", "content": "given"}, *prompts[0].messages), own]
    assert rows == [
        {"key": "a", "prompt": "a", "completion": "x"},
        {
            "key": 7,
            "prompt": list(own),
            "completion": [{"role": "assistant", "content": "y"}],
            "id": 7,
            "topic": "sea",
        },
    ]


def test_columns_of_the_prompt_stay_and_an_old_completion_goes(tmp_path: Path):
    asked = prompt("a", key=3, completion="old", topic="sea", **NO_COMMA)
    with AnswerCache(tmp_path / "cache") as cache:
        script = Script({"a": ["x", "y"]})
        collection = Collection([asked], expert(script), cache, samples=2, keep=2)
        asyncio.run(collection.ask())
        rows = list(collection.demonstrations(Tally()))
    assert rows == [
        {"key": f"3-{n}", "prompt_key": 3, "prompt": "a", "completion": c, "topic": "sea"}
        | NO_COMMA
        for n, c in ((1, "x"), (2, "y"))
    ]


@pytest.mark.parametrize(
    ("columns", "key"),
    [({"key": None}, "7"), ({"key": 1.0}, "7"), ({"key": None, "id": 3}, 3), ({"key": "a"}, "a")],
)
def test_an_answers_key_is_never_null_or_a_fraction(columns: dict[str, Any], key: object):
    prompt = Prompt("7", ({"role": "user", "content": "x"},), (1,), columns=columns)
    assert _row(prompt, "y", 2)["key"] == f"{key}-2"
    assert _row(prompt, "y", None)["key"] == key
