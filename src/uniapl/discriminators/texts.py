"""What a `reference` scorer reads, one plain text for each completion, and a scorer in this process."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uniapl.config.checks import PAIR_TEMPLATES
from uniapl.errors import InputError, TrainingError
from uniapl.models.sequence_classifier import Encoded, SequenceClassifier
from uniapl.thoughts import without_thoughts
from uniapl.types import Demonstration, Prompt

_FIELD = re.compile(r"\{(?:prompt|reference|candidate)\}")
_MARK = re.compile(r"<\|[^<>|]*\|>|\[[A-Z][A-Z0-9_]*\]")
"""How tokenizers spell the tokens by which a template tells its parts apart."""

LONGEST_TEXTS = 32
"""So many texts, the longest ones, are measured before the first step."""


class TextScorer(Protocol):
    """Says how good plain texts are."""

    @property
    def context(self) -> int | None:
        """Most tokens it can read, if it says so."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text.

        Raises:
            TrainingError: A server does not say.
        """
        ...

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Return the logit of each text, high = good, without gradient.

        Raises:
            TrainingError: A text is too long, or a server does not answer with one number per text.
        """
        ...


class PairText:
    """Writes prompt, the expert's completion and a candidate into one text."""

    def __init__(self, template: str) -> None:
        """Prepare.

        Args:
            template: The name of one, or its text with `{prompt}`, `{reference}` and `{candidate}`.
        """
        self._template = PAIR_TEMPLATES.get(template, template)
        self._marks = set(_MARK.findall(_FIELD.sub(" ", self._template)))

    def __call__(self, prompt: Prompt, reference: str, candidate: str) -> str:
        """Return the text; a prompt of several turns is their contents, one after another, as POLAR reads them."""
        turns = "\n".join(turn["content"] for turn in prompt.messages)
        fields = {"{prompt}": turns, "{reference}": reference, "{candidate}": candidate}
        # in one pass: a text may spell out a field's name
        return _FIELD.sub(lambda field: self._plain(fields[field[0]]), self._template)

    def _plain(self, text: str) -> str:
        """Break up the template's marks: a completion must not write the end of its own text."""
        for mark in self._marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text


class SecondTexts:
    """The expert's texts by prompt, thoughts left out.

    The score of the reference itself says nothing, since the scorer then reads the same text twice. Only another text
    of the expert shows how the expert's completions score.
    """

    def __init__(self, demonstrations: Sequence[Demonstration]) -> None:
        self._texts: dict[tuple[int, ...], list[str]] = {}
        for demonstration in demonstrations:
            texts = self._texts.setdefault(demonstration.prompt.token_ids, [])
            if (text := answer_of(demonstration)) not in texts:
                texts.append(text)

    def other(self, demonstration: Demonstration) -> str | None:
        """Return the text that comes after this one among those of its prompt; None if there is no other."""
        texts = self._texts.get(demonstration.prompt.token_ids, [])
        if len(texts) < 2:
            return None
        return texts[(texts.index(answer_of(demonstration)) + 1) % len(texts)]

    @property
    def num_prompts(self) -> int:
        """Prompts that have two different texts."""
        return sum(len(texts) > 1 for texts in self._texts.values())


def answer_of(demonstration: Demonstration) -> str:
    """Return the expert's completion without its thoughts."""
    return without_thoughts(demonstration.completion)


class LocalTexts:
    """A sequence-classification model in this process; texts are read as its tokenizer reads plain text."""

    def __init__(
        self,
        classifier: SequenceClassifier,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Prepare.

        Args:
            classifier: Scores.
            tokenizer: The classifier's.
            batch_tokens: Of one forward, padding included.
            dtype: Number type of matrix products.
        """
        self.classifier = classifier
        self.tokenizer = tokenizer
        self._batch_tokens = batch_tokens
        self._dtype = dtype

    @property
    def context(self) -> int | None:
        """As `TextScorer.context`."""
        return self.classifier.context

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """As `TextScorer.count_tokens`."""
        return [len(self._read(text)["input_ids"]) for text in texts]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """As `TextScorer.scores`."""
        with self._autocast():
            return self.classifier.scores(self._encode(texts), self._batch_tokens)

    def backward(self, texts: Sequence[str], slopes: Sequence[float]) -> None:
        """Add to the weights the gradient of Σ slope · score over the texts."""
        with self._autocast():
            self.classifier.backward(self._encode(texts), slopes, self._batch_tokens)

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write an ordinary sequence-classification folder."""
        self.classifier.save(folder, self.tokenizer, dtype)

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        read = list(map(self._read, texts))
        longest = max((len(text["input_ids"]) for text in read), default=0)
        if self.context is not None and longest > self.context:
            raise TrainingError(
                f"discriminator: a text has {longest} tokens and the scorer reads at most {self.context}: shorten "
                "demonstrations or lower rollout.max_completion_tokens"
            )
        return read

    def _read(self, text: str) -> Encoded:
        return dict(self.tokenizer(text, return_attention_mask=False, verbose=False))

    def _autocast(self) -> torch.autocast:
        device, is_wide = self.classifier.model.device.type, self._dtype.itemsize >= 4
        return torch.autocast(device, self._dtype, enabled=not is_wide)


def check_text_sizes(
    scorer: TextScorer, write: PairText, demonstrations: Sequence[Demonstration], room: int
) -> None:
    """Refuse a scorer that could not read a long completion beside the longest demonstrations.

    Args:
        scorer: Whose tokens count; a completion's are taken to be as many as the policy's.
        write: Makes the texts.
        demonstrations: What stands beside completions.
        room: Most tokens of a completion.

    Raises:
        InputError: A text would not fit.
    """
    if scorer.context is None:
        return
    texts = {write(d.prompt, answer_of(d), ""): d.prompt.id for d in demonstrations}
    longest = sorted(texts, key=len, reverse=True)[:LONGEST_TEXTS]
    for text, num_tokens in zip(longest, scorer.count_tokens(longest), strict=True):
        if num_tokens + room > scorer.context:
            raise InputError(
                f"discriminator: prompt {texts[text]} and its demonstration have {num_tokens} tokens; with {room} of "
                f"a completion the scorer cannot read them, at most {scorer.context}: leave the demonstration out or "
                "lower rollout.max_completion_tokens"
            )
