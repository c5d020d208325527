"""Properties that hold for every text, and checkers against slow references."""

import json
import string
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langdetect import detector_factory

from uniapl.instructions import INSTRUCTION_IDS, Verdict, aggregate, follows, strict, verify
from uniapl.instructions.detection import _ngrams, _profiles, detect
from uniapl.instructions.letter_case import count_capital_words
from uniapl.instructions.sentences import count_sentences, max_sentences
from uniapl.instructions.verdicts import loose_variants

KWARGS = {
    "change_case:capital_word_frequency": {"capital_frequency": 1, "capital_relation": "at least"},
    "combination:repeat_prompt": {"prompt_to_repeat": "a"},
    "detectable_content:number_placeholders": {"num_placeholders": 1},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:multiple_sections": {"section_spliter": "S", "num_sections": 1},
    "detectable_format:number_bullet_lists": {"num_bullets": 1},
    "detectable_format:number_highlighted_sections": {"num_highlights": 1},
    "keywords:existence": {"keywords": ["a"]},
    "keywords:forbidden_words": {"forbidden_words": ["a"]},
    "keywords:frequency": {"keyword": "a", "frequency": 1, "relation": "at least"},
    "keywords:letter_frequency": {"letter": "a", "let_frequency": 1, "let_relation": "at least"},
    "language:response_language": {"language": "en"},
    "length_constraints:nth_paragraph_first_word": {
        "num_paragraphs": 1,
        "nth_paragraph": 1,
        "first_word": "a",
    },
    "length_constraints:number_paragraphs": {"num_paragraphs": 1},
    "length_constraints:number_sentences": {"num_sentences": 2, "relation": "at least"},
    "length_constraints:number_words": {"num_words": 2, "relation": "at least"},
    "startend:end_checker": {"end_phrase": "a"},
}
ALL_KWARGS = [KWARGS.get(name, {}) for name in INSTRUCTION_IDS]

# Marks and line breaks often enough to reach the branches that plain random text never sees.
marked_text = st.lists(
    st.sampled_from([*"aAbB.,!?*-[]<>\"' \n1", "\n\n", "***", "P.S.", "S 1", "<<a>>", "I'M", "ä"])
).map("".join)
any_text = st.one_of(st.text(), marked_text)
word = st.text(string.ascii_letters, min_size=1, max_size=6)
relation_kinds = [
    ("change_case:capital_word_frequency", "capital_frequency", "capital_relation", {}),
    ("keywords:frequency", "frequency", "relation", {"keyword": "a"}),
    ("keywords:letter_frequency", "let_frequency", "let_relation", {"letter": "a"}),
    ("length_constraints:number_sentences", "num_sentences", "relation", {}),
    ("length_constraints:number_words", "num_words", "relation", {}),
]


@settings(deadline=None)
@given(any_text)
def test_every_checker_answers_every_text(text):
    for official in (False, True):
        verdict = verify(INSTRUCTION_IDS, ALL_KWARGS, text, official=official)
        assert all(type(passed) is bool for passed in verdict.strict + verdict.loose)
        assert verdict.strict == strict(INSTRUCTION_IDS, ALL_KWARGS, text, official=official)
        for passed, loosely in zip(verdict.strict, verdict.loose, strict=True):
            assert loosely or not passed
        if not text.strip():
            assert not any(verdict.loose)


@settings(deadline=None)
@given(marked_text)
def test_loose_is_any_of_the_eight_variants(text):
    lines = text.split("\n")
    four = [text] + ["\n".join(p).strip() for p in (lines[1:], lines[:-1], lines[1:-1])]
    eight = four + [variant.replace("*", "") for variant in four]
    filled = [variant for variant in eight if variant.strip()]
    assert set(loose_variants(text)) == set(filled)
    expected = tuple(
        any(follows(name, kwargs, variant) for variant in filled)
        for name, kwargs in zip(INSTRUCTION_IDS, ALL_KWARGS, strict=True)
    )
    assert verify(INSTRUCTION_IDS, ALL_KWARGS, text).loose == expected


