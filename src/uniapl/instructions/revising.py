"""Edits an answer until it follows its instructions: a weak expert's text, whole and in the form that was asked for.

The words are the answer's own, the prompt's, and those that an instruction prescribes: no sentence is this program's,
for a policy that learns from many revised answers would repeat it. Where such words do not suffice there is no
revision. Nothing is returned that the checkers refuse.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uniapl.instructions import conflicts as types
from uniapl.instructions import edits, weaving
from uniapl.instructions.arguments import clean_kwargs
from uniapl.instructions.detection import detect
from uniapl.instructions.table import find
from uniapl.instructions.verdicts import strict

_MOST_DIVIDED = 8
"""Sentences that may come from dividing others."""
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
        prompt: Whose words may be used: for a title, as a first sentence, as names.
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
    """Yield edited texts: only wrapped, then laid out anew, then with fewer sentences, then with more of them."""
    if types.CONSTRAINED in asked:
        answer = edits.chosen_answer(text)
        yield from [answer] if answer else []
        return
    if types.LANGUAGE in asked or detect(text) not in ("en", None):
        return  # where a word may go is known of English alone
    if edits.num_distinct_words(text) < _LEAST_WORDS:
        return
    if (draft := _touched_up(lacking, text, prompt)) is not None:
        yield draft
    bare = _bare(asked, text)
    if (draft := _shortened_list(asked, bare, prompt)) is not None:
        yield draft
    own = edits.whole_sentences(bare)
    # a list or code is no prose: what is left of it would say little
    if 2 * edits.num_distinct_words(" ".join(own)) < edits.num_distinct_words(bare):
        return
    own = _allowed(asked, own)
    if not own:
        return
    has_limit = any(name in asked for name in _LIMITS)
    for supply in _supplies(asked, own, prompt):
        for kept in range(len(supply), 0 if has_limit else len(supply) - 1, -1):
            sentences = _with_keywords(asked, supply[:kept], prompt)
            if sentences and (draft := _laid_out(asked, sentences, prompt)) is not None:
                yield draft


def _shortened_list(asked: _Asked, text: str, prompt: str) -> str | None:
    """Return the first points of a list, where so many are asked for and there are more."""
    count = asked.get(types.BULLETS, {}).get("num_bullets", 0)
    points = _allowed(asked, edits.list_points(text))[:count]
    sentences = _with_keywords(asked, points, prompt) if len(points) == count > 0 else None
    return _laid_out(asked, sentences, prompt) if sentences else None


def _supplies(asked: _Asked, own: list[str], prompt: str) -> Iterator[list[str]]:
    """Yield the answer's sentences, then more and more of them by division, then behind the prompt's question."""
    yield own
    divided: list[str] | None = own
    most = own
    for _ in range(_MOST_DIVIDED):
        divided = weaving.divided(most)
        if divided is None:
            break
        most = divided
        yield most
    if types.BULLETS in asked:
        yield weaving.items(own)
    question = weaving.question(prompt)
    if _may_open(asked, question, own):
        yield [str(question), *own]
        yield [str(question), *most]


def _may_open(asked: _Asked, sentence: str | None, own: Sequence[str]) -> bool:
    """Return whether a sentence of the prompt may stand before the answer's own."""
    if sentence is None or types.REPEAT in asked or not _allowed(asked, [sentence]):
        return False
    return sentence.lower() not in " ".join(own).lower()


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


def _with_keywords(asked: _Asked, sentences: list[str], prompt: str) -> list[str] | None:
    """Return the sentences with the keywords that they lack inside; None where those have no place.

    A keyword that is no noun fits behind no article: it comes with the prompt's own sentence, if that has it.
    """
    lacking = _lacking_keywords(asked, sentences)
    if not all(weaving.is_noun_like(word, prompt) for word in lacking):
        opening = weaving.first_sentence(prompt)
        if opening is None or not _may_open(asked, opening, sentences):
            return None
        sentences = [opening, *sentences]
        lacking = _lacking_keywords(asked, sentences)
        if not all(weaving.is_noun_like(word, prompt) for word in lacking):
            return None
    return weaving.woven(sentences, lacking, prompt) if lacking else sentences


