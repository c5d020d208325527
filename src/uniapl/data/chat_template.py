"""What a chat template writes: the same text on every day, or one line that says why it writes none."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from uniapl.errors import InputError, one_line
from uniapl.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TODAY = datetime(2024, 7, 26)
"""For templates that ask the clock: the same ids on every day. It is the day that Llama 3's template
writes where there is no clock."""

_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


def reads_argument(tokenizer: "PreTrainedTokenizerBase", name: str) -> bool:
    """Return whether the chat template mentions a variable."""
    return re.search(rf"\b{re.escape(name)}\b", chat_template(tokenizer)) is not None


def without_clock(template: str) -> str:
    """Return the template with the day that it would ask for written in."""
    return _CLOCK.sub(lambda call: repr(_TODAY.strftime(call[2])), template)


def chat_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the chat template.

    Raises:
        InputError: there are several, and none is the default.
    """
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise InputError(f"the tokenizer's chat template: {one_line(error)}") from error


def render(tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Message], **arguments: Any) -> str:
    """Return the template's text, as on the same day for ever.

    Raises:
        InputError: the template refuses the turns.
    """
    try:
        rendering = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            tokenize=False,
            chat_template=without_clock(chat_template(tokenizer)),
            **arguments,
        )
    except InputError:
        raise
    except TemplateError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the chat template refuses these messages: {reason}") from error
    except Exception as error:  # of the template's own code: no tools to loop over, say
        raise InputError(f"the chat template fails: {one_line(error)}") from error
    assert isinstance(rendering, str)
    return rendering
