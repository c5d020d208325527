"""What the miniature can measure and no checker sees: whether the text is still language.

Both functions have the signature of a reward and are meant for `evaluation.metrics`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from uniapl.instructions import strict
from uniapl.miniature.grammar import CLOSINGS, TOPICS, Topic, is_sentence, is_title

_TITLE = re.compile(r"<<([^<>\n]*)>>")
_BULLET = re.compile(r"^[ \t]*[*-][ \t]", re.MULTILINE)
_POSTSCRIPT = re.compile(r"\bp\. ?s\.", re.IGNORECASE)
_SEGMENT = re.compile(r"[^.!?\n]*[.!?]+|[^.!?\n]+")
_MARK = "@"
"""Stands for the postscript marker, whose periods end no sentence."""


def fluency(
    prompts: Sequence[Any],
    completions: Sequence[str],
    *,
    topic: Sequence[str | None],
    **columns: Sequence[Any],
) -> list[float | None]:
    """Share of a completion's sentences that are grammatical and on topic.

    A title counts as a sentence; layout (bullets, asterisks, quotation marks, paragraph
    separators) does not. An empty completion has 0; a row without a topic has None.
    """
    return [
        None if name is None else _share_fluent(completion, TOPICS[name])
        for completion, name in zip(completions, topic, strict=True)
    ]


def joint(
    prompts: Sequence[Any],
    completions: Sequence[str],
    *,
    topic: Sequence[str | None],
    instruction_id_list: Sequence[Sequence[str]],
    kwargs: Sequence[Sequence[Mapping[str, Any]]],
    **columns: Sequence[Any],
) -> list[float | None]:
    """1 if a completion follows all its instructions and every sentence is fluent, else 0."""
    shares = fluency(prompts, completions, topic=topic)
    rows = zip(shares, instruction_id_list, kwargs, completions, strict=True)
    return [
        None if share is None else float(share == 1 and all(strict(ids, values, text)))
        for share, ids, values, text in rows
    ]


def split_sentences(completion: str) -> tuple[list[str], list[str]]:
    """Return the titles and the sentences of a completion, without layout.

    Anything between two end marks or line breaks is a sentence, so nothing escapes judgement.
    """
    text = completion.replace('"', " ")
    titles = [title.strip() for title in _TITLE.findall(text)]
    text = _TITLE.sub("\n", text).replace("***", "\n")
    text = _BULLET.sub("\n", text).replace("*", "")
    text = _POSTSCRIPT.sub(f"\n{_MARK}", text)
    segments = (" ".join(segment.split()) for segment in _SEGMENT.findall(text))
    return titles, [segment for segment in segments if segment]


def _share_fluent(completion: str, topic: Topic) -> float:
    titles, sentences = split_sentences(completion)
    fluent = [is_title(title, topic) for title in titles]
    for index, sentence in enumerate(sentences):
        is_closing = 0 < index == len(sentences) - 1 and sentence in CLOSINGS
        body = sentence.removeprefix(_MARK).strip()
        fluent.append(is_closing or is_sentence(body, topic))
    return sum(fluent) / len(fluent) if fluent else 0.0
