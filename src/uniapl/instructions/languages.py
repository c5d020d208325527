"""Checker of `language:response_language`."""

from uniapl.instructions.detection import detect


def response_language(response: str, language: str) -> bool:
    """Whether the response is in the language; one that cannot be read is not."""
    return detect(response) == language


def response_language_as_published(response: str, language: str) -> bool:
    """Whether the response is in the language; one that cannot be read passes, as in IFEval."""
    return detect(response) in (language, None)
