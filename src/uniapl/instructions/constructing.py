"""Writes a response that follows all instructions of a prompt: the proof that some response can.

The response is nonsense. It is put together from blocks (paragraphs or sections), each a few units
(sentences or bullet points) of filler words, into which goes what the instructions ask for. Filler
words are chosen so that nothing is added that the instructions limit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from uniapl.instructions import conflicts as types
from uniapl.instructions.verdicts import strict

_FILLER = (
    "this is the one thing that we know about it and there are many more of them in the house",
    "he said that she would come to the other side of the hill with the rest of us in the end",
    "you can see how the old man went home and took the children to their mother on the same day",
    "a dog sat on a mat and a hen ran to a hut at ten in the rain and did not stop until it was done",
    "it has to be said that all this was not his idea at all and that it came to us in the morning",
)
"""Plain English without capitals, commas or nouns of the word list."""

_LETTER_WORDS = {
    "a": "area", "e": "these", "h": "hush", "i": "visit", "n": "noon", "o": "food", "r": "error",
    "s": "sisters", "t": "that",
}  # fmt: skip
"""For each letter that may have to be frequent, a word that has it."""

_NATIVE = {
    "de": "Das ist ein schöner Tag und wir gehen heute mit den Kindern durch den Wald nach Hause",
    "es": "Hoy es un día muy hermoso y nosotros caminamos con los niños por el bosque hasta la casa",
    "fi": "Tänään on kaunis päivä ja me kävelemme lasten kanssa metsän läpi takaisin kotiin",
    "fr": "Nous avons une belle journée et nous marchons avec les enfants dans la forêt vers la maison",
    "hi": "आज बहुत सुंदर दिन है और हम बच्चों के साथ जंगल से होकर घर जा रहे हैं",
    "it": "Oggi è una bella giornata e noi camminiamo con i bambini nel bosco fino alla nostra casa",
    "ko": "오늘은 아주 아름다운 날이고 우리는 아이들과 함께 숲을 지나 집으로 걸어갑니다",
    "nl": "Het is vandaag een mooie dag en wij lopen met de kinderen door het bos naar ons huis",
    "pl": "Dzisiaj jest bardzo piękny dzień i idziemy z dziećmi przez las do naszego domu",
    "pt": "Hoje está um dia muito bonito e nós caminhamos com as crianças pela floresta até a nossa casa",
    "ru": "Сегодня очень хороший день и мы идём вместе с детьми через лес к нашему дому",
    "sv": "Det är en vacker dag i dag och vi går med barnen genom skogen hem till vårt hus",
    "tr": "Bugün çok güzel bir gün ve biz çocuklarla birlikte ormandan geçip eve doğru yürüyoruz",
    "vi": "Hôm nay là một ngày rất đẹp và chúng tôi cùng các em nhỏ đi bộ qua khu rừng để về nhà",
}
"""One sentence per language that prompts may ask for."""

_MAX_GROWTH = 40
"""Rounds of added filler after which more of it will not help."""


def construct(
    instruction_ids: Sequence[str], kwargs_list: Sequence[Mapping[str, Any]]
) -> str | None:
    """Return a response that follows all instructions, or None where this writer finds none.

    What is returned has passed the checkers. None does not mean that no response exists.
    """
    asked = dict(zip(instruction_ids, kwargs_list, strict=True))
    for text in _attempts(_Plan(asked)):
        if all(strict(instruction_ids, kwargs_list, text)):
            return text
    return None


@dataclass(slots=True)
class _Plan:
    """What the response needs, read off the instructions."""

    asked: Mapping[str, Mapping[str, Any]]
    words: list[str] = field(default_factory=list)
    """Words and marks that have to stand somewhere."""
    filler: list[list[str]] = field(default_factory=list)
    """Units of filler, used in turns."""

    def __post_init__(self) -> None:
        self.words = self._required()
        self.filler = self._allowed()

    def of(self, instruction_id: str, name: str, default: Any = None) -> Any:
        """Return a kwarg of an instruction, or the default where it is not asked for."""
        return self.asked.get(instruction_id, {}).get(name, default)

    def at_least(self, instruction_id: str, count: str, relation: str = "relation") -> int:
        """Return the lower bound that an instruction sets; 0 if it sets none."""
        is_lower = self.of(instruction_id, relation) == "at least"
        return self.of(instruction_id, count) if is_lower else 0

    @property
    def has_periods(self) -> bool:
        """Whether sentences end: without periods there is one sentence, however long."""
        return self.of(types.SENTENCES, "relation") != "less than"

    def _required(self) -> list[str]:
        words = list(self.of(types.EXISTENCE, "keywords", ()))
        words += [self.of(types.FREQUENCY, "keyword")] * self.at_least(types.FREQUENCY, "frequency")
        capital = self.at_least(types.CAPITAL_WORDS, "capital_frequency", "capital_relation")
        words += ["THE"] * capital
        letter = self.of(types.LETTER, "letter")
        times = self.at_least(types.LETTER, "let_frequency", "let_relation")
        words += [_LETTER_WORDS.get(letter, letter)] * times
        words += ["[name]"] * self.of(types.PLACEHOLDERS, "num_placeholders", 0)
        words += ["*now*"] * self.of(types.HIGHLIGHTS, "num_highlights", 0)
        return words

    def _allowed(self) -> list[list[str]]:
        if types.LANGUAGE in self.asked:
            return [_NATIVE[self.of(types.LANGUAGE, "language")].split()]
        banned = {word.lower() for word in self.of(types.FORBIDDEN, "forbidden_words", ())}
        unwanted = set()
        if self.of(types.FREQUENCY, "relation") == "less than":
            unwanted.add(self.of(types.FREQUENCY, "keyword").lower())
        if self.of(types.LETTER, "let_relation") == "less than":
            unwanted.add(self.of(types.LETTER, "letter").lower())
        units = [
            [w for w in unit.split() if w not in banned and not any(u in w for u in unwanted)]
            for unit in _FILLER
        ]
        return [unit for unit in units if unit]


def _attempts(plan: _Plan) -> Iterator[str]:
    """Yield responses from short to long."""
    if types.CONSTRAINED in plan.asked:
        yield "My answer is yes."
        return
    blocks = max(
        plan.of(types.PARAGRAPHS, "num_paragraphs", 1),
        plan.of(types.NTH_PARAGRAPH, "num_paragraphs", 1),
        plan.of(types.SECTIONS, "num_sections", 1),
        2 if types.TWO in plan.asked else 1,
    )
    fewest = max(blocks, plan.at_least(types.SENTENCES, "num_sentences"))
    if types.LANGUAGE in plan.asked:
        fewest += 6  # enough of the language to drown titles and placeholders
    for size in range(fewest, fewest + _MAX_GROWTH):
        yield _write(plan, blocks, size)


def _write(plan: _Plan, num_blocks: int, num_units: int) -> str:
    """Return the response with so many units of filler."""
    filler = plan.filler or [["so"]]
    units = [list(filler[number % len(filler)]) for number in range(num_units)]
    if plan.of(types.WORDS, "relation") == "less than":
        units = [unit[:2] for unit in units]
    # In the middle of a unit: at its start an asterisk would be a bullet point.
    for number, word in enumerate(plan.words):
        units[number % num_units].insert(1, word)
    end = "." if plan.has_periods else ""
    texts = [" ".join(unit) + end for unit in units]
    if plan.has_periods and types.LOWERCASE not in plan.asked:
        texts = [text[0].upper() + text[1:] for text in texts]
    blocks = [" ".join(texts[start::num_blocks]) for start in range(num_blocks)]
    if types.JSON in plan.asked:
        return json.dumps({"answer": " ".join(blocks)}, ensure_ascii=False)
    return _finished(plan, blocks)


def _finished(plan: _Plan, blocks: list[str]) -> str:
    """Return the blocks joined, with what stands at certain places."""
    if types.NTH_PARAGRAPH in plan.asked:
        place = plan.of(types.NTH_PARAGRAPH, "nth_paragraph") - 1
        blocks[place] = f"{plan.of(types.NTH_PARAGRAPH, 'first_word')} {blocks[place]}"
    if types.TITLE in plan.asked:
        blocks[0] += " <<so>>"
    if types.SECTIONS in plan.asked:
        name = plan.of(types.SECTIONS, "section_spliter")
        blocks = [f"{name} {number}\n{block}" for number, block in enumerate(blocks, start=1)]
    points = ["* so"] * plan.of(types.BULLETS, "num_bullets", 0)
    blocks[-1] = "\n".join([blocks[-1], *points])
    glue = "\n***\n" if types.PARAGRAPHS in plan.asked else "\n"
    glue = "\n\n" if types.NTH_PARAGRAPH in plan.asked else glue
    glue = "\n******\n" if types.TWO in plan.asked else glue
    text = glue.join(blocks)
    if types.REPEAT in plan.asked:
        text = f"{plan.of(types.REPEAT, 'prompt_to_repeat')}\n{text}"
    for name, kwarg in ((types.POSTSCRIPT, "postscript_marker"), (types.END, "end_phrase")):
        if name in plan.asked:
            text += f"\n{plan.of(name, kwarg)}"
    if types.CAPITAL in plan.asked:
        text = text.upper()
    elif types.LOWERCASE in plan.asked:
        text = text.lower()
    return f'"{text}"' if types.QUOTATION in plan.asked else text
