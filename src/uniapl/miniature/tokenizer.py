"""The miniature's tokenizer: whole words where it knows them, bytes elsewhere.

A unigram model over byte-level pieces. Every byte of UTF-8 is a piece, so any text round-trips; the frequent
words of the corpus are pieces too and always win, so a sentence costs one token a word.
"""

from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 768
PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (PAD, END, *ROLES)
PAD_ID, END_ID = 0, 1
"""The special tokens come first, in the order of `SPECIAL`."""

# The byte-level alphabet writes these bytes as the characters of the same number.
_NEVER_IN_UTF8 = {chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A role token, the text, `<|end|>`; nothing between the turns."""


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make the tokenizer from a corpus: the most frequent words fill the vocabulary."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - _NEVER_IN_UTF8)
    by_frequency = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [piece for piece, _ in by_frequency if len(piece) > 1]
    # Equal scores for words, far lower ones for bytes: fewest pieces win, so a known word is whole.
    pieces = [(token, 0.0) for token in SPECIAL] + [(byte, -10.0) for byte in alphabet]
    pieces += [(word, -1.0) for word in words[: VOCAB_SIZE - len(pieces)]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )
