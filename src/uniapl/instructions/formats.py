"""Checkers of `detectable_content:*` and `detectable_format:*`: marks that shape a response.

IFEval reads a section's name and a postscript's marker as regular expressions; the plain functions
take them literally, the `_by_pattern` ones as IFEval does.
"""

import json
import re

from uniapl.instructions.arguments import InstructionError

CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}


def number_placeholders(response: str, num_placeholders: int) -> bool:
    """Whether there are at least so many placeholders in square brackets, such as [address]."""
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def postscript(response: str, postscript_marker: str) -> bool:
    """Whether the marker occurs in either case; "P.S." and "P.P.S" allow a blank inside."""
    marker = postscript_marker.strip()
    pattern = _POSTSCRIPTS.get(marker) or re.escape(marker.lower())
    return re.search(pattern, response.lower()) is not None


def postscript_by_pattern(response: str, postscript_marker: str) -> bool:
    """Whether the marker, read as a regular expression, occurs."""
    marker = postscript_marker.strip()
    pattern = _POSTSCRIPTS.get(marker) or marker.lower()
    return _compile(pattern, marker).search(response.lower()) is not None


def number_bullet_lists(response: str, num_bullets: int) -> bool:
    """Whether exactly so many lines are bullet points: `* point` or `- point`.

    `**bold**` at the start of a line is no bullet; `---` is one.
    """
    stars = re.findall(r"^\s*\*[^*].*$", response, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", response, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(response: str) -> bool:
    """Whether one of the three allowed answers occurs."""
    return any(answer in response for answer in CONSTRAINED_RESPONSES)


def number_highlighted_sections(response: str, num_highlights: int) -> bool:
    """Whether there are at least so many `*highlights*` or `**highlights**` that are not blank."""
    single = re.findall(r"\*[^\n*]*\*", response)
    double = re.findall(r"\*\*[^\n*]*\*\*", response)
    count = sum(bool(part.strip("*").strip()) for part in single)
    count += sum(bool(part[2:-2].strip()) for part in double)
    return count >= num_highlights


def multiple_sections(response: str, section_spliter: str, num_sections: int) -> bool:
    """Whether the section's name stands before a number at least so often: "SECTION 1"."""
    name = section_spliter.strip()
    return _count_sections(response, re.escape(name), name) >= num_sections


def multiple_sections_by_pattern(response: str, section_spliter: str, num_sections: int) -> bool:
    """Whether the name, read as a regular expression, stands before a number often enough."""
    name = section_spliter.strip()
    return _count_sections(response, name, name) >= num_sections


def json_format(response: str) -> bool:
    """Whether the whole response is a JSON object or array, with or without a Markdown fence.

    A lone JSON string or number is refused: quotes around an ordinary answer would be enough.
    """
    try:
        value = json.loads(_unfenced(response), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list)


def json_format_of_any_value(response: str) -> bool:
    """Whether Python reads the whole response as JSON, so also `"text"`, `5` and `NaN`."""
    try:
        json.loads(_unfenced(response))
    except (ValueError, RecursionError):
        return False
    return True


def title(response: str) -> bool:
    """Whether a title that is not blank stands in double angular brackets: <<title>>."""
    titles = re.findall(r"<<[^\n]+>>", response)
    return any(part.lstrip("<").rstrip(">").strip() for part in titles)


def _count_sections(response: str, pattern: str, name: str) -> int:
    return sum(1 for _ in _compile(rf"\s?{pattern}\s?\d+\s?", name).finditer(response))


def _compile(pattern: str, given: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as problem:
        raise InstructionError(
            f"official scoring reads {given!r} as a regular expression, which it is not: {problem}"
        ) from None


def _unfenced(response: str) -> str:
    text = response.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    return text.removesuffix("```").strip()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
