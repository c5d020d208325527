"""What stops a command, and how an error of somebody else's code becomes one line."""


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that says what, where and what to do."""


class TrainingError(RuntimeError):
    """A run cannot go on (a loss that is not finite, a reward that raised); one line, no traceback."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the first line of what an error says, or its type if it says nothing; cut after `limit` characters."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if len(line) <= limit else line[: limit - 1] + "…"
