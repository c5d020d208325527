"""Checkers of `startend:*`, `combination:*` and `punctuation:*`: how a response begins and ends."""

from uniapl.words import has_comma


def end_checker(response: str, end_phrase: str) -> bool:
    """Whether the response ends with the phrase, in either case, quotes around it aside."""
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(response: str) -> bool:
    """Whether the whole response stands in double quotes."""
    text = response.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


def two_responses(response: str) -> bool:
    """Whether six asterisks divide the response into two different parts.

    A blank part is ignored at the start and at the end and is a failure elsewhere.
    """
    parts = [part.strip() for part in response.split("******")]
    if not all(parts[1:-1]):
        return False
    filled = [part for part in parts if part]
    return len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(response: str, prompt_to_repeat: str) -> bool:
    """Whether the response starts with the prompt, in either case."""
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def no_comma(response: str) -> bool:
    """Whether there is no comma of any script, such as ， or 、 or ،."""
    return not has_comma(response)


def no_comma_as_published(response: str) -> bool:
    """Whether there is no English comma."""
    return "," not in response
