"""An expert or a scorer behind vLLM servers, which takes the place of a model in this process.

The expert answers `/v1/completions` on token ids with `prompt_logprobs`, which are those at temperature 1. It renders
prompts by its own chat template (`/tokenize`), and `/detokenize` shows that its tokens are the policy's. A scorer
answers `/pooling`. Every number is checked before anything is learned from it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uniapl.discriminators.servers import Answer, Servers
from uniapl.errors import InputError, TrainingError
from uniapl.models.packing import TokenSequence
from uniapl.types import Message

SEQUENCES_PER_REQUEST = 8
TEXTS_PER_REQUEST = 16
TOKENS_PER_CHECK = 1000
"""Token ids that one request turns into text; as many separators come with them."""
ROUNDING = 1e-3
"""A log-prob above 0 by no more than this is 0, rounded; nats."""


class ServedExpert:
    """Log-probs of given tokens, and renderings of prompts."""

    def __init__(
        self,
        servers: Servers,
        device: torch.device,
        *,
        has_template: bool = True,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare.

        Args:
            servers: Of the expert.
            device: Where log-probs go.
            has_template: Whether prompts are turns; else the expert reads the last one's text alone.
            template_arguments: Of the expert's chat template; those that it does not know change nothing.
        """
        self.servers = servers
        self._device = device
        self._has_template = has_template
        self._arguments = dict(template_arguments or {})
        self._rendered: dict[tuple[tuple[str, str], ...], tuple[int, ...]] = {}

    def logprobs(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """As `TokenScorer.logprobs`."""
        requests = [
            sequences[start : start + SEQUENCES_PER_REQUEST]
            for start in range(0, len(sequences), SEQUENCES_PER_REQUEST)
        ]
        for sequence in sequences:
            self._check_length(sequence)
        bodies = [
            {
                "prompt": [[*s.prompt_ids, *s.completion_ids] for s in request],
                "max_tokens": 1,
                "temperature": 1.0,
                "prompt_logprobs": 1,
            }
            for request in requests
        ]
        answers = self.servers.post("/v1/completions", bodies)
        found = [
            value
            for request, answer in zip(requests, answers, strict=True)
            for value in _completion_logprobs(answer, request)
        ]
        return torch.tensor(found, device=self._device)

    def render(self, turns: Sequence[Message]) -> tuple[int, ...]:
        """Return the ids of a prompt by the expert's own chat template; each is asked for once.

        Raises:
            TrainingError: The server does not answer with token ids.
        """
        key = tuple((turn["role"], turn["content"]) for turn in turns)
        if key not in self._rendered:
            body: dict[str, Any] = {"prompt": turns[-1]["content"]}
            if self._has_template:
                body = {"messages": [dict(turn) for turn in turns], "add_generation_prompt": True}
                if self._arguments:
                    body["chat_template_kwargs"] = self._arguments
            where, content = self.servers.post("/tokenize", [body])[0]
            ids = content.get("tokens") if isinstance(content, Mapping) else None
            if not ids or not isinstance(ids, list) or not all(type(i) is int for i in ids):
                raise TrainingError(f"{where}: no token ids of the prompt")
            self._rendered[key] = tuple(ids)
        return self._rendered[key]

    def check_tokens(self, tokenizer: PreTrainedTokenizerBase, separator: int) -> None:
        """Refuse an expert for which the policy's token ids mean something else.

        Each token is turned into text between two separators: two tokenizers may cut the same text differently.

        Args:
            tokenizer: The policy's.
            separator: A token whose text is in no other one's, such as the end of a turn.

        Raises:
            InputError: A token reads differently there.
            TrainingError: The server does not say.
        """
        ids = sorted(set(tokenizer.get_vocab().values()) - {separator})
        chunks = [ids[i : i + TOKENS_PER_CHECK] for i in range(0, len(ids), TOKENS_PER_CHECK)]
        asked = [[separator, *(j for i in chunk for j in (i, separator))] for chunk in chunks]
        answers = self.servers.post("/detokenize", [{"tokens": tokens} for tokens in asked])
        for chunk, tokens, (where, content) in zip(chunks, asked, answers, strict=True):
            text = content.get("prompt") if isinstance(content, Mapping) else None
            if not isinstance(text, str):
                raise TrainingError(f"{where}: no text of token ids")
            if text != str(tokenizer.decode(tokens)):
                raise InputError(
                    f"{where}: another tokenizer than the policy's: "
                    f"{_difference(chunk, tokens, text, tokenizer)}; log-probs of the policy's tokens need the "
                    "same tokens"
                )

    def _check_length(self, sequence: TokenSequence) -> None:
        context = self.servers.context
        needed = len(sequence.prompt_ids) + len(sequence.completion_ids) + 1
        if context is not None and needed > context:
            raise TrainingError(
                f"{self.servers.urls[0]}: prompt and completion have {needed - 1} tokens and one more must fit; "
                f"the expert reads at most {context}: serve it with a longer --max-model-len"
            )


class ServedTexts:
    """A scorer of texts: `TextScorer` over vLLM's pooling endpoint."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    @property
    def context(self) -> int | None:
        """As `TextScorer.context`."""
        return self.servers.context

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """As `TextScorer.count_tokens`."""
        counts = []
        for where, content in self.servers.post("/tokenize", [{"prompt": text} for text in texts]):
            found = content.get("count") if isinstance(content, Mapping) else None
            if type(found) is not int:
                raise TrainingError(f"{where}: no number of tokens")
            counts.append(found)
        return counts

    def scores(self, texts: Sequence[str]) -> list[float]:
        """As `TextScorer.scores`."""
        requests = [
            texts[start : start + TEXTS_PER_REQUEST]
            for start in range(0, len(texts), TEXTS_PER_REQUEST)
        ]
        # as logits: servers squash a single label by default; `activation` is the name of older versions
        bodies = [
            {"input": list(request), "use_activation": False, "activation": False}
            for request in requests
        ]
        answers = self.servers.post("/pooling", bodies)
        return [
            score
            for request, answer in zip(requests, answers, strict=True)
            for score in _scores(answer, len(request))
        ]


def _completion_logprobs(answer: Answer, sequences: Sequence[TokenSequence]) -> list[float]:
    """Return log p of the completions' tokens in one answer, nats.

    Raises:
        TrainingError: The answer does not hold the log-prob of every token, the prompts' included.
    """
    where, found = answer.where, list[float]()
    choices = _in_order(answer, "choices", len(sequences))
    for choice, sequence in zip(choices, sequences, strict=True):
        ids = (*sequence.prompt_ids, *sequence.completion_ids)
        entries = choice.get("prompt_logprobs")
        if not isinstance(entries, list):
            raise TrainingError(f"{where}: no prompt_logprobs; the expert needs a vLLM server")
        if len(entries) != len(ids):
            raise TrainingError(
                f"{where}: prompt_logprobs of {len(entries)} tokens, asked for {len(ids)}"
            )
        # the first token has no log-prob: nothing stands before it
        values = [
            _logprob(entry, token, place, where)
            for place, (entry, token) in enumerate(zip(entries[1:], ids[1:], strict=True), 1)
        ]
        found += values[len(sequence.prompt_ids) - 1 :]
    return found


def _logprob(entry: Any, token: int, place: int, where: str) -> float:
    """Return the log-prob of a token from `{"<id>": {"logprob": …}}`."""
    own = entry.get(str(token)) if isinstance(entry, Mapping) else None
    if not isinstance(own, Mapping):
        raise TrainingError(f"{where}: prompt_logprobs without token {token} at place {place}")
    value = _number(own.get("logprob"), f"{where}: the log-prob of token {token} at place {place}")
    if value > ROUNDING:
        raise TrainingError(
            f"{where}: the log-prob of token {token} at place {place} is {value}, above 0"
        )
    return min(value, 0.0)


def _scores(answer: Answer, num: int) -> list[float]:
    """Return the score of each text: the only number, or that of its last token.

    Raises:
        TrainingError: A text has no score, or a vector instead.
    """
    found = []
    for entry in _in_order(answer, "data", num):
        value = entry.get("data")
        rows: list[Any] = value if isinstance(value, list) else [value]
        if rows and all(isinstance(row, list) for row in rows):  # one row per token
            rows = rows[-1]
        if len(rows) != 1:
            raise TrainingError(
                f"{answer.where}: {len(rows)} numbers for a text instead of one; discriminator.form reference needs "
                "a reward model, or a classifier with one label"
            )
        found.append(_number(rows[0], f"{answer.where}: the score of a text"))
    return found


def _in_order(answer: Answer, name: str, num: int) -> list[Mapping[str, Any]]:
    """Return the `num` entries of a list in an answer, by their `index`."""
    where, content = answer
    entries = content.get(name) if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
        raise TrainingError(f"{where}: an answer without `{name}`")
    by_index = {e["index"]: e for e in entries if type(e.get("index")) is int}
    if len(entries) != num or set(by_index) != set(range(num)):
        raise TrainingError(f"{where}: {len(entries)} of {num} `{name}` in an answer")
    return [by_index[i] for i in range(num)]


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TrainingError(f"{what} is {value!r}, not a number")
    return float(value)


def _difference(
    chunk: Sequence[int], tokens: list[int], theirs: str, tokenizer: PreTrainedTokenizerBase
) -> str:
    """Say which token of a chunk reads differently, where the separators tell."""
    mark = str(tokenizer.decode([tokens[0]]))
    own_parts, their_parts = str(tokenizer.decode(tokens)).split(mark), theirs.split(mark)
    if mark and len(own_parts) == len(their_parts) == len(chunk) + 2:
        pairs = zip(chunk, own_parts[1:], their_parts[1:], strict=False)
        for token, own, other in pairs:
            if own != other:
                return f"token {token}, {own!r}, reads {other!r} there"
    return f"tokens {chunk[0]} to {chunk[-1]} read differently there"
