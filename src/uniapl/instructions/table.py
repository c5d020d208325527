"""The 25 instruction types of IFEval (Zhou et al. 2023, arXiv 2311.07911): checker and kwargs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from uniapl.instructions import formats, keywords, languages, lengths, letter_case, wrappings
from uniapl.instructions.arguments import (
    COUNT,
    FIRST_WORD,
    LANGUAGE,
    LETTER,
    ORDINAL,
    RELATION,
    TEXT,
    TEXTS,
    InstructionError,
    Kind,
    did_you_mean,
)

Checker = Callable[..., bool]
"""Takes a response that is not blank and the instruction's clean kwargs by name."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One type of instruction."""

    check: Checker
    kwargs: Mapping[str, Kind] = field(default_factory=dict)
    official: Checker | None = None
    """The checker for benchmark numbers, where IFEval's own differs from the sound one."""

    def checker(self, official: bool) -> Checker:
        """Return the checker to use."""
        return self.official if official and self.official else self.check


INSTRUCTIONS: Mapping[str, Instruction] = {
    "change_case:capital_word_frequency": Instruction(
        letter_case.capital_word_frequency,
        {"capital_frequency": COUNT, "capital_relation": RELATION},
    ),
    "change_case:english_capital": Instruction(
        letter_case.english_capital, official=letter_case.english_capital_as_published
    ),
    "change_case:english_lowercase": Instruction(
        letter_case.english_lowercase, official=letter_case.english_lowercase_as_published
    ),
    "combination:repeat_prompt": Instruction(wrappings.repeat_prompt, {"prompt_to_repeat": TEXT}),
    "combination:two_responses": Instruction(wrappings.two_responses),
    "detectable_content:number_placeholders": Instruction(
        formats.number_placeholders, {"num_placeholders": COUNT}
    ),
    "detectable_content:postscript": Instruction(
        formats.postscript, {"postscript_marker": TEXT}, official=formats.postscript_by_pattern
    ),
    "detectable_format:constrained_response": Instruction(formats.constrained_response),
    "detectable_format:json_format": Instruction(
        formats.json_format, official=formats.json_format_of_any_value
    ),
    "detectable_format:multiple_sections": Instruction(
        formats.multiple_sections,
        {"section_spliter": TEXT, "num_sections": COUNT},
        official=formats.multiple_sections_by_pattern,
    ),
    "detectable_format:number_bullet_lists": Instruction(
        formats.number_bullet_lists, {"num_bullets": COUNT}
    ),
    "detectable_format:number_highlighted_sections": Instruction(
        formats.number_highlighted_sections, {"num_highlights": COUNT}
    ),
    "detectable_format:title": Instruction(formats.title),
    "keywords:existence": Instruction(
        keywords.existence, {"keywords": TEXTS}, official=keywords.existence_by_pattern
    ),
    "keywords:forbidden_words": Instruction(
        keywords.forbidden_words,
        {"forbidden_words": TEXTS},
        official=keywords.forbidden_words_by_pattern,
    ),
    "keywords:frequency": Instruction(
        keywords.frequency,
        {"keyword": TEXT, "frequency": COUNT, "relation": RELATION},
        official=keywords.frequency_by_pattern,
    ),
    "keywords:letter_frequency": Instruction(
        keywords.letter_frequency,
        {"letter": LETTER, "let_frequency": COUNT, "let_relation": RELATION},
    ),
    "language:response_language": Instruction(
        languages.response_language,
        {"language": LANGUAGE},
        official=languages.response_language_as_published,
    ),
    "length_constraints:nth_paragraph_first_word": Instruction(
        lengths.nth_paragraph_first_word,
        {"num_paragraphs": COUNT, "nth_paragraph": ORDINAL, "first_word": FIRST_WORD},
        official=lengths.nth_paragraph_first_word_as_published,
    ),
    "length_constraints:number_paragraphs": Instruction(
        lengths.number_paragraphs, {"num_paragraphs": COUNT}
    ),
    "length_constraints:number_sentences": Instruction(
        lengths.number_sentences,
        {"num_sentences": COUNT, "relation": RELATION},
        official=lengths.number_sentences_as_published,
    ),
    "length_constraints:number_words": Instruction(
        lengths.number_words,
        {"num_words": COUNT, "relation": RELATION},
        official=lengths.number_words_as_published,
    ),
    "punctuation:no_comma": Instruction(
        wrappings.no_comma, official=wrappings.no_comma_as_published
    ),
    "startend:end_checker": Instruction(wrappings.end_checker, {"end_phrase": TEXT}),
    "startend:quotation": Instruction(wrappings.quotation),
}


def find(instruction_id: str) -> Instruction:
    """Return the instruction of this id.

    Raises:
        InstructionError: there is none.
    """
    try:
        return INSTRUCTIONS[instruction_id]
    except (KeyError, TypeError):
        hint = did_you_mean(str(instruction_id), INSTRUCTIONS)
        raise InstructionError(f"unknown instruction id {instruction_id!r}{hint}") from None
