"""How a made prompt asks for each type of instruction: several phrasings, some held out.

A test whose phrasings a policy has met in training measures less than it seems to. The held-out ones
are never used for training prompts. A template's fields are the instruction's kwargs; words of a list are
quoted, and `bound` is a relation with its number ("at least 3").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Sentences that ask for one type."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


HELD_OUT_TYPES = (
    "change_case:capital_word_frequency",
    "combination:two_responses",
    "detectable_content:number_placeholders",
    "keywords:letter_frequency",
    "length_constraints:number_paragraphs",
)
"""Types kept for out-of-distribution tests: one of each large group, none that another implies."""

LANGUAGE_NAMES = {
    "de": "German",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ko": "Korean",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "sv": "Swedish",
    "tr": "Turkish",
    "vi": "Vietnamese",
}

PHRASINGS: Mapping[str, Phrasings] = {
    "change_case:capital_word_frequency": Phrasings(
        (
            "Write {bound} words in capital letters only.",
            "The answer needs {bound} words that are fully capitalized.",
            "Put {bound} words into ALL CAPS.",
        ),
        ("Words in full capitals should occur {bound} times.",),
    ),
    "change_case:english_capital": Phrasings(
        (
            "Answer in English and use capital letters only.",
            "Every letter of your English answer must be upper case.",
            "Write in English with Caps Lock on from start to finish.",
        ),
        ("No small letter may occur anywhere; the language is English.",),
    ),
    "change_case:english_lowercase": Phrasings(
        (
            "Answer in English without a single capital letter.",
            "Use small letters only and write in English.",
            "Keep the whole English answer in lower case.",
        ),
        ("Write English as if the shift key were broken: nothing in upper case.",),
    ),
    "combination:repeat_prompt": Phrasings(
        (
            "Begin by copying this request exactly: '{prompt_to_repeat}' Only then give your answer.",
            "Start with the following text, unchanged, and answer it afterwards: '{prompt_to_repeat}'",
            "Before you answer, repeat this word for word and put nothing in front of it: "
            "'{prompt_to_repeat}'",
        ),
        ("Your first words must be these, verbatim; the answer follows: '{prompt_to_repeat}'",),
    ),
    "combination:two_responses": Phrasings(
        (
            "Give two different answers with six asterisks (******) between them.",
            "I want two distinct versions; put ****** and nothing else between the two.",
            "Answer twice in different ways and divide the two by ******.",
        ),
        ("Offer a pair of unlike replies, parted by a line of six asterisks: ******.",),
    ),
    "detectable_content:number_placeholders": Phrasings(
        (
            "Use at least {num_placeholders} placeholders in square brackets, like [name].",
            "Leave {num_placeholders} or more blanks to fill in, written like [date].",
            "Include no fewer than {num_placeholders} bracketed placeholders such as [place].",
        ),
        (
            "Details to fill in later go in square brackets; have {num_placeholders} of them or more.",
        ),
    ),
    "detectable_content:postscript": Phrasings(
        (
            "Add a postscript that starts with '{postscript_marker}'.",
            "Close with a note introduced by '{postscript_marker}'.",
            "After the answer, put a short remark beginning with '{postscript_marker}'.",
        ),
        ("Have an afterthought at the end; it opens with '{postscript_marker}'.",),
    ),
    # Never the three in a row, as in IFEval's own prompts: a check for shared wording would find them.
    "detectable_format:constrained_response": Phrasings(
        (
            "Say either 'My answer is yes.' or else 'My answer is no.' or else 'My answer is maybe.'",
            "Reply with 'My answer is yes.' if so, 'My answer is no.' if not, and 'My answer is maybe.' "
            "if it depends.",
            "Your reply is one of three: (a) My answer is yes. (b) My answer is no. (c) My answer is maybe.",
        ),
        (
            "Choose from these: 'My answer is yes.' for yes, 'My answer is no.' for no, "
            "'My answer is maybe.' for anything else.",
        ),
    ),
    "detectable_format:json_format": Phrasings(
        (
            "Return nothing but valid JSON.",
            "The complete output must be one JSON object.",
            "Format everything you write as JSON; a Markdown code fence around it is fine.",
        ),
        ("A JSON parser will read your reply, so there must be no text outside the JSON.",),
    ),
    "detectable_format:multiple_sections": Phrasings(
        (
            "Divide the answer into {num_sections} sections, headed {section_spliter} 1, "
            "{section_spliter} 2 and so on.",
            "Use {num_sections} parts and mark each as {section_spliter} X, where X is its number.",
            "Structure it in {num_sections} sections; each starts with {section_spliter} and its number.",
        ),
        ("Number {num_sections} sections from {section_spliter} 1 upwards.",),
    ),
    "detectable_format:number_bullet_lists": Phrasings(
        (
            "Include exactly {num_bullets} bullet points in Markdown (lines that begin with * or -).",
            "Use bullet points, {num_bullets} in all, each on a line that begins with an asterisk.",
            "There have to be {num_bullets} Markdown bullets, no more and no fewer.",
        ),
        ("A list of precisely {num_bullets} items, each after '* ', must be part of it.",),
    ),
    "detectable_format:number_highlighted_sections": Phrasings(
        (
            "Highlight at least {num_highlights} phrases with asterisks, *like this*.",
            "Put {num_highlights} or more passages in Markdown italics, such as *this one*.",
            "Emphasize {num_highlights} or more parts, each between two asterisks: *part*.",
        ),
        ("No fewer than {num_highlights} key phrases should stand *between asterisks*.",),
    ),
    "detectable_format:title": Phrasings(
        (
            "Give it a title in double angular brackets, such as <<a title>>.",
            "Add a heading of the form <<heading>>.",
            "The answer needs a title, and the title must be wrapped like <<this>>.",
        ),
        ("Name your text; write the name as <<name>>.",),
    ),
    "keywords:existence": Phrasings(
        (
            "Use these words: {keywords}.",
            "The words {keywords} must all appear.",
            "Work in the following keywords: {keywords}.",
        ),
        ("Make sure that none of these words is missing: {keywords}.",),
    ),
    "keywords:forbidden_words": Phrasings(
        (
            "Do not use any of these words: {forbidden_words}.",
            "Avoid the words {forbidden_words}.",
            "The following words are off limits: {forbidden_words}.",
        ),
        ("Find a way around these words: {forbidden_words}.",),
    ),
    "keywords:frequency": Phrasings(
        (
            "Use the word '{keyword}' {bound} times.",
            "The word '{keyword}' has to occur {bound} times.",
            "Mention '{keyword}' {bound} times.",
        ),
        ("Counting the word '{keyword}' should give {bound}.",),
    ),
    "keywords:letter_frequency": Phrasings(
        (
            "The letter {letter} must occur {bound} times.",
            "Use the letter {letter} {bound} times.",
            "Let the letter {letter} show up {bound} times.",
        ),
        ("Counting the letter {letter} should give {bound}.",),
    ),
    "language:response_language": Phrasings(
        (
            "Answer entirely in {language}.",
            "Write your whole reply in {language}; no other language.",
            "Use {language} and only {language}.",
        ),
        ("The reader knows no language but {language}.",),
    ),
    "length_constraints:nth_paragraph_first_word": Phrasings(
        (
            "Write {num_paragraphs} paragraphs with an empty line between them; "
            "paragraph {nth_paragraph} starts with the word '{first_word}'.",
            "Use exactly {num_paragraphs} paragraphs, divided by two line breaks, and begin number "
            "{nth_paragraph} with '{first_word}'.",
            "I need {num_paragraphs} paragraphs (an empty line between two). The first word of "
            "paragraph {nth_paragraph} is '{first_word}'.",
        ),
        (
            "Of {num_paragraphs} paragraphs, kept apart by empty lines, number {nth_paragraph} opens with "
            "'{first_word}'.",
        ),
    ),
    "length_constraints:number_paragraphs": Phrasings(
        (
            "Write {num_paragraphs} paragraphs with *** between them.",
            "Divide the text into exactly {num_paragraphs} paragraphs, using the Markdown divider ***.",
            "There must be {num_paragraphs} paragraphs; put *** between two of them.",
        ),
        ("Three asterisks (***) part the paragraphs, of which there are {num_paragraphs}.",),
    ),
    "length_constraints:number_sentences": Phrasings(
        (
            "Write {bound} sentences.",
            "The answer should have {bound} sentences.",
            "Use {bound} sentences in all.",
        ),
        ("Counting your sentences should give {bound}.",),
    ),
    "length_constraints:number_words": Phrasings(
        (
            "Write {bound} words.",
            "The answer should have {bound} words.",
            "Use {bound} words in all.",
        ),
        ("Counting your words should give {bound}.",),
    ),
    "punctuation:no_comma": Phrasings(
        (
            "Do not use commas.",
            "Write without a single comma.",
            "Commas are not allowed anywhere.",
        ),
        ("Punctuate as you like, as long as there is no comma.",),
    ),
    "startend:end_checker": Phrasings(
        (
            "End with exactly these words: '{end_phrase}'",
            "The very last words must be: '{end_phrase}'",
            "Finish with this sentence and write nothing after it: '{end_phrase}'",
        ),
        ("Let this be how the reply ends: '{end_phrase}'",),
    ),
    "startend:quotation": Phrasings(
        (
            "Put the whole answer in double quotation marks.",
            'Wrap everything in double quotes ("...").',
            "Your reply must begin and end with a double quotation mark.",
        ),
        ("Write the entire reply as one quotation, between double quotes.",),
    ),
}


def phrase(template: str, kwargs: Mapping[str, Any]) -> str:
    """Return the sentence that asks for an instruction with these kwargs."""
    shown: dict[str, Any] = {}
    for name, value in kwargs.items():
        if isinstance(value, list):
            shown[name] = _listed([f"'{word}'" for word in value])
        elif name.endswith("relation"):
            count = next(other for other in kwargs.values() if isinstance(other, int))
            shown["bound"] = f"{value} {count}"
        else:
            shown[name] = LANGUAGE_NAMES[value] if name == "language" else value
    return template.format(**shown, **{n: v for n, v in kwargs.items() if n not in shown})


def _listed(words: list[str]) -> str:
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"
