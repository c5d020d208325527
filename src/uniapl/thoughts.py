"""What a model thinks before it answers: `<think>…</think>`, told apart from an answer that only mentions the marks.

A thought begins with `<think>` at the very start of a completion, or in the prompt: many chat templates end
their generation prompt with it. It ends at the first `</think>`. One that never ends is no answer.
"""

import re

OPENING = "<think>"
CLOSING = "</think>"

NO_THOUGHT = f"\n{CLOSING}\n\n"
"""How a completion goes on, after a prompt that opens a thought, if it has none; as Qwen's templates write it."""

_LEFT_OPEN = re.compile(rf"{OPENING}(\s*)\Z")


def left_open(prompt: str) -> bool:
    """Return whether the text of a prompt ends inside a thought, so that a completion goes on with it."""
    return _LEFT_OPEN.search(prompt) is not None


def opening_of(prompt: str) -> str:
    """Return the mark that a prompt ends with, and the blanks after it; nothing if it opens no thought."""
    found = _LEFT_OPEN.search(prompt)
    return found[0] if found else ""


def divide(completion: str, *, begins_thinking: bool = False) -> tuple[str, str]:
    """Return the thoughts and the answer of a completion; the whole is the answer where nothing opens a thought.

    Args:
        completion: With its marks; several thoughts may follow each other.
        begins_thinking: Whether the prompt has opened a thought already.
    """
    thoughts: list[str] = []
    rest, is_open = completion, begins_thinking
    while is_open or rest.lstrip().startswith(OPENING):
        thought, closing, rest = rest.lstrip().removeprefix(OPENING).partition(CLOSING)
        thoughts.append(thought.strip())
        rest, is_open = rest.strip(), False
        if not closing:
            break
    return "\n\n".join(filter(None, thoughts)), rest


def without_thoughts(completion: str, *, begins_thinking: bool = False) -> str:
    """Return the answer of a completion; blank if it was cut off while the model thought. Arguments as `divide`."""
    return divide(completion, begins_thinking=begins_thinking)[1]


def continuing(completion: str, opening: str) -> str:
    """Return how a demonstration goes on after a prompt that has opened a thought.

    Without the mark that the prompt holds already; an answer without thoughts ends the thought first.

    Args:
        completion: Thoughts and answer, with or without the first `<think>`; or an answer alone.
        opening: The prompt's end, as `opening_of` returns it; blank if it opens no thought.
    """
    if not opening:
        return completion
    text = completion.lstrip()
    if text.startswith(OPENING):
        return text.removeprefix(opening) if text.startswith(opening) else text[len(OPENING) :]
    return completion if CLOSING in completion else NO_THOUGHT + completion


def end_of_thoughts(completion: str, *, begins_thinking: bool = False) -> int:
    """Return the number of characters that thoughts take at the start of a completion, marks included."""
    answer = without_thoughts(completion, begins_thinking=begins_thinking)
    return 0 if answer == completion else completion.rindex(answer) if answer else len(completion)
