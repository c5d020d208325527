"""`uniapl chat`: talk to a run or a model, if asked beside the model before training."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from uniapl.commands.common import add_decoding, given_decoding
from uniapl.errors import InputError

if TYPE_CHECKING:
    from uniapl.evaluation.conversation import Conversation

_RESET = "/reset"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    parser.add_argument("model", metavar="RUN|MODEL", help="run folder, model folder or hub id")
    parser.add_argument(
        "--compare", action="store_true", help="the model before training answers too; of a run"
    )
    add_decoding(
        parser, temperature="the run's evaluation.temperature; of a model 0", max_tokens="512"
    )
    parser.set_defaults(handler=_chat)


def _chat(options: argparse.Namespace) -> None:
    from uniapl.evaluation.conversation import load_conversations

    given = given_decoding(options)
    conversations = load_conversations(options.model, given, compares=options.compare)
    first = next(iter(conversations.values()))
    _tell(f"{options.model} at temperature {first.decoding.temperature:g}")
    _tell(f"{_RESET} begins again, Ctrl-C ends an answer, Ctrl-D ends the conversation")
    if not first.remembers:
        _tell("the model has no chat template: it continues each text by itself")
    for line in _lines():
        if line == _RESET:
            for conversation in conversations.values():
                conversation.reset()
            _tell("begun again")
            continue
        for name, conversation in conversations.items():
            if len(conversations) > 1:
                print(f"[{name}]")
            if not _answer(conversation, line):
                break


def _answer(conversation: "Conversation", line: str) -> bool:
    """Print an answer as it comes; return False where the user or an error ended it."""
    try:
        has_ended = conversation.reply(line, _show)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print()
        _tell("interrupted; this turn is forgotten")
        return False
    except InputError as error:
        if not sys.stdin.isatty():
            raise
        _tell(str(error))
        return False
    print()
    if not has_ended:
        _tell("cut off by the limit of tokens; --max-tokens raises it")
    return True


def _lines() -> Iterator[str]:
    """Yield what the user says until there is no more; blank lines say nothing."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        import readline  # noqa: F401  # arrow keys and history at the prompt
    while True:
        try:
            line = input("> ") if is_terminal else next(sys.stdin)
        except (EOFError, StopIteration):
            if is_terminal:
                print()
            return
        if line.strip():
            yield line.strip()


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _tell(line: str) -> None:
    """Say something that is no answer, so that answers alone can be piped on."""
    print(line, file=sys.stderr, flush=True)
