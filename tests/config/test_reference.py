from pathlib import Path

import pytest

from uniapl.config import Config, config_reference
from uniapl.config.keys import all_keys, describe_field

ROOT = Path(__file__).parents[2]


def test_the_page_in_docs_is_current():
    page = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    assert page == config_reference(), "run `make docs`"


def test_every_key_has_a_row_with_a_meaning():
    reference = config_reference()
    for key in all_keys(Config):
        if key.section is None and key.path != "rewards":
            assert key.field.description, key.path
            name = key.path.rpartition(".")[2]
            assert f"| `{name}` |" in reference


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("seed", "integer ≥ 0"),
        ("optimizer.learning_rate", "number > 0"),
        ("rewards.0.all_or_nothing", "number from 0 to 1"),
        ("constraint.target", "number > 0 or null"),
        ("objective.clip_low", "number > 0 and ≤ 1"),
        ("rollout.mask_truncated", "`true` or `false`"),
        ("model.dtype", "`float32`, `bfloat16`"),
        ("evaluation.metrics", "list of `module:function`"),
        ("rewards.0.function", "`instructions`, `model` or `module:function`"),
    ],
)
def test_types_in_words(path: str, words: str):
    fields = {key.path: key.field for key in all_keys(Config)}
    assert describe_field(fields[path]) == words