def _lacking_keywords(asked: _Asked, sentences: Sequence[str]) -> list[str]:
    """Return the keywords that are missing, each as often as it has to be added."""
    text = " ".join(sentences).lower()
    keywords = asked.get(types.EXISTENCE, {}).get("keywords", ())
    lacking = [word for word in keywords if word.strip().lower() not in text]
    frequency = asked.get(types.FREQUENCY, {})
    if frequency.get("relation") == "at least":
        word = frequency["keyword"]
        lacking += [word] * (frequency["frequency"] - text.count(word.strip().lower()))
    return lacking


def _touched_up(lacking: _Asked, text: str, prompt: str) -> str | None:
    """Return the text as it is laid out, with what can be put into or around it; None where nothing can."""
    aside = None
    if types.POSTSCRIPT in lacking:
        divided = edits.without_last(text)
        if divided is None:
            return None
        text, aside = divided
    text = weaving.bracketed(text, _missing_placeholders(lacking, text))
    return _wrapped(lacking, _marked(lacking, text), prompt, aside)


def _missing_placeholders(asked: _Asked, text: str) -> int:
    """Return how many words are to be put into brackets."""
    wanted = asked.get(types.PLACEHOLDERS, {}).get("num_placeholders", 0)
    return max(0, wanted - len(re.findall(r"\[.*?\]", text)))


def _laid_out(asked: _Asked, sentences: Sequence[str], prompt: str) -> str | None:
    """Return the sentences in the form that is asked for; None if there are too few of them."""
    text = "\n".join(sentences)
    sentences = weaving.bracketed(text, _missing_placeholders(asked, text)).split("\n")
    aside = None
    if types.POSTSCRIPT in asked:
        *sentences, aside = sentences
    blocks = _blocks(asked, sentences) if sentences else None
    if blocks is None:
        return None
    return _wrapped(asked, _marked(asked, _joined(asked, blocks)), prompt, aside)


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
        blocks[place] = f"{word[:1].upper()}{word[1:]}\n{blocks[place]}"  # a heading
        return "\n\n".join(blocks)
    if types.PARAGRAPHS in asked:
        return "\n***\n".join(blocks)
    if types.TWO in asked:
        return "\n******\n".join(blocks)
    if types.SECTIONS in asked:
        name = asked[types.SECTIONS]["section_spliter"]
        return "\n\n".join(f"{name} {n}\n{block}" for n, block in enumerate(blocks, start=1))
    return "\n\n".join(blocks)


def _wrapped(asked: _Asked, text: str, prompt: str, aside: str | None) -> str | None:
    """Return the text with what stands around it, and in its case; None where it lacks a title or a postscript.

    Args:
        aside: The sentence that the postscript says.
    """
    if types.JSON in asked:
        return json.dumps({"answer": text}, ensure_ascii=False)
    if types.TITLE in asked:
        titles = filter(None, (edits.title_of(prompt), edits.title_of(text)))
        title = next(iter(_allowed(asked, list(titles))), None)
        if title is None:
            return None
        between = "\n" if types.NTH_PARAGRAPH in asked else "\n\n"
        text = f"<<{title}>>{between}{text}"
    if types.REPEAT in asked:
        text = f"{asked[types.REPEAT]['prompt_to_repeat']}\n\n{text}"
    if types.POSTSCRIPT in asked:
        if aside is None:
            return None
        aside = edits.without_commas(aside) if types.NO_COMMA in asked else aside
        between = "\n" if types.NTH_PARAGRAPH in asked else "\n\n"
        text = f"{text}{between}{asked[types.POSTSCRIPT]['postscript_marker']} {aside}"
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
