"""Errors of libraries in one line."""


def one_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
