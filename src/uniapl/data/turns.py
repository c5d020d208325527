"""Texts and turns out of a column's value, checked: what the shapes of `shapes.py` are made of.

A turn is `{role, content}` or ShareGPT's `{from, value}`; its content is text or a list of text parts, which are
joined by a line break. Tools and images are refused: there is no shape for them in training.
"""

from collections.abc import Mapping
from typing import Any

from uniapl.errors import InputError
from uniapl.types import INSTRUCTING, Message

_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Names of roles that the field uses; a turn of any other is refused."""

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys in which others keep a turn's thoughts; a completion holds its own in `<think>`."""


def text_value(value: Any, what: str) -> str:
    """Check that a value is text and not blank."""
    if not isinstance(value, str):
        raise InputError(f"{what} must be text, got {type(value).__name__}")
    if not value.strip():
        raise InputError(f"{what} is blank")
    return value


def prompt_value(value: Any, column: str) -> str | tuple[Message, ...]:
    """Check a prompt: text, or turns of which the last is the user's."""
    if isinstance(value, str):
        return text_value(value, f"`{column}`")
    turns = turns_value(value, column, "text or a list of turns")
    if turns[-1]["role"] != "user":
        raise InputError(f"`{column}` must end in a user turn, the last is `{turns[-1]['role']}`")
    return turns


def completion_value(value: Any, column: str) -> str:
    """Check a completion: text, or one assistant turn, in a list or not."""
    if isinstance(value, str):
        return text_value(value, f"`{column}`")
    given = [value] if isinstance(value, Mapping) else value
    turns = turns_value(given, column, "text or one assistant turn")
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(f"`{column}` must be one assistant turn, got: {roles}")
    return _learned(turns[0], f"`{column}`")


def split_turns(
    turns: tuple[Message, ...], needs_completion: bool, column: str
) -> tuple[tuple[Message, ...], str | None]:
    """Return the prompt's turns and the completion, the assistant's last turn, if there is one."""
    *before, last = turns
    if last["role"] != "assistant":
        if needs_completion or last["role"] != "user":
            expected = "an assistant turn" if needs_completion else "a user turn"
            raise InputError(f"`{column}` must end in {expected}, the last is `{last['role']}`")
        return turns, None
    if not before or before[-1]["role"] != "user":
        found = f"a turn of `{before[-1]['role']}`" if before else "nothing"
        raise InputError(
            f"`{column}` needs a user turn before the last assistant turn, has {found}"
        )
    text_value(before[-1]["content"], "the last user turn")
    return tuple(before), _learned(last, "the last assistant turn")


def _learned(turn: Message, what: str) -> str:
    """Return the text of the turn that is learned; thoughts beside it would be lost."""
    if key := next((key for key in _REASONING if turn.get(key)), None):
        raise InputError(
            f"{what} has its thoughts in `{key}`; write <think>…</think> before the answer"
        )
    return text_value(turn["content"], what)


def is_blank(value: Any) -> bool:
    """Return whether a column that a row may lack says nothing: null, an empty list, or blanks."""
    return value is None or value in ([], ()) or (isinstance(value, str) and not value.strip())


def with_system(prompt: str | tuple[Message, ...], system: Any) -> str | tuple[Message, ...]:
    """Put a row's system prompt before its prompt; a blank one is none."""
    if is_blank(system):
        return prompt
    turn = {"role": "system", "content": text_value(system, "`system`")}
    if isinstance(prompt, str):
        return turn, {"role": "user", "content": prompt}
    if prompt[0]["role"] in INSTRUCTING:
        raise InputError("`system` and a system turn both give a system prompt; remove one")
    return turn, *prompt


def turns_value(value: Any, column: str, expected: str = "a list of turns") -> tuple[Message, ...]:
    """Check a list of turns; `expected` says in the message what the column takes."""
    if not isinstance(value, list | tuple) or not value:
        kind = "an empty list" if value in ([], ()) else type(value).__name__
        raise InputError(f"`{column}` must be {expected}, got {kind}")
    return tuple(turn_value(turn, f"{column}[{index}]") for index, turn in enumerate(value))


def turn_value(turn: Any, where: str) -> Message:
    """Check one turn, in OpenAI's or ShareGPT's keys; further keys may hold text only."""
    if not isinstance(turn, Mapping):
        raise InputError(f"`{where}` must be a turn (role and content), got {type(turn).__name__}")
    # tables give every turn every key: null, and the empty list that stands for no tool calls, say nothing
    present = {key: value for key, value in turn.items() if value is not None and value != []}
    if "from" in present and "role" not in present:
        present["role"] = present.pop("from")
        if "content" not in present and "value" in present:
            present["content"] = present.pop("value")
    role = present.get("role")
    if not isinstance(role, str):
        raise InputError(f"`{where}` needs `role` (or `from`) as text, got {role!r:.60}")
    for key in ("tool_calls", "function_call"):
        if key in present:
            raise InputError(f"`{where}` carries `{key}`; tools are not supported, only text is")
    if role not in _ROLES:
        known = ", ".join(_ROLES)
        raise InputError(f"`{where}` is a turn of {role!r:.60}; supported are {known}, no tools")
    present["role"] = _ROLES[role]
    present["content"] = content_text(present.get("content"), where)
    for key, value in present.items():
        if not isinstance(value, str):
            raise InputError(f"`{where}` carries `{key}`; only turns of text are supported")
    return present


def content_text(content: Any, where: str) -> str:
    """Return a turn's text; parts of text are joined by a line break, as vLLM joins them for text templates."""
    if not isinstance(content, list | tuple):
        if not isinstance(content, str):
            raise InputError(f"`{where}` needs `content` (or `value`) as text, got {content!r:.60}")
        return content
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise InputError(f"`{where}` holds a part of type {kind!r:.60}; only text is supported")
        texts.append(part["text"])
    return "\n".join(texts)
