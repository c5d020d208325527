"""Fluency and joint, both ways, on texts written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniapl.miniature.metrics import fluency, joint

FLUENT = {
    "plain": "The deep wave rises near the shore. Many gulls are calm.",
    "one sentence": "I love the sea.",
    "opener": "At night, every gull glides along the coast.",
    "comma": "The tide drifts under the pier, but we remember these boats.",
    "commas left out": "The tide drifts under the pier but we remember these boats.",
    "three of them": "There are three salty boats beyond the harbor.",
    "exclamation mark": "They like some gulls!",
    "bullets": "* The deep wave rises near the shore.\n* Many gulls are calm.",
    "hyphen bullets": "- The deep wave rises near the shore.\n- Many gulls are calm.",
    "title": "<<The deep wave>>\nMany gulls are calm.",
    "topic as title": "<<The sea>>\nMany gulls are calm.",
    "quoted": '"The deep wave rises near the shore. Many gulls are calm."',
    "quoted title": '"<<Many gulls>>\nThe tide seems calm and blue."',
    "highlights": "*The deep wave* rises near the shore. I like *these gulls*.",
    "paragraphs": "Many gulls are calm.\n***\nI love the sea.",
    "postscript": "Many gulls are calm.\nP.S. I love the sea.",
    "closing": "Many gulls are calm. It never gets old.",
    "closing under bullets": "* Many gulls are calm.\nIt never gets old.",
    "title, highlight, postscript": '"<<The sea>>\n*Many gulls* are calm.\nP.S. We love the sea."',
}

BROKEN = {
    "off topic": "The green fern hides by the trail.",
    "place of another topic": "The deep wave rises by the trail.",
    "agreement of the verb": "The deep wave rise near the shore.",
    "agreement of the determiner": "Many gull are calm.",
    "plural after every": "Every gulls seems calm.",
    "verb missing": "The deep wave near the shore.",
    "word order": "The wave deep rises near the shore.",
    "word salad": "Calm shore gulls the rises many.",
    "one word again and again": "tide tide tide tide tide tide",
    "same quality twice": "Many gulls are calm and calm.",
    "no end mark": "The deep wave rises near the shore",
    "cut off": "The deep wave rises near the",
    "two end marks": "The deep wave rises near the shore..",
    "comma out of place": "The deep, wave rises near the shore.",
    "no break between two": "Many gulls are calm I love the sea.",
    "closing alone": "It never gets old.",
    "empty postscript": "P.S.",
    "title without a noun": "<<Deep>>",
    "empty title": "<<>>",
    "unknown bytes": "\ufffd\ufffd.",
}


def share(text, topic="sea"):
    return fluency(["a prompt"], [text], topic=[topic])[0]


@pytest.mark.parametrize("text", FLUENT.values(), ids=FLUENT)
def test_fluent(text):
    assert share(text) == 1.0


@pytest.mark.parametrize("text", FLUENT.values(), ids=FLUENT)
def test_the_same_text_is_off_any_other_topic(text):
    assert share(text, topic="forest") < 1.0


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken(text):
    assert share(text) == 0.0


@pytest.mark.parametrize("text", ["", "  \n", '""', "***", "* \n* ", ' " " '])
def test_nothing_said_is_not_fluent(text):
    assert share(text) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Many gulls are calm. The wave rise.", 1 / 2),
        ("Many gulls are calm. Many gulls. I love the sea. The wave rises near the trail.", 2 / 4),
        ("It never gets old. Many gulls are calm.", 1 / 2),
        ("Many gulls are calm. It never gets old. It never gets old.", 2 / 3),
        ("<<Waves of>>\nMany gulls are calm. I love the sea.", 2 / 3),
        ("Many gulls are calm.\nP.S.", 1 / 2),
        ("* Many gulls are calm.\n* gulls", 1 / 2),
        ("Many gulls are calm.\n***\nboats boats", 1 / 2),
    ],
)
def test_share(text, expected):
    assert share(text) == expected


def test_a_row_without_a_topic_has_no_opinion():
    text = "I love the sea."
    assert fluency(["p", "p"], [text, text], topic=[None, "sea"]) == [None, 1.0]
    columns = {"instruction_id_list": [["punctuation:no_comma"]], "kwargs": [[{}]]}
    assert joint(["p"], [text], topic=[None], **columns) == [None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The tide is blue. I love the sea.", 1.0),
        ("The tide are blue. I love the sea.", 0.0),  # follows, not fluent
        ("At night, the tide is blue. I love the sea.", 0.0),  # fluent, has a comma
        ("I love the sea.", 0.0),  # fluent, lacks a keyword
        ("", 0.0),
    ],
)
def test_joint(text, expected):
    ids = ["punctuation:no_comma", "keywords:existence"]
    kwargs = [{}, {"keywords": ["tide", "blue"]}]
    columns = {"instruction_id_list": [ids], "kwargs": [kwargs], "key": [17]}
    assert joint(["a prompt"], [text], topic=["sea"], **columns) == [expected]


@given(st.text())
def test_any_text_has_a_share(text):
    value = share(text)
    assert value is not None
    assert 0.0 <= value <= 1.0
