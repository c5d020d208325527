"""Edits an answer until it follows its instructions: a weak expert's text, whole and in the form that was asked for.

The words are the answer's own as far as the instructions allow; what is added is a plain sentence. Nothing is
returned that the checkers refuse.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uniapl.instructions import conflicts as types
from uniapl.instructions import edits
from uniapl.instructions.arguments import clean_kwargs
from uniapl.instructions.detection import detect
from uniapl.instructions.table import find
from uniapl.instructions.verdicts import strict

_MAX_CLOSERS = len(edits.CLOSERS)
_LEAST_WORDS = 3
_LIMITS = (types.SENTENCES, types.WORDS, types.LETTER, types.CAPITAL_WORDS, types.BULLETS)
"""What fewer sentences may follow."""
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
        whole = edits.cut_back(text)
        if whole is None:
            return None
        text = whole
    followed = strict(instruction_ids, kwargs_list, text)
    if all(followed):
        return text
    asked: dict[str, Mapping[str, Any]] = {
        name: clean_kwargs(name, find(name).kwargs, kwargs)
        for name, kwargs in zip(instruction_ids, kwargs_list, strict=True)
    }
    lacking = {
        name: asked[name]
        for name, follows in zip(instruction_ids, followed, strict=True)
        if not follows
    }
    for draft in _drafts(asked, lacking, text, prompt):
        if all(strict(instruction_ids, kwargs_list, draft)):
            return draft
    return None


def _drafts(asked: _Asked, lacking: _Asked, text: str, prompt: str) -> Iterator[str]:
    """Yield edited texts: only wrapped, then laid out anew, then with fewer sentences, then with added ones."""
    if types.CONSTRAINED in asked:
        answer = edits.chosen_answer(text)
        yield from [answer] if answer else []
        return
    if types.LANGUAGE in asked or detect(text) not in ("en", None):
        return  # what is added is English
    if edits.num_distinct_words(text) < _LEAST_WORDS:
        return
    yield _wrapped(lacking, _marked(lacking, text), prompt)
    bare = _bare(asked, text)
    own = edits.whole_sentences(bare)
    # a list or code is no prose: what is left of it would say little
    if 2 * edits.num_distinct_words(" ".join(own)) < edits.num_distinct_words(bare):
        return
    own = _allowed(asked, own)
    if not own:
        return
    has_limit = any(name in asked for name in _LIMITS)
    for added in range(_MAX_CLOSERS + 1):
        for kept in range(len(own), 0 if has_limit else len(own) - 1, -1):
            sentences = _with_keywords(asked, own[:kept])
            closers = _allowed(asked, edits.CLOSERS)[:added]
            draft = _laid_out(asked, [*sentences, *closers], prompt)
            if draft is not None:
                yield draft


def _bare(asked: _Asked, text: str) -> str:
    """Return the text without what will be put around it again."""
    if types.REPEAT in asked:
        text = text.removeprefix(asked[types.REPEAT]["prompt_to_repeat"])
    if types.END in asked:
        text = text.rstrip().removesuffix(asked[types.END]["end_phrase"])
    if types.TITLE in asked:
        text = re.sub(r"<<[^<>\n]+>>", "", text)
    if types.POSTSCRIPT in asked:
        text = re.sub(r"\n\s*P\.\s?(P\.\s?)?S\b.*", "", text, flags=re.DOTALL)
    return text


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
    blocks = _blocks(asked, sentences)
    if blocks is None:
        return None
    return _wrapped(asked, _marked(asked, _joined(asked, blocks)), prompt)


def _marked(asked: _Asked, text: str) -> str:
    """Return the text with other marks and cases inside."""
    if types.NO_COMMA in asked:
        text = edits.without_commas(text)
    if types.HIGHLIGHTS in asked:
        text = edits.highlighted(text, asked[types.HIGHLIGHTS]["num_highlights"])
    capital = asked.get(types.CAPITAL_WORDS, {})
    if capital.get("capital_relation") == "at least":
        text = edits.with_capital_words(text, capital["capital_frequency"])
    elif capital:
        text = edits.without_capital_words(text, capital["capital_frequency"])
    return text


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
        place = min(kwargs["nth_paragraph"], len(blocks)) - 1
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
