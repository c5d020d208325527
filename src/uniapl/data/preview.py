"""Shows a person what the policy will see and learn: demonstrations, token by token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from uniapl.data.chat import decode_plainly
from uniapl.types import Demonstration

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def preview(
    demonstrations: Sequence[Demonstration],
    tokenizer: "PreTrainedTokenizerBase",
    count: int = 2,
    *,
    show_ids: bool = False,
    color: bool = False,
) -> str:
    """Return the first demonstrations as the policy will see them, for a terminal.

    Lines of the prompt start with a blank, lines of the completion, which is trained on, with `+`; every
    trained token stands in brackets, the end of the turn included.

    Args:
        show_ids: Put each token's id before its text, in the prompt too.
        color: Dim the prompt and colour the completion with ANSI codes.
    """
    blocks = []
    for demonstration in demonstrations[:count]:
        prompt_ids, completion_ids = demonstration.prompt.token_ids, demonstration.token_ids
        head = (
            f"demonstration {demonstration.prompt.id}: {len(prompt_ids)} prompt tokens, "
            f"{len(completion_ids)} completion tokens"
        )
        prompt = (
            _bracketed(tokenizer, prompt_ids, show_ids)
            if show_ids
            else decode_plainly(tokenizer, prompt_ids)
        )
        completion = _bracketed(tokenizer, completion_ids, show_ids)
        blocks.append(
            "\n".join(
                (
                    head,
                    _lines(prompt, "  ", "\x1b[2m" if color else ""),
                    _lines(completion, "+ ", "\x1b[32m" if color else ""),
                )
            )
        )
    legend = "+ [token]: trained on; the other lines are the prompt"
    return "\n\n".join([*blocks, legend])


def _lines(text: str, margin: str, style: str) -> str:
    reset = "\x1b[0m" if style else ""
    return "\n".join(f"{style}{margin}{line}{reset}" for line in text.split("\n"))


def _bracketed(
    tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int], show_ids: bool
) -> str:
    """Return each token in brackets; tokens that only together make a character share theirs."""
    pieces: list[str] = []
    pending: list[int] = []
    before = ""
    for position, token in enumerate(token_ids, start=1):
        pending.append(token)
        after = decode_plainly(tokenizer, token_ids[:position])
        if after.endswith("\ufffd") and position < len(token_ids):
            continue
        shown = after[len(before) :].replace("\n", "\\n")
        ids = " ".join(str(one) for one in pending) + " " if show_ids else ""
        # the line break is shown where the text has one, outside the bracket that names it
        pieces.append(f"[{ids}{shown}]" + "\n" * after[len(before) :].count("\n"))
        before, pending = after, []
    return "".join(pieces).rstrip("\n")
