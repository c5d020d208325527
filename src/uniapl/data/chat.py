"""The one place where chat turns become token ids (`preview.py` shows them to a person).

The reader hands in messages and texts; prompts and demonstrations leave with ids. The policy samples
after exactly these prompt ids, and an expert's completion is encoded as the policy would sample it, so
nothing about the format tells one from the other.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from uniapl.data.chat_template import chat_template, reads_argument, render, without_clock
from uniapl.errors import InputError
from uniapl.thoughts import CLOSING, NO_THOUGHT, OPENING, continuing, end_of_thoughts, opening_of
from uniapl.types import INSTRUCTING, Message

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

_BREAK = "\ufdd0"
"""A Unicode noncharacter: no text means anything by it, so it can mark where to cut a rendering."""

_PROBE = "Certainly."
"""An assistant turn to see what the template writes after one."""

_QUESTION = "Will you?"
"""A user turn to see whether the template writes what a turn says."""

_OURS = (
    "messages",
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "documents",
    "tokenize",
    "tools",
)
"""What only this module passes to a template, or nobody."""


def eos_token_ids(
    tokenizer: "PreTrainedTokenizerBase", generation_config: Any = None
) -> tuple[int, ...]:
    """Return every token that ends a completion: the tokenizer's own first, then the generation config's.

    Args:
        generation_config: The model's; only its `eos_token_id` (an id, a list or None) is read.

    Raises:
        InputError: there is none.
    """
    configured = getattr(generation_config, "eos_token_id", None)
    candidates: list[Any] = [tokenizer.eos_token_id]
    candidates += configured if isinstance(configured, list | tuple) else [configured]
    found = tuple(
        dict.fromkeys(int(candidate) for candidate in candidates if candidate is not None)
    )
    if not found:
        raise InputError(
            "neither the tokenizer nor the generation config names an EOS token: completions could not "
            "end; set eos_token in tokenizer_config.json"
        )
    return found


def turn_end_token_id(tokenizer: "PreTrainedTokenizerBase", generation_config: Any = None) -> int:
    """Return the token that ends an assistant turn.

    The EOS token that the chat template writes right after an assistant's text; without a template, or
    where the template writes something else, the first EOS token.

    Raises:
        InputError: there is no EOS token.
    """
    ends = eos_token_ids(tokenizer, generation_config)
    if not tokenizer.chat_template:
        return ends[0]
    written = tokenizer.encode(_written_after_a_turn(tokenizer), add_special_tokens=False)
    return next((token for token in written if token in ends), ends[0])


def _written_after_a_turn(tokenizer: "PreTrainedTokenizerBase") -> str:
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _PROBE}]
    rendering = render(tokenizer, turns, add_generation_prompt=False)
    return rendering.rpartition(_PROBE)[2]


class Chat:
    """A tokenizer with its chat template, and how a run uses both.

    Example:
        chat = Chat(tokenizer, generation_config=model.generation_config)
        prompt_ids = chat.encode_prompt([{"role": "user", "content": "Write about the sea."}])
        completion_ids = chat.encode_completion("The sea is calm.")
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        generation_config: Any = None,
        system_prompt: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare the tokenizer.

        Args:
            system_prompt: Put before prompts that have no system turn.
            template_arguments: Passed to the template, such as `{"enable_thinking": False}`.

        Raises:
            InputError: no EOS token; a system prompt or arguments without a chat template to read them; an
                argument that the template does not read; or a template that fails, or leaves out what turns say.
        """
        for name, given in (
            ("system_prompt", system_prompt is not None),
            ("template_arguments", bool(template_arguments)),
        ):
            if given and not tokenizer.chat_template:
                raise InputError(
                    f"{name} needs a tokenizer with a chat template; this one has none"
                )
        for name in template_arguments or {}:
            if name in _OURS or not reads_argument(tokenizer, name):
                raise InputError(
                    f"template_arguments: the chat template takes no argument {name!r}"
                )
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.eos_token_ids = eos_token_ids(tokenizer, generation_config)
        self.turn_end_token_id = turn_end_token_id(tokenizer, generation_config)
        self._template_arguments = dict(template_arguments or {})
        if tokenizer.chat_template:
            self._check_template()

    def _check_template(self) -> None:
        """Refuse a template that writes nothing of a turn of text, as one that expects images beside it."""
        turns = [{"role": "user", "content": _QUESTION}]
        rendering = render(
            self.tokenizer, turns, add_generation_prompt=True, **self._template_arguments
        )
        if _QUESTION.casefold() not in rendering.casefold():
            raise InputError(
                "the chat template leaves out what a turn says; content must be read as text, not as parts "
                f"(a user turn of {_QUESTION!r} became {rendering!r:.80})"
            )

    def warnings(self) -> list[str]:
        """Return a line for each thing about the template that goes wrong without an error."""
        if not self.tokenizer.chat_template:
            return []
        lines: list[str] = []
        suffix = _written_after_a_turn(self.tokenizer)
        end = decode_plainly(self.tokenizer, [self.turn_end_token_id])
        if end not in suffix:
            written = repr(suffix) if suffix else "nothing"
            lines.append(
                f"the chat template writes {written} after an assistant turn, which is no EOS token: the policy "
                f"learns to end with {end} instead; to change that, name the right one as eos_token_id in the "
                "model's generation_config.json"
            )
        switch = "enable_thinking"
        if reads_argument(self.tokenizer, switch) and switch not in self._template_arguments:
            lines.append(
                "the chat template can switch thinking on and off, and nothing says which: set "
                f"data.template_arguments={{{switch}: false}}, or true if the demonstrations think"
            )
        if self._opening:
            lines.append(
                f"the chat template opens a thought ({OPENING}) before each completion: a demonstration without "
                f"{CLOSING} is learned as an empty thought and an answer, and a completion that never leaves "
                "its thoughts is a blank answer; a template that opens none trains without thinking"
            )
        return lines

    def messages(self, prompt: str | Sequence[Message]) -> tuple[Message, ...]:
        """Return the turns of a prompt: a string is one user turn; the system prompt first if it lacks one."""
        turns = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
        if self.system_prompt is None or any(turn["role"] in INSTRUCTING for turn in turns):
            return turns
        return ({"role": "system", "content": self.system_prompt}, *turns)

    def encode_prompt(self, prompt: str | Sequence[Message]) -> tuple[int, ...]:
        """Return the ids of a prompt, ready to be continued.

        A string is one user turn; where the tokenizer has no chat template it is encoded as it is. Special
        tokens that the text merely spells out are encoded as text.

        Raises:
            InputError: the template refuses the turns, or there are turns but no template.
        """
        if self.tokenizer.chat_template:
            return self._encode_turns(self.messages(prompt))
        if not isinstance(prompt, str):
            raise InputError("messages need a tokenizer with a chat template; this one has none")
        ids = self.tokenizer.encode(prompt, split_special_tokens=True)
        # some tokenizers also add an EOS; a prompt that is to be continued must not end
        while ids and ids[-1] in self.eos_token_ids:
            ids = ids[:-1]
        return tuple(ids)

    def encode_turns(self, turns: Sequence[Message]) -> tuple[int, ...]:
        """Return the ids of a prompt's turns; of the last one's text where the tokenizer has no chat template.

        Raises:
            InputError: the template refuses the turns.
        """
        return self.encode_prompt(turns if self.tokenizer.chat_template else turns[-1]["content"])

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """Return what the policy would have sampled to say `text`: its tokens and the end of the turn.

        The text is encoded apart from the prompt, as sampling starts after the prompt's last token; a
        template would trim it or merge its first token with the generation prompt. Where the template opens a
        thought, the text's thoughts go on from there, and an answer without thoughts first ends it.
        """
        begins_thinking = bool(self._opening)
        text = continuing(text, self._opening)
        end = end_of_thoughts(text, begins_thinking=begins_thinking)
        if end and not {OPENING, CLOSING}.isdisjoint(self._special_names):
            ids = self._encode_pieces(self._broken(text, end))
        else:
            ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return (*ids, self.turn_end_token_id)

    def encode_conversation(
        self, prompt: str | Sequence[Message], completion: str
    ) -> tuple[int, ...]:
        """Return the ids of a finished exchange, as a reward model reads it.

        The template's rendering of all turns. Where that is nothing but the prompt, the completion and the
        end of the turn, the completion is encoded apart from the prompt, as everywhere else in a run.
        """
        apart = (*self.encode_prompt(prompt), *self.encode_completion(completion))
        if not self.tokenizer.chat_template:
            return apart
        before = self.messages(prompt)
        turns = (*before, {"role": "assistant", "content": completion})
        whole = render(
            self.tokenizer, turns, add_generation_prompt=False, **self._template_arguments
        )
        begun = render(
            self.tokenizer, before, add_generation_prompt=True, **self._template_arguments
        )
        if whole == begun + continuing(completion, self._opening) + self._turn_end:
            return apart
        return self._encode_turns(turns, add_generation_prompt=False)

    def conversation_tokenizer(self) -> "PreTrainedTokenizerBase":
        """Return a copy of the tokenizer whose template renders finished exchanges as a discriminator reads them.

        Any tool that applies it feeds the discriminator what it was trained on: the template's arguments and
        date, the system prompt, the prompt, the completion and the end of the turn, where the model's own
        template may trim the completion, or write more after it (ChatML's line break).
        """
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.eos_token = self._turn_end
        if tokenizer.chat_template:
            tokenizer.chat_template = self._conversation_template()
        return tokenizer

    def _conversation_template(self) -> str:
        own = without_clock(chat_template(self.tokenizer)).removesuffix("\n")
        arguments = "".join(
            f"{{% set {name} = {json.dumps(value, ensure_ascii=False)} %}}"
            for name, value in self._template_arguments.items()
        )
        system = ""
        if self.system_prompt is not None:
            turn = {"role": "system", "content": self.system_prompt}
            system = (
                "{% if messages | selectattr('role', 'equalto', 'system') | list | length == 0 %}"
                f"{{% set messages = [{json.dumps(turn, ensure_ascii=False)}] + messages %}}{{% endif %}}"
            )
        # Line breaks after a block are dropped, and one at the end of a template is.
        opening, empty = json.dumps(self._opening), json.dumps(NO_THOUGHT)
        continued = (
            f"{{% if answer.startswith({opening}) %}}{{% set answer = answer[{len(self._opening)}:] %}}"
            f"{{% elif '{OPENING}' == answer[:{len(OPENING)}] %}}{{% set answer = answer[{len(OPENING)}:] %}}"
            f"{{% elif '{CLOSING}' not in answer %}}{{% set answer = {empty} + answer %}}{{% endif %}}"
            if self._opening
            else ""
        )
        return (
            f"{arguments}{{% set answer = none %}}"
            "{% if messages[-1]['role'] == 'assistant' %}"
            f"{{% set answer = messages[-1]['content'] %}}{continued}"
            "{% set messages = messages[:-1] %}"
            "{% set add_generation_prompt = true %}"
            f"{{% endif %}}{system}\n"
            f"{own}{{% if answer is not none %}}"
            f"{{{{ answer + {json.dumps(self._turn_end, ensure_ascii=False)} }}}}{{% endif %}}"
        )

    def decode_completion(self, token_ids: Sequence[int]) -> str:
        """Return the text of sampled tokens, without the EOS token that ended them."""
        ids = list(token_ids)
        if ids and ids[-1] in self.eos_token_ids:
            ids.pop()
        return decode_plainly(self.tokenizer, ids)

    @property
    def _turn_end(self) -> str:
        """The text of the token that ends an assistant turn."""
        return str(self.tokenizer.convert_ids_to_tokens(self.turn_end_token_id))

    def _encode_turns(
        self, turns: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> tuple[int, ...]:
        marked = [
            {key: self._broken_turn(turn["role"], text) for key, text in turn.items()}
            for turn in turns
        ]
        rendering = render(
            self.tokenizer,
            marked,
            add_generation_prompt=add_generation_prompt,
            **self._template_arguments,
        )
        return tuple(self._encode_pieces(rendering))

    def _encode_pieces(self, text: str) -> list[int]:
        """Encode a text cut at its breaks; almost always one piece, encoded as apply_chat_template would."""
        return [
            token
            for piece in text.split(_BREAK)
            for token in self.tokenizer.encode(piece, add_special_tokens=False)
        ]

    def _broken_turn(self, role: str, text: str) -> str:
        """Return a turn's text in which nothing but real thoughts of an assistant can pass for a special token.

        Templates cut an assistant's turn at `</think>`; where it is only mentioned, it is broken too.
        """
        if role != "assistant":
            return self._broken(text, 0)
        end = end_of_thoughts(text, begins_thinking=bool(self._opening))
        return self._broken(text, end) if end else self._broken(text, 0, CLOSING)

    def _broken(self, text: str, end: int, *also: str) -> str:
        """Return a text with a break in each special token that it spells out, and in `also`.

        Args:
            end: Before this character the marks of a thought stay whole.
        """

        def broken(first: re.Match[str]) -> str:
            at = first.start()
            is_mark = at < end and text.startswith((OPENING, CLOSING), at)
            return first[1] if is_mark else first[1] + _BREAK

        return _first_characters((*self._special_names, *also)).sub(broken, text)

    @cached_property
    def _special_names(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.special}
        names.update(self.tokenizer.all_special_tokens)
        # a special token of one character cannot be broken
        return tuple(sorted(name for name in names if len(name) > 1))

    @cached_property
    def _opening(self) -> str:
        """The end of a generation prompt that opens a thought; blank if it opens none."""
        if not self.tokenizer.chat_template:
            return ""
        return opening_of(
            render(
                self.tokenizer,
                self.messages("Will you?"),
                add_generation_prompt=True,
                **self._template_arguments,
            )
        )


def other_chat(
    tokenizer: "PreTrainedTokenizerBase",
    template_arguments: Mapping[str, Any],
    generation_config: Any = None,
) -> Chat:
    """Return how another model than the policy reads the run's prompts: by its own template.

    Arguments of the policy's template count as far as this one knows them. A prompt holds its system turn already.
    """
    known = {
        name: value
        for name, value in template_arguments.items()
        if tokenizer.chat_template and reads_argument(tokenizer, name)
    }
    return Chat(tokenizer, generation_config=generation_config, template_arguments=known)


@cache
def _first_characters(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return what matches the first character of each name in a text, where a break unmakes it."""
    spelled_out = "|".join(map(re.escape, names)) or "(?!)"  # `(?!)` matches nothing
    return re.compile(rf"(?=(?:{spelled_out}))(.)", re.DOTALL)


def decode_plainly(tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int]) -> str:
    """Return the text of tokens, special ones included, and nothing else."""
    # cleaning up spaces would make text that was never sampled
    text = tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
