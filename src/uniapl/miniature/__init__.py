"""The embedded default: a tiny model, its tokenizer and a writing task whose grammar is known.

`MODEL` and `EXPERT` are ordinary model folders, `DATA` holds ordinary data files; training, evaluation and the
report read them like any other. `python -m uniapl.miniature.build` makes all again.
"""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""A Qwen3-architecture causal LM of about two million parameters, weights stored in bfloat16."""
DATA = Path(__file__).parent / "data"
"""`demonstrations.jsonl`, `prompts.jsonl`, `validation.jsonl` and `test.jsonl`.

`second_texts.jsonl` has the rows of `demonstrations.jsonl` with another completion of the expert.
"""
EXPERT = Path(__file__).parent / "expert"
"""The known expert: `MODEL` after many texts of the expert, with the same tokenizer."""
