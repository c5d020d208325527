"""Which types of instruction cannot stand in one prompt.

Two types conflict where no response follows both, or where one would only by an accident of the
checkers (a JSON document of a single key has no comma).
"""

from uniapl.instructions.table import INSTRUCTIONS

CAPITAL = "change_case:english_capital"
LOWERCASE = "change_case:english_lowercase"
CAPITAL_WORDS = "change_case:capital_word_frequency"
REPEAT = "combination:repeat_prompt"
TWO = "combination:two_responses"
PLACEHOLDERS = "detectable_content:number_placeholders"
POSTSCRIPT = "detectable_content:postscript"
CONSTRAINED = "detectable_format:constrained_response"
JSON = "detectable_format:json_format"
SECTIONS = "detectable_format:multiple_sections"
BULLETS = "detectable_format:number_bullet_lists"
HIGHLIGHTS = "detectable_format:number_highlighted_sections"
TITLE = "detectable_format:title"
EXISTENCE = "keywords:existence"
FORBIDDEN = "keywords:forbidden_words"
FREQUENCY = "keywords:frequency"
LETTER = "keywords:letter_frequency"
LANGUAGE = "language:response_language"
NTH_PARAGRAPH = "length_constraints:nth_paragraph_first_word"
PARAGRAPHS = "length_constraints:number_paragraphs"
SENTENCES = "length_constraints:number_sentences"
WORDS = "length_constraints:number_words"
NO_COMMA = "punctuation:no_comma"
END = "startend:end_checker"
QUOTATION = "startend:quotation"

_ALL = frozenset(INSTRUCTIONS)

# The whole response is one of three sentences, or one document, or in another language: easier to say what fits.
_FITS_ONLY = {
    CONSTRAINED: frozenset[str](),
    JSON: frozenset({EXISTENCE, FORBIDDEN, FREQUENCY, LETTER, PLACEHOLDERS, WORDS}),
    LANGUAGE: frozenset(
        {BULLETS, HIGHLIGHTS, NO_COMMA, PARAGRAPHS, PLACEHOLDERS, QUOTATION, TITLE}
    ),
}

_CONFLICTS = {
    # capitals are decided already
    CAPITAL: {LOWERCASE, CAPITAL_WORDS, SECTIONS, REPEAT},
    LOWERCASE: {CAPITAL_WORDS, SECTIONS, REPEAT, POSTSCRIPT},
    # the response starts with another text than its own
    REPEAT: {
        QUOTATION,
        TWO,
        SECTIONS,
        NTH_PARAGRAPH,
        PARAGRAPHS,
        NO_COMMA,
        FORBIDDEN,
        SENTENCES,
        LETTER,
    },
    # one response has one structure
    TWO: {PARAGRAPHS, NTH_PARAGRAPH, SECTIONS, QUOTATION, POSTSCRIPT, END},
    PARAGRAPHS: {NTH_PARAGRAPH, SECTIONS},
    NTH_PARAGRAPH: {SECTIONS},
    # both are last
    POSTSCRIPT: {END},
    # bullet points are no sentences to Punkt, or are one together
    BULLETS: {SENTENCES},
    # a word may be asked for and forbidden, or counted twice
    EXISTENCE: {FREQUENCY},
}


def conflicting(instruction_id: str) -> frozenset[str]:
    """Return the types that cannot be asked for beside this one, itself among them."""
    found = {instruction_id}
    for one, others in _CONFLICTS.items():
        found |= others if one == instruction_id else set()
        found |= {one} if instruction_id in others else set()
    for one, fitting in _FITS_ONLY.items():
        if one == instruction_id:
            found |= _ALL - fitting
        elif instruction_id not in fitting:
            found.add(one)
    return frozenset(found)
