"""Edits an answer until it follows its instructions: a weak expert's text, whole and in the form that was asked for.

The words are the answer's own as far as the instructions allow; what is added is a plain sentence. Nothing is
returned that the checkers refuse.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uniapl.instructions import conflicts as types
from uniapl.instructions import edits
from uniapl.instructions.verdicts import strict

_MAX_CLOSERS = len(edits.CLOSERS)
_LEAST_WORDS = 3
_Asked = Mapping[str, Mapping[str, Any]]


def revise(
    instruction_ids: Sequence[str],
    kwargs_list: Sequence[Mapping[str, Any]],
    text: str,
    prompt: str = "",
    *,
    is_cut_off: bool = False,
) -> str | None:
    """Return the text, or an edited one, that strictly follows all instructions; None where no edit found does.

    Args:
        instruction_ids: Of the prompt.
        kwargs_list: Parallel to them.
        text: An answer.
        prompt: Whose words a title is made of.
        is_cut_off: Whether the answer broke off; its last, broken sentence is then dropped.

    Raises:
        InstructionError: An instruction is unknown or its kwargs are wrong.
    """
    if is_cut_off:
        text = edits.cut_back(text)
    if all(strict(instruction_ids, kwargs_list, text)):
        return text
    asked = dict(zip(instruction_ids, kwargs_list, strict=True))
    for draft in _drafts(asked, text, prompt):
        if all(strict(instruction_ids, kwargs_list, draft)):
            return draft
    return None


def _drafts(asked: _Asked, text: str, prompt: str) -> Iterator[str]:
    """Yield edited texts: first with all sentences, then with fewer, then with more added."""
    if types.CONSTRAINED in asked:
        yield edits.chosen_answer(text)
        return
    if types.LANGUAGE in asked:
        return  # what is added is English
    own = _allowed(asked, edits.whole_sentences(text))
    if sum(len(sentence.split()) for sentence in own) < _LEAST_WORDS:
        return
    for added in range(_MAX_CLOSERS + 1):
        for kept in range(len(own), 0, -1):
            sentences = _with_keywords(asked, own[:kept])
            closers = _allowed(asked, edits.CLOSERS)[:added]
            draft = _laid_out(asked, [*sentences, *closers], prompt)
            if draft is not None:
                yield draft


def _allowed(asked: _Asked, sentences: Sequence[str]) -> list[str]:
    """Return the sentences without those that hold what is forbidden."""
    found = edits.without_words(
        sentences, asked.get(types.FORBIDDEN, {}).get("forbidden_words", ())
    )
    frequency = asked.get(types.FREQUENCY, {})
    if frequency.get("relation") == "less than":
        found = edits.with_fewer(found, frequency["keyword"], frequency["frequency"])
    letter = asked.get(types.LETTER, {})
    if letter.get("let_relation") == "less than":
        found = edits.with_fewer(found, letter["letter"], letter["let_frequency"])
    return found


def _with_keywords(asked: _Asked, sentences: Sequence[str]) -> list[str]:
    """Return the sentences and, behind the first, others that hold the keywords they lack."""
    text = " ".join(sentences).lower()
    keywords = asked.get(types.EXISTENCE, {}).get("keywords", ())
    added = edits.mention_all([word for word in keywords if word.strip().lower() not in text])
    frequency = asked.get(types.FREQUENCY, {})
    if frequency.get("relation") == "at least":
        lacking = frequency["frequency"] - text.count(frequency["keyword"].strip().lower())
        added += edits.mentions(frequency["keyword"], max(lacking, 0))
    return [*sentences[:1], *added, *sentences[1:]]


def _laid_out(asked: _Asked, sentences: Sequence[str], prompt: str) -> str | None:
    """Return the sentences in the form that is asked for; None if there are too few of them."""
    if types.PLACEHOLDERS in asked:
        sentences = [*sentences, edits.contact(asked[types.PLACEHOLDERS]["num_placeholders"])]
    if types.NO_COMMA in asked:
        sentences = [edits.without_commas(sentence) for sentence in sentences]
    capital = asked.get(types.CAPITAL_WORDS, {})
    if capital.get("capital_relation") == "less than":
        sentences = [edits.without_capital_words(sentence) for sentence in sentences]
    blocks = _blocks(asked, sentences)
    if blocks is None:
        return None
    text = _joined(asked, blocks)
    if types.HIGHLIGHTS in asked:
        text = edits.highlighted(text, asked[types.HIGHLIGHTS]["num_highlights"])
    if capital.get("capital_relation") == "at least":
        text = edits.with_capital_words(text, capital["capital_frequency"])
    return _wrapped(asked, text, prompt)


def _blocks(asked: _Asked, sentences: Sequence[str]) -> list[str] | None:
    """Return the paragraphs or sections; bullet points end the last one."""
    points: list[str] = []
    if types.BULLETS in asked:
        count = asked[types.BULLETS]["num_bullets"]
        before = len(sentences) - count
        if before < 0:
            return None
        sentences, points = sentences[:before], [f"* {s}" for s in sentences[before:]]
    num_blocks = max(
        asked.get(types.PARAGRAPHS, {}).get("num_paragraphs", 1),
        asked.get(types.NTH_PARAGRAPH, {}).get("num_paragraphs", 1),
        asked.get(types.SECTIONS, {}).get("num_sections", 1),
        2 if types.TWO in asked else 1,
    )
    if num_blocks == 1:
        return ["\n".join(filter(None, (" ".join(sentences), *points)))]
    dealt = edits.dealt(sentences, num_blocks)
    if dealt is None:
        return None
    blocks = [" ".join(block) for block in dealt]
    blocks[-1] = "\n".join([blocks[-1], *points])
    return blocks


def _joined(asked: _Asked, blocks: list[str]) -> str:
    if types.NTH_PARAGRAPH in asked:
        kwargs = asked[types.NTH_PARAGRAPH]
        place = kwargs["nth_paragraph"] - 1
        word = kwargs["first_word"]
        blocks[place] = f"{word[:1].upper()}{word[1:]} is what comes to mind here. {blocks[place]}"
        return "\n\n".join(blocks)
    if types.PARAGRAPHS in asked:
        return "\n***\n".join(blocks)
    if types.TWO in asked:
        return "\n******\n".join(blocks)
    if types.SECTIONS in asked:
        name = asked[types.SECTIONS]["section_spliter"]
        return "\n\n".join(f"{name} {n}\n{block}" for n, block in enumerate(blocks, start=1))
    return "\n\n".join(blocks)


def _wrapped(asked: _Asked, text: str, prompt: str) -> str:
    """Return the text with what stands around it, and in its case."""
    if types.JSON in asked:
        return json.dumps({"answer": text}, ensure_ascii=False)
    if types.TITLE in asked:
        between = "\n" if types.NTH_PARAGRAPH in asked else "\n\n"
        text = f"<<{edits.title_of(prompt)}>>{between}{text}"
    if types.REPEAT in asked:
        text = f"{asked[types.REPEAT]['prompt_to_repeat']}\n\n{text}"
    if types.POSTSCRIPT in asked:
        closer = next(iter(_allowed(asked, edits.CLOSERS[1:])), "Thank you.")
        between = "\n" if types.NTH_PARAGRAPH in asked else "\n\n"
        text = f"{text}{between}{asked[types.POSTSCRIPT]['postscript_marker']} {closer}"
    if types.END in asked:
        glue = "\n" if types.BULLETS in asked else " "
        text = f"{text}{glue}{asked[types.END]['end_phrase']}"
    if types.CAPITAL in asked:
        text = text.upper()
    elif types.LOWERCASE in asked:
        text = text.lower()
    if types.QUOTATION in asked:
        text = '"' + text.replace('"', "'") + '"'
    return text