@pytest.mark.parametrize(("name", "count", "relation", "others"), relation_kinds)
@settings(deadline=None)
@given(any_text.filter(str.strip), st.integers(0, 8))
def test_at_least_is_the_opposite_of_less_than(name, count, relation, others, text, number):
    enough = follows(name, {count: number, relation: "at least", **others}, text)
    fewer = follows(name, {count: number, relation: "less than", **others}, text)
    assert enough is not fewer


@given(any_text, st.lists(word, min_size=1, max_size=3))
def test_plain_keywords_mean_the_same_in_both_readings(text, words):
    for name, kwarg in (
        ("keywords:existence", "keywords"),
        ("keywords:forbidden_words", "forbidden_words"),
    ):
        assert follows(name, {kwarg: words}, text) is follows(
            name, {kwarg: words}, text, official=True
        )


@given(st.lists(word, min_size=1, max_size=6), word)
def test_forbidden_words_against_whole_words(words, banned):
    expected = banned.lower() not in [other.lower() for other in words]
    kwargs = {"forbidden_words": [banned]}
    assert follows("keywords:forbidden_words", kwargs, ", ".join(words)) is expected


@given(st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=8))
def test_json_is_recognised_with_and_without_a_fence(value):
    for text in (json.dumps([value]), f"```json\n{json.dumps({'key': value})}\n```"):
        assert follows("detectable_format:json_format", {}, text)
        assert not follows("detectable_format:json_format", {}, f"Here: {text}")


@given(st.lists(word, max_size=12))
def test_capital_words_of_plain_words(words):
    two = {"CANNOT", "GIMME", "GONNA", "GOTTA", "LEMME", "WANNA"}
    expected = sum(1 + (item in two) for item in words if item.isupper())
    for glue in (" ", "\n", ", ", "; ", "--", " (", "! "):
        assert count_capital_words(glue.join(words)) == expected


@settings(deadline=None)
@given(any_text)
def test_no_text_has_more_sentences_than_marks_allow(text):
    assert count_sentences(text) <= max_sentences(text)


mixed_scripts = st.text(
    st.one_of(
        st.sampled_from(" \nabAB,.-1"),
        st.sampled_from("éßñçøşțğıİẞ"),
        st.sampled_from("яЖіبیहो한국海山のカăặơứ\u0301\u0323"),
        st.characters(codec="utf-8"),
    )
)


@settings(deadline=None, max_examples=300)
@given(mixed_scripts)
@example("see https://example.org/Path and me@example.org")
@example("ο άνθρωπος abc")
@example("tho\u031b\u0300i tie\u0302\u0301t a\u0309 o\u0323")  # Vietnamese, decomposed
@example("a" * 10_005 + " б" * 10)
def test_ngrams_are_those_of_langdetect(text):
    detector_factory.init_factory()
    detector = detector_factory._factory.create()
    detector.append(text)
    detector.cleaning_text()
    names = list(_profiles().rows)
    assert Counter(names[row] for row in _ngrams(text)) == Counter(detector._extract_ngrams())


@settings(deadline=None)
@given(any_text)
def test_detection_does_not_depend_on_what_was_asked_before(text):
    first = detect(text)
    detect.cache_clear()
    detect("ein anderer Text")
    assert detect(text) == first
    assert (first is None) == (not _ngrams(text))


@given(
    st.lists(
        st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=4).map(
            lambda pairs: Verdict(
                INSTRUCTION_IDS[: len(pairs)],
                tuple(a for a, _ in pairs),
                tuple(a or b for a, b in pairs),
            )
        ),
        min_size=1,
        max_size=8,
    )
)
def test_aggregate_is_consistent(verdicts):
    summary = aggregate(verdicts)
    counts = summary["instructions"].values()
    assert sum(entry["count"] for entry in counts) == summary["num_instructions"]
    total = sum(entry["count"] * entry["strict_acc"] for entry in counts)
    assert total == pytest.approx(summary["inst_level_strict_acc"] * summary["num_instructions"])
    assert summary["prompt_level_strict_acc"] <= summary["prompt_level_loose_acc"] <= 1
    assert summary["inst_level_strict_acc"] <= summary["inst_level_loose_acc"] <= 1
